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
Entry = tuple[Any, str]  # (uuid, property name or "contains")


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
    objects, score = _predicted(current, answer)
    return [*objects.values(), *([] if score is None else [score])]


def _predicted(current: GameState, answer: dict[str, Any]) -> tuple[Objects, Any]:
    """Predicted objects, and the predicted score record or None."""
    modified = _modified_records(answer["modified"])
    kept = {uuid: record for uuid, record in _objects(current).items() if not _within(uuid, answer["removed"])}
    objects = {uuid: modified.get(uuid, record) for uuid, record in kept.items()}
    if "score" not in answer:
        return objects, None
    score = answer["score"]
    return objects, score if isinstance(score, dict | list | str) and len(score) > 0 else current[-1]


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


def _objects(state: GameState) -> Objects:
    return {record["uuid"]: record for record in state[:-1]}


# ---- counting (A.8)
def _object_entries(gold: dict[str, Any], guess: dict[str, Any]) -> Iterator[bool]:
    """Right or wrong, for each entry of a gold object against the predicted record.

    Raises TypeError for values that cannot be processed: properties that are no dict, contents that cannot be sorted.
    """
    if "properties" not in guess:
        yield False
    else:
        told = _properties(guess)
        for key, value in gold["properties"].items():
            yield key in told and _equal(value, told[key])
    yield _same_contents(gold, guess)


def _properties(record: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(record["properties"], dict):
        raise TypeError("properties are no dict")
    return record["properties"]


def _same_contents(gold: dict[str, Any], guess: dict[str, Any]) -> bool:
    return "contains" in guess and sorted(guess["contains"]) == sorted(gold["contains"])


def _all_entries(gold: Objects, predicted: Objects) -> list[bool]:
    """Entries of all gold objects; a missing object is one wrong entry."""
    entries: list[bool] = []
    for uuid, record in gold.items():
        entries += _object_entries(record, predicted[uuid]) if uuid in predicted else [False]
    return entries


def _score_entries(gold: dict[str, Any], guess: Any) -> list[bool]:
    told = guess if isinstance(guess, dict) else {}
    return [key in told and _equal(value, told[key]) for key, value in gold.items()]


def _equal(a: Any, b: Any) -> bool:
    """Sequences elementwise and in order, dicts key by key, the rest by value (True equals 1, 5 equals 5.0)."""
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return bool(a == b)


# ---- what changed (A.2, A.9)
def changed_keys(current: GameState, gold: GameState) -> set[Entry]:
    """K of A.9: (uuid, key) of objects in both states whose value differs; ``contains`` is a key, order ignored."""
    return _differences(_objects(current), _objects(gold))


def _differences(before: Objects, after: Objects) -> set[Entry]:
    found: set[Entry] = set()
    for uuid, old in before.items():
        new = after.get(uuid)
        if new is None or new == old:  # equal ones are most
            continue
        was, now = old["properties"], new["properties"]
        found |= {
            (uuid, key) for key in {**was, **now} if not (key in was and key in now and _equal(was[key], now[key]))
        }
        if not _same_contents(old, new):
            found.add((uuid, "contains"))
    return found


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

    Raises KeyError for a predicted property that neither ``before`` nor ``gold`` has, which costs the whole reward.
    """
    pairs = [(uuid, record, predicted[uuid]) for uuid, record in gold.items() if uuid in predicted]
    if any("properties" not in guess for _, _, guess in pairs):
        return None
    for uuid, record, guess in pairs:
        for key in _properties(guess):
            if key not in record["properties"] and key not in before[uuid]["properties"]:
                raise KeyError(key)
    changed = _differences(before, gold)
    hits = []
    for uuid, record, guess in pairs:
        truth, told = record["properties"], guess["properties"]
        for key in {**truth, **told}:
            if (uuid, key) in changed:
                hits.append(key in truth and key in told and _equal(truth[key], told[key]))
        if (uuid, "contains") in changed:
            hits.append(_same_contents(record, guess))
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
    before, truth, true_score = _objects(current), _objects(gold), gold[-1]
    predicted, predicted_score = _predicted(current, answer)
    entries, score = _all_entries(truth, predicted), _score_entries(true_score, predicted_score)
    item, score_accuracy = sum(entries) / len(entries), sum(score) / len(score)
    binary = float(all(entries) and all(score))
    corrected = float(all(score) and _same_objects(answer["modified"], before, truth, predicted))
    try:
        changed = _changed_accuracy(before, truth, predicted)
        task = 0.09 * item + 0.01 * score_accuracy + 0.2 * binary + (changed or 0.0)
    except KeyError:
        task, changed = 0.0, None  # an invented property
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
