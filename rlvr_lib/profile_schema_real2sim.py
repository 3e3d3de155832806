"""Settings of Real2Sim (spec G, Figure 5): which policies are judged, in which simulators, and who says success."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlvr_lib.profile_fields import Count, NotNegative, Positive, Section, Share, Whole

Grade = Literal["expert", "good", "fair", "poor", "bad", "steady", "random"]  # the last two: PushT's only


class ClonedPolicy(Section):
    """One policy that acts on pictures. Policies with equal episodes and grades share their network."""

    name: str = Field(description="As tables and figures call it. Our choice.")
    episodes: Whole = Field(description="Training episodes it is cloned from; 0: none, an untrained one. Our choice.")
    grades: list[Grade] = Field(description="Grades of the experts it is cloned from. Our choice.")
    noise: NotNegative = Field(description="Standard deviation of the noise on its moves when it acts. Our choice.")


class Cloning(Section):
    steps: Count = Field(description="Updates of each network. Our choice.")
    batch: Count = Field(description="Frames per update. Our choice.")
    learning_rate: Positive = Field(description="AdamW peak rate. Our choice.")


class HandMade(Section):
    """A simulator with wrong physics, in factors of the real one's values."""

    name: str = Field(description="As tables and figures call it. Our choice.")
    action_scale: Positive = Field(description="How far the arm goes for an action; 1 is right. Our choice.")
    damping: Positive = Field(description="Damping of the drawer's joint, PushT: of the agent's way; 1 is right. Ours.")


class Judge(Section):
    """A classifier of frames that says whether an episode succeeded; the paper's judge is open (spec G)."""

    labels: str = Field(
        description="CSV of labelled frames for recordings that know no success (episode, frame, task, success). "
        "Empty: the recorded success. Our choice."
    )
    steps: Count = Field(description="Updates. Our choice.")
    batch: Count = Field(description="Frames per update. Our choice.")
    learning_rate: Positive = Field(description="AdamW peak rate. Our choice.")
    window: Count = Field(description="Frames in a row whose mean probability counts. Our choice.")
    undecided: tuple[Share, Share] = Field(
        description="Episodes whose probability lies in this band are undecided and count half. Our choice."
    )
    through_tokenizer: Whole = Field(
        description="Held-out episodes that are also judged after a pass through the tokenizer. Our choice."
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.undecided[0] > self.undecided[1]:
            raise ValueError("undecided: the lower end must not lie above the upper one")
        return self


class Real2Sim(Section):
    policy_kind: Literal["cloned", "rt1"] = Field(
        description="Policies cloned here, or RT-1's published checkpoints (spec G)."
    )
    checkpoints: str = Field(description="Folder of the RT-1 checkpoints, for policy_kind rt1 (spec G). Our choice.")
    rt1: list[str] = Field(description="Checkpoints in that folder, each a folder of this name; spec G names four.")
    policies: list[ClonedPolicy] = Field(description="The cloned policies. Our choice.")
    cloning: Cloning = Field(description="How they are cloned. Our choice.")
    tasks: Annotated[list[str], Field(min_length=1)] = Field(description="Commands; spec G: six drawer commands.")
    episodes: Count = Field(description="Episodes per policy, task and simulator; spec G: up to 100 per command.")
    starts: Literal["train", "test"] = Field(description="Split of the start frames; spec G: train (trap H.24).")
    rounds: Count = Field(description="Rounds of as many frames as the model's horizon; spec G: at most 16.")
    temperature: Positive = Field(description="Of sampled frames; spec G: 1.0.")
    top_k: Whole = Field(description="Most likely ids kept, 0 for all; spec G: 100.")
    repetition_penalty: Annotated[float, Field(ge=1)] = Field(description="On ids that occurred; spec G: 1.2.")
    hand_made: Annotated[list[HandMade], Field(min_length=1)] = Field(
        description="Simulators with wrong physics; paper: two SIMPLER simulators (spec G)."
    )
    decides: str = Field(description="The hand-made simulator that claim C13 is decided against. Our choice.")
    judge: Judge = Field(description="Who says success inside a world model (spec G: open).")
    batch: Count = Field(description="Episodes sampled together. Our choice.")
    workers: Count = Field(description="Processes that simulate. Our choice.")
    bootstrap_draws: Annotated[int, Field(ge=100)] = Field(description="Resamples behind an interval. Our choice.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for key, found in (
            ("policies", [one.name for one in self.policies]),
            ("hand_made", [one.name for one in self.hand_made]),
            ("tasks", self.tasks),
        ):
            if len(set(found)) < len(found):
                raise ValueError(f"{key}: two have the same name")
        if self.decides not in [one.name for one in self.hand_made]:
            raise ValueError(f"decides: {self.decides!r} is no name in hand_made")
        named = self.policies if self.policy_kind == "cloned" else self.rt1
        if len(named) < 2:
            raise ValueError(f"{'policies' if self.policy_kind == 'cloned' else 'rt1'}: needs two policies or more")
        return self


__all__ = ["ClonedPolicy", "Cloning", "HandMade", "Judge", "Real2Sim"]
