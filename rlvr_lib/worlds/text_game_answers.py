"""What a model writes in a text game: finding and reading the answer, and writing perfect ones (spec A.4 to A.6).

A response is data, never code. The released scorer repairs the text with json-repair and reads the result with
dirtyjson. What json-repair returns is already plain JSON, and dirtyjson, which passes arithmetic to ``eval``, reads
plain JSON as the standard library does (tests compare the two), so the standard library reads it here. Text that is
JSON as it stands json-repair returns as it is, so it is read at once. Three limits keep any text from taking long;
beyond them an answer counts as unreadable, and no real answer comes near:

* ``LONGEST`` characters (the longest perfect answer to an official test case has under 2 000);
* ``DEEPEST`` brackets open at once (real answers have 6), which keeps the repair clear of the recursion limit;
* ``MOST_READS`` characters read by the repair, whose running time can grow with the square of the length: hours for
  some texts of 100 000 characters. Damaged answers that hold a whole official state take up to 15 000 reads, 25 000
  characters of reasoning without a marker phrase 60 000. The limit stops the worst texts after one or two seconds; a
  count is the same on every machine, unlike a clock.
"""

import json
from collections.abc import Callable
from typing import Any, SupportsIndex

import json_repair

from rlvr_lib.worlds.transitions import GameState

PHRASES = tuple(
    f"{first}he final {what} is:" for what in ("answer", "state", "game state") for first in ("T", "t")
)  # in order of priority (A.6.1)
LITERALS = (("True", "true"), ("False", "false"), ("None", "null"))
FENCE, SHORTEST_BLOCK = "```", 10
LONGEST, DEEPEST, MOST_READS = 100_000, 100, 1_000_000
EMPTY_ANSWER: dict[str, Any] = {"modified": [], "removed": []}


class RepairTooLong(Exception):
    """The repair has read more characters than any real answer needs."""


class MeteredText(str):
    """Text that counts how many of its characters were read, and stops the reader at ``MOST_READS``.

    Slices and sums of it share its meter, a list holding the number of reads left.
    """

    meter: list[int]

    @classmethod
    def of(cls, text: str, meter: list[int]) -> "MeteredText":
        metered = cls(text)
        metered.meter = meter
        return metered

    def __getitem__(self, place: SupportsIndex | slice) -> str:
        part = super().__getitem__(place)
        self.meter[0] -= len(part)
        if self.meter[0] < 0:
            raise RepairTooLong
        return self.of(part, self.meter) if isinstance(place, slice) else part

    def __add__(self, other: str) -> str:
        return self.of(super().__add__(other), self.meter)


# ---- reading (A.6)
def extract_answer(response: str) -> str:
    """The part of a response that should hold the answer: after the marker phrase, in a json block, or all of it."""
    for phrase in PHRASES:
        if phrase in response:
            return response.rpartition(phrase)[2].strip()
    block = _last_json_block(response)
    return block if block is not None and len(block) >= SHORTEST_BLOCK else response


def _last_json_block(response: str) -> str | None:
    """Content of the last closed block labelled json, stripped."""
    last, opening = None, FENCE + "json"
    start = response.find(opening)
    while start >= 0:
        end = response.find(FENCE, start + len(opening))
        if end < 0:
            break
        last = response[start + len(opening) : end].strip()
        start = response.find(opening, end + len(FENCE))
    return last


def parse_answer(response: str) -> dict[str, Any] | None:
    """The answer as a dict with at least ``modified`` and ``removed``, or None. Never raises."""
    try:
        text = extract_answer(response)
        for python, javascript in LITERALS:
            text = text.replace(python, javascript)
        if len(text) > LONGEST or _depth(text) > DEEPEST:
            return None
        answer = _read(text)
    except Exception:  # whatever a model writes is worth 0 at worst
        return None
    return answer if isinstance(answer, dict) and "modified" in answer and "removed" in answer else None


def _depth(text: str) -> int:
    """Most brackets open at once, at least; any closing bracket closes one, and strings are not told apart."""
    if sum(text.count(bracket) for bracket in "[{(") <= DEEPEST:
        return 0  # too few to matter
    deepest = depth = 0
    for character in text:
        if character in "[{(":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "]})" and depth:
            depth -= 1
    return deepest


def _read(text: str) -> Any:
    """Read JSON, repairing it when it is none; json-repair itself returns JSON that is valid as it is."""
    try:
        return json.loads(text)
    except ValueError:
        metered = MeteredText.of(text, [MOST_READS])
        return json.loads(json_repair.repair_json(metered, skip_json_loads=True))


# ---- writing
def ideal_answer(current: GameState, gold: GameState) -> dict[str, Any]:
    """New and different records, removed uuids, and the score record if it differs (A.4).

    A record that differs only in the order of its contents is listed too, so the rebuilt state is the true one exactly.
    """
    before = {record["uuid"]: record for record in current[:-1]}
    after = {record["uuid"]: record for record in gold[:-1]}
    return {
        "modified": [record for uuid, record in after.items() if before.get(uuid) != record],
        "removed": [uuid for uuid in before if uuid not in after],
        "score": gold[-1] if gold[-1] != current[-1] else {},
    }


def perfect_answer(current: GameState, gold: GameState, notation: str = "json") -> str:
    """The ideal response: the marker phrase and :func:`ideal_answer`.

    ``notation`` is ``json`` or ``python`` (single quotes, True, None), which the paper's examples use (A.4).
    """
    write: Callable[[Any], str] = {"json": json.dumps, "python": repr}[notation]
    return f"{PHRASES[0]} {write(ideal_answer(current, gold))}"


def no_change_answer() -> str:
    """The answer of a model that believes nothing ever changes."""
    return f"{PHRASES[0]} {json.dumps({**EMPTY_ANSWER, 'score': {}})}"
