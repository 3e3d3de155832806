"""Clips: random segments of training episodes, and the one fixed segment of every test episode (A.1)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as pictures

from rlvr_lib.artifacts import UserError
from rlvr_lib.worlds.video_episodes import Episode, EpisodeSet
from rlvr_lib.worlds.video_segments import Jitter, Segment, crop_box, evaluation_segment, to_float, training_segment

IN_MEMORY = 1 << 30  # bytes of frames that are kept; larger sets are read again for every clip


@dataclass(frozen=True)
class Clip:
    """``frames`` float32 [L, 3, H, W] in [0, 1] (the context frame first, if any) and ``actions`` float32 [L, A]."""

    frames: Tensor
    actions: np.ndarray


class ClipSource:
    """Draws clips from named episodes of a set: episodes uniformly, with replacement, whatever their length (A.1)."""

    def __init__(
        self,
        episodes: EpisodeSet,
        names: Sequence[str],
        length: int,
        *,
        context: bool = False,
        jitter: bool = False,
        crop: bool = False,
        whole_only: bool = False,
    ):
        self.episodes, self.names, self.length = episodes, list(names), length
        self.context, self.jitter, self.crop, self.whole_only = context, jitter, crop, whole_only
        self._kept: dict[str, Episode] = {}
        self._bytes = 0
        if not self.names:
            raise UserError(
                f"{episodes.folder}: no episodes in this split; record more, or lower video.data.test_every"
            )

    def draw(self, rng: np.random.Generator) -> Clip:
        """One random clip; ``whole_only`` draws again if an episode is too short (pre-training), else it is padded."""
        name, segment = self.pick(rng)
        return self._cut(self.episode(name), segment, rng)

    def pick(self, rng: np.random.Generator) -> tuple[str, Segment]:
        """The episode and the segment that :meth:`draw` would cut."""
        for _ in range(1000):
            name = self.names[int(rng.integers(len(self.names)))]
            frames = len(self.episode(name))
            if frames >= self.length or not self.whole_only:
                return name, training_segment(frames, self.length, rng, self.context)
        raise UserError(f"{self.episodes.folder}: no episode has {self.length} frames")

    def __call__(self, rng: np.random.Generator, number: int) -> Tensor:
        """Frames of ``number`` clips, float32 [number, L, 3, H, W]."""
        return torch.stack([self.draw(rng).frames for _ in range(number)])

    def _cut(self, episode: Episode, segment: Segment, rng: np.random.Generator) -> Clip:
        clip = cut(episode, segment)
        frames = clip.frames
        if self.crop:
            size = list(frames.shape[-2:])
            frames = pictures.resized_crop(frames, *crop_box(*size, rng), size, antialias=True).clamp(0, 1)
        if self.jitter:
            frames = Jitter.draw(rng)(frames)
        return Clip(frames, clip.actions)

    def episode(self, name: str) -> Episode:
        """An episode, kept in memory while there is room."""
        if name in self._kept:
            return self._kept[name]
        episode = self.episodes[name]
        if self._bytes + episode.frames.nbytes <= IN_MEMORY:
            self._kept[name] = episode
            self._bytes += episode.frames.nbytes
        return episode


def cut(episode: Episode, segment: Segment) -> Clip:
    """Frames and actions of a segment."""
    return Clip(to_float(episode.frames[segment.indices]), episode.actions[segment.indices])


def held_out_clips(episodes: EpisodeSet, length: int, most: int, context: bool = False) -> Iterator[Clip]:
    """The fixed clip of each test episode, item by item (the item number seeds it; short ones are padded)."""
    for item, name in enumerate(episodes.test[:most]):
        episode = episodes[name]
        yield cut(episode, evaluation_segment(len(episode), length, item, context))
