"""The paper's prompt for embedded games, and how a profile chooses a prompt; public games: test_bytesized32.py."""

import pickle

import pytest

from rlvr_lib.artifacts import UserError
from rlvr_lib.tokens.text_game_task import compact_prompt
from rlvr_lib.worlds.bytesized32_prompt import full_prompt
from rlvr_lib.worlds.text_crawl import crawl, layout_seed
from rlvr_lib.worlds.text_game_rewards import extract_answer, is_changed_for_training, perfect_answer
from rlvr_lib.worlds.text_game_rules import EXAMPLE_GAME, embedded_examples, embedded_rules
from rlvr_lib.worlds.text_games import GAMES, TRAINING_GAMES
from rlvr_lib.worlds.transitions import TextTransition


@pytest.fixture(scope="module")
def write():
    return full_prompt(source="embedded")


def transitions(name: str) -> list[TextTransition]:
    return [TextTransition.from_record(record) for record in crawl(GAMES[name], layout_seed("test", 3))]


def in_order(text: str, parts: list[str]) -> int:
    """Position after the last part; the parts stand one after the other."""
    position = 0
    for part in parts:
        position = text.index(part, position) + len(part)
    return position


@pytest.mark.parametrize("name", GAMES)
def test_parts_come_in_order(write, name):
    item, examples = transitions(name)[5], embedded_examples()
    game = GAMES[EXAMPLE_GAME]
    parts = [
        "'modified'",
        "'removed'",
        "'score'",
        "tick rule",
        examples["action"].task,
        *(law.rule for law in game.laws),
    ]
    parts += [*(verb.rule for verb in game.verbs), "The score counts the goals that hold"]
    for kind in ("action", "tick"):
        example = examples[kind]
        answer = extract_answer(perfect_answer(example.current, example.target, "python"))
        parts += [repr({"game_state": example.current}), f": {example.action}\n", answer]
    parts += [item.task, *(law.rule for law in GAMES[name].laws), *(verb.rule for verb in GAMES[name].verbs)]
    parts += ["The score counts", repr({"game_state": item.current}), str(item.max_uuid + 1), f":\n{item.action}\n"]
    text = write(item)
    assert "\n" not in text[in_order(text, [*parts, "The final answer is:"]) :].rstrip()


def test_examples_are_driven_by_action_and_by_time():
    examples = embedded_examples()
    assert EXAMPLE_GAME in TRAINING_GAMES
    assert all(is_changed_for_training(item.current, item.target) for item in examples.values())
    for kind, item in examples.items():
        assert {note.partition(":")[0] for note in item.notes} - {"score"} == {kind}
    assert examples == embedded_examples()
    assert embedded_rules() == embedded_rules()


def test_new_objects_are_numbered_from_the_base(write):
    """The base of the prompt is the uuid that the engine gives to the first new object."""
    found = 0
    for name in ("make-toast", "grow-fruit"):
        for item in transitions(name):
            new = {record["uuid"] for record in item.target[:-1]} - {record["uuid"] for record in item.current[:-1]}
            if new:
                found += 1
                assert f"The UUID base is {min(new)}\n" in write(item)
    assert found


def test_rules_name_every_kind_of_object():
    rules = embedded_rules()
    for name in GAMES:
        kinds = {record["type"] for item in transitions(name) for record in item.current[:-1]}
        told = {
            line.removeprefix("Object: ") for line in rules[name].objects.splitlines() if line.startswith("Object: ")
        }
        assert kinds - {"Box", "Thing"} <= told  # clutter may be new


def test_writers_can_be_pickled(write):
    item = transitions("soup")[0]
    assert pickle.loads(pickle.dumps(write))(item) == write(item)


def test_a_game_without_rules_is_named(write):
    with pytest.raises(UserError, match="chess"):
        write(TextTransition("chess", 0, "wait", [], [], 0))


def test_profiles_choose(smoke):
    from rlvr_lib.training.text_game_corpus import prompt_writer

    item = transitions("soup")[0]
    assert prompt_writer(smoke) is compact_prompt
    model = smoke.text_game.model.model_copy(update={"kind": "hub", "name": "some/model"})
    hub = smoke.model_copy(update={"text_game": smoke.text_game.model_copy(update={"model": model})})
    assert prompt_writer(hub)(item) == full_prompt(source="embedded")(item)
