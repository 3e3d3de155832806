"""Verifiable rewards for text-game state prediction: rebuilding, counting, the two rewards (spec A.2, A.7 to A.9).

A game state is a list of object records followed by the score record. Malformed answers score 0: :func:`score_answer`
never raises and never hangs, whatever the model wrote. The figures are the released ones, quirks included: new objects
can never be predicted, a forgotten removal costs nothing, and one invented property key takes the whole task-specific
reward while the binary one stays (spec D.2, D.3, D.12). A ``corrected`` accuracy of our own stands beside them.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rlvr_lib.worlds.text_game_answers import extract_answer, no_change_answer, parse_answer, perfect_answer
from rlvr_lib.worlds.transitions import GameState

__all__ = [
    "TextGameScore",
    "binary_reward",
    "changed_keys",
    "extract_answer",
    "is_changed",
    "is_changed_for_training",
    "no_change_answer",
    "parse_answer",
    "perfect_answer",
    "rebuild_state",
    "score_answer",
    "task_specific_reward",
]

Objects = dict[Any, dict[str, Any]]  # records by uuid
Entry = tuple[Any, Any]  # (uuid, property name or "contains")


@dataclass(frozen=True)
class TextGameScore:
    """Scores of one response.

    ``binary`` and ``corrected`` are 0 or 1, the accuracies lie in [0, 1], ``task_specific`` in [0, 1.3].
    ``changed_accuracy`` is None when its term is absent (unchanged and score-only cases, records without properties).
    """

    parsed: bool = False
    binary: float = 0.0
    task_specific: float = 0.0
    item_accuracy: float = 0.0
    score_accuracy: float = 0.0
    changed_accuracy: float | None = None
    corrected: float = 0.0


# ---- rebuilding the predicted state (A.7)
def rebuild_state(current: GameState, answer: dict[str, Any]) -> list[Any]:
    """The predicted state: records of ``current``, removed ones dropped and modified ones replaced, then the score.

    Predicted records whose uuid is not in ``current`` are ignored. The score record is missing when the answer has no
    ``score`` key. ``answer`` is what :func:`parse_answer` gave; its values may be anything.
    """
    modified = _modified_records(answer["modified"])
    kept = [record for record in current[:-1] if not _within(record["uuid"], answer["removed"])]
    state: list[Any] = [modified.get(record["uuid"], record) for record in kept]
    if "score" in answer:
        score = answer["score"]
        state.append(score if isinstance(score, dict | list | str) and len(score) > 0 else current[-1])
    return state


def _modified_records(modified: Any) -> Objects:
    """Predicted records by uuid, the last of equal ones; whatever is no record with a uuid contributes nothing."""
    found = {}
    for record in modified if isinstance(modified, list) else ():
        if isinstance(record, dict) and isinstance(record.get("uuid"), str | int | float):
            found[record["uuid"]] = record
    return found


def _within(uuid: int, removed: Any) -> bool:
    """Membership in ``removed``; what has no members (a number, null) or only letters (a text) removes nothing."""
    return isinstance(removed, list | dict) and uuid in removed


def _by_uuid(state: Sequence[Any]) -> tuple[Objects, Any]:
    """Objects and score record. As released, the score record is the entry with a ``score`` but no ``uuid``."""
    objects: Objects = {}
    score: Any = {}
    for record in state:
        if "uuid" in record:
            objects[record["uuid"]] = record
        elif "score" in record:
            score = record
    return objects, score


# ---- counting (A.8)
def _object_entries(gold: dict[str, Any], guess: dict[str, Any]) -> Iterator[bool]:
    """Right or wrong, for each entry of a gold object against the predicted record."""
    if "properties" not in guess:
        yield False
    else:
        for key, value in gold["properties"].items():
            yield key in guess["properties"] and _equal(value, guess["properties"][key])
    yield "contains" in guess and sorted(guess["contains"]) == sorted(gold["contains"])


def _all_entries(gold: Objects, predicted: Objects) -> list[bool]:
    """Entries of all gold objects; a missing object is one wrong entry."""
    entries: list[bool] = []
    for uuid, record in gold.items():
        entries += _object_entries(record, predicted[uuid]) if uuid in predicted else [False]
    return entries


def _score_entries(gold: dict[str, Any], guess: Any) -> list[bool]:
    return [key in guess and _equal(value, guess[key]) for key, value in gold.items()]


def _equal(a: Any, b: Any) -> bool:
    """Sequences elementwise and in order, dicts key by key, the rest by value (True equals 1, 5 equals 5.0)."""
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return bool(a == b)


# ---- what changed (A.2, A.9)
def _compare(first: Objects, second: Objects) -> Iterator[tuple[Entry, bool]]:
    """((uuid, key), is it equal) for every entry of the objects in both; a missing ``contains`` counts as empty."""
    for uuid in first:
        if uuid in second:
            old, new = first[uuid]["properties"], second[uuid]["properties"]
            for key in old:
                yield (uuid, key), key in new and _equal(old[key], new[key])
            for key in new:
                if key not in old:
                    yield (uuid, key), False
            inside = (sorted(record.get("contains", [])) for record in (first[uuid], second[uuid]))
            yield (uuid, "contains"), _equal(*inside)


def changed_keys(current: GameState, gold: GameState) -> set[Entry]:
    """K of A.9: (uuid, key) of objects in both states whose value differs; ``contains`` is a key, order ignored."""
    before, after = _by_uuid(current)[0], _by_uuid(gold)[0]
    before = {uuid: record for uuid, record in before.items() if after.get(uuid) != record}  # equal ones are most
    return {entry for entry, equal in _compare(before, after) if not equal}


def is_changed_for_training(current: GameState, gold: GameState) -> bool:
    """The training filter (A.2, definition 2): an entry of an object present in both states differs."""
    return bool(changed_keys(current, gold))


def is_changed(current: GameState, gold: GameState) -> bool:
    """Table 1's definition (A.2, definition 1): also an added or removed object, or another score record.

    The third notion, plain inequality of the lists, also fires when only the order of ``contains`` differs; unused.
    """
    objects = {record["uuid"] for record in current[:-1]} != {record["uuid"] for record in gold[:-1]}
    return objects or current[-1] != gold[-1] or is_changed_for_training(current, gold)


def _changed_accuracy(before: Objects, gold: Objects, predicted: Objects) -> float | None:
    """a_changed of A.9, or None when the term is absent.

    Raises KeyError for a predicted key that neither ``before`` nor ``gold`` has, which costs the whole reward.
    """
    changed = {entry: not equal for entry, equal in _compare(before, gold)}
    stayed = {uuid: record for uuid, record in gold.items() if uuid in before}
    try:
        met = list(_compare(stayed, predicted))
    except Exception:  # a record without properties, or with some that are no dict, takes the term away
        return None
    hits = [equal for entry, equal in met if changed[entry]]
    return sum(hits) / len(hits) if hits else None


# ---- the rewards (A.9)
def score_answer(response: str, current: GameState, gold: GameState) -> TextGameScore:
    """Score one response against the true next state. Never raises; a malformed answer has all zeros.

    ``corrected`` is our own accuracy, 0 or 1: the released count for the objects that stay, and besides, every added
    object predicted (a new record whose name, properties and contents are the truth's), none invented, and every
    removed object removed. Released and corrected agree on cases without additions and removals, unless the answer
    invents an object.
    """
    answer = parse_answer(response)
    if answer is None:
        return TextGameScore()
    try:
        return _score(answer, current, gold)
    except Exception:  # values of a kind that cannot be compared
        return TextGameScore(parsed=True)


def _score(answer: dict[str, Any], current: GameState, gold: GameState) -> TextGameScore:
    (before, _), (truth, true_score) = _by_uuid(current), _by_uuid(gold)
    predicted, predicted_score = _by_uuid(rebuild_state(current, answer))
    entries, score = _all_entries(truth, predicted), _score_entries(true_score, predicted_score)
    item, score_accuracy = sum(entries) / len(entries), sum(score) / len(score)
    binary = float(all(entries) and all(score))
    corrected = float(all(score) and _same_objects(answer["modified"], before, truth, predicted))
    try:
        changed = _changed_accuracy(before, truth, predicted)
        task = 0.09 * item + 0.01 * score_accuracy + 0.2 * binary + (changed or 0.0)
    except Exception:
        task, changed = 0.0, None
    return TextGameScore(True, binary, task, item, score_accuracy, changed, corrected)


def _same_objects(modified: Any, before: Objects, truth: Objects, predicted: Objects) -> bool:
    """Whether the predicted objects, new ones included, are the true ones (for the corrected accuracy)."""
    stayed = {uuid: record for uuid, record in truth.items() if uuid in before}
    added = [record for uuid, record in truth.items() if uuid not in before]
    new = [record for uuid, record in _modified_records(modified).items() if uuid not in before]
    if predicted.keys() != stayed.keys() or len(new) != len(added) or not all(_all_entries(stayed, predicted)):
        return False
    return all(any(_same_new(record, guess) for guess in new) for record in added)


def _same_new(gold: dict[str, Any], guess: dict[str, Any]) -> bool:
    """Same name, properties and contents; True, not an exception, decides about a guess of any shape."""
    try:
        return guess["name"] == gold["name"] and all(_object_entries(gold, guess))
    except Exception:
        return False


# ---- rewards as TRL calls them
def _rewards(kind: str, completions: Sequence[Any], current_state: list[str], gold_state: list[str]) -> list[float]:
    triples = zip(map(_text, completions), current_state, gold_state, strict=True)
    return [getattr(score_answer(text, json.loads(now), json.loads(then)), kind) for text, now, then in triples]


def _text(completion: Any) -> str:
    """The response itself, or the content of the last message in TRL's conversational form."""
    return completion if isinstance(completion, str) else completion[-1]["content"]


def binary_reward(prompts, completions, current_state, gold_state, **_) -> list[float]:
    """TRL reward: 1 for a fully right next state, else 0. The two state columns are JSON texts of game states."""
    return _rewards("binary", completions, current_state, gold_state)


def task_specific_reward(prompts, completions, current_state, gold_state, **_) -> list[float]:
    """TRL reward: 0.1 for the share of right entries, 0.2 for perfection, up to 1 for what changed (A.9)."""
    return _rewards("task_specific", completions, current_state, gold_state)
