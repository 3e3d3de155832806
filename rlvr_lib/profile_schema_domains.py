"""Settings of the other domains (PushT, rope, granular; the paper's Table 4), shared by all three but for their data.

The paper released nothing for them: sizes and protocol are DINO-WM's where known (spec A.3), else our choice.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from rlvr_lib.profile_fields import Count, Section
from rlvr_lib.profile_schema_baselines import Baselines
from rlvr_lib.profile_schema_real2sim import Real2Sim
from rlvr_lib.profile_schema_video import VideoModel, VideoRLVR, VisualTokenizer, check_sizes

DOMAINS = ("pusht", "rope", "granular")


class DomainData(Section):
    root: str = Field(description="Folder made by rlvr convert-dino-wm, for source dino_wm. Our choice.")
    episodes: Count = Field(description="Episodes recorded, or used at most; DINO-WM: 18 500, 1 000, 1 000 (spec A.3).")
    frame_every: Count = Field(description="Simulator steps between frames; DINO-WM: 5, 1, 1 (spec A.3).")
    context: Count = Field(description="History frames; DINO-WM: 3, 1, 1 (spec A.3).")


class Domains(Section):
    source: Literal["recorded", "dino_wm"] = Field(
        description="Simulated here, or DINO-WM's files, converted (spec A.3)."
    )
    height: Count = Field(description="Rows of a frame; DINO-WM: 224 (spec A.3).")
    width: Count = Field(description="Columns of a frame; DINO-WM: 224 (spec A.3).")
    test_every: Count = Field(description="One episode in so many is test; DINO-WM: 10 (spec A.3).", ge=2)
    test_segments: Count = Field(description="Test segments evaluated at most, one per test episode. Our choice.")
    samples: Count = Field(description="Samples of each test segment, their scores averaged; spec F.2: 1. Our choice.")
    workers: Count = Field(description="Processes that record. Our choice.")
    pusht: DomainData = Field(description="PushT: an agent pushes a T (spec A.3).")
    rope: DomainData = Field(description="Rope, pushed about (spec A.3).")
    granular: DomainData = Field(description="A pile of grains, pushed about (spec A.3).")
    frame_tokenizer: VisualTokenizer = Field(description="Per-frame tokenizer, one per domain (spec B.2, A.3).")
    single_step: VideoModel = Field(description="World model, one per domain; its context is the domain's (spec C.3).")
    single_step_rlvr: VideoRLVR = Field(description="GRPO, once per domain (spec E).")
    real2sim: Real2Sim = Field(
        description="PushT's policies judged inside its single-step world model. Our choice; spec G has drawers only."
    )
    baselines: Baselines = Field(description="Two baselines trained on the same data, one of each per domain.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        check_sizes("frame", self.frame_tokenizer, self.height, self.width)
        self.baselines.check_sizes(self.height, self.width)
        if self.height != self.width:
            raise ValueError(f"height: tables are square, so frames must be; {self.height} x {self.width}")
        return self


__all__ = ["DOMAINS", "DomainData", "Domains"]
