"""The transition browser: what is shown, what is folded, and that nothing a model writes gets through unescaped."""

import json
import re

import pytest

from rlvr_lib.worlds.transitions import TextTransition

widgets = pytest.importorskip("rlvr_lib.report.widgets", reason="needs worlds/text_game_rewards.py")

ATTACK = "<script>alert('x')</script>"


def thing(name, uuid, kind, properties, contains=()):
    return {
        "name": f"{name} (ID: {uuid})",
        "uuid": uuid,
        "type": kind,
        "properties": properties,
        "contains": list(contains),
    }


def points(score):
    return {"score": score, "gameOver": False, "gameWon": False}


LAMP_ON = thing("lamp", 2, "Lamp", {"isOn": True, "brightness": 5})
CURRENT = [
    thing("house", 1, "World", {"isOpen": True}, ["lamp (ID: 2)", "cup (ID: 3)"]),
    thing("lamp", 2, "Lamp", {"isOn": False, "brightness": 0}),
    thing("cup", 3, "Cup", {"isFull": True}),
    points(0),
]
TARGET = [thing("house", 1, "World", {"isOpen": True}, ["cup (ID: 3)", "lamp (ID: 2)"]), LAMP_ON, CURRENT[2], points(1)]
CASE = TextTransition("lamp-game", 7, "turn on lamp", CURRENT, TARGET, 9, layout_seed=3)
STILL = TextTransition("lamp-game", 8, "look", CURRENT, CURRENT, 9, layout_seed=4)


def answer(modified, score):
    return "The final answer is: " + json.dumps({"modified": modified, "removed": [], "score": score})


def rows(html):
    """Cells' texts of every table row that has at least three."""
    found = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", html)]
    return [cells for cells in found if len(cells) >= 3]


def test_only_changes_are_unfolded():
    html = widgets.diff_html(CASE)
    shown, folded = html.split("<details>", 1)
    assert [row[0] for row in rows(shown)] == ["isOn", "brightness", "score"]
    assert rows(shown)[1][1:] == ["0", "Δ 5"]
    assert "2 without change" in folded and "cup (ID: 3)" in folded  # the order of contents is no change
    assert "Nothing changes" in widgets.diff_html(STILL)


def test_prediction_is_marked_right_or_wrong():
    dim = {**LAMP_ON, "properties": {"isOn": True, "brightness": 4}}
    empty_cup = {**CURRENT[2], "properties": {"isFull": False}}
    html = widgets.diff_html(CASE, answer([dim, empty_cup], points(1)))
    verdicts = {row[0]: row[4] for row in rows(html) if len(row) == 5}
    assert verdicts == {"isOn": "✓ right", "brightness": "✗ wrong", "isFull": "✗ wrong", "score": "✓ right"}


def test_reward_is_shown_by_part():
    cells = {row[0]: row[1] for row in rows(widgets.diff_html(CASE, answer([LAMP_ON], points(1)))) if len(row) == 3}
    assert cells["task-specific reward"] == "1.300" and cells["everything right (binary reward)"] == "1.000"
    cells = {row[0]: row[1] for row in rows(widgets.diff_html(STILL, answer([], {}))) if len(row) == 3}
    assert cells["changed entries right"] == "–" and cells["task-specific reward"] == "0.300"


@pytest.mark.parametrize(
    "response",
    [
        "",
        "{",
        ATTACK,
        "The final answer is: " + "[" * 5000,
        answer([{"uuid": 2, "properties": None, "contains": [{}, 1]}], {"score": None}),
        answer([{**LAMP_ON, "name": ATTACK, "type": ATTACK, "properties": {ATTACK: ATTACK}}], ATTACK),
        'The final answer is: {"modified": 5, "removed": {"2": 1}, "score": []}',
        'The final answer is: {"modified": [], "removed": [1, 2, 3], "score": {}}',
    ],
)
def test_no_answer_breaks_the_page(response):
    html = widgets.diff_html(CASE, response)
    assert "<script" not in html and "task-specific reward" in html


def test_games_text_is_escaped():
    case = TextTransition(ATTACK, 1, ATTACK, CURRENT, TARGET, 9, notes=(ATTACK,))
    assert "<script" not in widgets.diff_html(case)


def test_browser_has_a_static_twin(monkeypatch):
    monkeypatch.setattr(widgets, "somebody_watches", lambda: False)
    page = widgets.browse([CASE, STILL] * 4, still=3)
    assert page.data.count("lamp-game/3/7") == 2 and page.data.count("<hr>") == 2
    assert "No transitions" in widgets.browse([]).data


def test_live_browser_follows_its_controls(monkeypatch):
    monkeypatch.setattr(widgets, "somebody_watches", lambda: True)
    other = TextTransition("kettle-game", 1, "boil", CURRENT, TARGET, 9)
    box = widgets.browse([CASE, STILL, other])
    (game, place), view = box.children[0].children, box.children[1]
    assert "lamp-game/3/7" in view.value
    place.value = 2
    assert "kettle-game/1" in view.value
    game.value = "lamp-game"
    assert place.max == 1 and "lamp-game/4/8" in view.value


def test_game_summary_counts():
    summary = widgets.game_summary([CASE, STILL, CASE])
    assert summary.loc["lamp-game"].tolist() == [3, 66.7, 2, 2, 3.0]
    assert widgets.game_summary([]).empty
