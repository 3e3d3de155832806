"""Looking at web-page transitions: the page with what changes, what a model said of it, and its F1.

Marks are signs as well as colours (blue: right, orange: wrong or missing). Page text and model text are untrusted:
everything is escaped.
"""

from collections import Counter
from collections.abc import Sequence
from html import escape
from typing import Any

import pandas as pd

from rlvr_lib.report.widgets import BLUE, CELL, ORANGE, SHORT, browse_by
from rlvr_lib.tokens.web_page_task import perfect_answer
from rlvr_lib.worlds.web_pages import SECTIONS
from rlvr_lib.worlds.web_rewards import score_changes, sections
from rlvr_lib.worlds.web_transitions import WebTransition

LINES = 40  # of a section that are shown
PRE = "white-space:pre-wrap;max-height:22rem;overflow:auto;background:#f6f6f6;padding:6px"


def page_html(item: WebTransition, response: str | None = None) -> str:
    """One transition as HTML: goal, action, true changes; with ``response`` which of them it names, and its F1."""
    truth = perfect_answer(item)
    shown = truth if response is None else response
    rows = [
        f'<tr><th style="{CELL}">{escape(head)}</th><td style="{CELL}">{_lines(said, true)}</td></tr>'
        for head, said, true in zip(SECTIONS, sections(shown), sections(truth), strict=True)
    ]
    parts = [_headline(item), f'<table style="border-collapse:collapse">{"".join(rows)}</table>']
    if response is not None:
        score = score_changes(response, truth)
        parts.append(f"<p>precision {score.precision:.2f} · recall {score.recall:.2f} · <b>F1 {score.f1:.2f}</b></p>")
        parts.append(_folded("response", response))
    return f'<div style="font:13px/1.45 system-ui,sans-serif;max-width:70rem">{"".join(parts)}</div>'


def _headline(item: WebTransition) -> str:
    return (
        f"<p><b>{escape(item.goal[:300])}</b> <small>{escape(item.case_id)}</small><br>"
        f"<code>{escape(item.url)}</code><br>action: <code>{escape(item.action)}</code></p>"
        + _folded("page before the action", item.before)
    )


def _folded(title: str, text: str) -> str:
    shown = escape(text[:SHORT]) + (" …" if len(text) > SHORT else "")
    return f'<details><summary>{title}</summary><pre style="{PRE}">{shown}</pre></details>'


def _lines(said: set[str], true: set[str]) -> str:
    """Items of one section: said and right, said and wrong, missed."""
    marked = [("✓", BLUE, said & true), ("✗", ORANGE, said - true), ("missed", ORANGE, true - said)]
    lines = [
        f'<div style="{colour}">{sign} {escape(line[:300])}</div>'
        for sign, colour, found in marked
        for line in sorted(found)
    ]
    more = f"<div>… and {len(lines) - LINES} more</div>" if len(lines) > LINES else ""
    return "".join(lines[:LINES]) + more


def browse_pages(items: Sequence[WebTransition], responses: Sequence[str] | None = None, still: int = 3) -> Any:
    """A browser over transitions and, in the same order, ``responses``; static where nobody watches."""

    def page(index: int) -> str:
        return page_html(items[index], None if responses is None else responses[index])

    return browse_by([item.site for item in items], page, "site", still)


def site_summary(items: Sequence[WebTransition]) -> pd.DataFrame:
    """One row per site: transitions, share changed (%), episodes, mean lines of a page, mean items of a change."""
    rows = {}
    for site in sorted({item.site for item in items}):
        found = [item for item in items if item.site == site]
        sizes = [sum(map(len, (item.new, item.deleted, item.updated))) for item in found]
        rows[site] = {
            "transitions": len(found),
            "changed (%)": 100 * sum(map(bool, sizes)) / len(found),
            "episodes": len({(item.task, item.seed) for item in found}),
            "lines of a page": sum(item.before.count("\n") for item in found) / len(found),
            "items of a change": sum(sizes) / len(found),
            "actions": ", ".join(f"{kind} {n}" for kind, n in _kinds(found).most_common(3)),
        }
    return pd.DataFrame(rows).T


def _kinds(items: Sequence[WebTransition]) -> Counter:
    return Counter(item.action.partition(" ")[0] for item in items)


__all__ = ["browse_pages", "page_html", "site_summary"]
