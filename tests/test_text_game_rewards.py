"""Text-game rewards: the vectors of spec E, closed forms for the quirks, limits, properties, and a fuzzer.

RLVR_FUZZ=100000 runs the fuzzer over as many damaged answers (default 10 000).
"""

import copy
import json
import os
import sys
from random import Random

import dirtyjson
import json_repair
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from text_game_examples import MARKER, answer_of, damaged_answer, other_examples, record, worked_example

from rlvr_lib.worlds import text_game_answers
from rlvr_lib.worlds.text_game_rewards import (
    TextGameScore,
    binary_reward,
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

CURRENT, GOLD = worked_example()
LAMP, SEED = GOLD[2], GOLD[4]
UNCHANGED, SCORE_ONLY, MOVED, ADDED, REMOVED, VANISHES, APPEARS = other_examples()


def score(answer, case=(CURRENT, GOLD)) -> TextGameScore:
    return score_answer(MARKER + json.dumps(answer), *case)


def changes(*modified, **more) -> dict:
    return {"modified": list(modified), "removed": [], "score": {}, **more}


def with_properties(item: dict, **properties) -> dict:
    return {**item, "properties": {**item["properties"], **properties}}


# ---- spec E
@pytest.mark.parametrize("notation", [json.dumps, repr])
def test_perfect(notation):
    found = score_answer(MARKER + notation(changes(LAMP, SEED)), CURRENT, GOLD)
    assert (found.parsed, found.binary, found.corrected) == (True, 1, 1)
    assert found.task_specific == pytest.approx(1.3, abs=1e-12)
    assert (found.item_accuracy, found.score_accuracy, found.changed_accuracy) == (1, 1, 1)


def test_half_of_the_changes():
    found = score(changes(LAMP))
    assert found.binary == 0 and found.task_specific == pytest.approx(0.7625757575757576, abs=1e-12)
    assert found.task_specific == pytest.approx(0.09 * 21 / 22 + 0.01 + 2 / 3, abs=1e-12)


def test_score_key_absent():
    answer = changes(LAMP, SEED)
    del answer["score"]
    found = score(answer)
    assert found.binary == 0 and found.task_specific == pytest.approx(1.09, abs=1e-12)


# ---- extraction (A.6)
def test_phrases_go_by_priority_then_by_last_occurrence():
    assert extract_answer(
        "the final state is: 1 The final answer is: 2 The final answer is: 3 the final answer is: 4"
    ) == ("3 the final answer is: 4")
    assert extract_answer("the final game state is: 5 The final state is:  6 ") == "6"


def test_fenced_blocks():
    assert (
        extract_answer('```json\n{"a": "first one"}\n``` or ```json\n{"b": "second one"}\n```.')
        == '{"b": "second one"}'
    )
    short = "```json\n{}\n``` short"
    assert extract_answer(short) == short  # under ten characters: the whole response
    assert extract_answer("```\n{'a': 'no label'}\n```") == "```\n{'a': 'no label'}\n```"


@pytest.mark.parametrize(
    "frame",
    [
        MARKER + "{}<|endoftext|>",
        MARKER + "```json\n{}\n```",
        MARKER + "{} I hope this helps.",
        "Some thought.\n```json\n{}\n```\nDone.",
        "the final game state is:\n{}",
    ],
)
@pytest.mark.parametrize("write", [json.dumps, repr])
def test_tolerated_frames(frame, write):
    assert score_answer(frame.replace("{}", write(changes(LAMP, SEED))), CURRENT, GOLD).binary == 1


def test_missing_brackets_and_trailing_commas_are_mended():
    text = json.dumps(changes(LAMP, SEED, score=CURRENT[-1]))
    assert score_answer(MARKER + text[:-2], CURRENT, GOLD).binary == 1
    assert score_answer(MARKER + text.replace("]}", "],}"), CURRENT, GOLD).binary == 1


def test_literals_are_replaced_inside_strings_too():
    assert parse_answer(MARKER + '{"modified": [], "removed": [], "x": "Nonesuch True"}')["x"] == "nullsuch true"


@pytest.mark.parametrize(
    "response",
    [
        "",
        " ",
        MARKER,
        "no idea",
        "{}",
        "[]",
        '{"modified": []}',
        '{"removed": []}',
        "null",
        "NaN",
        "1",
        '"modified"',
        None,
    ],
)
def test_no_answer(response):
    assert score_answer(response, CURRENT, GOLD) == TextGameScore()


def test_a_list_of_the_two_words_is_no_answer():
    assert score_answer(MARKER + '["modified", "removed"]', *UNCHANGED) == TextGameScore()


# ---- rebuilding (A.7)
def test_rebuild():
    answer = changes(LAMP, {**LAMP, "type": "later"}, {**SEED, "uuid": "4"}, record("new", 77, "New", {}), removed=[5])
    state = rebuild_state(CURRENT, answer)
    expected = copy.deepcopy(CURRENT)
    expected[2] = {**LAMP, "type": "later"}  # the later duplicate; "4" is not 4; 77 cannot enter
    del expected[5]
    assert state == expected
    assert len(rebuild_state(CURRENT, {"modified": [], "removed": []})) == len(CURRENT) - 1  # no score key, no record


@pytest.mark.parametrize("removed", [5, None, 2.5, "5", {"5": 1}, True, ["5"], [[5]]])
def test_what_removes_nothing(removed):
    assert score(changes(LAMP, SEED, removed=removed)).binary == 1


@pytest.mark.parametrize(
    "modified", [5, None, "lamp", {"uuid": 2}, [[LAMP]], [5, "x", {"name": "lamp"}, {"uuid": [2]}]]
)
def test_what_modifies_nothing(modified):
    found = score({"modified": modified, "removed": [], "score": {}})
    assert found.task_specific == pytest.approx(0.09 * 19 / 22 + 0.01)


def test_records_beside_rubbish_count():
    assert score({"modified": [None, LAMP, 7, SEED], "removed": [], "score": {}}).binary == 1


@pytest.mark.parametrize("empty", [{}, [], "", None, 0, 7, True])
def test_empty_score_keeps_the_current_one(empty):
    assert score(changes(LAMP, SEED, score=empty)).binary == 1
    assert score(changes(score=empty), SCORE_ONLY).binary == 0


# ---- counting (A.8)
def test_wrong_removal_is_one_error_and_forgotten_removal_is_free():
    found = score(changes(LAMP, SEED, removed=[5]))
    assert found.item_accuracy == pytest.approx(19 / 20)  # pebble's 3 entries become 1 error
    tray = REMOVED[1][3]
    assert score(changes(tray), REMOVED).binary == 1
    assert score(changes(tray), REMOVED).corrected == 0
    assert score(changes(tray, removed=[5]), REMOVED).corrected == 1


def test_missing_parts_of_a_record():
    no_properties = {key: value for key, value in LAMP.items() if key != "properties"}
    found = score(changes(no_properties, SEED))
    assert found.item_accuracy == pytest.approx(18 / 19)  # 4 properties become 1 error
    assert found.changed_accuracy is None and found.task_specific == pytest.approx(0.09 * 18 / 19 + 0.01)
    no_contains = {key: value for key, value in LAMP.items() if key != "contains"}
    found = score(changes(no_contains, SEED))
    assert found.item_accuracy == pytest.approx(21 / 22) and found.changed_accuracy == 1


@pytest.mark.parametrize("value, same", [(5.0, True), ("5", False), ([5], False), (None, False), ({}, False)])
def test_value_equality(value, same):
    assert score(changes(with_properties(LAMP, brightness=value), SEED)).binary == same


def test_true_equals_one_and_order_matters_only_outside_contains():
    assert score(changes(with_properties(LAMP, isOn=1), SEED)).binary == 1
    tray = {**CURRENT[3], "contains": CURRENT[3]["contains"][::-1]}
    assert score(changes(LAMP, SEED, tray)).binary == 1
    assert score(changes(LAMP, SEED, with_properties(CURRENT[3], levels=[2, 1]))).binary == 0
    wiring = dict(reversed(LAMP["properties"]["wiring"].items()))
    assert score(changes(with_properties(LAMP, wiring=wiring), SEED)).binary == 1


@pytest.mark.parametrize("wrong", [{"properties": None}, {"properties": 5}, {"contains": None}, {"contains": ["a", 1]}])
def test_values_that_cannot_be_processed(wrong):
    assert score(changes({**LAMP, **wrong}, SEED)) == TextGameScore(parsed=True)


def test_names_types_and_extra_fields_are_not_looked_at():
    assert score(changes({**LAMP, "name": "x", "type": 5, "note": {}}, SEED)).task_specific == pytest.approx(1.3)


def test_score_entries():
    won = {"score": 1, "gameOver": True, "gameWon": True}
    assert score(changes(score=won), SCORE_ONLY).task_specific == pytest.approx(0.3)
    found = score(changes(score={**won, "gameWon": False}), SCORE_ONLY)
    assert found.score_accuracy == pytest.approx(2 / 3) and found.task_specific == pytest.approx(0.09 + 0.02 / 3)
    two_of_three = score(changes(score={"gameOver": True, "gameWon": True}), SCORE_ONLY)
    assert two_of_three.score_accuracy == pytest.approx(2 / 3)
    no_record = score(changes(score="no score"), SCORE_ONLY)
    assert no_record.score_accuracy == 0 and no_record.task_specific == pytest.approx(0.09)


# ---- the changed term (A.9)
def test_missing_contents_are_wrong_even_where_the_truth_is_empty():
    """A.9: an entry of K that the prediction lacks counts 0."""
    emptied = copy.deepcopy(CURRENT)
    emptied[3]["contains"] = []
    tray = {key: value for key, value in CURRENT[3].items() if key != "contains"}
    assert score(changes(tray), (CURRENT, emptied)).changed_accuracy == 0
    assert score(changes({**tray, "contains": []}), (CURRENT, emptied)).changed_accuracy == 1


def test_a_property_named_contains_is_an_invented_key():
    found = score(changes(with_properties(LAMP, contains=[]), SEED))
    assert found.binary == 1 and found.task_specific == 0


def test_invented_key_costs_the_task_specific_reward_only():
    found = score(changes(with_properties(LAMP, colour="red"), SEED))
    assert found.binary == 1 and found.task_specific == 0
    found = score(changes(LAMP, SEED, with_properties(CURRENT[5], colour="red")))
    assert found.binary == 1 and found.task_specific == 0


def test_keys_that_come_and_go():
    assert score(changes(VANISHES[1][5]), VANISHES).task_specific == pytest.approx(0.3)  # no entry of K is met
    assert score(changes(), VANISHES).task_specific == pytest.approx(0.3)  # an extra key is not an error; hit 0 of 1
    assert score(changes(APPEARS[1][5]), APPEARS).task_specific == pytest.approx(1.3)
    assert score(changes(), APPEARS).task_specific == pytest.approx(0.09 * 22 / 23 + 0.01)


@pytest.mark.parametrize("case, best", [(UNCHANGED, 0.3), (SCORE_ONLY, 0.3), (MOVED, 1.3), (REMOVED, 1.3)])
def test_maximum(case, best):
    found = score(answer_of(*case), case)
    assert (found.binary, found.corrected) == (1, 1) and found.task_specific == pytest.approx(best)


def test_added_objects_only_count_in_the_corrected_accuracy():
    answer = answer_of(*ADDED)
    assert (score(answer, ADDED).binary, score(answer, ADDED).corrected) == (0, 1)
    leaf = answer["modified"][-1]
    for wrong in ({**leaf, "name": "twig (ID: 10)"}, {**leaf, "contains": ["x"]}, {**leaf, "properties": {}}, None):
        answer["modified"][-1] = wrong
        assert score(answer, ADDED).corrected == 0
    extra = record("ghost", 11, "Ghost", {})
    assert (score(changes(LAMP, SEED, extra)).binary, score(changes(LAMP, SEED, extra)).corrected) == (1, 0)


# ---- changed or not (A.2)
def test_three_notions_of_changed():
    flags = [(is_changed(*case), is_changed_for_training(*case)) for case in other_examples()]
    assert flags == [(False, False), (True, False)] + [(True, True)] * 5
    reordered = copy.deepcopy(CURRENT)
    reordered[3]["contains"].reverse()
    assert reordered != CURRENT and not is_changed(CURRENT, reordered)
    lost = [item for item in CURRENT if item.get("uuid") != 5]
    assert is_changed(CURRENT, lost) and not is_changed_for_training(CURRENT, lost)


def test_written_answers():
    for case in [(CURRENT, GOLD), *other_examples()]:
        for notation in ("json", "python"):
            assert parse_answer(perfect_answer(*case, notation)) == answer_of(*case)
    assert score_answer(no_change_answer(), *UNCHANGED).binary == 1
    assert score_answer(no_change_answer(), CURRENT, GOLD).changed_accuracy == 0


def test_trl_rewards():
    texts = [
        MARKER + json.dumps(changes(LAMP, SEED)),
        [{"role": "assistant", "content": MARKER + json.dumps(changes(LAMP))}],
    ]
    states = {"current_state": [json.dumps(CURRENT)] * 2, "gold_state": [json.dumps(GOLD)] * 2}
    assert binary_reward(prompts=None, completions=texts, **states, completion_ids=None) == [1, 0]
    found = task_specific_reward(prompts=None, completions=texts, **states)
    assert found == pytest.approx([1.3, 0.09 * 21 / 22 + 0.01 + 2 / 3])


# ---- limits: no exception, no hang
HARD = [
    "[",
    "{",
    "(",
    '"',
    "'",
    "\\",
    '{"a":',
    '[{"a":[',
    "{a:",
    "{]",
    '("a" ',
    '""',
    '{"a": "b" "c", ',
    "```json ",
    "//",
    "/*",
]


@pytest.mark.parametrize("noise", HARD)
@pytest.mark.parametrize("start", ["", '{"modified": [', "{'modified': \""])
def test_hard_texts_end(noise, start):
    """Some of these would take the unbounded repair hours."""
    text = (start + noise * 100_000)[:90_000]
    found = score_answer(text, CURRENT, GOLD)
    assert 0 <= found.task_specific <= 0.1


@pytest.mark.parametrize(
    "value",
    [
        "9" * 5000,
        "1e400",
        "-1e400",
        "NaN",
        "-Infinity",
        "1" + "0" * 400 + ".5",
        '"\\ud800"',
        '"\ud800"',
        "[" * 99 + "]" * 99,
    ],
)
def test_strange_values(value):
    text = json.dumps(changes(LAMP, SEED, note=0)).replace('"note": 0', f'"note": {value}')
    assert score_answer(MARKER + text, CURRENT, GOLD).binary in (0, 1)
    text = json.dumps(changes(LAMP, SEED)).replace('"brightness": 5', f'"brightness": {value}')
    assert score_answer(MARKER + text, CURRENT, GOLD).binary == 0


def test_long_thoughts_do_not_matter_before_the_marker():
    thoughts = "Hmm {[( \" ' " * 100_000
    assert score_answer(thoughts + MARKER + json.dumps(changes(LAMP, SEED)), CURRENT, GOLD).binary == 1


def test_depth_limit_does_not_depend_on_the_caller():
    """An answer at the depth limit is read even when much of the stack is in use."""
    deep = "[" * 90 + "]" * 90
    text = MARKER + repr(changes(LAMP, SEED)).replace("{'modified'", "{'note': " + deep + ", 'modified'")

    def below(frames: int) -> float:
        return score_answer(text, CURRENT, GOLD).binary if frames == 0 else below(frames - 1)

    assert sys.getrecursionlimit() >= 1000 and below(150) == below(0) == 1


def test_answers_are_never_run():
    for text in ("__import__('os').getcwd()", "9**9**9", "(1+2)*3", "{'modified': 1+1, 'removed': 9**9**9**9}"):
        assert score_answer(MARKER + text, CURRENT, GOLD).binary == 0


# ---- properties
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(json_values)
def test_plain_json_reads_as_through_repair_and_dirtyjson(value):
    """The short cut and the standard parser give what the released route gives."""
    text = json.dumps(value)
    repaired = json_repair.repair_json(text)
    assert json.loads(text) == text_game_answers._read(text)
    if repaired:  # an empty text comes back as nothing at all, which neither parser reads
        assert dirtyjson.loads(repaired) == json.loads(text)


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet="{}[]\",:'a1 \\\nTrueNone-.e/*", max_size=60))
def test_repaired_rubbish_reads_as_through_dirtyjson(text):
    repaired = json_repair.repair_json(text)
    if repaired:
        assert repr(json.loads(repaired)) == repr(_plain(dirtyjson.loads(repaired)))


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=300))
def test_any_text_is_scored(text):
    assert score_answer(text, CURRENT, GOLD).binary == 0
    assert 0 <= score_answer(MARKER + text, CURRENT, GOLD).task_specific <= 0.1


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(["modified", "removed", "score", "x"]), json_values))
def test_any_answer_is_scored(answer):
    found = score(answer)
    assert found.binary == 0 and 0 <= found.task_specific <= 0.1


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([(CURRENT, GOLD), *other_examples()]), st.randoms(use_true_random=False))
def test_order_never_matters(case, rng):
    answer = copy.deepcopy(answer_of(*case))
    expected = score(answer, case)
    rng.shuffle(answer["modified"])
    for item in answer["modified"]:
        rng.shuffle(item["contains"])
        item["properties"] = dict(rng.sample(list(item["properties"].items()), len(item["properties"])))
    assert score(dict(reversed(answer.items())), case) == expected


# ---- the fuzzer
def test_damaged_answers_never_raise():
    """Realistic damage: scores stay in range, and the two rewards agree where the description ties them."""
    number = int(os.environ.get("RLVR_FUZZ", "10000"))
    rng, cases, told = Random(20), [(CURRENT, GOLD), *other_examples()], []
    before = copy.deepcopy(cases)
    answers = [answer_of(*case) for case in cases]
    for _ in range(number):
        index = rng.randrange(len(cases))
        response = damaged_answer(answers[index], rng)
        found = score_answer(response, *cases[index])
        assert found.binary in (0, 1) and found.corrected in (0, 1), response
        assert 0 <= found.task_specific <= 1.3 + 1e-12, response
        assert found.parsed or found == TextGameScore(), response
        if found.changed_accuracy is not None:
            share = (
                0.09 * found.item_accuracy + 0.01 * found.score_accuracy + 0.2 * found.binary + found.changed_accuracy
            )
            assert found.task_specific == pytest.approx(share, abs=1e-12), response
        told.append((found.parsed, found.binary, found.task_specific > 0))
    assert cases == before
    parsed, right, positive = (sum(column) / number for column in zip(*told, strict=True))
    assert 0.3 < parsed < 0.99 and 0.02 < right < 0.6 and right < positive < parsed
