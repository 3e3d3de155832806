"""RT-1 and RT-1-X as policies, through their published checkpoints, for whoever has them (spec G).

The checkpoints are TensorFlow SavedModels, as distributed for SIMPLER; TensorFlow, TF-Agents and TensorFlow Hub are not
among the workbook's pins, so they are asked for when they are needed. Written from the checkpoints' public interface;
it could not be tried here without them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvr_lib.artifacts import UserError
from rlvr_lib.tokens.action_bins import RT1_RANGES
from rlvr_lib.worlds.rt1_rlds import ACTION_PARTS

SIZE = (256, 320)
STILL_GRIPPER = 0.01
SENTENCES = "universal-sentence-encoder-large"  # folder beside the checkpoints
TERMINATE = [name for name, *_ in RT1_RANGES].index("terminate_episode 0")


def action_vector(entries: Mapping[str, Any]) -> NDArray[np.float32]:
    """A policy's dictionary -> float32 [13]: missing entries are 0, a gripper value below 0.01 counts as 0 (spec G)."""
    parts = []
    for name, count in ACTION_PARTS.items():
        value = np.asarray(entries.get(name, np.zeros(count)), dtype=np.float32).reshape(count)
        parts.append(np.where(np.abs(value) < STILL_GRIPPER, 0, value) if name.startswith("gripper") else value)
    return np.concatenate(parts)


def stops(action: NDArray) -> bool:
    """Whether an action [13] ends the episode: terminate_episode is exactly (1, 0, 0)."""
    return len(action) == len(RT1_RANGES) and action[TERMINATE : TERMINATE + 3].tolist() == [1, 0, 0]


def checkpoint_folders(root: str, names: Sequence[str]) -> dict[str, Path]:
    """Where each checkpoint lies; UserErrors that say what is missing and which setting names it."""
    if not root:
        raise UserError(
            "video.real2sim.checkpoints: set it to the folder of RT-1's published checkpoints (one folder each: "
            f"{', '.join(names)}), or set video.real2sim.policy_kind=cloned"
        )
    folder = Path(root).expanduser()
    missing = [name for name in [*names, SENTENCES] if not (folder / name).is_dir()]
    if missing:
        raise UserError(f"video.real2sim.checkpoints: {folder} has no folder {missing[0]}")
    return {name: folder / name for name in names}


class RT1Policy:
    """One checkpoint. It keeps a history of pictures for every episode that it is shown."""

    def __init__(self, folder: Path):
        try:
            import tensorflow as tf
            import tensorflow_hub as hub
            from tf_agents.policies import py_tf_eager_policy
            from tf_agents.trajectories import time_step
        except ImportError as error:
            raise UserError(
                f"RT-1 policies need tensorflow, tf-agents and tensorflow-hub ({error}); install them, or set "
                "video.real2sim.policy_kind=cloned"
            ) from None
        self.tf, self.time_step = tf, time_step
        loader = py_tf_eager_policy.SavedModelPyTFEagerPolicy
        self.policy = loader(str(folder), load_specs_from_pbtxt=True, use_tf_function=True)
        self.sentences = hub.load(str(folder.parent / SENTENCES))
        self.told: dict[str, Any] = {}
        self.states: dict[int, Any] = {}

    def act(
        self, frames: NDArray[np.uint8], tasks: Sequence[str], episodes: Sequence[int], step: int
    ) -> NDArray[np.float32]:
        """As :class:`rlvr_lib.training.picture_policies.FramePolicy`: actions float32 [n, 13]."""
        return np.stack([self._one(*each, step) for each in zip(frames, tasks, episodes, strict=True)])

    def _one(self, frame: NDArray[np.uint8], task: str, episode: int, step: int) -> NDArray[np.float32]:
        if step == 0:
            self.states[episode] = self.policy.get_initial_state(batch_size=1)
        if task not in self.told:
            self.told[task] = self.sentences([task])[0]
        picture = self.tf.cast(self.tf.image.resize_with_pad(frame, *SIZE), self.tf.uint8)
        specs = self.policy.time_step_spec.observation
        seen = {name: np.zeros(spec.shape, spec.dtype) for name, spec in specs.items()}
        seen |= {"image": picture, "natural_language_embedding": self.told[task]}
        moment = self.time_step.transition(seen, reward=np.zeros((), dtype=np.float32))
        answer = self.policy.action(moment, self.states[episode])
        self.states[episode] = answer.state
        return action_vector(answer.action)
