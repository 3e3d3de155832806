"""Looking at text-game transitions: a coloured diff, a browser of many, a summary of games.

The diff shows what the action and the tick changed, what a model said, and how each part of the reward came about
(paper, section 4.1; the weights are those of ``worlds/text_game_rewards.py``). Changes are marked with a sign as well
as a colour (blue: right or added, orange: wrong or removed). Everything is escaped: an answer can hold any text.
"""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from rlvr_lib.progress import somebody_watches
from rlvr_lib.worlds.text_game_rewards import TextGameScore, is_changed, parse_answer, rebuild_state, score_answer
from rlvr_lib.worlds.transitions import GameState, TextTransition

ABSENT = object()
BLUE, ORANGE = "background:#d6e8f5;color:#003a5d", "background:#fbe3d2;color:#7a2e00"
CELL = "padding:1px 8px;border-bottom:1px solid #e5e5e5;text-align:left;vertical-align:top;white-space:pre-wrap"
LONG = 400  # characters of a value that are shown
SHORT = 4000  # characters of a response that are shown


def diff_html(transition: TextTransition, response: str | None = None, score: TextGameScore | None = None) -> str:
    """One transition as HTML: action, changed objects (unchanged ones folded), and with ``response`` the prediction.

    ``score`` is computed from the response when not given. Never raises for anything a model wrote.
    """
    answer = None if response is None else parse_answer(response)
    if response is not None and score is None:
        score = score_answer(response, transition.current, transition.target)
    parts = [_headline(transition), _state_or_truth(transition, answer)]
    if response is not None:
        parts.append(_response(response, answer is not None))
    if score is not None:
        parts.append(_score_table(score))
    return f'<div style="font:13px/1.45 system-ui,sans-serif;max-width:70rem">{"".join(parts)}</div>'


def _state_or_truth(transition: TextTransition, answer: dict[str, Any] | None) -> str:
    """The diff with the prediction, or without it where no state can be made of the answer (it then scores 0)."""
    if answer is not None:
        try:
            return _state_table(transition, rebuild_state(transition.current, answer))
        except Exception:  # whatever a model wrote must not end a notebook
            return _state_table(transition, None)
    return _state_table(transition, None)


def _headline(transition: TextTransition) -> str:
    changed = "changed" if is_changed(transition.current, transition.target) else "unchanged"
    notes = "".join(f"<li>{escape(str(note))}</li>" for note in transition.notes)
    return (
        f"<p><b>{escape(transition.game)}</b> <small>{escape(transition.case_id)} · {changed}</small><br>"
        f"action: <code>{escape(transition.action)}</code></p>" + (f"<ul>{notes}</ul>" if notes else "")
    )


def _entries(record: Mapping[str, Any]) -> dict[str, Any]:
    """What is compared of a record: properties and contents of an object, or the keys of a score record."""
    if "uuid" not in record:
        return dict(record)
    properties = record.get("properties")
    contains = {"contains": record["contains"]} if "contains" in record else {}
    return {**(properties if isinstance(properties, Mapping) else {}), **contains}


def _by_name(state: Sequence[Any] | None) -> dict[str, dict[str, Any]]:
    """Records of a state under a stable key: uuid, or ``score`` for the score record."""
    records = [record for record in state or [] if isinstance(record, Mapping)]
    return {f"{record['uuid']!r}" if "uuid" in record else "score": dict(record) for record in records}


def _state_table(transition: TextTransition, predicted: GameState | None) -> str:
    before, truth = _by_name(transition.current), _by_name(transition.target)
    guess = None if predicted is None else _by_name(predicted)
    rows, quiet = [], []
    for key in dict.fromkeys([*before, *truth, *(guess or {})]):
        record = truth.get(key) or before.get(key) or (guess or {}).get(key) or {}
        lines = _record_lines(before.get(key), truth.get(key), ABSENT if guess is None else guess.get(key))
        if lines:
            rows += [f'<tr><td colspan="5" style="{CELL}"><b>{_title(record)}</b></td></tr>', *lines]
        else:
            quiet.append(f"<li>{_title(record)}: {_value(_entries(record))}</li>")
    names = ("entry", "before", "truth") + (() if guess is None else ("prediction", "verdict"))
    head = "".join(f'<th style="{CELL}">{name}</th>' for name in names)
    table = f'<table style="border-collapse:collapse"><tr>{head}</tr>{"".join(rows)}</table>' if rows else ""
    return (table or "<p>Nothing changes.</p>") + _folded(f"{len(quiet)} without change", "".join(quiet))


def _title(record: Mapping[str, Any]) -> str:
    return f"{_value(record.get('name', '?'))} [{_value(record.get('type', '?'))}]" if "uuid" in record else "score"


def _folded(summary: str, items: str) -> str:
    return f"<details><summary><small>{summary}</small></summary><ul>{items}</ul></details>" if items else ""


def _record_lines(before: Any, truth: Any, guess: Any) -> list[str]:
    """Rows for the entries of one record that change, or that the prediction gets wrong (ABSENT: no prediction)."""
    if before is None or truth is None or guess is None:
        words = [ABSENT if record is ABSENT else _presence(record) for record in (before, truth, guess)]
        return [_row("the record", *words)] if len(set(map(str, words))) > 1 else []
    old, new = _entries(before), _entries(truth)
    said = new if guess is ABSENT else _entries(guess)
    lines = []
    for key in dict.fromkeys([*old, *new, *said]):
        a, b, c = (entries.get(key, "(absent)") for entries in (old, new, said))
        if not (_same(key, a, b) and _same(key, b, c)):
            lines.append(_row(key, a, b, ABSENT if guess is ABSENT else c))
    return lines


def _presence(record: Any) -> str:
    return "(absent)" if record is None else "present"


def _same(key: Any, a: Any, b: Any) -> bool:
    """Equal values; what an object contains counts as a set, as in the reward."""
    if key == "contains" and isinstance(a, list) and isinstance(b, list):
        return sorted(map(str, a)) == sorted(map(str, b))
    return a == b


def _row(key: Any, before: Any, truth: Any, guess: Any) -> str:
    """One entry: before, truth (marked when it differs), prediction (marked right or wrong)."""
    moved = not _same(key, before, truth)
    cells = [
        _cell(_value(key)),
        _cell(_value(before)),
        _cell(("Δ " if moved else "") + _value(truth), BLUE if moved else ""),
    ]
    if guess is not ABSENT:
        right = _same(key, truth, guess)
        cells += [_cell(_value(guess), BLUE if right else ORANGE), _cell("✓ right" if right else "✗ wrong")]
    return f"<tr>{''.join(cells)}</tr>"


def _cell(content: str, colour: str = "") -> str:
    return f'<td style="{CELL};{colour}">{content}</td>'


def _value(value: Any) -> str:
    text = str(value)
    return escape(text if len(text) <= LONG else text[:LONG] + " …")


def _response(response: str, parsed: bool) -> str:
    note = "" if parsed else f' <span style="{ORANGE}">✗ no answer could be read</span>'
    shown = escape(response[:SHORT]) + (" …" if len(response) > SHORT else "")
    return f'<details><summary>response{note}</summary><pre style="white-space:pre-wrap">{shown}</pre></details>'


def _score_table(score: TextGameScore) -> str:
    """The reward by part: 0.1 · accuracies + 0.2 · exact + changed accuracy (spec A.9)."""
    changed = score.changed_accuracy
    lines = [
        ("objects' entries right", score.item_accuracy, "× 0.09"),
        ("score entries right", score.score_accuracy, "× 0.01"),
        ("everything right (binary reward)", score.binary, "× 0.2"),
        ("changed entries right", changed, "× 1" if changed is not None else "no changed entry: term absent"),
        ("task-specific reward", score.task_specific, "sum (0 when the answer cannot be used)"),
        ("corrected metric", score.corrected, "not a reward"),
    ]
    rows = (
        "".join(map(_cell, (name, "–" if value is None else f"{float(value):.3f}", weight)))
        for name, value, weight in lines
    )
    table = "".join(f"<tr>{row}</tr>" for row in rows)
    return f'<table style="border-collapse:collapse;margin-top:6px">{table}</table>'


def browse(
    transitions: Sequence[TextTransition],
    responses: Sequence[str] | None = None,
    scores: Sequence[TextGameScore] | None = None,
    still: int = 3,
) -> Any:
    """A browser over transitions: a widget where somebody watches, else a static page of the first ``still`` cases.

    ``responses`` and ``scores`` belong to the transitions in order. Returns an object that a notebook displays.
    """

    def page(index: int) -> str:
        response, score = (None if x is None else x[index] for x in (responses, scores))
        return diff_html(transitions[index], response, score)  # type: ignore[arg-type]

    return browse_by([transition.game for transition in transitions], page, "game", still)


def browse_by(groups: Sequence[str], page: Callable[[int], str], word: str, still: int = 3) -> Any:
    """A browser over cases that ``page`` draws as HTML; ``groups`` names each one's group, which ``word`` names.

    A widget where somebody watches, else a static page of the first ``still`` cases.
    """
    from IPython.display import HTML

    if not groups:
        return HTML("<p>No transitions to show.</p>")
    if not somebody_watches():
        return HTML("<hr>".join(page(index) for index in range(min(still, len(groups)))))
    return _live_browser(groups, page, word)


def _live_browser(groups: Sequence[str], page: Callable[[int], str], word: str) -> Any:
    """A dropdown of groups, a slider over the cases of the chosen one, and the page below."""
    import ipywidgets as widgets

    games: dict[str, list[int]] = {f"all {word}s": list(range(len(groups)))}
    for index, name in enumerate(groups):
        games.setdefault(name, []).append(index)
    game = widgets.Dropdown(options=list(games), description=word)
    place = widgets.IntSlider(min=0, max=len(groups) - 1, description="case", continuous_update=False)
    view = widgets.HTML()

    def show(*_: Any) -> None:
        place.max = len(games[game.value]) - 1
        view.value = page(games[game.value][place.value])

    game.observe(show, names="value")
    place.observe(show, names="value")
    show()
    return widgets.VBox([widgets.HBox([game, place]), view])


def game_summary(transitions: Sequence[TextTransition]) -> pd.DataFrame:
    """One row per game: transitions, share changed (%), layouts, distinct actions, objects per state (mean)."""
    rows = [
        {
            "game": one.game,
            "changed": 100.0 * is_changed(one.current, one.target),
            "layout": one.layout_seed,
            "action": one.action,
            "objects": len(one.current) - 1,
        }
        for one in transitions
    ]
    frame = pd.DataFrame(rows, columns=["game", "changed", "layout", "action", "objects"])
    summary = frame.groupby("game", sort=True).agg(
        transitions=("action", "size"),
        changed_percent=("changed", "mean"),
        layouts=("layout", "nunique"),
        actions=("action", "nunique"),
        objects=("objects", "mean"),
    )
    return summary.round(1)
