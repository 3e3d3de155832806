"""The text-game rewards a second time, slowly and straight from the description, to check the library's against.

Written from spec A.6 to A.9 without looking at the library, sentence by sentence. Anything that raises counts as
reward 0. Where the description leaves room, docs/decisions.md says what was chosen.
"""

import re
from dataclasses import dataclass

import dirtyjson
import json_repair

PHRASES = (
    "The final answer is:",
    "the final answer is:",
    "The final state is:",
    "the final state is:",
    "The final game state is:",
    "the final game state is:",
)


@dataclass
class Judgement:
    binary: float = 0.0
    task_specific: float = 0.0
    item_accuracy: float = 0.0
    score_accuracy: float = 0.0
    changed_accuracy: float | None = None


def answer_text(response):
    for phrase in PHRASES:
        if phrase in response:
            return response[response.rindex(phrase) + len(phrase) :].strip()
    blocks = re.findall(r"```json(.*?)```", response, re.DOTALL)
    return blocks[-1].strip() if blocks and len(blocks[-1].strip()) >= 10 else response


def answer_value(response):
    text = answer_text(response)
    for python, javascript in (("True", "true"), ("False", "false"), ("None", "null")):
        text = text.replace(python, javascript)
    value = dirtyjson.loads(json_repair.repair_json(text))
    if not (isinstance(value, dict) and "modified" in value and "removed" in value):
        raise ValueError("not an answer")
    return value


def is_removed(uuid, removed):
    try:
        return uuid in removed
    except TypeError:  # a number, null, a text: no membership test for a uuid
        return False


def predicted_state(current, answer):
    """(objects, score record or None when there is none). What is no record with a uuid is passed over, one by one."""
    modified, objects = answer["modified"], []
    modified = [record for record in modified if isinstance(record, dict)] if isinstance(modified, list) else []
    for record in current[:-1]:
        if is_removed(record["uuid"], answer["removed"]):
            continue
        replacement = record
        for candidate in modified:
            if "uuid" in candidate and candidate["uuid"] == record["uuid"]:
                replacement = candidate
        objects.append(replacement)
    if "score" not in answer:
        return objects, None
    score = answer["score"]
    return objects, score if hasattr(score, "__len__") and len(score) > 0 else current[-1]


def same(gold, predicted):
    if isinstance(gold, dict) and isinstance(predicted, dict):
        return set(gold) == set(predicted) and all(same(gold[key], predicted[key]) for key in gold)
    if isinstance(gold, list | tuple) and isinstance(predicted, list | tuple):
        return len(gold) == len(predicted) and all(same(a, b) for a, b in zip(gold, predicted, strict=True))
    return gold == predicted


def count_objects(gold, predicted):
    by_uuid = {record["uuid"]: record for record in predicted}
    right = wrong = 0
    for record in gold[:-1]:
        guess = by_uuid.get(record["uuid"])
        if guess is None:
            wrong += 1
            continue
        if "properties" not in guess:
            wrong += 1
        else:
            if not isinstance(guess["properties"], dict):
                raise TypeError("properties that cannot be processed")
            for key, value in record["properties"].items():
                good = key in guess["properties"] and same(value, guess["properties"][key])
                right, wrong = right + good, wrong + (not good)
        good = "contains" in guess and sorted(guess["contains"]) == sorted(record["contains"])
        right, wrong = right + good, wrong + (not good)
    return right / (right + wrong)


def count_score(gold, score):
    """Each of the three keys is missing or different, or right. What is no record has no keys."""
    if not isinstance(score, dict):
        return 0.0
    right = [key in score and same(value, score[key]) for key, value in gold[-1].items()]
    return sum(right) / len(right)


def entries(record):
    """All comparable entries of an object: properties, and contains in any order."""
    return {**record["properties"], "contains": sorted(record["contains"])}


ABSENT = object()


def changed_entries(current, gold):
    before = {record["uuid"]: entries(record) for record in current[:-1]}
    found = set()
    for record in gold[:-1]:
        old, new = before.get(record["uuid"]), entries(record)
        if old is not None:
            found |= {
                (record["uuid"], key) for key in {*old, *new} if not same(old.get(key, ABSENT), new.get(key, ABSENT))
            }
    return found


def changed_accuracy(current, gold, predicted):
    """None when the term is absent; KeyError for a property key that neither current nor gold knows."""
    wanted, met = changed_entries(current, gold), []
    by_uuid = {record["uuid"]: record for record in predicted}
    before = {record["uuid"]: record["properties"] for record in current[:-1]}
    both = [record for record in gold[:-1] if record["uuid"] in by_uuid]
    if any("properties" not in by_uuid[record["uuid"]] for record in both):
        return None
    for record in both:
        uuid, guess = record["uuid"], by_uuid[record["uuid"]]
        truth, told = record["properties"], guess["properties"]
        for key in told:
            if key not in truth and key not in before[uuid]:
                raise KeyError(key)
        for key in sorted({*truth, *told}):
            if (uuid, key) in wanted:
                met.append(key in truth and key in told and same(truth[key], told[key]))
        if (uuid, "contains") in wanted:
            met.append("contains" in guess and sorted(guess["contains"]) == sorted(record["contains"]))
    return sum(met) / len(met) if met else None


def judge(response, current, gold):
    """Everything at once; an exception anywhere leaves zeros."""
    try:
        predicted, score = predicted_state(current, answer_value(response))
        result = Judgement(item_accuracy=count_objects(gold, predicted), score_accuracy=count_score(gold, score))
    except Exception:
        return Judgement()
    result.binary = float(result.item_accuracy == 1 and result.score_accuracy == 1)
    try:
        result.changed_accuracy = changed_accuracy(current, gold, predicted)
    except KeyError:  # an invented property key
        return result
    base = 0.09 * result.item_accuracy + 0.01 * result.score_accuracy + 0.2 * result.binary
    result.task_specific = base + (result.changed_accuracy or 0.0)
    return result
