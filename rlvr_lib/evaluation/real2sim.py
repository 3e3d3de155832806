"""Figure 5's x-axis and a part of its points: policies in the real simulator and in copies with wrong physics.

Every episode is a row: ``simulator, policy, task, episode`` and what came of it. Success is the simulator's own. The
real episodes are judged from their pictures as well, which shows what judging alone costs. The same starts serve here
and in world models (real2sim_dreams.py).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from rlvr_lib.artifacts import ROOT, UserError, atomic_write_bytes, atomic_write_text, read_json
from rlvr_lib.processes import pool
from rlvr_lib.profile import Profile
from rlvr_lib.progress import track
from rlvr_lib.training.picture_policies import FramePolicy, load_policies, policy_names
from rlvr_lib.training.released import policy_world
from rlvr_lib.training.success_judge import SuccessJudge, load_judge
from rlvr_lib.training.video import load_bins, open_episodes
from rlvr_lib.worlds.drawers import AFTER_SUCCESS, Recording, prepare_worker
from rlvr_lib.worlds.policy_scenes import Physics, PolicyScene, open_scene, play
from rlvr_lib.worlds.recording import NOTE
from rlvr_lib.worlds.renderers import choose_renderer
from rlvr_lib.worlds.tabletop import TabletopRecording
from rlvr_lib.worlds.video_episodes import EpisodeSet

REAL = "real"
PUBLISHED = ROOT / "data" / "paper_results" / "real2sim.csv"
FILMED = 1  # episodes of each policy and task whose pictures are kept


@dataclass(frozen=True)
class Start:
    """Where an episode begins: ``number`` is the episode's, the same everywhere; ``name`` a recorded episode."""

    task: str
    episode: int
    number: int
    name: str
    seed: tuple[int, ...] = ()


def starts_of(profile: Profile, episodes: EpisodeSet) -> list[Start]:
    """``video.real2sim.episodes`` starts of each task, drawn from its recorded episodes; again and again if too few."""
    settings, rng = profile.video.real2sim, np.random.default_rng(profile.seed)
    names = episodes.train if settings.starts == "train" else episodes.test
    facts = {name: episodes[name].facts for name in names}
    found = []
    for place, task in enumerate(settings.tasks):
        able = [name for name in names if task in (facts[name].get("task"), facts[name].get("instruction"))]
        able = [name for name in able if not facts[name].get("done", "").startswith("1")]  # PushT: still to be done
        if not able:
            raise UserError(f"video.real2sim.tasks: no {settings.starts} episode of {task!r}")
        drawn = rng.choice(len(able), settings.episodes, replace=len(able) < settings.episodes)
        for episode, pick in enumerate(drawn):
            seed = tuple(facts[able[pick]].get("seed", ()))
            found.append(Start(task, episode, place * settings.episodes + episode, able[pick], seed))
    return found


def steps_of(profile: Profile) -> int:
    """Actions of an episode at most: rounds of as many frames as the world model predicts at once."""
    model = getattr(profile.video, policy_world(profile))
    return profile.video.real2sim.rounds * model.horizon


def physics_of(profile: Profile) -> dict[str, Physics]:
    """The real simulator and the hand-made ones, by name."""
    wrong = {one.name: Physics(one.action_scale, one.damping) for one in profile.video.real2sim.hand_made}
    return {REAL: Physics(), **wrong}


def recording_of(data: Path) -> Recording | TabletopRecording:
    """How the episodes were recorded; UserError where this machine cannot draw as they were drawn."""
    note = read_json(data / "episodes" / NOTE)
    if "domain" in note:
        return TabletopRecording(**note)
    recording = Recording(**note)
    choose_renderer(recording.renderer)
    return recording


@dataclass(frozen=True)
class Part:
    """One policy, one task, one simulator: what a process plays at a time."""

    simulator: str
    policy: str
    task: str

    def path(self, folder: Path, profile: Profile) -> Path:
        """Named by numbers: names of policies may hold anything."""
        settings = profile.video.real2sim
        number = [list(physics_of(profile)).index(self.simulator), policy_names(profile).index(self.policy)]
        return folder / "parts" / f"{'-'.join(map(str, [*number, settings.tasks.index(self.task)]))}.csv"


def simulate(folder: Path, profile: Profile, data: Path, policies: Path, judge: Path) -> dict[str, Any]:
    """``folder``/episodes.csv: every policy in every simulator; films of the real one. Parts already made are kept."""
    settings = profile.video.real2sim
    if settings.policy_kind == "rt1":
        return take_published(folder, profile)
    recording = recording_of(data)
    starts = starts_of(profile, open_episodes(profile, data))
    names = policy_names(profile)
    parts = [Part(name, policy, task) for name in physics_of(profile) for policy in names for task in settings.tasks]
    missing = [part for part in parts if not part.path(folder, profile).exists()]
    work = _Work(folder, profile, recording, tuple(starts), policies, judge, load_bins(data).dims)
    for _ in track(_spread(work, missing, settings.workers), len(missing), "policies in simulators", "parts"):
        pass
    table = pd.concat([pd.read_csv(part.path(folder, profile)) for part in parts], ignore_index=True)
    atomic_write_text(folder / "episodes.csv", table.to_csv(index=False))
    rates = table.groupby(["simulator", "policy", "task"])["success"].mean()
    return {"real": {f"{policy}, {task}": float(rate) for (policy, task), rate in rates[REAL].items()}}


def take_published(folder: Path, profile: Profile) -> dict[str, Any]:
    """RT-1 cannot be tried on a robot here: ``folder``/published.csv holds SimplerEnv's constants instead (spec G).

    One row per policy: real success at opening and closing, trials of each, and a column per hand-made simulator.
    """
    settings = profile.video.real2sim
    table = pd.read_csv(PUBLISHED).set_index("policy")
    columns = {one.name: one.name.removeprefix("SIMPLER ").replace(" ", "_") for one in settings.hand_made}
    unknown = [name for name, column in columns.items() if column not in table]
    strangers = [name for name in settings.rt1 if name not in table.index]
    if unknown or strangers:
        raise UserError(f"video.real2sim: nothing is published about {(unknown or strangers)[0]!r} ({PUBLISHED})")
    found = table.loc[settings.rt1, ["real_open", "real_close", "trials", *columns.values()]]
    found = found.rename(columns={column: name for name, column in columns.items()})
    atomic_write_text(folder / "published.csv", found.to_csv())
    return {"published": list(settings.rt1)}


@dataclass(frozen=True)
class _Work:
    """What a process needs; called with a part, it plays it and writes its rows."""

    folder: Path
    profile: Profile
    recording: Recording | TabletopRecording
    starts: tuple[Start, ...]
    policies: Path
    judge: Path
    dims: int

    def __call__(self, part: Part) -> None:
        scene, policies, judge = _stage_set(self, part.task)
        rows = []
        for start in (start for start in self.starts if start.task == part.task):
            acting = _one(policies[part.policy], part.task, start.number)
            most = steps_of(self.profile)
            after = AFTER_SUCCESS if part.simulator == REAL else 0  # nobody looks at the others' pictures afterwards
            physics = physics_of(self.profile)[part.simulator]
            played = play(scene, acting, start.seed, physics, most, self.dims, after)
            row = {name: getattr(part, name) for name in ("simulator", "policy", "task")}
            row |= {"episode": start.episode, "start": start.name, "success": float(played.success)}
            row |= {"frames": len(played.frames), "bad_actions": played.bad_actions}
            if part.simulator == REAL:
                row["probability"] = judge.of_episode(played.frames[1:], part.task)
                row["verdict"] = judge.verdict(row["probability"])
                if start.episode < FILMED:
                    save_film(film_path(self.folder, self.profile, part.policy, part.task), played.frames)
            rows.append(row)
        atomic_write_text(part.path(self.folder, self.profile), pd.DataFrame(rows).to_csv(index=False))


_sets: dict[str, tuple[PolicyScene, dict[str, FramePolicy], SuccessJudge]] = {}  # per task: a scene takes a second


def _stage_set(work: _Work, task: str) -> tuple[PolicyScene, dict[str, FramePolicy], SuccessJudge]:
    """Scene, policies and judge of this process; it works for one stage only."""
    if task not in _sets:
        torch.set_num_threads(1)
        policies, judge = load_policies(work.policies, work.profile), load_judge(work.judge, work.profile)
        _sets[task] = open_scene(task, work.recording), policies, judge
    return _sets[task]


def _one(policy: FramePolicy, task: str, number: int) -> Any:
    """A policy that sees one episode alone."""
    return lambda frame, step: policy.act(frame[None], [task], [number], step)[0]


def _spread(work: _Work, parts: Sequence[Part], workers: int) -> Iterator[None]:
    """Play parts in processes of their own: OpenGL and MuJoCo read their settings when first imported."""
    if not parts:
        return
    drawn = isinstance(work.recording, Recording)
    setting = (prepare_worker, (work.recording.renderer,)) if drawn else ()
    with pool(min(workers, len(parts)), *setting) as processes:
        yield from processes.imap_unordered(work, parts)


def film_path(folder: Path, profile: Profile, policy: str, task: str) -> Path:
    """Where the pictures of a policy's first episode lie."""
    place = policy_names(profile).index(policy), profile.video.real2sim.tasks.index(task)
    return folder / "films" / f"{place[0]}-{place[1]}.npz"


def save_film(path: Path, frames: NDArray[np.uint8]) -> None:
    buffer = BytesIO()
    np.savez_compressed(buffer, image=frames)
    atomic_write_bytes(path, buffer.getvalue())


def load_film(path: Path) -> NDArray[np.uint8]:
    """Frames uint8 [T, H, W, 3]."""
    with np.load(path, allow_pickle=False) as archive:
        return archive["image"]
