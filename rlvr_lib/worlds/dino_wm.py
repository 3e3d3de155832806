"""``rlvr convert-dino-wm``: DINO-WM's PushT, rope and granular files to one file per episode, as the loaders read them.

The format as publicly known. PushT: folders ``train`` and ``val``, each with ``states.pth`` [N, T, 5],
``rel_actions.pth`` [N, T, 2] (table units, padded behind an episode's end) and one ``obses/episode_000.mp4`` per
episode. Rope and granular: ``states.pth`` [N, T, particles, 4], ``actions.pth`` [N, T, 4] and ``000000/obses.pth``
[T, 224, 224, 3] with values 0 to 255. Tensors are loaded as weights only; the pickled extras (lengths, shapes) are
never opened: a film's own length is the episode's.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from rlvr_lib.artifacts import UserError
from rlvr_lib.progress import say, track
from rlvr_lib.worlds.tabletop import TABLE
from rlvr_lib.worlds.video_episodes import Episode, load_episode, save_episode, write_manifest

SCALE = 100.0  # DINO-WM divides PushT's relative actions by it
SPLITS = {"train": "train", "val": "test"}  # their name -> what it is here
JOINED = {"pusht": 5, "deformable": 1}  # frames apart: DINO-WM's frame skip
FAR = TABLE * np.sqrt(2)  # no relative motion on the table is longer; what is, is padding


@dataclass(frozen=True)
class Rollouts:
    """One split of a set: ``actions`` float64 [N, T, A] as in the file, ``frames(number)`` uint8 [T, H, W, 3]."""

    folder: Path
    actions: NDArray[np.float64]
    frames: Callable[[int], NDArray[np.uint8]]
    scale: float
    longest: float

    def __len__(self) -> int:
        return len(self.actions)

    def episode(self, number: int, size: int, every: int) -> Episode:
        """Every ``every``-th frame, with the actions up to the next one side by side, [T / every, every x A]."""
        frames, actions = self.frames(number), self.actions[number]
        where = f"{self.folder}, episode {number}"
        if len(frames) > len(actions):
            raise UserError(f"{where}: {len(frames)} frames but {len(actions)} actions: fetch its files again")
        used = actions[: len(frames)]
        if not np.isfinite(used).all() or np.abs(used).max(initial=0) > self.longest:
            raise UserError(
                f"{where}: an action of {np.abs(used).max():g} is out of range (at most {self.longest:g}): the film "
                "goes on into the padding, or the files belong to different sets; fetch them again"
            )
        count = len(frames) // every
        if not count:
            raise UserError(f"{where}: {len(frames)} frames are fewer than --frame-every {every}")
        joined = used[: count * every].reshape(count, -1) / self.scale
        shown = frames[: count * every : every]
        return Episode(_sized(shown, size), joined.astype(np.float32), {"source": "dino_wm", "number": number})


def convert_dino_wm(
    source: Path, target: Path, size: int = 224, every: int | None = None, most: int | None = None
) -> dict[str, Any]:
    """Convert ``source`` into ``target`` with frames of ``size`` x ``size``; returns the set's facts.

    PushT's own split is kept (the manifest lists the test episodes); rope and granular are split by position when the
    set is read. Episodes that cannot be read are counted and listed. A broken run goes on where it stopped.
    """
    kind, splits = open_dino_wm(source)
    every = JOINED[kind] if every is None else every
    target.mkdir(parents=True, exist_ok=True)
    facts = {"source": "dino_wm", "format": kind, "height": size, "width": size, "frame_every": every}
    names: dict[str, list[str]] = {split: [] for split in splits}
    damaged: dict[str, str] = {}
    for split, rollouts in splits.items():
        numbers = range(len(rollouts) if most is None else min(most, len(rollouts)))
        for number in track(numbers, label=f"DINO-WM {split}", unit="episodes"):
            name = f"{split}_{number:06d}.npz"
            try:
                if not _whole(target / name, size):
                    save_episode(target / name, rollouts.episode(number, size, every))
                names[split].append(name)
            except UserError as error:
                damaged[name] = str(error)
    if not any(names.values()):
        raise UserError(f"{source}: no episode could be converted; the first: {next(iter(damaged.values()), 'none')}")
    if damaged:
        say(f"{len(damaged)} episodes could not be read: {next(iter(damaged.values()))}")
    facts |= {"damaged": damaged} | ({"test": names["test"]} if "test" in names else {})
    all_names = [name for part in names.values() for name in part]
    write_manifest(target, facts, all_names)
    return {**facts, "episodes": len(all_names)}


def open_dino_wm(source: Path) -> tuple[str, dict[str, Rollouts]]:
    """(``pusht`` or ``deformable``, split -> rollouts); UserErrors name what is missing and what should lie there."""
    if not source.is_dir():
        raise UserError(f"{source}: no such folder")
    if (source / "train").is_dir():
        missing = [name for name in SPLITS if not (source / name).is_dir()]
        if missing:
            raise UserError(f"{source}/{missing[0]} is missing: DINO-WM's PushT has the folders train and val")
        return "pusht", {ours: _pusht(source / theirs) for theirs, ours in SPLITS.items()}
    if (source / "rel_actions.pth").exists():
        raise UserError(f"{source} is one split of PushT: name the folder above it, which holds train and val")
    if not (source / "actions.pth").exists():
        raise UserError(
            f"{source} holds neither train and val (PushT) nor actions.pth (rope, granular): unpack DINO-WM's archive "
            "and name pusht_noise, deformable/rope or deformable/granular"
        )
    return "deformable", {"all": _deformable(source)}


def _pusht(folder: Path) -> Rollouts:
    actions = _tensor(folder / "rel_actions.pth", dims=3, last=2)
    _same_lengths(folder, actions, _tensor(folder / "states.pth", dims=3))

    def frames(number: int) -> NDArray[np.uint8]:
        return read_film(folder / "obses" / f"episode_{number:03d}.mp4")

    return Rollouts(folder, actions.double().numpy(), frames, SCALE, FAR)


def _deformable(folder: Path) -> Rollouts:
    actions = _tensor(folder / "actions.pth", dims=3, last=4)
    _same_lengths(folder, actions, _tensor(folder / "states.pth", dims=4))

    def frames(number: int) -> NDArray[np.uint8]:
        path = folder / f"{number:06d}" / "obses.pth"
        pixels = _tensor(path, dims=4, last=3).float()
        if not torch.isfinite(pixels).all() or pixels.min() < 0 or pixels.max() > 255:
            raise UserError(f"{path}: pixels must be from 0 to 255, not {pixels.min():g} to {pixels.max():g}")
        return pixels.round().byte().numpy()

    return Rollouts(folder, actions.double().numpy(), frames, 1.0, np.inf)


def _tensor(path: Path, dims: int, last: int | None = None) -> torch.Tensor:
    """A tensor from a .pth file, nothing else: no other object is ever unpickled."""
    if not path.exists():
        raise UserError(f"{path} is missing: unpack DINO-WM's archive completely")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a cut-off or foreign file
        raise UserError(
            f"{path} is damaged or holds more than a tensor ({type(error).__name__}): fetch it again"
        ) from None
    if not isinstance(found, torch.Tensor) or found.ndim != dims or (last is not None and found.shape[-1] != last):
        shape = list(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        wanted = f"{dims} dimensions" + (f", the last of {last}" if last else "")
        raise UserError(f"{path}: a tensor of {wanted} should be there, not {shape}")
    return found


def _same_lengths(folder: Path, actions: torch.Tensor, states: torch.Tensor) -> None:
    if states.shape[:2] != actions.shape[:2]:
        raise UserError(
            f"{folder}: states are {list(states.shape[:2])} (episodes, steps), actions {list(actions.shape[:2])}: the "
            "files belong to different sets; fetch both again"
        )


def read_film(path: Path) -> NDArray[np.uint8]:
    """All frames of a film, uint8 [T, H, W, 3]."""
    import av

    if not path.exists():
        raise UserError(f"{path} is missing: unpack DINO-WM's archive completely")
    try:
        with av.open(str(path)) as film:
            frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    except (av.error.FFmpegError, IndexError, ValueError) as error:
        raise UserError(f"{path} is damaged or no film ({type(error).__name__}): fetch it again") from None
    if not frames:
        raise UserError(f"{path} holds no frame: fetch it again")
    return np.stack(frames)


def _sized(frames: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Square frames of ``size``, by area when they shrink."""
    if frames.shape[1:3] == (size, size):
        return np.ascontiguousarray(frames)
    pictures: Iterator[Image.Image] = (Image.fromarray(frame) for frame in frames)
    return np.stack([np.asarray(picture.resize((size, size), Image.Resampling.BOX)) for picture in pictures])


def _whole(path: Path, size: int) -> bool:
    try:
        return path.exists() and load_episode(path).frames.shape[1:3] == (size, size)
    except UserError:
        return False


__all__ = ["convert_dino_wm", "open_dino_wm", "read_film"]
