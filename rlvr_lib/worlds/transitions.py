"""Text-game transitions: one (state, action, next state) with everything a prompt, a reward or a table needs.

The on-disk form is the record of ByteSized32-State-Prediction (one JSON object per line: ``game``, ``state_id``,
``current_state``, ``action_state``, ``tick_state`` and the two score records), so that embedded and public data are
read by the same code. Embedded records carry two more keys, ``layout_seed`` and ``notes``.
"""

import gzip
import json
import lzma
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GameState = list[dict[str, Any]]  # object records, then the score record


@dataclass(frozen=True)
class TextTransition:
    """One full transition: ``current`` and ``action`` in, ``target`` (after action and tick) out.

    ``current`` and ``target`` are game states: object records followed by the score record
    ``{"score", "gameOver", "gameWon"}``. ``notes`` say which rules fired (embedded games only); ``layout_seed`` is -1
    for public data.
    """

    game: str
    state_id: int
    action: str
    current: GameState
    target: GameState
    max_uuid: int
    task: str = ""
    layout_seed: int = -1
    notes: tuple[str, ...] = ()

    @property
    def case_id(self) -> str:
        """Stable name of the case: game, layout seed (when there is one) and running index."""
        middle = f"/{self.layout_seed}" if self.layout_seed >= 0 else ""
        return f"{self.game}{middle}/{self.state_id}"

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "TextTransition":
        """Read one ByteSized32 record; raises KeyError naming the missing key."""
        current, tick = record["current_state"], record["tick_state"]
        return cls(
            game=record["game"],
            state_id=int(record["state_id"]),
            action=tick["lastAction"],
            current=[*current["objects"], record["current_score_state"]],
            target=[*tick["objects"], record["next_score_state"]],
            max_uuid=current["max_UUID"],
            task=current.get("taskDesc", ""),
            layout_seed=record.get("layout_seed", -1),
            notes=tuple(record["notes"] if "notes" in record else written_notes(record)),
        )


def written_notes(record: dict[str, Any]) -> list[str]:
    """Notes for a public record, read off its three states: what the action changed, then what time changed."""
    notes = difference_notes("action", record["current_state"]["objects"], record["action_state"]["objects"])
    notes += difference_notes("tick", record["action_state"]["objects"], record["tick_state"]["objects"])
    before, after = record["current_score_state"], record["next_score_state"]
    if before != after:
        notes.append(f"score: {before['score']} -> {after['score']}" + ", over" * bool(after["gameOver"]))
    return notes


def difference_notes(phase: str, before: GameState, after: GameState) -> list[str]:
    """One line per property that differs and per object that moved, appeared or went, in the engine's notation."""
    old, new = ({record["uuid"]: record for record in state} for state in (before, after))
    notes = [f'{phase}: gone "{old[uuid]["name"]}"' for uuid in old if uuid not in new]
    for uuid, record in new.items():
        earlier = old.get(uuid, {"properties": {}, "contains": []})
        for key, value in record["properties"].items() if uuid in old else ():
            was = earlier["properties"].get(key)
            if was != value:
                notes.append(f'{phase}: "{record["name"]}", "{key}": {json.dumps(was)} -> {json.dumps(value)}')
        notes += [
            f'{phase}: "{name}" -> "{record["name"]}"' for name in record["contains"] if name not in earlier["contains"]
        ]
    return notes


def open_text(path: Path):
    """Open a text file for reading, plain, ``.gz`` or ``.xz`` by its suffix."""
    opener = {".gz": gzip.open, ".xz": lzma.open}.get(path.suffix, open)
    return opener(path, "rt", encoding="utf-8")


def read_records(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON records of a JSON-lines file; a damaged line raises ValueError naming file and line."""
    with open_text(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(
                    f"{path}, line {number}: not JSON ({error.msg}); make or fetch the file again"
                ) from error


def read_transitions(path: Path) -> list[TextTransition]:
    """Read a file of ByteSized32 records."""
    return [TextTransition.from_record(record) for record in read_records(path)]


def record_lines(records: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Canonical lines (no spaces, key order kept), so that equal data gives equal bytes."""
    for record in records:
        yield json.dumps(record, separators=(",", ":"), ensure_ascii=False) + "\n"
