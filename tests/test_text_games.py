"""The embedded text games: playable, reproducible, Markov, in the public record format; and their tokenizer."""

import copy
import json
import re
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr_lib.tokens.text_game_task import compact_prompt, thoughts
from rlvr_lib.tokens.text_tokenizer import load_tokenizer, train_tokenizer
from rlvr_lib.worlds.text_crawl import SPLITS, crawl, crawl_split, layout_seed, start
from rlvr_lib.worlds.text_engine import ROOM, Goal, Thing, World
from rlvr_lib.worlds.text_game_rewards import is_changed, perfect_answer
from rlvr_lib.worlds.text_games import GAMES, HELD_OUT, TRAINING_GAMES
from rlvr_lib.worlds.transitions import TextTransition, record_lines, written_notes

STATE_KEYS = {"observation", "look", "inventory", "taskDesc", "lastAction", "objects", "max_UUID"}
RECORD_KEYS = {
    *("game", "state_id", "current_state", "action_state", "tick_state"),
    *("current_score_state", "next_score_state"),
}
OURS = {"layout_seed", "notes"}
SEEDS = range(300, 315)
NAMES = tuple(GAMES)


@cache
def records(name: str, seed: int = 301) -> tuple[dict, ...]:
    return tuple(crawl(GAMES[name], seed))


def play(name: str, seed: int) -> dict:
    """Score record at the end of the gold play-through; every step must be a valid action."""
    game, world = GAMES[name], start(GAMES[name], seed)
    for action in game.gold(world):
        choices = game.actions(world)
        assert action in choices, f"{name}, layout {seed}: {action}"
        game.step(world, *choices[action])
        game.tick(world)
    return world.score_record()


# ---- the games
def test_there_are_twelve_games_two_of_them_held_out():
    assert len(GAMES) == 12 and len(HELD_OUT) == 2
    assert set(TRAINING_GAMES) == set(GAMES) - set(HELD_OUT)


def test_held_out_games_use_known_rules_only():
    known = {verb.name for name in TRAINING_GAMES for verb in GAMES[name].verbs}
    laws = {law.name for name in TRAINING_GAMES for law in GAMES[name].laws}
    for name in HELD_OUT:
        assert {verb.name for verb in GAMES[name].verbs} <= known
        assert {law.name for law in GAMES[name].laws} <= laws


@pytest.mark.parametrize("name", NAMES)
def test_gold_play_throughs_are_valid_and_nearly_always_win(name):
    ends = [play(name, seed) for seed in SEEDS]
    assert sum(end["gameWon"] for end in ends) >= 0.8 * len(ends)


@pytest.mark.parametrize("name", NAMES)
def test_actions_and_time_both_matter_somewhere(name):
    """Each game has transitions that change and that do not, with changes by the action and by the tick."""
    crawled = [record for seed in range(3) for record in crawl(GAMES[name], seed)]
    items = [TextTransition.from_record(record) for record in crawled]
    assert len({is_changed(item.current, item.target) for item in items}) == 2
    phases = {note.partition(":")[0] for item in items for note in item.notes}
    assert {"action", "tick", "score"} <= phases


# ---- the records
@pytest.mark.parametrize("name", NAMES)
def test_record_format(name):
    for record in records(name):
        assert set(record) == RECORD_KEYS | OURS
        for key in ("current_state", "action_state", "tick_state"):
            assert set(record[key]) == STATE_KEYS
            check_state(record[key])
        for key in ("current_score_state", "next_score_state"):
            assert set(record[key]) == {"score", "gameOver", "gameWon"}
        assert record["tick_state"]["lastAction"] == record["action_state"]["lastAction"] != ""
    assert [record["state_id"] for record in records(name)] == list(range(len(records(name))))


def check_state(state: dict) -> None:
    """Names embed uuids, every object but the room lies in exactly one other, the room comes first."""
    objects = state["objects"]
    assert all(set(record) == {"name", "uuid", "type", "properties", "contains"} for record in objects)
    assert all(record["name"].endswith(f"(ID: {record['uuid']})") for record in objects)
    inside = sorted(name for record in objects for name in record["contains"])
    assert inside == sorted(record["name"] for record in objects[1:])
    assert objects[0]["type"] == "World"
    assert max(record["uuid"] for record in objects) <= state["max_UUID"]


def test_crawls_are_the_same_bytes_each_time():
    for name in NAMES:
        assert "".join(record_lines(crawl(GAMES[name], 301))) == "".join(record_lines(records(name)))
    assert "".join(record_lines(crawl(GAMES["soup"], 301))) != "".join(record_lines(crawl(GAMES["soup"], 304)))


def test_crawling_leaves_earlier_records_alone():
    """Snapshots share nothing that a later step changes: a record printed at once equals the same printed later."""
    for name in NAMES:
        at_once = [json.dumps(record["current_state"]) for record in crawl(GAMES[name], 301)]
        assert at_once == [json.dumps(record["current_state"]) for record in records(name)]


@pytest.mark.parametrize("name", NAMES)
def test_the_play_through_links_the_situations(name):
    """The gold action comes last in its situation, and its outcome is the next situation."""
    situations: list[list[dict]] = []
    for record in records(name):
        if situations and situations[-1][0]["current_state"] is record["current_state"]:
            situations[-1].append(record)
        else:
            situations.append([record])
    for here, there in pairwise(situations):
        assert here[-1]["tick_state"]["objects"] == there[0]["current_state"]["objects"]
        assert here[-1]["next_score_state"] == there[0]["current_score_state"]
        actions = [record["tick_state"]["lastAction"] for record in here]
        assert len(set(actions)) == len(actions)


@pytest.mark.parametrize("name", NAMES)
def test_the_next_state_follows_from_what_is_written(name):
    """Markov: a world rebuilt from a record's text alone has the same actions, and each has the recorded outcome."""
    game = GAMES[name]
    for record in (record for seed in range(4) for record in crawl(game, seed)):
        world = rebuilt(record["current_state"], record["current_score_state"])
        game.step(world, *game.actions(world)[record["tick_state"]["lastAction"]])
        game.tick(world)
        assert world.objects() == record["tick_state"]["objects"], (record["layout_seed"], record["state_id"])
        assert world.score_record() == record["next_score_state"]


def rebuilt(state: dict, score: dict) -> World:
    """The world that a written state describes. Of a scale's contents the first two are its left and right pan."""
    world = World()
    uuids = {record["name"]: record["uuid"] for record in state["objects"]}
    for record in copy.deepcopy(state["objects"]):
        inside = [uuids[inner] for inner in record["contains"]]
        world.things[record["uuid"]] = Thing(
            record["uuid"], record["name"], record["type"], record["properties"], inside
        )
    world.goals = tuple(goal(text, uuids) for text in state["taskDesc"].removeprefix("Goals: ").split("; "))
    world.lost, world.max_uuid, world.roles["room"] = score["gameOver"], state["max_UUID"], ROOM
    for scale in world.of("Scale"):
        world.roles["left"], world.roles["right"], *_ = scale.contains
    return world


def goal(text: str, uuids: dict[str, int]) -> Goal:
    name, rest = re.fullmatch(r'"(.*?)"(.*)', text).groups()
    if rest.startswith(" in "):
        return Goal(uuids[name], None, uuids[json.loads(rest.removeprefix(" in "))])
    key, value = re.fullmatch(r', "(\w+)": (.*)', rest).groups()
    return Goal(uuids[name], key, json.loads(value))


def test_splits_have_different_layouts():
    seeds = {split: {layout_seed(split, number) for number in range(500)} for split in SPLITS}
    assert len(set.union(*seeds.values())) == sum(map(len, seeds.values()))
    crawled = {split: {record["layout_seed"] for record in crawl_split(split, range(3), NAMES[:2])} for split in SPLITS}
    assert all(crawled[split] == {layout_seed(split, number) for number in range(3)} for split in SPLITS)


# ---- notes
@pytest.mark.parametrize("name", NAMES)
def test_notes_tell_exactly_what_the_states_show(name):
    """The engine's notes against the differences of the written states: property changes, gone things, the score."""
    for record in records(name):
        public = {key: value for key, value in record.items() if key not in OURS}
        assert set(public) == RECORD_KEYS
        assert net_changes(record["notes"]) == net_changes(written_notes(public)), record["state_id"]
        assert TextTransition.from_record(public).notes == tuple(written_notes(public))


CHANGE = re.compile(r'(?P<what>\w+: ".*", "\w+"): (?P<old>.*) -> (?P<new>.*)')


def net_changes(notes: Sequence[str]) -> set[str]:
    """Property changes, disappearances and the score; several changes of one property in a phase are one.

    Moves are left out: the engine also tells those that a later step of the same phase undoes.
    """
    found, changes = set(), {}
    for note in notes:
        match = CHANGE.fullmatch(note)
        if match:
            old = changes.get(match["what"], (match["old"],))[0]
            changes[match["what"]] = (old, match["new"])
        elif " gone " in note or note.startswith("score"):
            found.add(note)
    return found | {f"{what}: {old} -> {new}" for what, (old, new) in changes.items() if old != new}


# ---- the tokenizer
@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """Trained on a few pages, saved and loaded again."""
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TEXTS, 700).save_pretrained(folder)
    return load_tokenizer(folder)


def _texts() -> list[str]:
    items = [TextTransition.from_record(record) for name in NAMES for record in records(name)[::9]]
    return [
        compact_prompt(item) + thoughts(item) + perfect_answer(item.current, item.target, notation)
        for item in items
        for notation in ("json", "python")
    ]


TEXTS = _texts()


def ids(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_prompts_survive_the_round_trip(tokenizer):
    for text in TEXTS[:80]:
        assert tokenizer.decode(ids(tokenizer, text)) == text


@settings(max_examples=200, deadline=None)
@given(st.text().filter(lambda text: "<pad>" not in text and "<|end|>" not in text))
def test_any_text_survives_the_round_trip(tokenizer, text):
    assert tokenizer.decode(ids(tokenizer, text)) == text


def test_missing_tokenizer_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=re.escape(str(tmp_path))):
        load_tokenizer(tmp_path)


def test_no_token_mixes_a_value_with_glue(tokenizer):
    """A word with its id, a number and a boolean are tokens of their own wherever they stand in a state."""
    for text in TEXTS[::6]:
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        values = [match.span() for match in re.finditer(VALUE, text)]
        assert values
        starts = {start: end for start, end in values}
        borders = {place for span in encoded["offset_mapping"] for place in span}
        for start_, end in starts.items():
            assert {start_, end} <= borders, text[start_ - 10 : end + 10]


# What is no property key: names of one word with their id, numbers, booleans, words in quotes.
VALUE = r'(?<=": )-?\d+|(?<=")[a-z]+ \(ID: \d+\)|(?<=: )(?:true|false|null)\b|(?<=: ")[A-Za-z]+(?=")'
