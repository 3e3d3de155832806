"""Figure 5's other points: the same policies and starts inside a world model, judged from predicted frames (spec G).

The judge never sees a simulator's state. What is odd is counted and stands in the row: actions that were no numbers,
sampled ids that are no code of a frame, verdicts that were left open.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from rlvr_lib.artifacts import atomic_write_text
from rlvr_lib.evaluation.real2sim import FILMED, Start, film_path, save_film, starts_of
from rlvr_lib.evaluation.video import load_world_model
from rlvr_lib.profile import Profile
from rlvr_lib.progress import say
from rlvr_lib.training.dreams import Dreams
from rlvr_lib.training.frame_dreams import dreamer_of
from rlvr_lib.training.picture_policies import FramePolicy, load_policies
from rlvr_lib.training.released import policy_world
from rlvr_lib.training.success_judge import SCORES, SUCCESS, SuccessJudge, episode_probability, load_judge
from rlvr_lib.training.video import make_task, open_episodes
from rlvr_lib.worlds.video_segments import to_float


@dataclass(frozen=True)
class Case:
    """One dreamt episode."""

    policy: str
    start: Start


class Watching:
    """Lets every policy act on its own rows, and the judge look at all."""

    def __init__(self, cases: Sequence[Case], policies: dict[str, FramePolicy], judge: SuccessJudge):
        self.cases, self.policies, self.judge = list(cases), policies, judge

    def __call__(
        self, rows: NDArray[np.int64], frames: NDArray[np.uint8], step: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        actions: NDArray[np.float32] | None = None
        for name, policy in self.policies.items():
            own = [place for place, row in enumerate(rows) if self.cases[row].policy == name]
            if own:
                starts = [self.cases[rows[place]].start for place in own]
                answer = policy.act(frames[own], [one.task for one in starts], [one.number for one in starts], step)
                actions = np.zeros((len(rows), answer.shape[1]), dtype=np.float32) if actions is None else actions
                actions[own] = answer
        assert actions is not None, "an episode without a policy"
        return actions, self.judge.probability(frames, [self.cases[row].start.task for row in rows])


def dream(
    folder: Path, profile: Profile, data: Path, tokenizer: Path, model: Path, policies: Path, judge: Path, name: str
) -> dict[str, Any]:
    """``folder``/episodes.csv: every policy inside the world model in ``model``, judged from predicted frames."""
    settings, episodes = profile.video.real2sim, open_episodes(profile, data)
    task = make_task(profile, data, tokenizer, policy_world(profile))
    found, critic = load_policies(policies, profile), load_judge(judge, profile)
    cases = [Case(policy, start) for policy in found for start in starts_of(profile, episodes)]
    first = {case.start.name: to_float(episodes[case.start.name].frames[0]) for case in cases}
    starts = torch.stack([first[case.start.name] for case in cases])
    dreamer = dreamer_of(load_world_model(model, profile), task, Watching(cases, found, critic), settings, folder)
    dreams = dreamer.run(starts, profile.seed)
    table = dream_rows(name, cases, dreams, critic)
    atomic_write_text(folder / "episodes.csv", table.to_csv(index=False))
    for row, case in enumerate(cases):
        if case.start.episode < FILMED:
            save_film(film_path(folder, profile, case.policy, case.start.task), dreamer.film(dreams, row))
    odd = {name: int(table[name].sum()) for name in ("bad_actions", "invalid_ids")}
    say(f"{name}: {(table['verdict'] == SUCCESS).mean():.2f} judged a success; {odd}")
    return odd


def dream_rows(name: str, cases: Sequence[Case], dreams: Dreams, judge: SuccessJudge) -> pd.DataFrame:
    """One row per dreamt episode, judged up to where its policy ended it; not at the start frame, which is real."""
    rows = []
    for number, case in enumerate(cases):
        last = max(1, int(dreams.stopped[number]))
        probability = episode_probability(dreams.probability[number, 1 : last + 1], judge.window)
        word = judge.verdict(probability)
        row = {"simulator": name, "policy": case.policy, "task": case.start.task, "episode": case.start.episode}
        row |= {"start": case.start.name, "success": SCORES[word], "frames": last + 1}
        row |= {"bad_actions": int(dreams.bad_actions[number]), "invalid_ids": int(dreams.invalid[number])}
        rows.append({**row, "probability": probability, "verdict": word})
    return pd.DataFrame(rows)
