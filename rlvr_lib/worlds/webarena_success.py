"""WebArena's rules that need no browser and no judge (C.5): string match and URL match, for recorded answers.

Live episodes are scored by BrowserGym. Page-content programs, fuzzy match and unachievable tasks are BrowserGym's
alone: a task that has one of them gets no score here.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, urlsplit

OR = " |OR| "
HERE = frozenset({"string_match", "url_match"})


def score(evaluation: Mapping[str, Any], answer: str, url: str) -> float | None:
    """Product of a task's evaluators, 1 for success; None where one of them cannot be decided here.

    ``evaluation`` is the ``eval`` part of a task: ``eval_types``, ``reference_answers``, ``reference_url``.
    """
    kinds = set(evaluation["eval_types"])
    references = evaluation.get("reference_answers") or {}
    if not kinds or not kinds <= HERE or "fuzzy_match" in references:
        return None
    found = 1.0
    if "string_match" in kinds:
        found *= string_match(references, answer)
    if "url_match" in kinds:
        found *= url_match(evaluation["reference_url"], url, evaluation.get("url_note", ""))
    return found


def string_match(references: Mapping[str, Any], answer: str) -> float:
    """1 when the answer equals ``exact_match`` and holds every text of ``must_include``, else 0.

    ValueError for another kind of reference: it needs a judge.
    """
    if unknown := set(references) - {"exact_match", "must_include"}:
        raise ValueError(f"no rule for {', '.join(sorted(unknown))}")
    right = "exact_match" not in references or clean(answer) == clean(references["exact_match"])
    return float(right and includes(answer, references.get("must_include", ())))


def includes(answer: str, texts: Sequence[str]) -> bool:
    """Whether the answer holds each text, or one of its alternatives. A lone letter must be a word of its own."""
    said = clean(answer)
    words = re.findall(r"\w+|[^\w\s]", said)
    for text in texts:
        options = [clean(option) for option in text.split(OR)]
        if not any(option in (words if len(texts) == 1 and len(option) == 1 else said) for option in options):
            return False
    return True


def clean(text: str) -> str:
    """Without outer quotes of one kind, in small letters."""
    text = text.strip()
    quoted = len(text) > 1 and text[0] in "'\"" and text[0] == text[-1]
    return (text[1:-1] if quoted else text).lower()


def url_match(reference: str, url: str, rule: str = "") -> float:
    """1 when the page's address fits one of the reference's alternatives, else 0.

    ``EXACT``: the same address. Else host and path of the reference stand in those of the page, and every query key of
    the references has one of their values.
    """
    golds = [gold.rstrip("/") for gold in reference.split(OR)]
    if rule == "EXACT":
        return float(url.rstrip("/") in golds)
    place, query = _parts(url.rstrip("/"))
    parts = [_parts(gold) for gold in golds]
    wanted: dict[str, set[str]] = {}
    for _, asked in parts:
        for key, values in asked.items():
            wanted.setdefault(key, set()).update(values)
    asked_for = all(values & set(query.get(key, ())) for key, values in wanted.items())
    return float(any(gold in place for gold, _ in parts) and asked_for)


def _parts(url: str) -> tuple[str, dict[str, list[str]]]:
    parts = urlsplit(url)
    return parts.netloc + parts.path, parse_qs(parts.query)


__all__ = ["clean", "includes", "score", "string_match", "url_match"]
