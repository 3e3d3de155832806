"""Robot episodes on disk: one compressed file each, in the layout the paper's loaders read (A.1).

``image`` uint8 [T, H, W, 3] and ``action`` float32 [T, A]; row t of ``action`` drives frame t to frame t + 1. A set is
a folder of such files in the order of their names, with a manifest that says where they come from.
"""

import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvr_lib.artifacts import UserError, atomic_write_bytes, atomic_write_json, read_json, text_hash
from rlvr_lib.progress import say

MANIFEST = "manifest.json"


@dataclass(frozen=True, eq=False)
class Episode:
    """Frames uint8 [T, H, W, 3], actions float32 [T, A], and plain facts (policy, success, seed, task ...)."""

    frames: NDArray[np.uint8]
    actions: NDArray[np.float32]
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.frames)


def save_episode(path: Path, episode: Episode) -> Path:
    """Write atomically; equal episodes give equal bytes. UserError when the episode is not well formed."""
    _check(path, episode.frames, episode.actions)
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        parts = {"image": episode.frames, "action": episode.actions}
        parts["facts"] = np.frombuffer(json.dumps(episode.facts, sort_keys=True).encode(), dtype=np.uint8)
        for name, array in parts.items():
            inner = BytesIO()
            np.lib.format.write_array(inner, np.ascontiguousarray(array), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), inner.getvalue(), zipfile.ZIP_DEFLATED)
    return atomic_write_bytes(path, buffer.getvalue())


def load_episode(path: Path, need_actions: bool = True) -> Episode:
    """Read and check one file; without ``need_actions`` a file of images alone gives actions of shape [T, 0].

    A missing or damaged file, a wrong type or shape and actions that are not finite are UserErrors that name the file.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            parts = {name: archive[name] for name in archive.files}
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(
            f"{path} is damaged or no episode file ({type(error).__name__}): delete it and make it again"
        ) from None
    if "image" not in parts:
        raise UserError(f"{path} holds no image array; it holds: {', '.join(sorted(parts)) or 'nothing'}")
    frames = parts["image"]
    if "action" not in parts and need_actions:
        raise UserError(f"{path} holds no action array, and a world model needs actions")
    actions = parts.get("action", np.zeros((len(frames), 0), dtype=np.float32))
    if actions.dtype == np.float64:
        actions = actions.astype(np.float32)
    _check(path, frames, actions)
    return Episode(frames, actions, _facts(path, parts))


def _facts(path: Path, parts: dict[str, NDArray]) -> dict[str, Any]:
    if "facts" not in parts:
        return {}
    try:
        return dict(json.loads(parts["facts"].tobytes()))
    except (ValueError, TypeError):
        raise UserError(f"{path}: its facts cannot be read: delete it and make it again") from None


def _check(path: Path, frames: NDArray, actions: NDArray) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise UserError(f"{path}: image must be uint8 [T, H, W, 3] with T > 0, not {frames.dtype} {list(frames.shape)}")
    if actions.dtype != np.float32 or actions.ndim != 2:
        raise UserError(f"{path}: action must be float32 [T, A], not {actions.dtype} {list(actions.shape)}")
    if len(actions) != len(frames):
        raise UserError(f"{path}: {len(frames)} frames but {len(actions)} actions")
    if not np.isfinite(actions).all():
        rows = np.flatnonzero(~np.isfinite(actions).all(1))
        raise UserError(f"{path}: actions are not finite in {len(rows)} rows, the first is row {rows[0]}")


class EpisodeSet:
    """The episodes of a folder, in the order of their names; damaged ones are set aside, counted and said aloud.

    ``train`` and ``test`` are lists of names: position i is test when i is a multiple of ``test_every`` (A.1: 100). The
    positions count all files, so that a damaged one does not move the others between the splits. A set that comes
    with a split of its own lists its test episodes in the manifest, under ``test``.
    """

    def __init__(self, folder: Path, test_every: int = 100, need_actions: bool = True):
        self.folder, self.need_actions = Path(folder), need_actions
        if not self.folder.is_dir():
            raise UserError(
                f"{folder} is missing: run `rlvr reproduce --only 30` first, or set video.data.root "
                "(other domains: 35, domains.<name>.root)"
            )
        self.names = sorted(path.name for path in self.folder.glob("*.npz"))
        if not self.names:
            raise UserError(f"{folder} holds no .npz episodes")
        self.manifest = read_json(self.folder / MANIFEST) if (self.folder / MANIFEST).exists() else {}
        self.damaged: dict[str, str] = {}
        own = set(self.manifest.get("test", ()))
        places = range(len(self.names))
        self._tested = own or {self.names[place] for place in places if place % test_every == 0}
        self._split_of_its_own = bool(own)

    def limit(self, most: int) -> None:
        """Keep the first ``most`` episodes; of a set with its own split, its test episodes and the first others."""
        if self._split_of_its_own:
            kept = max(0, most - len(self._tested & set(self.names)))
            others = [name for name in self.names if name not in self._tested][:kept]
            self.names = sorted([*others, *(self._tested & set(self.names))])
        else:
            self.names = self.names[:most]

    def check(self, size: tuple[int, int] | None = None) -> dict[str, str]:
        """Read every file once; returns damaged names with their faults, and says how many there are.

        Frames of another ``size`` (rows, columns) are a fault as well.
        """
        for name in self.names:
            try:
                found = self[name].frames.shape[1:3]
                if size is not None and found != size:
                    raise UserError(
                        f"{self.folder / name}: frames of {found[0]} x {found[1]}, the profile wants {size[0]} x "
                        f"{size[1]} (video.data.height, video.data.width)"
                    )
            except UserError as error:
                self.damaged[name] = str(error)
        if self.damaged:
            say(f"{len(self.damaged)} of {len(self.names)} episodes are left out: {next(iter(self.damaged.values()))}")
        if len(self.damaged) == len(self.names):
            raise UserError(f"{self.folder}: no episode can be read; the first: {next(iter(self.damaged.values()))}")
        return self.damaged

    @property
    def train(self) -> list[str]:
        return [name for name in self._sound() if name not in self._tested]

    @property
    def test(self) -> list[str]:
        return [name for name in self._sound() if name in self._tested]

    def _sound(self) -> list[str]:
        return [name for name in self.names if name not in self.damaged]

    def __getitem__(self, name: str) -> Episode:
        return load_episode(self.folder / name, self.need_actions)

    def __len__(self) -> int:
        return len(self.names) - len(self.damaged)

    def __iter__(self) -> Iterator[Episode]:
        return (self[name] for name in self._sound())


def write_manifest(folder: Path, facts: dict[str, Any], names: Sequence[str]) -> Path:
    """Say what the set is: facts (generator, renderer, seed ...), count, and one hash over names and contents."""
    from rlvr_lib.artifacts import sha256_of

    digest = text_hash([(name, sha256_of(folder / name)) for name in sorted(names)])
    return atomic_write_json(folder / MANIFEST, {**facts, "episodes": len(names), "sha256": digest})
