"""Policies that act on pictures: small convolutional networks cloned from the graded experts' recorded actions.

They stand in for RT-1 at its stages of training (spec G). How good one is comes from how many episodes it has seen, of
which grades, and from the noise on its moves, so that true success spreads from about 0 to about 1. One network serves
all tasks; a task vector takes the place of RT-1's sentence embedding.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor, nn

from rlvr_lib.artifacts import UserError, atomic_write_bytes, atomic_write_json, read_json
from rlvr_lib.profile import Profile
from rlvr_lib.profile_schema_real2sim import ClonedPolicy
from rlvr_lib.progress import track
from rlvr_lib.training.rt1_policies import RT1Policy, checkpoint_folders
from rlvr_lib.training.video import load_bins, open_episodes
from rlvr_lib.worlds.video_episodes import Episode, EpisodeSet
from rlvr_lib.worlds.video_segments import to_float

WIDTHS = (16, 32, 48, 64)
HIDDEN = 128
MOVES = {"pusht": 10}  # numbers of an action that are moves; noise falls on them, as it does on the experts'
ARM_MOVES = 3  # of a robot's arm; the gripper's is none


class FramePolicy(Protocol):
    """What is judged: sees frames, knows the task, answers with actions. Episodes go side by side, in step."""

    def act(
        self, frames: NDArray[np.uint8], tasks: Sequence[str], episodes: Sequence[int], step: int
    ) -> NDArray[np.float32]:
        """Frames uint8 [n, H, W, 3] of these episodes at this step -> actions float32 [n, A]."""


class PictureNet(nn.Module):
    """Frames float32 [B, 3, H, W] in [0, 1] and task numbers int64 [B] -> ``outputs`` numbers each, unbounded."""

    def __init__(self, height: int, width: int, tasks: int, outputs: int, widths: Sequence[int] = WIDTHS):
        super().__init__()
        layers, before = [], 3
        for channels in widths:
            layers += [nn.Conv2d(before, channels, 3, stride=2, padding=1), nn.GroupNorm(4, channels), nn.SiLU()]
            before = channels
        self.look = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            seen = self.look(torch.zeros(1, 3, height, width)).shape[1]
        self.squeeze, self.task = nn.Linear(seen, HIDDEN), nn.Embedding(tasks, HIDDEN)
        self.decide = nn.Sequential(nn.SiLU(), nn.Linear(HIDDEN, HIDDEN), nn.SiLU(), nn.Linear(HIDDEN, outputs))

    def forward(self, frames: Tensor, task: Tensor) -> Tensor:
        return self.decide(self.squeeze(self.look(frames - 0.5)) + self.task(task))


class ClonedFramePolicy:
    """A network with noise on its moves. The noise of an episode's step is the same wherever the episode is tried."""

    def __init__(self, net: PictureNet, tasks: Sequence[str], noise: float, seed: int):
        self.net, self.tasks, self.noise, self.seed = net.eval(), list(tasks), noise, seed

    @torch.no_grad()
    def act(
        self, frames: NDArray[np.uint8], tasks: Sequence[str], episodes: Sequence[int], step: int
    ) -> NDArray[np.float32]:
        """As :class:`FramePolicy`; actions may leave [-1, 1] and are clipped by whoever carries them out."""
        numbers = torch.tensor([self.tasks.index(task) for task in tasks])
        moves = self.net(to_float(frames), numbers).numpy()
        if self.noise:
            count = min(MOVES.get(self.tasks[0], ARM_MOVES), moves.shape[1])
            drawn = [np.random.default_rng((self.seed, episode, step)).normal(0, 1, count) for episode in episodes]
            moves[:, :count] += self.noise * np.stack(drawn)
        return moves.astype(np.float32)


def network_of(policy: ClonedPolicy) -> str:
    """File name of a policy's network: equal training, equal name."""
    return f"{'-'.join([str(policy.episodes), *policy.grades])}.safetensors"


def make_policies(folder: Path, profile: Profile, data: Path) -> dict[str, Any]:
    """``folder``/<network>.safetensors for every different training among ``video.real2sim.policies``.

    Training episodes only; ``facts`` say how many there were of each kind. A network that is there is kept.
    """
    settings = profile.video.real2sim
    if settings.policy_kind == "rt1":
        found = checkpoint_folders(settings.checkpoints, settings.rt1)
        atomic_write_json(folder / "policies.json", {"checkpoints": [str(path) for path in found.values()]})
        return {"checkpoints": settings.rt1}
    episodes = open_episodes(profile, data)
    height, width, dims = profile.video.data.height, profile.video.data.width, load_bins(data).dims
    facts: dict[str, Any] = {}
    for policy in settings.policies:
        name = network_of(policy)
        if name in facts:
            continue
        chosen = demonstrations(episodes, settings.tasks, policy.grades, policy.episodes)
        if not (folder / name).exists():
            torch.manual_seed(profile.seed)
            net = PictureNet(height, width, len(settings.tasks), dims)
            if chosen:
                clone(net, chosen, settings.tasks, settings.cloning, profile.seed, policy.name)
            write_net(net, folder / name)
        facts[name] = {"episodes": len(chosen), "frames": sum(map(len, chosen))}
    about = {"height": height, "width": width, "tasks": list(settings.tasks), "dims": dims}
    atomic_write_json(folder / "policies.json", about)
    return {"networks": facts, "substitutions": ["Real2Sim: policies cloned from scripted experts instead of RT-1"]}


def write_net(net: nn.Module, path: Path) -> None:
    """Weights as safetensors, whole or not at all."""
    atomic_write_bytes(path, save({key: value.contiguous() for key, value in net.state_dict().items()}))


def demonstrations(episodes: EpisodeSet, tasks: Sequence[str], grades: Sequence[str], most: int) -> list[Episode]:
    """The first ``most`` training episodes of these tasks and grades."""
    found: list[Episode] = []
    for name in episodes.train if most and grades else ():
        episode = episodes[name]
        if episode.facts.get("task") in tasks and episode.facts.get("policy") in grades:
            found.append(episode)
        if len(found) == most:
            break
    return found


def clone(
    net: PictureNet, episodes: Sequence[Episode], tasks: Sequence[str], settings: Any, seed: int, label: str
) -> None:
    """Least squares on recorded actions, frame by frame; the last frame's, never carried out, counts too."""
    frames = np.concatenate([episode.frames for episode in episodes])
    actions = torch.from_numpy(np.concatenate([episode.actions for episode in episodes]))
    numbers = torch.tensor([tasks.index(episode.facts["task"]) for episode in episodes for _ in range(len(episode))])

    def loss(picked: NDArray[np.int64]) -> Tensor:
        predicted = net(to_float(frames[picked]), numbers[picked])
        return (predicted - actions[picked]).square().mean()

    fit(net, loss, len(frames), settings, seed, f"cloning: {label}")


def fit(net: nn.Module, loss: Any, count: int, settings: Any, seed: int, label: str) -> None:
    """``settings.steps`` AdamW updates (one cycle) of ``loss(picked)`` over random batches of ``count`` items."""
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(net.parameters(), settings.learning_rate, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.learning_rate, total_steps=max(2, settings.steps))
    net.train()
    for _ in track(range(settings.steps), settings.steps, label, "updates"):
        value = loss(rng.integers(count, size=settings.batch))
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        rate.step()


def policy_names(profile: Profile) -> list[str]:
    """The profile's policies in the order of the tables."""
    settings = profile.video.real2sim
    return list(settings.rt1) if settings.policy_kind == "rt1" else [policy.name for policy in settings.policies]


def load_policies(folder: Path, profile: Profile) -> dict[str, FramePolicy]:
    """The profile's policies by name; UserError when a network or checkpoint is missing."""
    settings = profile.video.real2sim
    if settings.policy_kind == "rt1":
        return {name: RT1Policy(path) for name, path in checkpoint_folders(settings.checkpoints, settings.rt1).items()}
    about, found, nets = read_json(folder / "policies.json"), {}, {}
    for policy in profile.video.real2sim.policies:
        name = network_of(policy)
        if not (folder / name).exists():
            raise UserError(f"{folder / name} is missing: run notebook 37 again")
        if name not in nets:
            nets[name] = PictureNet(about["height"], about["width"], len(about["tasks"]), about["dims"])
            nets[name].load_state_dict(load_file(folder / name))
        found[policy.name] = ClonedFramePolicy(nets[name], about["tasks"], policy.noise, profile.seed)
    return found
