"""RT-1 in the LeRobot format, versions 2 and 3: parquet tables for the numbers, mp4 files for the pictures.

LeRobot's copy of RT-1 keeps seven of the thirteen action numbers (move, turn, gripper). The base of the robot is taken
to stand still and the last step to be the one that terminates; the episode says so. Thirteen are taken as they are.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as arrow
import pyarrow.compute as compute
import pyarrow.parquet as parquet
from numpy.typing import NDArray

from rlvr_lib.artifacts import UserError
from rlvr_lib.worlds.video_episodes import Episode

SEVEN = "seven of thirteen action numbers: base motion taken as 0, termination from the last step"


@dataclass(frozen=True)
class LeRobotSet:
    """The description of a set: ``info`` is meta/info.json, ``episodes`` one row per episode (version 3 only)."""

    folder: Path
    info: dict[str, Any]
    camera: str
    episodes: list[dict[str, Any]]

    def __len__(self) -> int:
        return int(self.info["total_episodes"])

    def read(self, number: int) -> Episode:
        """Episode ``number`` with its frames and thirteen action numbers."""
        where = {"episode_chunk": number // int(self.info.get("chunks_size", 1000)), "episode_index": number}
        seconds = (0.0, float("inf"))
        files = (where, where)
        if self.episodes:
            row = self.episodes[number]
            video = f"videos/{self.camera}"
            files = tuple(
                {"chunk_index": row[f"{part}/chunk_index"], "file_index": row[f"{part}/file_index"]}
                for part in ("data", video)
            )
            seconds = (row[f"{video}/from_timestamp"], row[f"{video}/to_timestamp"])
        table = self._table(self.folder / self.info["data_path"].format(**files[0]), number)
        path = self.folder / self.info["video_path"].format(video_key=self.camera, **files[1])
        actions = np.asarray(table["action"].to_pylist(), dtype=np.float32)
        frames = read_video(path, *seconds, float(self.info["fps"]))
        if len(frames) != len(actions):
            raise UserError(f"{path}: episode {number} has {len(frames)} frames but {len(actions)} actions")
        facts: dict[str, Any] = {"source": "lerobot"}
        if actions.shape[1] == 7:
            actions, facts["note"] = thirteen(actions), SEVEN
        return Episode(frames, actions, facts)

    def _table(self, path: Path, number: int) -> arrow.Table:
        try:
            table = parquet.read_table(path, columns=["action", "frame_index", "episode_index"])
        except (OSError, arrow.ArrowException, KeyError) as error:
            raise UserError(f"{path} cannot be read ({type(error).__name__}); fetch it again") from None
        table = table.filter(compute.equal(table["episode_index"], number)).sort_by("frame_index")
        if not len(table):
            raise UserError(f"{path} holds no rows of episode {number}")
        return table


def open_lerobot(folder: Path) -> LeRobotSet:
    """Read the description; UserErrors name what is missing."""
    path = folder / "meta" / "info.json"
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        cameras = [name for name, feature in info["features"].items() if feature["dtype"] == "video"]
        width = info["features"]["action"]["shape"][0]
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {folder} is no LeRobot data set") from None
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error})") from None
    if not cameras or width not in (7, 13):
        raise UserError(f"{path}: wanted a video feature and 7 or 13 action numbers, found {cameras} and {width}")
    rows: list[dict[str, Any]] = []
    for file in sorted((folder / "meta" / "episodes").rglob("*.parquet")):
        rows += parquet.read_table(file).to_pylist()
    rows.sort(key=lambda row: row["episode_index"])
    return LeRobotSet(folder, info, cameras[0], rows)


def read_video(path: Path, start: float, end: float, fps: float) -> NDArray[np.uint8]:
    """Frames uint8 [T, H, W, 3] whose time lies in [start, end) seconds (half a frame of tolerance)."""
    slack = 0.5 / fps
    try:
        with av.open(str(path)) as container:
            frames = list(_between(container, start - slack, end - slack))
    except (OSError, av.FFmpegError) as error:
        raise UserError(f"{path} cannot be read as a video ({type(error).__name__}); fetch it again") from None
    if not frames:
        raise UserError(f"{path} holds no frame between {start:.2f} and {end:.2f} s")
    return np.stack(frames)


def _between(container: Any, start: float, end: float) -> Iterator[NDArray[np.uint8]]:
    for frame in container.decode(video=0):
        if frame.time is not None and frame.time >= end:
            return
        if frame.time is None or frame.time >= start:
            yield frame.to_ndarray(format="rgb24")


def thirteen(actions: NDArray[np.float32]) -> NDArray[np.float32]:
    """Seven numbers (move x y z, turn x y z, gripper) -> the thirteen of A.2, in their order.

    Termination is one-hot: (1, 0, 0) at the last step, (0, 1, 0) before it.
    """
    steps = len(actions)
    terminate = np.tile(np.array([0, 1, 0], dtype=np.float32), (steps, 1))
    terminate[-1] = (1, 0, 0)
    still = np.zeros((steps, 3), dtype=np.float32)
    return np.concatenate([still, actions[:, 6:7], actions[:, 3:6], terminate, actions[:, :3]], axis=1)
