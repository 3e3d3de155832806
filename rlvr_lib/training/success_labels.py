"""Which frames show success: from what a recording says of itself, or from a file of labels made by hand."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from rlvr_lib.artifacts import UserError, read_json
from rlvr_lib.worlds.drawers import AFTER_SUCCESS
from rlvr_lib.worlds.recording import NOTE
from rlvr_lib.worlds.video_episodes import Episode, EpisodeSet


def frame_labels(episode: Episode, most: int) -> NDArray[np.float64]:
    """For every frame of a recorded episode: 1 the task is done, 0 it is not, NaN the recording does not say.

    PushT's recordings say it frame by frame. A drawer's goes on for a fixed number of frames after success, so the
    first done frame is known, unless it was cut at ``most`` frames.
    """
    if "done" in episode.facts:
        return np.array([float(mark) for mark in episode.facts["done"]])
    labels = np.zeros(len(episode))
    if episode.facts.get("success"):
        first = len(episode) - 1 - AFTER_SUCCESS
        labels[max(0, first) :] = np.nan if len(episode) >= most else 1
    return labels


class LabelledFrames:
    """Frames uint8 [n, H, W, 3], task numbers int64 [n] and labels float32 [n] in {0, 1}."""

    def __init__(self, frames: list[NDArray[np.uint8]], tasks: list[int], labels: list[float]):
        if not frames:
            raise UserError("the judge of success has no labelled training frame: record more episodes")
        self.frames, self.tasks = np.stack(frames), torch.tensor(tasks)
        self.labels = torch.tensor(labels, dtype=torch.float32)

    @classmethod
    def of(cls, episodes: EpisodeSet, names: Sequence[str], tasks: Sequence[str], marks: "Marks") -> "LabelledFrames":
        """All frames of the named episodes whose task is known and whose label is."""
        frames, numbers, labels = [], [], []
        for name in names:
            episode = episodes[name]
            for task, found in marks(name, episode).items():
                for place in np.flatnonzero(~np.isnan(found)) if task in tasks else ():
                    frames.append(episode.frames[place])
                    numbers.append(tasks.index(task))
                    labels.append(float(found[place]))
        return cls(frames, numbers, labels)


class Marks:
    """Labels of an episode's frames by task: from what the recording says, or from a file of labels made by hand."""

    def __init__(self, episodes: EpisodeSet, file: str):
        note = episodes.folder / NOTE
        self.most = read_json(note)["most_frames"] if note.exists() else 0
        self.table = _read_labels(Path(file).expanduser()) if file else None
        if not file and not note.exists():
            raise UserError(
                "video.real2sim.judge.labels: these recordings do not say which episodes succeeded; set it to a CSV of "
                "labelled frames with the columns episode, frame, task, success"
            )

    def __call__(self, name: str, episode: Episode) -> dict[str, NDArray[np.float64]]:
        if self.table is None:
            return {episode.facts["task"]: frame_labels(episode, self.most)}
        found = {}
        for task, rows in self.table[self.table["episode"] == name].groupby("task"):
            labels = np.full(len(episode), np.nan)
            inside = rows[rows["frame"].between(0, len(episode) - 1)]
            labels[inside["frame"].to_numpy(int)] = inside["success"].to_numpy(float)
            found[str(task)] = labels
        return found


def _read_labels(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype={"episode": str, "task": str})
    except (OSError, ValueError) as error:
        raise UserError(f"video.real2sim.judge.labels: {path} cannot be read as a table ({error})") from None
    wanted = {"episode", "frame", "task", "success"}
    if not wanted <= set(table.columns) or not table["success"].isin([0, 1]).all():
        raise UserError(f"video.real2sim.judge.labels: {path} needs the columns {', '.join(sorted(wanted))} (0 or 1)")
    return table
