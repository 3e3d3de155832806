"""Files that can be trusted: errors told in one line, atomic writes, JSON, hashes. Our own choice throughout.

The ground that :mod:`rlvr_lib.artifacts` builds its stages on; import these names from there.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp-"
DONE, STARTED, LOCK = "done.json", "started.json", ".lock"
_DISK_FAULTS = {
    errno.ENOSPC: "the disk is full; free some space or set runs_dir to another disk",
    errno.EDQUOT: "the disk quota is used up; free some space or set runs_dir to another disk",
    errno.EROFS: "the disk is read-only; remount it or set runs_dir to a place you can write to",
    errno.EACCES: "permission denied; change the owner or the mode, or set runs_dir to a place you can write to",
    errno.EPERM: "not permitted; change the owner or the mode, or set runs_dir to a place you can write to",
}


class UserError(Exception):
    """Bad input or a bad machine, told in one line (cause, remedy); the command line prints it without a traceback."""

    def __init__(self, message: str):
        super().__init__(" ".join(str(message).split()))

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in a notebook: the line alone."""
        return [f"UserError: {self}"]


def disk_fault(error: BaseException, path: Path | str) -> UserError | None:
    """Translate a full, read-only or forbidden disk into one line that names the path; None for any other error.

    Libraries that write through C or Rust (safetensors, torch) hide the error number in their text, hence the second
    look.
    """
    text = str(error)
    for number, remedy in _DISK_FAULTS.items():
        hidden = number not in (errno.EACCES, errno.EPERM) and os.strerror(number) in text
        if hidden or (isinstance(error, OSError) and error.errno == number):
            name = getattr(error, "filename", None) or path
            return UserError(f"cannot write {name}: {remedy}, then run again; nothing that was finished is lost")
    return None


@contextlib.contextmanager
def named_disk_faults(path: Path | str) -> Iterator[None]:
    """Turn disk faults inside the block into a UserError; everything else passes through."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        fault = disk_fault(error, path)
        if fault is None:
            raise
        raise fault from error


def atomic_write_bytes(path: Path | str, data: bytes) -> Path:
    """Write a whole file or nothing: temporary file in the same folder, flushed to disk, then renamed."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}{TEMPORARY}{os.getpid()}")
    with named_disk_faults(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    return path


def atomic_write_text(path: Path | str, text: str) -> Path:
    """Write text as UTF-8, whole or not at all."""
    return atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_json(path: Path | str, data: Any) -> Path:
    """Write indented JSON, whole or not at all; numpy numbers and paths become plain ones."""
    return atomic_write_text(path, json.dumps(data, indent=1, default=plain) + "\n")


def plain(value: Any) -> Any:
    """``default=`` of json.dumps: paths, numpy and torch scalars and arrays."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy and torch scalars and arrays
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def read_json(path: Path | str) -> Any:
    """Read JSON; a missing, truncated or otherwise damaged file is a UserError that names it."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing; run the stage that writes it (rlvr status shows which)") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is damaged or cut short ({error}); delete it to have it made again") from None


_known_hashes: dict[tuple, str] = {}


def fingerprint(path: Path) -> list[int]:
    """Size, times and inode of a file. Changing the content changes the inode's time, so equal means unchanged."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def file_hash(path: Path) -> str:
    """sha256 of one file; remembered in this process while the file does not change."""
    key = (str(path.resolve()), *fingerprint(path))
    if key not in _known_hashes:
        with open(path, "rb") as file:
            _known_hashes[key] = hashlib.file_digest(file, "sha256").hexdigest()
    return _known_hashes[key]


def text_hash(data: Any) -> str:
    """sha256 of plain data in canonical JSON."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=plain).encode()).hexdigest()


def files_under(folder: Path) -> list[Path]:
    """Files that belong to a folder's content, sorted: not this module's own records, temporary files or byte code."""

    def counts(path: Path) -> bool:
        own = path.parent == folder and path.name in (DONE, STARTED, LOCK)
        return path.is_file() and not own and TEMPORARY not in path.name and "__pycache__" not in path.parts

    return sorted(path for path in folder.rglob("*") if counts(path))


def sha256_of(path: Path | str) -> str:
    """sha256 of a file, or of a folder (relative names and contents, in order); UserError if there is no such thing."""
    path = Path(path)
    if path.is_dir():
        return text_hash([(str(file.relative_to(path)), file_hash(file)) for file in files_under(path)])
    if not path.exists():
        raise UserError(f"{path} is missing; run the stage that writes it (rlvr status shows which)")
    return file_hash(path)
