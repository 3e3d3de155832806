"""Scoring prediction files: rows against hand-counted means, per-item output, one clear line for bad input."""

import json
import lzma
import os
from pathlib import Path

import pytest
from text_game_examples import MARKER, answer_of, other_examples, worked_example

from rlvr_lib.artifacts import UserError
from rlvr_lib.evaluation.text_game_scores import accuracy_rows, score_file, score_records

CURRENT, GOLD = worked_example()
UNCHANGED, SCORE_ONLY, _, ADDED, REMOVED, *_ = other_examples()


def line(case, response, wrap=lambda records: {"game_state": records}) -> dict:
    return {"current_state": wrap(case[0]), "gold_state": wrap(case[1]), "response": response}


def right(case) -> str:
    return MARKER + json.dumps(answer_of(*case))


def ten_lines() -> list[dict]:
    """Four unchanged cases, two of them right; six changed ones, three right as released, three as corrected."""
    nothing = MARKER + '{"modified": [], "removed": [], "score": {}}'
    forgotten = answer_of(*REMOVED) | {"removed": []}
    return [
        line(UNCHANGED, nothing),
        line(UNCHANGED, right((CURRENT, GOLD))),
        line((CURRENT, GOLD), right((CURRENT, GOLD))),
        line((CURRENT, GOLD), nothing),
        line(UNCHANGED, "I do not know."),
        line(SCORE_ONLY, right(SCORE_ONLY)),
        line(ADDED, right(ADDED)),
        line(REMOVED, MARKER + json.dumps(forgotten)),
        line(UNCHANGED, nothing),
        line((CURRENT, GOLD), None),
    ]


@pytest.fixture
def predictions(tmp_path) -> Path:
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(item) + "\n" for item in ten_lines()))
    return path


def values(rows, metric: str) -> dict:
    found = rows[rows["metric"] == metric].set_index("cases")
    return {name: (pytest.approx(found.loc[name, "mean"]), found.loc[name, "n"]) for name in found.index}


def test_rows(predictions):
    rows = score_file(predictions)
    assert list(rows.columns) == ["metric", "cases", "mean", "low", "high", "n"]
    assert values(rows, "accuracy (released)") == {"unchanged": (50, 4), "changed": (50, 6), "overall": (50, 10)}
    assert values(rows, "accuracy (corrected)") == {"unchanged": (50, 4), "changed": (50, 6), "overall": (50, 10)}
    added = 0.09 * 22 / 23 + 0.01 + 1
    changed = [1.3, 0.09 * 19 / 22 + 0.01, 0.3, added, 1.3, 0]
    unchanged = [0.3, 0.09 * 19 / 22 + 0.01, 0, 0.3]
    expected = {"unchanged": (sum(unchanged) / 4, 4), "changed": (sum(changed) / 6, 6)}
    expected["overall"] = ((sum(unchanged) + sum(changed)) / 10, 10)
    assert values(rows, "task-specific reward") == expected
    assert (rows["low"] <= rows["mean"]).all() and (rows["mean"] <= rows["high"]).all()
    assert rows.equals(score_file(predictions, seed=0))


def test_per_item_lines_follow_the_input(predictions, tmp_path):
    out = tmp_path / "new" / "items.jsonl"
    score_file(predictions, per_item=out)
    items = [json.loads(text) for text in out.read_text().splitlines()]
    assert [item["binary"] for item in items] == [1, 0, 1, 0, 0, 1, 0, 1, 1, 0]
    assert [item["corrected"] for item in items] == [1, 0, 1, 0, 0, 1, 1, 0, 1, 0]
    assert [item["line"] for item in items] == list(range(1, 11))
    assert items[2]["task_specific"] == pytest.approx(1.3) and items[0]["changed_accuracy"] is None
    assert not list(out.parent.glob(".*"))


def test_ways_to_write_a_state(tmp_path):
    ways = [lambda s: {"game_state": s}, lambda s: json.dumps({"game_state": s}), lambda s: s, json.dumps]
    lines = [line((CURRENT, GOLD), right((CURRENT, GOLD)), way) for way in ways]
    assert list(score_records(lines)["binary"]) == [1] * 4
    text = "\ufeff" + "\n\n".join(map(json.dumps, lines)) + "\n \n"
    assert list(score_records(text.splitlines())["line"]) == [1, 3, 5, 7]
    packed = tmp_path / "predictions.jsonl.xz"
    packed.write_bytes(lzma.compress(text.encode()))
    assert score_file(packed).iloc[2]["mean"] == 100


@pytest.mark.parametrize("response", [None, 5, [], {}, ["modified", "removed"], "", "\ud800", "[" * 5000])
def test_a_bad_response_only_scores_zero(response):
    scores = score_records([line((CURRENT, GOLD), response)])
    assert (scores["binary"].item(), scores["task_specific"].item()) == (0, 0)


def without(key: str) -> dict:
    return {name: value for name, value in line(UNCHANGED, "").items() if name != key}


OBJECT = CURRENT[0]
BAD_STATES = [None, 5, "text", [], {}, {"game_state": []}, CURRENT[:-1], [CURRENT[-1]], [OBJECT, OBJECT, CURRENT[-1]]]
BAD_STATES += [[{**OBJECT, **wrong}, CURRENT[-1]] for wrong in ({"uuid": "1"}, {"properties": []}, {"contains": [1]})]


@pytest.mark.parametrize(
    "bad, words",
    [
        *[(json.dumps(without(key)), f"line 2: {key} missing") for key in ("current_state", "gold_state", "response")],
        *[(json.dumps(without("gold_state") | {"gold_state": s}), "line 2, gold_state: not a") for s in BAD_STATES],
        *[(json.dumps(without("current_state") | {"current_state": s}), "line 2, current_state") for s in BAD_STATES],
        ('{"response": ', "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ("[1]", "line 2: a list instead"),
    ],
)
def test_bad_lines_are_named(tmp_path, bad, words):
    path, out = tmp_path / "predictions.jsonl", tmp_path / "items.jsonl"
    path.write_text(json.dumps(line(UNCHANGED, "")) + "\n" + bad + "\n")
    with pytest.raises(UserError, match=words) as told:
        score_file(path, out)
    assert str(path) in str(told.value) and "\n" not in str(told.value) and not out.exists()


def test_bad_files_are_named(tmp_path):
    empty, binary, packed = tmp_path / "empty.jsonl", tmp_path / "binary.jsonl", tmp_path / "torn.jsonl.xz"
    empty.write_text("\n")
    binary.write_bytes(b"\xff\xfe\x00")
    packed.write_bytes(b"not packed")
    for path in (empty, binary, packed, tmp_path / "missing.jsonl", tmp_path):
        with pytest.raises(UserError, match=str(path)):
            score_file(path)


def test_one_kind_of_case_only():
    rows = accuracy_rows(score_records([line(UNCHANGED, right(UNCHANGED))]))
    assert list(rows["n"]) == [1, 0, 1] * 3 and rows["mean"].isna().sum() == 3


@pytest.mark.shared_data
def test_reference_rows_of_the_official_test_set(tmp_path):
    """Spec A.12: the perfect oracle, through files."""
    folder = Path(os.environ["RLVR_SHARED_DATA"]) / "bytesized32"
    if not folder.is_dir():
        pytest.skip("RLVR_SHARED_DATA holds no bytesized32")
    from rlvr_lib.worlds.bytesized32 import load_test

    lines = (line((item.current, item.target), right((item.current, item.target))) for item in load_test(folder))
    rows = accuracy_rows(score_records(lines))
    found = {(row.metric, row.cases): (round(row.mean, 2), row.n) for row in rows.itertuples()}
    assert found["accuracy (released)", "overall"] == (98.27, 2954)
    assert found["accuracy (released)", "changed"] == (95.79, 1210)
    assert found["accuracy (corrected)", "overall"] == (100, 2954)
