"""Stages: the resumable steps of a run, and the one place to import file tools from.

A *stage* is one folder ``runs/<profile>/<name>``. It counts as done when its ``done.json`` agrees with the settings it
uses, the hashes of its inputs and the hashes of its outputs. The paper's scripts have no counterpart: there every
step writes where the previous one wrote, and a restart overwrites.
"""

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr_lib.files import (
    DONE,
    LOCK,
    STARTED,
    TEMPORARY,
    UserError,
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    disk_fault,
    file_hash,
    files_under,
    fingerprint,
    named_disk_faults,
    read_json,
    sha256_of,
    text_hash,
)
from rlvr_lib.progress import say
from rlvr_lib.provenance import ROOT, peak_memory_gib, provenance

if TYPE_CHECKING:
    from rlvr_lib.profile import Profile

__all__ = [
    "ROOT",
    "Stage",
    "UserError",
    "atomic_write_bytes",
    "atomic_write_json",
    "atomic_write_text",
    "disk_fault",
    "files_under",
    "named_disk_faults",
    "provenance",
    "read_json",
    "sha256_of",
    "text_hash",
]


class Stage:
    """One resumable step of a run.

    ``uses`` names the sections of the profile whose change makes the stage stale (dotted: ``text_game.sft``);
    ``inputs`` maps a label to a file or folder whose content the stage reads. The seed always counts.
    """

    def __init__(
        self,
        profile: "Profile",
        name: str,
        uses: Iterable[str] = (),
        inputs: Mapping[str, Path | str] | None = None,
    ):
        self.profile, self.name = profile, name
        self.settings = {**profile.config_of(uses), "seed": profile.seed}
        self.inputs = {label: Path(path) for label, path in (inputs or {}).items()}
        self.folder = Path(profile.runs_dir) / profile.name / name

    def state(self) -> tuple[str, str]:
        """(state, reason): ``done``, ``missing``, ``interrupted``, ``stale`` or ``damaged``. Never raises."""
        if not (self.folder / DONE).exists():
            interrupted = (self.folder / STARTED).exists()
            return ("interrupted", "goes on from its last checkpoint") if interrupted else ("missing", "not run yet")
        try:
            record = self._record()
            return self._compare(record)
        except (UserError, OSError) as error:
            return "damaged", str(error)

    def _record(self) -> dict[str, Any]:
        record = read_json(self.folder / DONE)
        if not isinstance(record, dict) or not {"settings", "inputs", "outputs", "sha256"} <= record.keys():
            raise UserError(f"{self.folder / DONE} is damaged (keys are missing); delete it to make the stage again")
        return record

    def _compare(self, record: dict[str, Any]) -> tuple[str, str]:
        for key, value in self.settings.items():
            if key not in record["settings"] or text_hash(record["settings"][key]) != text_hash(value):
                return "stale", f"{_first_difference(key, record['settings'].get(key), value)} changed"
        for label, path in self.inputs.items():
            if not path.exists():
                return "stale", f"input {label} is missing: {path}"
            if record["inputs"].get(label) != sha256_of(path):
                return "stale", f"input {label} changed: {path}"
        for name, output in record["outputs"].items():
            path = self.folder / name
            if not path.is_file():
                return "stale", f"output is missing: {path}"
            if output["sha256"] != self._output_hash(path, output):
                return "damaged", (
                    f"{path} was edited or cut short after stage {self.name} wrote it; put the old file back, or "
                    "delete it to make the stage again"
                )
        return "done", ""

    def _output_hash(self, path: Path, output: dict[str, Any]) -> str:
        """Large files are hashed again only when size, times or inode moved since the hash was taken."""
        return output["sha256"] if output.get("fingerprint") == fingerprint(path) else file_hash(path)

    @property
    def done(self) -> bool:
        """Whether the stage can be loaded. An edited or damaged output is told in one line and counts as not done."""
        state, reason = self.state()
        if state == "damaged":
            say(f"error: {reason}")
        return state == "done"

    @property
    def facts(self) -> dict[str, Any]:
        """What the stage's function returned; UserError when the stage has not run."""
        return self._record()["facts"]

    @property
    def seconds(self) -> float:
        """Wall time of the stage with its failed attempts; an attempt that was killed outright is not counted."""
        return self._record()["seconds"]

    def run(self, function: Callable[..., dict[str, Any] | None], force: bool = False, **kwargs: Any) -> Path:
        """Load the stage if it is up to date, else call ``function(folder=..., **kwargs)`` and record the result.

        A folder left by an interrupted attempt with the same settings and inputs is handed to the function as it is,
        so that it can resume from its checkpoints. One left by other settings is kept as ``<name>.previous``.
        Raises UserError for a damaged output (unless ``force``), a missing input, a disk fault, or a stage that
        another process is making.
        """
        state, reason = self.state()
        force = force or self._forced_by_run()
        if state == "damaged" and not force:
            raise UserError(reason)
        if state == "done" and not force:
            self._say_loaded()
            return self.folder
        if reason and state == "stale":
            say(f"making {self.name} again: {reason}")
        with named_disk_faults(self.folder), self._locked():
            seconds_before = self._prepare(fresh=force)
            begin = time.monotonic()
            try:
                facts = {**(function(folder=self.folder, **kwargs) or {}), "peak_memory_gib": peak_memory_gib()}
            finally:
                seconds = seconds_before + time.monotonic() - begin
                self._note_seconds(seconds)
            self._finish(facts, seconds)
        return self.folder

    def _forced_by_run(self) -> bool:
        """``rlvr reproduce --force`` sets RLVR_FORCE to the time it began: what is older is made again, once."""
        since = os.environ.get("RLVR_FORCE", "")
        if not since or not (self.folder / DONE).exists():
            return False
        with contextlib.suppress(UserError, KeyError, TypeError):
            return bool(self._record()["provenance"]["date"] < since)
        return True

    def _say_loaded(self) -> None:
        record = self._record()
        date = record.get("provenance", {}).get("date", "?")
        say(f"loaded {self.name} {record['sha256'][:12]} (made {date}, {record['seconds']:.1f} s)")

    def _key(self) -> str:
        return text_hash([self.settings, {label: sha256_of(path) for label, path in self.inputs.items()}])

    def _prepare(self, fresh: bool) -> float:
        """Leave a folder that holds nothing, or the checkpoints of this very stage; seconds already spent on it."""
        key, started = self._key(), self.folder / STARTED
        before: dict[str, Any] = {}
        with contextlib.suppress(UserError):
            before = read_json(started)
        if fresh or before.get("key") != key:
            self._set_aside()
            before = {}
        (self.folder / DONE).unlink(missing_ok=True)
        for leftover in self.folder.rglob(f"*{TEMPORARY}*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        atomic_write_json(started, {"key": key, "seconds": before.get("seconds", 0.0)})
        return before.get("seconds", 0.0)

    def _set_aside(self) -> None:
        """Keep one earlier version: a changed setting must not cost somebody a day of training."""
        if not files_under(self.folder) and not (self.folder / DONE).exists():
            return
        previous = self.folder.with_name(self.name + ".previous")
        shutil.rmtree(previous, ignore_errors=True)
        previous.mkdir(parents=True)
        for child in self.folder.iterdir():
            if child.name != LOCK:
                child.rename(previous / child.name)

    def _note_seconds(self, seconds: float) -> None:
        with contextlib.suppress(Exception):  # a full disk is reported by what failed, not here
            atomic_write_json(self.folder / STARTED, {**read_json(self.folder / STARTED), "seconds": seconds})

    def _finish(self, facts: dict[str, Any], seconds: float) -> None:
        outputs = {
            str(path.relative_to(self.folder)): {"sha256": file_hash(path), "fingerprint": fingerprint(path)}
            for path in files_under(self.folder)
        }
        record = {
            "stage": self.name,
            "profile": self.profile.name,
            "sha256": text_hash({name: output["sha256"] for name, output in outputs.items()}),
            "seconds": round(seconds, 2),
            "seed": self.profile.seed,
            "settings": self.settings,
            "inputs": {label: sha256_of(path) for label, path in self.inputs.items()},
            "input_paths": {label: str(path) for label, path in self.inputs.items()},
            "outputs": outputs,
            "facts": facts,
            "provenance": provenance(threads=self.profile.threads),
        }
        atomic_write_json(self.folder / DONE, record)
        (self.folder / STARTED).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process per stage; the lock goes with the process, so a killed run leaves none behind."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / LOCK, "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UserError(
                    f"stage {self.name} is being made by another process ({self.folder}); wait for it"
                ) from None
            yield


def _first_difference(name: str, before: Any, now: Any) -> str:
    """Dotted name of the first setting that differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            if before.get(key) != now.get(key):
                return _first_difference(f"{name}.{key}", before.get(key), now.get(key))
    return f"setting {name} ({before} -> {now})"
