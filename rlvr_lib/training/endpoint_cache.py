"""An append-only file of answers, so that a killed run asks (and pays for) nothing twice (spec A.10; our own design).

One JSON line per answer and one per failed attempt that may have cost something. A line is written with one system
call; a line torn by a kill or a full disk is cut off when the file is opened again.
"""

import dataclasses
import fcntl
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

from rlvr_lib.artifacts import UserError, named_disk_faults
from rlvr_lib.progress import say
from rlvr_lib.training.endpoint_reply import ChatAnswer

_FIELDS = {field.name: field.type for field in dataclasses.fields(ChatAnswer)}


def request_hash(request: dict[str, Any]) -> str:
    """sha256 of a request in canonical JSON."""
    return hashlib.sha256(json.dumps(request, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class AnswerCache:
    """Answers by request hash, backed by a JSON-lines file (``path`` None: memory only). A context manager.

    ``answers``: what is known; ``spent_usd``: what all lines of the file cost together, failures included.
    Raises UserError when another process has the file open, or when the disk is full or forbidden.
    """

    def __init__(self, path: Path | str | None):
        self.path = Path(path) if path is not None else None
        self.answers: dict[str, ChatAnswer] = {}
        self.spent_usd = 0.0
        self._file: int | None = None

    def __enter__(self) -> "AnswerCache":
        if self.path is not None:
            with named_disk_faults(self.path):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                self._lock()
                self._load()
            except BaseException:
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            os.close(self._file)  # the lock goes with it
            self._file = None

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # type: ignore[arg-type]
        except BlockingIOError:
            raise UserError(f"{self.path} is being written by another run; wait for it or stop it") from None

    def _load(self) -> None:
        assert self.path is not None and self._file is not None
        data = self.path.read_bytes()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            os.ftruncate(self._file, whole)  # else the next line would be glued to the torn one
        lines = data[:whole].splitlines()
        damaged = sum(not self._take(line) for line in lines)
        if damaged:
            say(f"{self.path}: {damaged} of {len(lines)} lines are damaged and will be asked again")

    def _take(self, line: bytes) -> bool:
        """Read one line; False if it is damaged."""
        try:
            row = json.loads(line)
            cost = float(row["cost_usd"])
            if not 0 <= cost < math.inf:
                return False
            if "failed" not in row:
                answer = ChatAnswer(**{name: row[name] for name in _FIELDS})
                if not (isinstance(answer.content, str) and isinstance(answer.reasoning, str)):
                    return False
                self.answers[row["request"]] = answer
        except (ValueError, KeyError, TypeError, RecursionError):
            return False
        self.spent_usd += cost
        return True

    def add(self, digest: str, key: str, answer: ChatAnswer) -> None:
        """Remember an answer; on return it is in the file."""
        self.answers[digest] = answer
        self._append({"request": digest, "key": key, **dataclasses.asdict(answer)})
        self.spent_usd += answer.cost_usd

    def add_failure(self, digest: str, key: str, reason: str, cost_usd: float) -> None:
        """Remember what a failed attempt may have cost; the request itself stays unanswered."""
        self._append({"request": digest, "key": key, "failed": reason, "cost_usd": cost_usd})
        self.spent_usd += cost_usd

    def _append(self, row: dict[str, Any]) -> None:
        if self._file is None:
            return
        line = (json.dumps(row) + "\n").encode()
        with named_disk_faults(self.path or ""):
            before = os.fstat(self._file).st_size
            if os.write(self._file, line) != len(line):
                os.ftruncate(self._file, before)
                raise OSError(28, os.strerror(28), str(self.path))
