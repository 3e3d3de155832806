"""Episodes inside a multi-step world model: a policy acts on predicted frames and the model answers (spec G).

The context frame and the first frame are the same real frame; from then on the policy sees decoded predictions only.
After every ``horizon`` frames the sequence is cut back to the context and the newest frame. All episodes go side by
side through one sampler pass, which asks for the next action wherever the layout has a given one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LlamaForCausalLM

from rlvr_lib.artifacts import atomic_write_bytes
from rlvr_lib.profile_schema_real2sim import Real2Sim
from rlvr_lib.progress import say
from rlvr_lib.tokens.video_task import MultiStepTask
from rlvr_lib.training.rt1_policies import stops
from rlvr_lib.training.success_judge import to_bytes
from rlvr_lib.training.video_sampling import sample_response
from rlvr_lib.worlds.policy_scenes import usable
from rlvr_lib.worlds.video_clips import Clip

# row numbers [m], frames uint8 [m, H, W, 3], step -> actions float32 [m, A] and probabilities of success [m]
Observer = Callable[[NDArray[np.int64], NDArray[np.uint8], int], tuple[NDArray[np.float32], NDArray[np.float64]]]
STATE = "state.npz"


@dataclass(eq=False)
class Dreams:
    """n episodes so far: ``codes`` int64 [n, K, N] of the predicted frames, and per episode what was odd in it.

    ``probability`` float64 [n, K + 1]: the judge's, the start frame's first. ``invalid`` int64 [n]: sampled ids that
    are no code of a frame; they are decoded as the last code, as everywhere (E.2). ``bad_actions`` int64 [n]: actions
    that were no numbers; the arm stays instead. ``stopped`` int64 [n]: the step at which the policy ended the episode
    (RT-1 can), or all steps. ``prompt`` int64 [n, P] is what the next round begins with.
    """

    prompt: Tensor
    codes: Tensor
    probability: NDArray[np.float64]
    invalid: NDArray[np.int64]
    bad_actions: NDArray[np.int64]
    stopped: NDArray[np.int64]

    @property
    def frames(self) -> int:
        """Predicted frames of every episode."""
        return self.codes.shape[1]

    def save(self, path: Path) -> None:
        buffer, parts = BytesIO(), {name: np.asarray(value) for name, value in vars(self).items()}
        np.savez_compressed(buffer, **parts)
        atomic_write_bytes(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> "Dreams":
        with np.load(path, allow_pickle=False) as parts:
            arrays = {name: parts[name] for name in parts.files}
        tensors = {name: torch.from_numpy(arrays.pop(name)) for name in ("prompt", "codes")}
        return cls(**tensors, **arrays)


class Dreamer:
    """One world model with the episodes that are dreamt in it; ``folder`` keeps the state after every round."""

    def __init__(
        self, model: LlamaForCausalLM, task: MultiStepTask, observer: Observer, settings: Real2Sim, folder: Path
    ):
        self.model, self.task, self.layout, self.observer = model, task, task.layout, observer
        self.settings, self.folder = settings, folder

    def run(self, starts: Tensor, seed: int) -> Dreams:
        """Start frames float32 [n, 3, H, W] -> whole dreams; goes on after the last round that is in ``folder``."""
        path = self.folder / STATE
        dreams = Dreams.load(path) if path.exists() else self.begin(starts)
        features = self._features(dreams.prompt)
        for number in range(dreams.frames // self.horizon, self.settings.rounds):
            if not dreams.frames:
                self._look(dreams, features, torch.arange(len(starts)), self._current(dreams), 0)
            self._round(dreams, features, number, seed)
            dreams.save(path)
            say(f"dreaming: {dreams.frames} of {self.settings.rounds * self.horizon} frames")
        path.unlink(missing_ok=True)
        return dreams

    @property
    def horizon(self) -> int:
        """Frames of a round."""
        return self.layout.horizon

    def _features(self, prompt: Tensor) -> Tensor:
        """What decoding reads of each episode besides a frame's codes."""
        return self.task.context_features(prompt)

    def _frames(self, features: Tensor, rows: Tensor, codes: Tensor) -> Tensor:
        """Codes [m, N] of these rows -> frames [m, 3, H, W]."""
        return self.task.frames_of(features, rows.to(self.task.device), codes.to(self.task.device))

    def film(self, dreams: Dreams, row: int) -> NDArray[np.uint8]:
        """The predicted frames of an episode: uint8 [K, H, W, 3]."""
        features, owner = self._features(dreams.prompt[row : row + 1]), torch.zeros(dreams.frames, dtype=torch.long)
        return to_bytes(self._frames(features, owner, dreams.codes[row]))

    def begin(self, starts: Tensor) -> Dreams:
        """Context and first frame are the start frame; its action is still to come."""
        still = np.zeros((2, self.layout.action_dims), dtype=np.float32)
        at_once = max(1, self.task.at_once // 2)
        clips = [Clip(torch.stack([frame, frame]), still) for frame in starts]
        parts = [self.task.prompt(clips[first : first + at_once]) for first in range(0, len(clips), at_once)]
        return self._fresh(torch.cat(parts))

    def _fresh(self, prompt: Tensor) -> Dreams:
        """Nothing dreamt yet."""
        count, frames = len(prompt), self.settings.rounds * self.horizon
        codes = torch.zeros(count, 0, self.layout.tokens, dtype=torch.long)
        odd = [np.full(count, number, dtype=np.int64) for number in (0, 0, frames)]
        return Dreams(prompt, codes, np.full((count, frames + 1), np.nan), *odd)

    newest = 0  # the place, among the prompt's frames and actions, of the newest

    def _current(self, dreams: Dreams) -> Tensor:
        return dreams.prompt[:, self.layout.frame_at[self.newest]]

    def _look(self, dreams: Dreams, features: Tensor, rows: Tensor, codes: Tensor, step: int) -> Tensor:
        """Show the newest frames of these rows; the ids of the answers [m, A], which also stand in the prompt."""
        frames = to_bytes(self._frames(features, rows, codes))
        places = rows.numpy()
        wished, dreams.probability[places, step] = self.observer(places, frames, step)
        answers = [usable(action, self.layout.action_dims) for action in wished]
        dreams.bad_actions[places] += [not sound for _, sound in answers]
        ends = places[[stops(action) for action, _ in answers]]
        dreams.stopped[ends] = np.minimum(dreams.stopped[ends], step)
        bins = self.task.bins.to_bins(np.stack([action for action, _ in answers]))
        ids = torch.from_numpy(bins) + self.layout.action_offset
        dreams.prompt[rows[:, None], self.layout.action_at[self.newest]] = ids
        return ids

    def _strange(self, ids: Tensor) -> NDArray[np.int64]:
        """How many of a frame's ids [m, N] are no code of a frame."""
        return ((ids < 0) | (ids >= self.layout.codes)).sum(1).numpy()

    def _round(self, dreams: Dreams, features: Tensor, number: int, seed: int) -> None:
        """``horizon`` more frames of every episode; then the newest one and its action are the next prompt's."""
        layout, before = self.layout, dreams.frames

        def fill(rows: Tensor, ids: Tensor) -> Tensor:
            """The newest frame is whole: its codes are the last ids."""
            newest = ids[:, -layout.tokens :].cpu()
            dreams.invalid[rows.cpu().numpy()] += self._strange(newest)
            frame = (ids.shape[1] - layout.tokens) // layout.block + 1
            return self._look(dreams, features, rows.cpu(), layout.visual(newest), before + frame)

        marks = torch.zeros(len(dreams.prompt), len(layout.given), dtype=torch.long)
        response = sample_response(
            self.model,
            layout,
            dreams.prompt,
            marks,
            temperature=self.settings.temperature,
            top_k=self.settings.top_k,
            generator=torch.Generator().manual_seed(seed * 1000 + number),
            max_rows=self.settings.batch,
            penalty=self.settings.repetition_penalty,
            fill=fill,
        )
        dreams.codes = torch.cat([dreams.codes, layout.predicted(response)], 1)
        dreams.prompt[:, layout.frame_at[0]] = dreams.codes[:, -1]


__all__ = ["Dreamer", "Dreams", "Observer"]
