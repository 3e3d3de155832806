"""``rlvr convert-rt1``: RT-1 from either public format to one file per episode, in the layout the loaders read (A.1).

Episodes keep the order of the source. A broken run goes on where it stopped; episodes that cannot be read are counted
and listed in the manifest, never dropped silently.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rlvr_lib.artifacts import UserError
from rlvr_lib.progress import say, track
from rlvr_lib.worlds.rt1_lerobot import open_lerobot
from rlvr_lib.worlds.rt1_rlds import read_records, read_rlds_episode, rlds_files
from rlvr_lib.worlds.video_episodes import Episode, load_episode, save_episode, write_manifest

Reader = Callable[[], Episode]


def convert_rt1(
    source: Path, target: Path, most: int | None = None, size: tuple[int, int] = (256, 320)
) -> dict[str, Any]:
    """Convert ``source`` (a LeRobot folder or a folder of TFRecords) into ``target``; returns the set's facts.

    ``most`` limits the number of episodes; ``size`` is the height and width that every frame must have.
    """
    kind, readers = ("lerobot", _lerobot(source)) if (source / "meta").is_dir() else ("rlds", _rlds(source))
    target.mkdir(parents=True, exist_ok=True)
    names, damaged = [], {}
    for number, read in enumerate(track(readers, most, "RT-1 episodes", "episodes")):
        if most is not None and number >= most:
            break
        name = f"{number:06d}.npz"
        try:
            if not _whole(target / name):
                save_episode(target / name, _sized(read(), size))
            names.append(name)
        except UserError as error:
            damaged[name] = str(error)
    if not names:
        raise UserError(
            f"{source}: no episode could be converted; the first: {next(iter(damaged.values()), 'none found')}"
        )
    if damaged:
        say(f"{len(damaged)} of {len(names) + len(damaged)} episodes could not be read: {next(iter(damaged.values()))}")
    facts = {"source": "rt1", "format": kind, "height": size[0], "width": size[1], "damaged": damaged}
    write_manifest(target, facts, names)
    return {**facts, "episodes": len(names)}


def _rlds(source: Path) -> Iterator[Reader]:
    """Readers of all records; a shard that breaks off gives one reader that says so, and the next shard follows."""
    for path in rlds_files(source):
        records = enumerate(read_records(path))
        while True:
            try:
                number, record = next(records)
            except StopIteration:
                break
            except UserError as error:
                yield partial(_fail, str(error))
                break
            yield partial(read_rlds_episode, record, f"{path.name}, record {number}")


def _fail(words: str) -> Episode:
    raise UserError(words)


def _lerobot(source: Path) -> Iterator[Reader]:
    found = open_lerobot(source)
    for number in range(len(found)):
        yield partial(found.read, number)


def _whole(path: Path) -> bool:
    try:
        return path.exists() and len(load_episode(path)) > 0
    except UserError:
        return False


def _sized(episode: Episode, size: tuple[int, int]) -> Episode:
    if episode.frames.shape[1:3] != size:
        raise UserError(
            f"frames are {episode.frames.shape[1]} x {episode.frames.shape[2]}, RT-1's are {size[0]} x {size[1]}"
        )
    return episode
