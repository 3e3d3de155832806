"""Settings of notebook 36 (paper, Figure 4): best of N, group size, one metric as the reward; unusual actions."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from rlvr_lib.profile_fields import Count, Positive, Section

Group = Annotated[int, Field(ge=2)]


class BestOfN(Section):
    samples: Count = Field(description="Predictions of each segment; paper, Figure 4a: 100 (spec F.4).")
    segments: Count = Field(description="Test segments. Our choice.")
    cooler: tuple[Positive, ...] = Field(description="The base once more at these temperatures. Our choice.")


class GroupSizes(Section):
    """Every size sees at least ``prompts`` clips and draws at least ``samples`` rollouts."""

    sizes: tuple[Group, ...] = Field(description="Responses per clip, G; paper, Figure 4b: 4, 8, 16, 32.")
    seeds: Count = Field(description="Trainings of each size. Our choice; the paper shows one.")
    prompts_per_step: Count = Field(description="Clips per rollout batch; spec E.1: 128.")
    prompts: Count = Field(description="Clips that every size sees. Our choice.")
    samples: Count = Field(description="Rollouts that every size draws. Our choice.")
    validations: Count = Field(description="Points of a curve. Our choice.")
    segments: Count = Field(description="Test segments of a point; spec E.5: 40.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if len(set(self.sizes)) < 2:
            raise ValueError("sizes: at least two different ones are needed")
        for size in self.sizes:
            if self.steps(size) % self.validations:
                raise ValueError(
                    f"validations: must divide the {self.steps(size)} rollout batches of group size {size}"
                )
        return self

    def steps(self, size: int) -> int:
        """Rollout batches of group size ``size``."""
        by_prompts, by_samples = self.prompts, -(-self.samples // size)
        return -(-max(by_prompts, by_samples) // self.prompts_per_step)


class MetricRewards(Section):
    steps: Count = Field(description="Rollout batches of each model; paper, Figure 4c: not given.")
    prompts_per_step: Count = Field(description="Clips per rollout batch; spec E.1: 128.")
    group_size: Group = Field(description="Responses per clip, G; spec E.1: 16.")
    samples: Count = Field(description="Samples of each test segment, their scores averaged; spec F.2: 1. Our choice.")


class Trials(Section):
    """Our own: actions that the training episodes do not hold."""

    episodes: Count = Field(description="Episodes of each kind of behaviour. Our choice.")
    branches: Count = Field(description="Histories at which every action is tried. Our choice.")


class ModelAnalysis(Section):
    """What notebook 36 looks at, all with the single-step model."""

    best_of: BestOfN = Field(description="Best of N samples, N up to samples (claim C11).")
    group_sizes: GroupSizes = Field(description="RLVR with groups of several sizes (claim C9).")
    metric_rewards: MetricRewards = Field(description="RLVR with each metric as the only reward (claim C10).")
    trials: Trials = Field(description="Unusual actions, and other actions from one history. Our own.")


__all__ = ["ModelAnalysis"]
