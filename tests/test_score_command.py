"""``rlvr score text-game`` from the command line to the files: table, per-item lines, one-line errors."""

import json

import pytest

from rlvr_lib.cli import main
from rlvr_lib.worlds.text_crawl import crawl
from rlvr_lib.worlds.text_game_rewards import is_changed, no_change_answer, perfect_answer
from rlvr_lib.worlds.text_games import GAMES
from rlvr_lib.worlds.transitions import TextTransition


def run(*words: str, what: str = "text-game") -> int:
    """Exit code of ``rlvr score``."""
    with pytest.raises(SystemExit) as end:
        main(["score", what, *words])
    return end.value.code


@pytest.fixture
def items() -> list[TextTransition]:
    return [TextTransition.from_record(record) for record in crawl(GAMES["boil-water"], 5)]


def line(item: TextTransition, response: str, **more) -> str:
    current, gold = {"game_state": item.current}, {"game_state": item.target}
    return json.dumps({"current_state": current, "gold_state": json.dumps(gold), "response": response, **more}) + "\n"


def test_a_file_is_scored(items, tmp_path, capsys):
    file, out = tmp_path / "predictions.jsonl", tmp_path / "items.jsonl"
    answers = [perfect_answer, lambda *_: no_change_answer(), lambda *_: "who knows"]
    file.write_text("".join(line(item, answers[i % 3](item.current, item.target)) for i, item in enumerate(items)))
    assert run(str(file), "--per-item", str(out)) in (0, None)
    changed = [is_changed(item.current, item.target) for item in items]
    expected = [float(i % 3 == 0 or (i % 3 == 1 and not moved)) for i, moved in enumerate(changed)]
    found = [json.loads(text) for text in out.read_text().splitlines()]
    assert [item["binary"] for item in found] == expected
    best = [1.3 if moved else 0.3 for moved in changed]
    assert all(one["task_specific"] == pytest.approx(most) for one, most in list(zip(found, best, strict=True))[::3])
    table = {words[0]: words for words in map(str.split, capsys.readouterr().out.splitlines()) if words}
    counts = {"unchanged": changed.count(False), "changed": changed.count(True), "overall": len(items)}
    assert {name: int(table[name][1]) for name in counts} == counts
    assert table["overall"][2] == f"{100 * sum(expected) / len(expected):.2f}"


def test_bad_input_is_one_line_that_names_it(items, tmp_path, capsys):
    file, out = tmp_path / "predictions.jsonl", tmp_path / "items.jsonl"
    good = line(items[0], "")
    for bad, words in (("nonsense\n", "line 2"), ('{"response": ""}\n', "line 2: current_state"), (None, "itself")):
        file.write_text(good + (bad or ""))
        assert run(str(file), "--per-item", str(out if bad else file)) == 2
        told = capsys.readouterr().err.strip()
        assert "\n" not in told and str(file) in told and words in told
        assert not out.exists() and file.read_text().startswith(good)


def test_page_changes_are_scored(tmp_path, capsys):
    file, out = tmp_path / "pages.jsonl", tmp_path / "items.jsonl"
    gold = "New items:\n[1] link 'a'\n[2] link 'b'\n\nDeleted items:\nNone\n\nUpdated items:\nNone"
    half = "New items:\n[1] link 'a'\n\nDeleted items:\n[9] link 'z'"
    lines = [{"response": text, "ground_truth": gold} for text in (gold, half, "no idea")]
    file.write_text("\n\n".join(map(json.dumps, lines)))
    assert run(str(file), "--per-item", str(out), what="web-page") in (0, None)
    found = [json.loads(text) for text in out.read_text().splitlines()]
    assert [row["line"] for row in found] == [1, 3, 5]
    assert [row["f1"] for row in found] == pytest.approx([1, 2 * 0.5 * 0.25 / 0.75, 0])
    table = {words[0]: words for words in map(str.split, capsys.readouterr().out.splitlines()) if words}
    assert table["precision"][1] == "50.00" and table["recall"][1] == f"{100 * 1.25 / 3:.2f}"
    for bad, words in (
        ("nonsense", "no JSON"),
        ('{"response": ""}', "ground_truth is missing"),
        ("[]", "not an object"),
    ):
        file.write_text(json.dumps(lines[0]) + "\n" + bad)
        assert run(str(file), what="web-page") == 2
        told = capsys.readouterr().err.strip()
        assert "\n" not in told and f"{file}, line 2" in told and words in told
