"""Recording a set of episodes: in processes, resumable, never mixed, one file per episode and a manifest.

What an episode shows is the business of the simulators beside this file; a set is the same whoever records it, in
whatever order, because episode n depends on its settings and on n alone.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlvr_lib.artifacts import UserError, atomic_write_json, read_json
from rlvr_lib.processes import pool
from rlvr_lib.progress import say, track
from rlvr_lib.worlds.video_episodes import Episode, load_episode, save_episode, write_manifest

NOTE = "recording.json"
Record = Callable[[int], Episode]  # the number of an episode -> the episode; must be picklable


def record_episodes(
    folder: Path,
    episodes: int,
    settings: dict[str, Any],
    record: Record,
    *,
    workers: int,
    label: str,
    prepare: Callable[[], None] | None = None,
    averaged: Sequence[str] = ("success",),
) -> dict[str, Any]:
    """Record episodes 0..n-1 into ``folder``; whole ones that are there already are kept. Returns facts of the set.

    ``settings`` decide about the content; a folder begun with other ones is a UserError. ``prepare`` runs once in every
    recording process; without it a single worker records right here. ``averaged`` names facts of episodes whose mean
    describes the set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _same_recording(folder / NOTE, settings)
    names = [f"{number:05d}.npz" for number in range(episodes)]
    missing = [number for number, name in enumerate(names) if not _whole(folder / name)]
    if len(missing) < episodes:
        say(f"{label}: {episodes - len(missing)} of {episodes} episodes are there already")
    done = _spread(_Work(folder, record), missing, workers, prepare)
    for _ in track(done, len(missing), f"{label} episodes", "episodes"):
        pass
    recorded = [load_episode(folder / name) for name in names]
    means = {key: float(np.mean([episode.facts[key] for episode in recorded])) for key in averaged}
    facts = {**settings, "frames": sum(map(len, recorded)), **means}
    write_manifest(folder, facts, names)
    return {"episodes": episodes, **facts}


class _Work:
    """Record one episode and save it; an object, so that it travels to another process."""

    def __init__(self, folder: Path, record: Record):
        self.folder, self.record = folder, record

    def __call__(self, number: int) -> None:
        save_episode(self.folder / f"{number:05d}.npz", self.record(number))


def _spread(work: _Work, numbers: list[int], workers: int, prepare: Callable[[], None] | None) -> Iterator[None]:
    """Run in processes of their own (OpenGL and MuJoCo read their settings when first imported)."""
    if not numbers:
        return
    if prepare is None and workers == 1:  # starting a process takes longer than a few episodes
        yield from map(work, numbers)
        return
    with pool(min(workers, len(numbers)), prepare) as processes:
        yield from processes.imap_unordered(work, numbers, chunksize=4)


def _whole(path: Path) -> bool:
    if not path.exists():
        return False
    try:
        load_episode(path)
    except UserError as error:
        say(f"recorded again: {error}")
        return False
    return True


def _same_recording(note: Path, settings: dict[str, Any]) -> None:
    if note.exists():
        before = read_json(note)
        for key, value in settings.items():
            if before.get(key) != value:
                raise UserError(
                    f"{note.parent} was begun with {key} {before.get(key)}, now it is {value}: "
                    "sets are never mixed; delete the folder or set the former value"
                )
    atomic_write_json(note, settings)
