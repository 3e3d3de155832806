"""Text-game rewards once more: worked by hand, and structured random answers.

The vectors of spec E and the limits are in test_text_game_rewards.py, the embedded games and a second fuzzer in
test_text_game_rewards_embedded.py, the randomised comparison with a second implementation in
test_rewards_against_reference.py.
"""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_game_examples import assert_sound

from rlvr_lib.worlds.text_game_answers import DEEPEST, LONGEST
from rlvr_lib.worlds.text_game_rewards import (
    binary_reward,
    changed_keys,
    extract_answer,
    is_changed,
    is_changed_for_training,
    no_change_answer,
    parse_answer,
    perfect_answer,
    rebuild_state,
    score_answer,
    task_specific_reward,
)

MARKER = "The final answer is:"
GREENHOUSE = """[
 {"name": "greenhouse (ID: 1)", "uuid": 1, "type": "World", "properties": {"isContainer": true, "isOpen": true},
  "contains": ["agent (ID: 0)", "lamp (ID: 2)", "tray (ID: 3)"]},
 {"name": "agent (ID: 0)", "uuid": 0, "type": "Agent", "properties": {"isContainer": true, "isOpen": true},
  "contains": []},
 {"name": "lamp (ID: 2)", "uuid": 2, "type": "Lamp", "properties": {"isContainer": false, "isOn": false,
  "brightness": 0, "wiring": {"plug": ["socket (ID: 9)", "left"], "spare": [null, null]}}, "contains": []},
 {"name": "tray (ID: 3)", "uuid": 3, "type": "Tray", "properties": {"isContainer": true, "isOpen": true,
  "levels": [1, 2]}, "contains": ["seed (ID: 4)", "pebble (ID: 5)"]},
 {"name": "seed (ID: 4)", "uuid": 4, "type": "Seed", "properties": {"isContainer": false, "moisture": 2,
  "label": "fern"}, "contains": []},
 {"name": "pebble (ID: 5)", "uuid": 5, "type": "Pebble", "properties": {"isContainer": false, "label": "grey"},
  "contains": []},
 {"score": 0, "gameOver": false, "gameWon": false}]"""
ENTRIES = 22  # 16 properties and 6 contains
UNCHANGED_BEST, CHANGED_BEST = 0.3, 1.3


def before() -> list:
    return json.loads(GREENHOUSE)


def after() -> list:
    """Turning on the lamp: two properties by the action, one by the tick."""
    state = before()
    state[2]["properties"].update(isOn=True, brightness=5)
    state[4]["properties"]["moisture"] = 1
    return state


def lamp(**properties) -> dict:
    record = after()[2]
    record["properties"].update(properties)
    return record


def seed() -> dict:
    return after()[4]


def answer(*modified, removed=(), **more) -> dict:
    return {"modified": list(modified), "removed": list(removed), "score": {}, **more}


def told(value, current=None, gold=None):
    """Score of an answer (a value to be printed as JSON, or the text itself) in the greenhouse."""
    text = value if isinstance(value, str) else json.dumps(value)
    return score_answer(f"{MARKER} {text}", current or before(), gold or after())


def both(score) -> tuple:
    return score.binary, pytest.approx(score.task_specific, abs=1e-12)


# ---- the published vectors
def test_perfect_answer_in_both_notations():
    for text in (
        perfect_answer(before(), after()),
        perfect_answer(before(), after(), "python"),
        repr(answer(lamp(), seed())),
    ):
        score = score_answer(text if text.startswith(MARKER) else f"{MARKER} {text}", before(), after())
        assert both(score) == (1, 1.3)
        assert (score.item_accuracy, score.score_accuracy, score.changed_accuracy, score.corrected) == (1, 1, 1, 1)


def test_half_of_the_changes():
    score = told(answer(lamp()))
    assert both(score) == (0, 0.09 * 21 / 22 + 0.01 + 2 / 3)
    assert score.task_specific == pytest.approx(0.762575757, abs=1e-9)


def test_score_key_absent():
    assert both(told({"modified": [lamp(), seed()], "removed": []})) == (0, 1.09)


def test_example_has_the_stated_entries():
    assert sum(len(record["properties"]) + 1 for record in after()[:-1]) == ENTRIES
    assert changed_keys(before(), after()) == {(2, "isOn"), (2, "brightness"), (4, "moisture")}


# ---- finding the answer (A.6)
@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("The final answer is: A", "A"),
        ("so the final state is: S. The final answer is: A. the final answer is: a", "A. the final answer is: a"),
        ("The final game state is: G The final state is: S", "S"),
        ("the final game state is: g", "g"),
        ("The final answer is: A The final answer is:  B ", "B"),
        ("THE FINAL ANSWER IS: x", "THE FINAL ANSWER IS: x"),
        ('a ```json\n{"a": 1234}\n``` b ```json\n{"b": 1234}\n``` c', '{"b": 1234}'),
        ('```json\n{"a": 12345}\n``` then ```json {} ``` end', '```json\n{"a": 12345}\n``` then ```json {} ``` end'),
        ('```\n{"a": 12345}\n```', '```\n{"a": 12345}\n```'),
        ('```json\n{"a": 12345}', '```json\n{"a": 12345}'),
        ("nothing", "nothing"),
        ("", ""),
    ],
)
def test_extraction(response, expected):
    assert extract_answer(response) == expected


DAMAGED = {
    "fenced": "```json\nANSWER\n```",
    "prose after it": "ANSWER\nThat is what happens.",
    "end token": "ANSWER<|end|>",
    "trailing comma": "COMMA",
    "closing bracket missing": "OPEN",
    "indented": "INDENTED",
}


@pytest.mark.parametrize("form", DAMAGED)
def test_tolerated_damage(form):
    text = json.dumps(answer(lamp(), seed()))
    written = {
        "COMMA": text[:-1] + ",}",
        "OPEN": text[:-1],
        "INDENTED": json.dumps(answer(lamp(), seed()), indent=2),
        "ANSWER": text,
    }
    shape = DAMAGED[form]
    for word, replacement in written.items():
        shape = shape.replace(word, replacement)
    assert both(told(shape)) == (1, 1.3)


def test_a_fenced_block_counts_without_a_marker():
    assert score_answer(f"so\n```json\n{json.dumps(answer(lamp(), seed()))}\n```", before(), after()).binary == 1


def test_python_words_are_replaced_inside_strings_too():
    """Nonesuch becomes nullsuch: the label is then wrong (D.13)."""
    current, gold = before(), after()
    for state in (current, gold):
        state[4]["properties"]["label"] = "Nonesuch"
    score = score_answer(perfect_answer(current, gold), current, gold)
    assert (score.binary, score.item_accuracy) == (0, pytest.approx(21 / 22))
    assert parse_answer(f'{MARKER} {{"modified": ["True"], "removed": ["False"]}}') == {
        "modified": ["true"],
        "removed": ["false"],
    }


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", "null", "5", '{"modified": []}', '{"removed": []}', "no idea", "{" * 200]
)
def test_no_answer_is_worth_nothing(text):
    score = told(text)
    assert (score.binary, score.task_specific, score.corrected, score.parsed) == (0, 0, 0, False)


# ---- rebuilding (A.7)
def test_new_objects_never_enter_the_predicted_state():
    new = {"name": "bud (ID: 6)", "uuid": 6, "type": "Bud", "properties": {}, "contains": []}
    state = rebuild_state(before(), answer(lamp(), new))
    assert [record["uuid"] for record in state[:-1]] == [1, 0, 2, 3, 4, 5]
    assert both(told(answer(lamp(), seed(), new))) == (1, 1.3)


def test_uuid_is_a_number():
    assert both(told(answer({**lamp(), "uuid": "2"}, seed()))) == (0, 0.09 * 20 / 22 + 0.01 + 1 / 3)
    assert both(told(answer({**lamp(), "uuid": 2.0}, seed()))) == (1, 1.3)


def test_the_later_duplicate_wins():
    wrong = lamp(brightness=9)
    assert told(answer(wrong, lamp(), seed())).binary == 1
    assert both(told(answer(lamp(), wrong, seed()))) == (0, 0.09 * 21 / 22 + 0.01 + 2 / 3)


@pytest.mark.parametrize("removed", [5, None, True, 2.5])
def test_a_bare_number_removes_nothing(removed):
    assert both(told({**answer(lamp(), seed()), "removed": removed})) == (1, 1.3)


def test_a_wrong_removal_costs_one_entry_and_its_changes():
    """The pebble (3 entries) becomes one wrong entry out of 20; the seed would also lose its change."""
    assert both(told(answer(lamp(), seed(), removed=[5]))) == (0, 0.09 * 19 / 20 + 0.01 + 1)
    assert both(told(answer(lamp(), seed(), removed=[4]))) == (0, 0.09 * 18 / 19 + 0.01 + 1)
    assert both(told(answer(lamp(), seed(), removed=["5"]))) == (1, 1.3)


@pytest.mark.parametrize("modified", [None, 3, "x", {}, {"uuid": 2}, [], [None], ["x"], [[1]], [{"name": "lamp"}]])
def test_modified_of_another_shape_changes_nothing(modified):
    assert both(told({**answer(), "modified": modified})) == (0, 0.09 * 19 / 22 + 0.01)


@pytest.mark.parametrize("score", [{}, None, 0, 1, 2.5, True, [], ""])
def test_an_empty_score_means_the_current_one(score):
    assert both(told({**answer(lamp(), seed()), "score": score})) == (1, 1.3)


def test_score_entries():
    gold = after()
    gold[-1] = {"score": 1, "gameOver": True, "gameWon": True}
    parts = [({}, 0), (gold[-1], 3), ({"score": 1, "gameOver": True}, 2), ({**gold[-1], "score": "1"}, 2)]
    for record, right in parts:
        score = told({**answer(lamp(), seed()), "score": record}, gold=gold)
        assert score.score_accuracy == pytest.approx(right / 3)
        assert both(score) == (float(right == 3), 0.09 + 0.01 * right / 3 + 0.2 * (right == 3) + 1)


# ---- counting (A.8, A.9)
def test_name_type_and_surplus_keys_are_not_looked_at():
    assert both(told(answer({**lamp(), "name": "x", "type": "y", "z": 1}, seed()))) == (1, 1.3)


def test_an_invented_property_takes_the_task_specific_reward_only():
    assert both(told(answer(lamp(invented=1), seed()))) == (1, 0)


def test_a_record_without_properties_is_one_error_and_takes_the_changed_term():
    bare = {key: value for key, value in lamp().items() if key != "properties"}
    score = told(answer(bare, seed()))
    assert score.changed_accuracy is None
    assert both(score) == (0, 0.09 * 18 / 19 + 0.01)  # its 4 properties become one wrong entry


def test_a_missing_property_or_contains_is_one_error():
    short = lamp()
    del short["properties"]["brightness"]
    assert both(told(answer(short, seed()))) == (0, 0.09 * 21 / 22 + 0.01 + 2 / 3)
    without = {key: value for key, value in lamp().items() if key != "contains"}
    assert told(answer(without, seed())).item_accuracy == pytest.approx(21 / 22)


def test_contains_ignores_order_and_counts_repetitions():
    tray = after()[3]
    assert both(told(answer(lamp(), seed(), {**tray, "contains": tray["contains"][::-1]}))) == (1, 1.3)
    assert told(answer(lamp(), seed(), {**tray, "contains": [*tray["contains"], "seed (ID: 4)"]})).binary == 0


@pytest.mark.parametrize("wrong", [{"properties": None}, {"contains": [1, "x"]}, {"contains": None}])
def test_values_that_cannot_be_processed_give_zero(wrong):
    score = told(answer({**lamp(), **wrong}, seed()))
    assert (score.binary, score.task_specific, score.corrected, score.parsed) == (0, 0, 0, True)


def test_equality_of_values():
    assert told(answer(lamp(isOn=1, brightness=5.0), seed())).binary == 1
    assert told(answer(lamp(brightness="5"), seed())).item_accuracy == pytest.approx(21 / 22)
    reordered = {"spare": [None, None], "plug": ["socket (ID: 9)", "left"]}
    assert told(answer(lamp(wiring=reordered), seed())).binary == 1
    assert told(answer(lamp(wiring={**reordered, "plug": ["left", "socket (ID: 9)"]}), seed())).binary == 0


def test_added_objects_cannot_be_credited_but_corrected_can():
    gold = after()
    bud = {"name": "bud (ID: 6)", "uuid": 6, "type": "Bud", "properties": {"isOpen": False}, "contains": []}
    gold.insert(6, bud)
    gold[3]["contains"].append("bud (ID: 6)")
    score = score_answer(perfect_answer(before(), gold), before(), gold)
    assert both(score) == (0, 0.09 * 22 / 23 + 0.01 + 1)
    assert score.corrected == 1
    wrong = {**bud, "properties": {"isOpen": True}}
    assert told(answer(lamp(), seed(), gold[3], wrong), gold=gold).corrected == 0
    assert told(answer(lamp(), seed(), gold[3]), gold=gold).corrected == 0


def test_forgotten_removals_are_free_but_not_when_corrected():
    gold = after()
    del gold[5]
    gold[3]["contains"].remove("pebble (ID: 5)")
    assert both(told(answer(lamp(), seed(), gold[3]), gold=gold)) == (1, 1.3)
    assert told(answer(lamp(), seed(), gold[3]), gold=gold).corrected == 0
    score = score_answer(perfect_answer(before(), gold), before(), gold)
    assert (score.binary, score.corrected) == (1, 1)


def test_corrected_minds_invented_objects():
    new = {"name": "bud (ID: 6)", "uuid": 6, "type": "Bud", "properties": {}, "contains": []}
    score = told(answer(lamp(), seed(), new))
    assert (score.binary, score.corrected) == (1, 0)


def test_unchanged_and_score_only_transitions_have_no_changed_term():
    score = score_answer(no_change_answer(), before(), before())
    assert (both(score), score.changed_accuracy) == ((1, UNCHANGED_BEST), None)
    gold = [*before()[:-1], {"score": 1, "gameOver": False, "gameWon": False}]
    assert both(score_answer(perfect_answer(before(), gold), before(), gold)) == (1, UNCHANGED_BEST)


# ---- what counts as changed (A.2)
def test_definitions_of_changed():
    reordered, scored, grown = before(), before(), before()
    reordered[3]["contains"].reverse()
    scored[-1]["score"] = 1
    grown.insert(6, {"name": "bud (ID: 6)", "uuid": 6, "type": "Bud", "properties": {}, "contains": []})
    cases = [(before(), 0, 0), (after(), 1, 1), (reordered, 0, 0), (scored, 1, 0), (grown, 1, 0)]
    for gold, evaluation, training in cases:
        assert (is_changed(before(), gold), is_changed_for_training(before(), gold)) == (evaluation, training)


# ---- as TRL calls them
def test_reward_functions():
    texts = [perfect_answer(before(), after()), no_change_answer(), "?"]
    columns = {"current_state": [json.dumps(before())] * 3, "gold_state": [json.dumps(after())] * 3}
    assert binary_reward([""] * 3, texts, **columns) == [1, 0, 0]
    expected = [1.3, 0.09 * 19 / 22 + 0.01, 0]
    assert task_specific_reward([""] * 3, texts, **columns, completion_ids=None) == pytest.approx(expected)
    chats = [[{"role": "assistant", "content": text}] for text in texts]
    assert binary_reward([[]] * 3, chats, **columns) == [1, 0, 0]


# ---- properties
SCALARS = st.none() | st.booleans() | st.integers(-3, 9) | st.floats(allow_nan=True) | st.text(max_size=6)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4) | st.just("uuid"), inner, max_size=3)
    ),
    max_leaves=8,
)
RECORDS = st.fixed_dictionaries(
    {"uuid": st.integers(-1, 7) | SCALARS},
    optional={
        "properties": st.dictionaries(st.sampled_from(["isOn", "moisture", "levels", "new"]), VALUES) | VALUES,
        "contains": st.lists(st.sampled_from(["seed (ID: 4)", "pebble (ID: 5)", "x"])) | VALUES,
    },
)
ANSWERS = st.fixed_dictionaries(
    {},
    optional={
        "modified": st.lists(RECORDS | VALUES, max_size=4) | VALUES,
        "removed": st.lists(st.integers(-1, 7) | VALUES, max_size=4) | VALUES,
        "score": VALUES | st.fixed_dictionaries({"score": SCALARS, "gameOver": SCALARS, "gameWon": SCALARS}),
    },
)


@settings(max_examples=150, deadline=None)
@given(ANSWERS, st.booleans())
def test_any_answer_is_scored(value, python):
    assert_sound(f"{MARKER} {repr(value) if python else json.dumps(value)}", before(), after())


@settings(max_examples=150, deadline=None)
@given(st.text() | st.text("{}[]()\",:'\\\n `truefalsnjo0123456789.eE-+_#/*", max_size=200))
def test_any_text_is_scored(text):
    for response in (
        text,
        f"{MARKER}{text}",
        f"{MARKER} {{{text}",
        f'{MARKER} {{"modified": [{text}], "removed": []}}',
    ):
        assert_sound(response, before(), after())


# ---- long and deep texts
def test_limits_stay_far_above_real_answers():
    """Answers of 20 000 characters that need repair: all objects many times over, in Python notation."""
    assert LONGEST >= 20_000 and DEEPEST >= 50
    text = repr(answer(*after()[:-1] * 22, lamp(), seed()))
    assert len(text) > 20_000
    assert both(told(text)) == (1, 1.3)
    assert both(told(text[:-1])) == (1, 1.3)
