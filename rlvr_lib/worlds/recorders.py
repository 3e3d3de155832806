"""Which episodes can be recorded here, by source name: robot drawers, PushT, rope, granular.

A recorder takes the folder of a set, the seed and the profile's ``video.data``, and returns facts of the set.
"""

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rlvr_lib.processes import pool
from rlvr_lib.profile_schema_video import VideoData
from rlvr_lib.worlds.deformables import record_material
from rlvr_lib.worlds.drawers import prepare_worker, record_number, record_set, recording_for
from rlvr_lib.worlds.pusht import GENERATOR as PUSHT_GENERATOR
from rlvr_lib.worlds.pusht import record_pusht
from rlvr_lib.worlds.recording import record_episodes
from rlvr_lib.worlds.tabletop import GENERATOR, TabletopRecording
from rlvr_lib.worlds.video_episodes import Episode

Recorder = Callable[[Path, int, VideoData], dict[str, Any]]


def _drawers(folder: Path, seed: int, settings: VideoData) -> dict[str, Any]:
    recording = recording_for(seed, settings.height, settings.width, settings.frame_every)
    facts = record_set(folder, settings.episodes, recording, settings.workers)
    return {**facts, "substitutions": ["robot video: Meta-World drawers filmed in simulation instead of RT-1"]}


def _tabletop(folder: Path, seed: int, settings: VideoData) -> dict[str, Any]:
    record, frames, measure, words = TABLETOP[settings.source]
    recording = tabletop_recording(seed, settings, frames)
    facts = record_episodes(
        folder,
        settings.episodes,
        asdict(recording),
        partial(record, recording),
        workers=settings.workers,
        label=settings.source,
        averaged=(measure,),
    )
    return {**facts, "substitutions": [words]}


def tabletop_recording(seed: int, settings: VideoData, most_frames: int) -> TabletopRecording:
    """What decides about a domain's episodes; each domain counts the versions of its own generator."""
    shape = (settings.height, settings.width, settings.frame_every)
    version = {"pusht": PUSHT_GENERATOR}.get(settings.source, GENERATOR)
    return TabletopRecording(settings.source, seed, *shape, most_frames=most_frames, generator=version)


# Simulator, frames of an episode, the fact of an episode that describes it, and what the set stands in for.
TABLETOP: dict[str, tuple[Callable[[TabletopRecording, int], Episode], int, str, str]] = {
    "pusht": (
        record_pusht,
        32,
        "coverage",
        "PushT: gym-pusht driven by mixed-quality planners, instead of DINO-WM's demonstrations",
    ),
    "rope": (record_material, 20, "moved", "rope: a chain in pymunk, seen from above, instead of DINO-WM's FleX"),
    "granular": (record_material, 20, "moved", "granular: discs in pymunk, seen from above, instead of DINO-WM's FleX"),
}
RECORDERS: dict[str, Recorder] = {"drawers": _drawers, **dict.fromkeys(TABLETOP, _tabletop)}


def one_episode(settings: VideoData, seed: int, number: int = 0) -> Episode:
    """Episode ``number`` of the set that ``settings`` and ``seed`` describe; nothing is kept on disk.

    Robot drawers are drawn in a process of their own, as MuJoCo reads its OpenGL settings when it is first imported.
    """
    if settings.source == "drawers":
        recording = recording_for(seed, settings.height, settings.width, settings.frame_every)
        with pool(1, prepare_worker, (recording.renderer,)) as processes:
            return processes.apply(record_number, (recording, number))
    record, frames, *_ = TABLETOP[settings.source]
    return record(tabletop_recording(seed, settings, frames), number)
