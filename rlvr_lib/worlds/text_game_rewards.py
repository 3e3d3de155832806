"""Verifiable rewards for text-game state prediction: extraction, rebuilding, counting, the two rewards (spec A.6-A.9).

A game state is a list of object records followed by the score record. A response is whatever the model wrote; it is
data, never code. Malformed answers score 0: :func:`score_answer` never raises and never hangs. Beside the released
metric stands a ``corrected`` one: the released metric can never credit an added object and forgives a forgotten
removal; the corrected accuracy demands the same set of objects with the same properties and contents.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dirtyjson
import json_repair

from rlvr_lib.worlds.transitions import GameState

PHRASES = tuple(
    f"{first}he final {what} is:" for what in ("answer", "state", "game state") for first in ("T", "t")
)  # in order of priority (A.6.1)
LITERALS = (("True", "true"), ("False", "false"), ("None", "null"))
# Real answers have at most some 20 000 characters and a depth of about 6; far beyond that nothing can be right, and the
# repair of endless brackets would take for ever.
LONGEST, DEEPEST = 100_000, 100
_MISSING = object()


@dataclass(frozen=True)
class TextGameScore:
    """Scores of one response. ``changed_accuracy`` is None when its term is absent (unchanged or score-only cases).

    ``binary`` and ``corrected`` are 0 or 1, the accuracies lie in [0, 1], ``task_specific`` in [0, 1.3].
    """

    parsed: bool = False
    binary: float = 0.0
    task_specific: float = 0.0
    item_accuracy: float = 0.0
    score_accuracy: float = 0.0
    changed_accuracy: float | None = None
    corrected: float = 0.0


# ---- reading the answer (A.6)
def extract_answer(response: str) -> str:
    """The part of a response that should hold the answer: after the marker phrase, in a json block, or all of it."""
    for phrase in PHRASES:
        if phrase in response:
            return response.rpartition(phrase)[2].strip()
    block = _last_json_block(response)
    return block if block is not None and len(block) >= 10 else response


def _last_json_block(response: str) -> str | None:
    last, position = None, response.find("```json")
    while position >= 0:
        end = response.find("```", position + 7)
        if end < 0:
            break
        last = response[position + 7 : end].strip()
        position = response.find("```json", end + 3)
    return last


def parse_answer(response: str) -> dict[str, Any] | None:
    """The answer as a dict with at least ``modified`` and ``removed``, or None. Never raises.

    Text that is plain JSON is read directly, which gives what repair and lenient parsing would give, faster.
    """
    try:
        text = extract_answer(response)
        for python, javascript in LITERALS:
            text = text.replace(python, javascript)
        if len(text) > LONGEST or _depth(text) > DEEPEST:
            return None
        answer = _read(text)
        return answer if "modified" in answer and "removed" in answer else None
    except Exception:  # whatever a model writes is worth 0 at worst
        return None


def _depth(text: str) -> int:
    """Most brackets open at once, brackets inside strings counted as well: an upper bound."""
    deepest = depth = 0
    if sum(text.count(bracket) for bracket in "[{(") <= DEEPEST:
        return 0  # too few to matter
    for character in text:
        if character in "[{(":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]})" and depth:
            depth -= 1
    return deepest


def _read(text: str) -> Any:
    def refuse(name: str) -> None:
        raise ValueError(name)

    try:
        return json.loads(text, parse_constant=refuse)
    except ValueError:
        return _plain(dirtyjson.loads(json_repair.repair_json(text)))


def _plain(value: Any) -> Any:
    """dirtyjson's containers (which remember positions and are not lists or dicts) as plain ones."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    return value


# ---- rebuilding the predicted state (A.7)
def rebuild_state(current: GameState, answer: dict[str, Any]) -> list[Any]:
    """The predicted state: records of ``current`` with removed ones dropped and modified ones replaced, then the score.

    Predicted records whose uuid is not in ``current`` are ignored. The score record is missing when the answer has no
    ``score`` key. Raises on answers of the wrong shape (the caller scores them 0).
    """
    modified = {_hashable(record["uuid"]): record for record in _records(answer) if "uuid" in record}
    removed = answer["removed"] if isinstance(answer["removed"], list | tuple | dict | str) else ()
    state: list[Any] = []
    for record in current[:-1]:
        uuid = record["uuid"]
        if _within(uuid, removed):
            continue
        state.append(modified.get((type(uuid) is str, uuid), record))
    if "score" in answer:
        score = answer["score"]
        state.append(score if isinstance(score, dict | list | tuple | str) and len(score) > 0 else current[-1])
    return state


def _records(answer: dict[str, Any]) -> list[dict[str, Any]]:
    """The predicted records; a ``modified`` that is not a list of records contributes nothing."""
    records = answer["modified"]
    good = isinstance(records, list) and all(isinstance(record, dict) for record in records)
    return records if good else []


def _hashable(uuid: Any) -> Any:
    """A key that keeps "2" apart from 2 but not 2.0 or true from 2 and 1, as value equality does."""
    return (isinstance(uuid, str), uuid) if isinstance(uuid, str | int | float) else repr(uuid)


def _within(uuid: int, removed: Any) -> bool:
    if isinstance(removed, str):
        raise TypeError("a text does not hold uuids")
    return uuid in removed


# ---- counting (A.8)
def _count(gold: GameState, predicted: dict[int, Any]) -> tuple[int, int]:
    """Right and wrong entries over the gold objects."""
    right = wrong = 0
    for record in gold[:-1]:
        guess = predicted.get(record["uuid"])
        if guess is None:
            wrong += 1
            continue
        for same in _entries(record, guess):
            right, wrong = right + same, wrong + (not same)
    return right, wrong


def _entries(record: dict[str, Any], guess: dict[str, Any]) -> Iterator[bool]:
    if "properties" not in guess:
        yield False
    else:
        for key, value in record["properties"].items():
            yield key in guess["properties"] and _equal(value, guess["properties"][key])
    yield "contains" in guess and sorted(guess["contains"]) == sorted(record["contains"])


def _equal(a: Any, b: Any) -> bool:
    """Sequences elementwise and in order, dicts key by key, the rest by value (True equals 1, 5 equals 5.0)."""
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    return bool(a == b)


def _by_uuid(state: list[Any]) -> dict[int, Any]:
    return {record["uuid"]: record for record in state if isinstance(record, dict) and "uuid" in record}


def _score_entries(gold: dict[str, Any], guess: Any) -> list[bool]:
    if not isinstance(guess, dict) or "uuid" in guess:
        return [False] * len(gold)
    return [key in guess and _equal(value, guess[key]) for key, value in gold.items()]


# ---- what changed (A.2, A.9)
def _values(record: dict[str, Any]) -> dict[str, Any]:
    return {**record["properties"], "contains": sorted(record["contains"])}


def changed_keys(current: GameState, gold: GameState) -> set[tuple[int, str]]:
    """K of A.9: (uuid, key) of objects in both states whose value differs; ``contains`` is a key, order ignored."""
    before, after = _by_uuid(current[:-1]), _by_uuid(gold[:-1])
    keys = set()
    for uuid in before.keys() & after.keys():
        old, new = _values(before[uuid]), _values(after[uuid])
        keys |= {(uuid, k) for k in old.keys() | new.keys() if not _equal(old.get(k, _MISSING), new.get(k, _MISSING))}
    return keys


def is_changed_for_training(current: GameState, gold: GameState) -> bool:
    """The training filter (A.2, definition 2): an entry of an object present in both states differs."""
    return bool(changed_keys(current, gold))


def is_changed(current: GameState, gold: GameState) -> bool:
    """Table 1's definition (A.2, definition 1): also an added or removed object, or another score record."""
    objects = {record["uuid"] for record in current[:-1]} != {record["uuid"] for record in gold[:-1]}
    return objects or current[-1] != gold[-1] or is_changed_for_training(current, gold)


def _changed_accuracy(current: GameState, gold: GameState, predicted: dict[int, Any]) -> float | None:
    """a_changed of A.9; None when no entry of K is met; KeyError for an invented key (the whole reward is 0)."""
    before, keys, hits = _by_uuid(current[:-1]), changed_keys(current, gold), []
    both = [(record, predicted[record["uuid"]]) for record in gold[:-1] if record["uuid"] in predicted]
    if any("properties" not in guess for _, guess in both):
        return None
    for record, guess in both:
        uuid, written = record["uuid"], guess["properties"]
        known = record["properties"].keys() | (before[uuid]["properties"].keys() if uuid in before else set())
        if any(key not in known for key in written):
            raise KeyError("invented property")
        for key in dict.fromkeys([*record["properties"], *known]):
            if (uuid, key) in keys:
                pair = (values.get(key, _MISSING) for values in (record["properties"], written))
                hits.append(_equal(*pair))
        if (uuid, "contains") in keys:
            hits.append("contains" in guess and sorted(guess["contains"]) == sorted(record["contains"]))
    return sum(hits) / len(hits) if hits else None


# ---- the rewards (A.9)
def score_answer(response: str, current: GameState, gold: GameState) -> TextGameScore:
    """Score one response against the true next state. Never raises; a malformed answer has all zeros."""
    answer = parse_answer(response)
    if answer is None:
        return TextGameScore()
    try:
        state = rebuild_state(current, answer)
        predicted = _by_uuid(state[: len(state) - ("score" in answer)])
        right, wrong = _count(gold, predicted)
        score = _score_entries(gold[-1], state[-1] if "score" in answer else None)
    except Exception:
        return TextGameScore(parsed=True)
    item, score_accuracy = right / (right + wrong), sum(score) / len(score)
    binary = float(wrong == 0 and all(score))
    task, changed = _task_specific(current, gold, predicted, item, score_accuracy, binary)
    return TextGameScore(True, binary, task, item, score_accuracy, changed, _corrected(current, gold, answer, binary))


def _task_specific(current, gold, predicted, item: float, score: float, binary: float) -> tuple[float, float | None]:
    try:
        changed = _changed_accuracy(current, gold, predicted)
    except Exception:
        return 0.0, None
    return 0.09 * item + 0.01 * score + 0.2 * binary + (changed or 0.0), changed


def _corrected(current: GameState, gold: GameState, answer: dict[str, Any], binary: float) -> float:
    """1 when the released metric gives 1 for the objects that stay, and additions and removals are exactly right."""
    try:
        present = _by_uuid(current[:-1])
        added = {record["uuid"]: record for record in _records(answer) if record["uuid"] not in present}
        kept = _by_uuid(rebuild_state(current, answer)[:-1])
        predicted, truth = {**kept, **added}, _by_uuid(gold[:-1])
        if predicted.keys() != truth.keys() or not all(_score_entries(gold[-1], _final_score(current, answer))):
            return 0.0
        same = all(all(_entries(truth[u], predicted[u])) for u in truth)
        return float(same and all(truth[u]["name"] == added[u].get("name") for u in added))
    except Exception:
        return 0.0


def _final_score(current: GameState, answer: dict[str, Any]) -> Any:
    return rebuild_state(current, answer)[-1] if "score" in answer else None


# ---- perfect answers
def perfect_answer(current: GameState, gold: GameState, notation: str = "json") -> str:
    """The ideal response: marker phrase, changed and new records, removed uuids, the score record when it changes.

    ``notation`` is ``json`` or ``python`` (single quotes, True, None), which the paper's examples use.
    """
    before, after = _by_uuid(current[:-1]), _by_uuid(gold[:-1])
    answer = {
        "modified": [record for uuid, record in after.items() if before.get(uuid) != record],
        "removed": [uuid for uuid in before if uuid not in after],
        "score": gold[-1] if gold[-1] != current[-1] else {},
    }
    write: Callable[[Any], str] = repr if notation == "python" else json.dumps
    return f"The final answer is: {write(answer)}"


def no_change_answer() -> str:
    """The answer of a model that believes nothing ever changes."""
    return 'The final answer is: {"modified": [], "removed": [], "score": {}}'


# ---- rewards as TRL calls them
def _rewards(kind: str, completions: list[str], current_state: list[str], gold_state: list[str]) -> list[float]:
    pairs = zip(completions, current_state, gold_state, strict=True)
    return [getattr(score_answer(text, json.loads(now), json.loads(then)), kind) for text, now, then in pairs]


def binary_reward(prompts, completions, current_state, gold_state, **_) -> list[float]:
    """TRL reward: 1 for a fully right next state, else 0. States are JSON texts of game states."""
    return _rewards("binary", completions, current_state, gold_state)


def task_specific_reward(prompts, completions, current_state, gold_state, **_) -> list[float]:
    """TRL reward: 0.1 for entries, 0.2 for perfection, up to 1 for what changed (A.9)."""
    return _rewards("task_specific", completions, current_state, gold_state)
