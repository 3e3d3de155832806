"""Public text-game data: counts and reference rows on the real files, prompts, the mixing rule, damaged files."""

import io
import json
import lzma
import os
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from rlvr_lib.artifacts import UserError
from rlvr_lib.worlds import bytesized32
from rlvr_lib.worlds.bytesized32 import EXAMPLE_GAME, MixedPool, cut_object_rules
from rlvr_lib.worlds.bytesized32_prompt import full_prompt, prompt_text
from rlvr_lib.worlds.text_game_rewards import (
    is_changed,
    is_changed_for_training,
    no_change_answer,
    perfect_answer,
    score_answer,
)
from rlvr_lib.worlds.transitions import TextTransition

# Spec A.2: game, test cases, changed (definition 1), objects changed (definition 2), score changed, adds an object.
TABLE = """
balance-scale-heaviest 60 20 20 5 0
balance-scale-weigh 70 30 20 10 0
bath-tub-water-temperature 75 35 30 6 0
bird-life-cycle 68 68 68 6 0
blood-type 44 10 10 0 0
boil-water 126 42 42 7 0
clean-energy 24 10 10 0 10
conductivity 70 22 22 2 0
cooking 150 51 50 45 0
forge-key 117 13 13 0 0
hang-painting 73 23 23 8 0
inclined-plane 140 128 128 5 0
lit-lightbulb 56 20 20 0 0
make-campfire 124 25 25 1 0
make-ice-cubes 138 79 79 13 1
metal-detector 90 22 22 0 0
mix-paint 101 22 22 1 2
multimeter 84 38 28 10 0
plant-tree 120 55 55 0 21
refrigerate-food 132 132 132 19 0
scale-weigh 59 21 11 10 0
space-walk 85 17 17 4 0
sunburn 75 21 21 3 0
sweep-floor 118 40 40 1 0
take-photo 154 43 43 1 0
thermometer 76 23 13 10 0
use-bandage 79 18 18 1 0
volume 70 20 10 10 0
volume-container 98 42 32 10 6
volume-stone 118 51 43 10 2
wash-clothes 160 69 69 0 9
"""
# Spec A.2, training pool of some games: changed, unchanged.
POOL = {"boil-water": (486, 1248), "bird-life-cycle": (12, 0), "space-walk": (0, 106), "refrigerate-food": (606, 0)}
POOL |= {"clean-energy": (54, 54), "mix-paint": (34, 279), "blood-type": (25, 231), "lit-lightbulb": (296, 144)}


@pytest.fixture(scope="module")
def folder() -> Path:
    place = Path(os.environ.get("RLVR_SHARED_DATA", "/nonexistent")) / "bytesized32"
    if not place.is_dir():
        pytest.skip("RLVR_SHARED_DATA holds no bytesized32")
    return place


@pytest.fixture(scope="module")
def test_set(folder) -> list[TextTransition]:
    return bytesized32.load_test(folder)


def uuids(state: list) -> set:
    return {record["uuid"] for record in state[:-1]}


@pytest.mark.shared_data
def test_counts_of_the_test_set(test_set):
    found = {}
    for item in test_set:
        flags = [
            is_changed(item.current, item.target),
            is_changed_for_training(item.current, item.target),
            item.current[-1] != item.target[-1],
            bool(uuids(item.target) - uuids(item.current)),
        ]
        found.setdefault(item.game, Counter()).update({"cases": 1, **dict(enumerate(flags))})
    rows = [line.split() for line in TABLE.strip().splitlines()]
    expected = {row[0]: [int(value) for value in row[1:]] for row in rows}
    assert {game: [row["cases"], row[0], row[1], row[2], row[3]] for game, row in found.items()} == expected
    totals = [sum(column) for column in zip(*expected.values(), strict=True)]
    assert totals == [2954, 1210, 1136, 198, 51]
    assert sum(item.current != item.target for item in test_set) == 1228  # definition 3, order of contents included
    assert sum(bool(uuids(item.current) - uuids(item.target)) for item in test_set) == 47


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "kind, overall, unchanged, changed",
    [("no change", 59.04, 1744, 0), ("json", 98.27, 1744, 1159), ("python", 98.27, 1744, 1159)],
)
def test_reference_rows(test_set, kind, overall, unchanged, changed):
    """Spec A.12: computed by scoring answers, one by one."""
    right = Counter()
    for item in test_set:
        text = no_change_answer() if kind == "no change" else perfect_answer(item.current, item.target, kind)
        score = score_answer(text, item.current, item.target)
        right[is_changed(item.current, item.target)] += score.binary
        assert kind == "no change" or score.corrected == 1
    assert (right[False], right[True]) == (unchanged, changed)
    assert round(100 * right.total() / len(test_set), 2) == overall
    assert round(100 * right[True] / 1210, 2) == (0 if kind == "no change" else 95.79)


@pytest.mark.shared_data
def test_training_pool_of_some_games(folder):
    data = bytesized32.load(folder, games=tuple(POOL))
    found = Counter((item.game, is_changed_for_training(item.current, item.target)) for item in data.train)
    assert {game: (found[game, True], found[game, False]) for game in POOL} == POOL
    taken = {(item.game, item.state_id) for item in data.test}
    assert taken.isdisjoint((item.game, item.state_id) for item in data.train)


@pytest.mark.shared_data
def test_quick_reader_reads_what_the_plain_one_reads(folder):
    path = folder / "train" / "boil-water.jsonl.xz"
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        lines = [line for number, line in enumerate(lines) if number % 50 == 0]
    reader = bytesized32.RecordReader()
    plain = [TextTransition.from_record(json.loads(line)) for line in lines]
    assert [reader.transition(line) for line in lines] == plain
    reader = bytesized32.RecordReader()
    assert [reader.transition(json.dumps(json.loads(line), separators=(",", ":"))) for line in lines] == plain


@pytest.mark.shared_data
def test_games_and_rules(folder):
    games = bytesized32.load_games(folder)
    assert games == [line.split()[0] for line in TABLE.strip().splitlines()] and EXAMPLE_GAME not in games
    rules = bytesized32.load_rules(folder)
    assert set(rules) == {*games, EXAMPLE_GAME}
    assert "=====" not in "".join(rule.objects for rule in rules.values())
    assert "Object: Dish\n" in rules[EXAMPLE_GAME].objects and "Object: Food\n" not in rules[EXAMPLE_GAME].objects


def test_cut_of_object_rules():
    assert cut_object_rules("a\n==========\nb\n==========\nlast one\n") == "a\n\nb\n"
    assert cut_object_rules("a\n==========\nb\n==========\n") == "a\n\nb\n"  # ends with a separator: loses nothing


@pytest.mark.shared_data
def test_full_prompt_has_its_parts_in_order(folder, test_set):
    write, examples, rules = full_prompt(folder), bytesized32.load_examples(folder), bytesized32.load_rules(folder)
    item = next(item for item in test_set if item.game == "boil-water")
    prompt = write(item)
    parts = ["'modified'", "'removed'", "'gameWon'", "time", examples["action"].task, rules[EXAMPLE_GAME].objects]
    parts += [rules[EXAMPLE_GAME].actions, rules[EXAMPLE_GAME].score]
    for kind, response in (
        ("action", "'removed': [], 'score': {}}"),
        ("tick", "'removed': [12], 'score': {'score': 3, 'gameOver': True, 'gameWon': True}}"),
    ):
        parts += [str({"game_state": examples[kind].current}), str(examples[kind].max_uuid)]
        parts += [f": {examples[kind].action}\n", "{'modified': [", response]
    parts += [item.task, rules[item.game].objects, rules[item.game].actions, rules[item.game].score]
    parts += [str({"game_state": item.current}), str(item.max_uuid), f":\n{item.action}\n", "The final answer is:"]
    position = 0
    for part in parts:
        position = prompt.index(part, position) + len(part)
    assert prompt.rstrip().count("\n", position) == 0  # the marker phrase is in the last line
    assert "dishwasher" not in {kind.game for kind in test_set[:5]} and examples["tick"].game == EXAMPLE_GAME


@pytest.mark.shared_data
def test_prompt_lengths_are_the_released_ones_but_for_the_wording(folder, test_set):
    write = full_prompt(folder)
    lengths = sorted(len(write(item)) for item in test_set)
    measured = (lengths[0], lengths[len(lengths) // 2], lengths[-1])
    shift = [18970 - measured[0], 21408 - measured[1], 23603 - measured[2]]  # spec A.2
    assert max(shift) - min(shift) <= 10 and abs(shift[0]) < 1000


def test_prompt_of_a_game_without_rules():
    item = TextTransition("my-own", 0, "wait", [], [], 0)
    with pytest.raises(UserError, match="my-own"):
        prompt_text(item, {}, {})


# ---- files that are missing, plain, or damaged
def transition_record(game: str, state_id: int, changed: bool = False) -> dict:
    box = {"name": "box (ID: 1)", "uuid": 1, "type": "Box", "properties": {"isOpen": False}, "contains": []}
    after = {**box, "properties": {"isOpen": changed}}
    score = {"score": 0, "gameOver": False, "gameWon": False}
    state = {"observation": 'say \\"objects\\": [', "taskDesc": "Open the box.", "lastAction": "open box (ID: 1)"}
    return {
        "game": game,
        "state_id": state_id,
        "current_state": {**state, "objects": [box], "max_UUID": 2},
        "action_state": {**state, "objects": [after], "max_UUID": 2},
        "tick_state": {**state, "objects": [after], "max_UUID": 2},
        "current_score_state": score,
        "next_score_state": score,
    }


@pytest.fixture
def small_folder(tmp_path) -> Path:
    """Three games in the three ways of filing them, dishwasher among them, and one test id left in training."""
    place = tmp_path / "bytesized32"
    (place / "train").mkdir(parents=True)
    lines = {game: "".join(json.dumps(transition_record(game, n, n > 2)) + "\n" for n in range(5)) for game in "ab"}
    (place / "train" / "a.jsonl").write_text(lines["a"])
    (place / "train" / "b.jsonl.xz").write_bytes(lzma.compress(lines["b"].encode()))
    (place / "train" / f"{EXAMPLE_GAME}.jsonl").write_text(json.dumps(transition_record(EXAMPLE_GAME, 0)) + "\n")
    with zipfile.ZipFile(place / "test.zip", "w") as archive:
        archive.writestr("test.jsonl", json.dumps(transition_record("a", 3, True)) + "\n")
    return place


def test_load_small(small_folder):
    data = bytesized32.load(small_folder)
    assert [(item.game, item.state_id) for item in data.test] == [("a", 3)]
    assert [(item.game, item.state_id) for item in data.train] == [
        *[("a", 0), ("a", 1), ("a", 2), ("a", 4)],
        *[("b", n) for n in range(5)],
    ]
    assert bytesized32.load(small_folder.parent).train == data.train  # the folder above will do
    assert data.train[3].target[0]["properties"] == {"isOpen": True} and data.train[3].max_uuid == 2
    (small_folder / "test.zip").unlink()
    (small_folder / "test.jsonl").write_text(json.dumps(transition_record("b", 0)) + "\n")
    assert [item.game for item in bytesized32.load(small_folder, games=["b"]).train] == ["b"] * 4


def test_no_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("RLVR_SHARED_DATA", raising=False)
    for root in (None, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=r"GPT-simulator.*text_game\.data\.root"):
            bytesized32.load(root)
    monkeypatch.setenv("RLVR_SHARED_DATA", str(tmp_path))
    with pytest.raises(UserError, match=r"GPT-simulator"):
        bytesized32.load()


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_key(path: Path) -> None:
    path.write_text(path.read_text().replace("tick_state", "tock_state"))


@pytest.mark.parametrize(
    "name, harm, words",
    [
        ("test.zip", Path.unlink, "missing.*data/test.zip"),
        ("test.zip", cut_in_half, "damaged.*data/test.zip"),
        ("train/a.jsonl", cut_in_half, "line 3 is damaged.*get_game_states"),
        ("train/a.jsonl", other_key, "line 1 is damaged .*tick_state"),
        ("train/b.jsonl.xz", cut_in_half, "damaged.*get_game_states"),
        ("train/b.jsonl.xz", lambda path: path.write_bytes(b"nothing of the kind"), "damaged.*get_game_states"),
    ],
)
def test_missing_or_damaged_files_are_named(small_folder, name, harm, words):
    harm(small_folder / name)
    with pytest.raises(UserError, match=words) as told:
        bytesized32.load(small_folder)
    assert str(small_folder / name) in str(told.value)


def test_missing_rules_and_games(small_folder):
    with pytest.raises(UserError, match=r"object_rules\.json is missing.*human_written_rules/object_rules\.json"):
        full_prompt(small_folder)
    with pytest.raises(UserError, match="does not hold c"):
        bytesized32.load(small_folder, games=["a", "c"])
    for path in (small_folder / "train").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="does not hold anything"):
        bytesized32.load(small_folder)


def test_reader_shares_equal_states():
    reader = bytesized32.RecordReader()
    first, second, third = (reader.transition(json.dumps(transition_record("a", n, n == 2))) for n in range(3))
    assert first.current is second.current is third.current is first.target
    assert third.target is not third.current and third.notes


# ---- mixing (A.11)
def test_mixed_pool():
    pool = MixedPool(range(100), range(1000, 1300), slots=40, batch=16, seed=3)
    epochs = [pool.epoch(number) for number in range(200)]
    assert len(pool) == 8 and all(len(epoch) == 128 for epoch in epochs)  # 140 items, the last 12 dropped
    for epoch in epochs:
        changed = [item for item in epoch if item < 1000]
        assert len(set(changed)) == len(changed) >= 88 and len(epoch) - len(changed) <= 40
    assert epochs[0] != epochs[1] and epochs[5] == MixedPool(range(100), range(1000, 1300), 40, 16, 3).epoch(5)
    assert epochs[5] != MixedPool(range(100), range(1000, 1300), 40, 16, 4).epoch(5)
    drawn = Counter(item for epoch in epochs for item in epoch if item >= 1000)
    expected = 200 * 40 * 128 / 140 / 300  # uniform: about 24 each, fresh every epoch
    assert set(drawn) == set(range(1000, 1300)) and max(drawn.values()) < 3 * expected
    assert any(count > 1 for epoch in epochs for item, count in Counter(epoch).items() if item >= 1000)  # replacement


def test_paper_epochs():
    """Spec 0.3: steps per epoch with 18 196 changed items and 128 prompts a step."""
    assert len(MixedPool(range(18196), [0], slots=7278, batch=128, seed=0)) == 199
    assert len(MixedPool(range(18196), [0], slots=1000, batch=128, seed=0)) == 149


def test_pools_at_the_edge():
    assert sorted(MixedPool([1, 2], [], slots=5, batch=2, seed=0).epoch(0)) == [1, 2]
    with pytest.raises(UserError, match="prompts_per_step"):
        MixedPool([1, 2], [], slots=5, batch=3, seed=0)


def test_text_stream_of_the_archive_is_utf8(small_folder):
    with zipfile.ZipFile(small_folder / "test.zip", "w") as archive:
        record = transition_record("a", 1)
        record["tick_state"]["lastAction"] = "öffne Kiste"
        archive.writestr("test.jsonl", io.BytesIO(json.dumps(record, ensure_ascii=False).encode()).getvalue())
    assert bytesized32.load_test(small_folder)[0].action == "öffne Kiste"
