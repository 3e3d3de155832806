"""The worked example of spec A.5, and realistic damage to answers, for the tests of text-game rewards and scores."""

import copy
import json
from random import Random
from typing import Any

from rlvr_lib.worlds.text_game_rewards import score_answer

MARKER = "The final answer is: "


def record(noun: str, uuid: int, kind: str, properties: dict, contains: tuple = ()) -> dict:
    return {
        "name": f"{noun} (ID: {uuid})",
        "uuid": uuid,
        "type": kind,
        "properties": properties,
        "contains": list(contains),
    }


def worked_example() -> tuple[list, list]:
    """(current, gold): 22 comparable entries, 3 of them changed."""
    wiring = {"plug": ["socket (ID: 9)", "left"], "spare": [None, None]}
    room = {"isContainer": True, "isOpen": True}
    current = [
        record("greenhouse", 1, "World", room, ("agent (ID: 0)", "lamp (ID: 2)", "tray (ID: 3)")),
        record("agent", 0, "Agent", dict(room)),
        record("lamp", 2, "Lamp", {"isContainer": False, "isOn": False, "brightness": 0, "wiring": wiring}),
        record("tray", 3, "Tray", {**room, "levels": [1, 2]}, ("seed (ID: 4)", "pebble (ID: 5)")),
        record("seed", 4, "Seed", {"isContainer": False, "moisture": 2, "label": "fern"}),
        record("pebble", 5, "Pebble", {"isContainer": False, "label": "grey"}),
        {"score": 0, "gameOver": False, "gameWon": False},
    ]
    gold = copy.deepcopy(current)
    gold[2]["properties"].update(isOn=True, brightness=5)
    gold[4]["properties"]["moisture"] = 1
    return current, gold


def other_examples() -> list[tuple[list, list]]:
    """Unchanged, score only, moved, added, removed, key that vanishes, key that appears."""
    found = []
    for kind in ("unchanged", "score", "moved", "added", "removed", "vanishes", "appears"):
        current, _ = worked_example()
        gold = copy.deepcopy(current)
        if kind == "score":
            gold[-1] = {"score": 1, "gameOver": True, "gameWon": True}
        elif kind == "moved":
            gold[1]["contains"], gold[3]["contains"] = ["seed (ID: 4)"], ["pebble (ID: 5)"]
        elif kind == "added":
            gold[3]["contains"].append("leaf (ID: 10)")
            gold.insert(6, record("leaf", 10, "Leaf", {"isContainer": False}))
        elif kind == "removed":
            gold[3]["contains"].remove("pebble (ID: 5)")
            del gold[5]
        elif kind == "vanishes":
            del gold[5]["properties"]["label"]
        elif kind == "appears":
            gold[5]["properties"]["wet"] = True
        found.append((current, gold))
    return found


def answer_of(current: list, gold: list) -> dict[str, Any]:
    """The perfect answer, made here without the library."""
    before = {item["uuid"]: item for item in current[:-1]}
    after = {item["uuid"]: item for item in gold[:-1]}
    return {
        "modified": [item for uuid, item in after.items() if before.get(uuid) != item],
        "removed": [uuid for uuid in before if uuid not in after],
        "score": {} if gold[-1] == current[-1] else gold[-1],
    }


ODD_VALUES: list[Any] = [
    None,
    True,
    0,
    -1,
    2.5,
    1e308,
    float("nan"),
    10**30,
    "",
    "2",
    "contains",
    "uuid",
    "score",
    "é\ud800",
]
ODD_VALUES += [[], [2], [None], [[1]], {}, {"uuid": 2}, {"score": 1}, [{"name": "x"}], ["modified", "removed"]]
NOISE = ["[", "]", "{", "}", "(", ")", '"', "'", ",", ":", "\\", "\n", "```", "```json", "//", "/*", "#", "\\u", "\x00"]
NOISE += ["True", "None", "NaN", "-Infinity", "1e999", "9" * 40, "é", "\ud83d", "“", "...", "<|endoftext|>", MARKER]


def damaged_answer(answer: dict[str, Any], rng: Random) -> str:
    """Wrong types inside first, then JSON or Python notation, then damage to the text, then a frame."""
    answer = copy.deepcopy(answer)
    for _ in range(rng.choice([0, 0, 1, 1, 2])):
        _swap_a_value(answer, rng)
    text = repr(answer) if rng.random() < 0.3 else json.dumps(answer, indent=rng.choice([None, None, 1]))
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        text = _hurt(text, rng)
    before = rng.choice(["", "", "It gets warm.\n", MARKER, '```json\n{"a": "first idea"}\n```\n'])
    frame = rng.choice(
        [MARKER + "{}", MARKER + "{}<|endoftext|>", "{}", "```json\n{}\n```", "the final state is: {} Done."]
    )
    return before + frame.replace("{}", text)


def _swap_a_value(answer: dict[str, Any], rng: Random) -> None:
    """Put a value of the wrong kind at a random place, or take the place away."""
    spot: Any = answer
    while True:
        keys = list(spot) if isinstance(spot, dict) else list(range(len(spot)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(spot[key], dict | list) and spot[key] and rng.random() < 0.7:
            spot = spot[key]
            continue
        if rng.random() < 0.2:
            del spot[key]
        else:
            spot[key] = copy.deepcopy(rng.choice(ODD_VALUES))
        return


def _hurt(text: str, rng: Random) -> str:
    """One truncation, deletion, swap, insertion of noise, run of brackets, or repeated fragment."""
    start = rng.randrange(len(text) + 1)
    end = min(len(text), start + rng.choice([1, 1, 2, 5, 40]))
    kind = rng.randrange(7)
    if kind == 0:
        return text[:start]
    if kind == 1:
        return text[:start] + text[end:]
    if kind == 2:
        return text[:start] + text[start:end][::-1] + text[end:]
    if kind == 3:
        return text[:start] + rng.choice(NOISE) + text[start:]
    if kind == 4:
        return text[:start] + rng.choice("[]{}()\"'") * rng.choice([2, 10, 150]) + text[start:]
    if kind == 5:
        return text[:end] + text[start:end] * rng.choice([1, 3, 30]) + text[end:]
    return text[:start] + text[start:].replace(rng.choice(['"', ",", ":", "}", "]", " "]), "", rng.choice([1, -1]))


def assert_sound(response: str, current: list, gold: list) -> None:
    """The ranges every score keeps, and that a score is a pure function that leaves its inputs alone."""
    kept = copy.deepcopy((current, gold))
    score = score_answer(response, current, gold)
    assert (current, gold) == kept
    assert score.binary in (0, 1) and score.corrected in (0, 1)
    assert 0 <= score.task_specific <= 1.3 + 1e-12
    assert 0 <= score.item_accuracy <= 1 and 0 <= score.score_accuracy <= 1
    assert score.changed_accuracy is None or 0 <= score.changed_accuracy <= 1
    assert score.parsed or (score.binary, score.task_specific) == (0, 0)
    assert not score.binary or score.item_accuracy == score.score_accuracy == 1
