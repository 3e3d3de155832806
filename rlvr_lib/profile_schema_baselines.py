"""Settings of the two baselines of Table 4: a feature-space world model and video diffusion, one of each per domain.

Sizes in the spirit of the originals: DINO-WM (arXiv 2411.04983) and AVDC (arXiv 2310.08576). The paper quotes both and
trains neither.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlvr_lib.profile_fields import Beta, Count, NotNegative, Positive, Section, Whole, divides


class BaselineTraining(Section):
    """Training of one baseline, on the clips that the base world model of its domain draws from."""

    start: Literal["released", "scratch"] = Field(description="Our released weights of the domain, or train them here.")
    updates: Count = Field(description="Updates, when training stops. Our choice; seconds are recorded.")
    batch: Count = Field(description="Clips per update; DINO-WM: 32, AVDC: 16.")
    learning_rate: Positive = Field(description="AdamW rate; DINO-WM: 5e-4, AVDC: 1e-4.")
    betas: tuple[Beta, Beta] = Field(description="AdamW betas. Our choice: 0.9, 0.999.")
    weight_decay: NotNegative = Field(description="AdamW weight decay. Our choice.")
    warmup: Whole = Field(description="Linear warm-up updates. Our choice.")
    grad_clip: Positive = Field(description="Gradient norm limit. Our choice: 1.0.")
    schedule: Literal["constant", "cosine"] = Field(description="After warm-up; both originals: constant.")
    save_every: Count = Field(description="Updates between checkpoints. Our choice.")


class FeatureBaseline(BaselineTraining):
    encoder: Literal["dinov2", "tokenizer"] = Field(
        description="Frozen: DINOv2 from the hub (DINO-WM's), or encoder and decoder of our per-frame tokenizer."
    )
    dinov2: str = Field(description="Hub name or folder of the DINOv2 model, for encoder dinov2; DINO-WM: small.")
    hidden: Count = Field(description="Width of the predictor; DINO-WM: 384 and the action's.")
    layers: Count = Field(description="Layers of the predictor; DINO-WM: 6.")
    heads: Count = Field(description="Attention heads; DINO-WM: 16.")
    intermediate: Count = Field(description="Width of the feed-forward layer; DINO-WM: 2048.")
    action_width: Count = Field(description="Width of an action's embedding beside each feature; DINO-WM: 10.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        divides(self, "hidden", "heads")
        return self


class DiffusionBaseline(BaselineTraining):
    widths: Annotated[list[Count], Field(min_length=2)] = Field(
        description="Channels per level of the U-Net, each at half the size of the one before; AVDC: 128 to 640."
    )
    blocks: Count = Field(description="Residual blocks per level; AVDC: 2.")
    norm_groups: Count = Field(description="Groups of the group normalisation; AVDC: 32.")
    attention_levels: Whole = Field(description="Lowest levels with attention beside the middle; AVDC: 2.")
    patch: Count = Field(description="Pixels per side folded into channels before the U-Net; AVDC: 1, none.")
    target: Literal["epsilon", "v_prediction", "sample"] = Field(
        description="What the U-Net predicts: noise, v, or the frame; AVDC: v."
    )
    noise_steps: Count = Field(description="Steps of the noise schedule (squared cosine); AVDC: 100.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if any(width % self.norm_groups for width in self.widths):
            raise ValueError(f"widths: must be multiples of norm_groups, {self.norm_groups}")
        if self.attention_levels > len(self.widths):
            raise ValueError(f"attention_levels: {self.attention_levels} of {len(self.widths)} levels (widths)")
        return self


class Baselines(Section):
    feature: FeatureBaseline = Field(description="Feature-space world model in DINO-WM's spirit.")
    diffusion: DiffusionBaseline = Field(description="Video diffusion in AVDC's spirit, given history and actions.")
    sampling_steps: Count = Field(description="DDIM steps of a sampled frame; AVDC: 100.")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.sampling_steps > self.diffusion.noise_steps:
            raise ValueError(
                f"sampling_steps: {self.sampling_steps}, more than diffusion.noise_steps, {self.diffusion.noise_steps}"
            )
        return self

    def check_sizes(self, height: int, width: int) -> None:
        """Raise unless frames of this size can be halved as often as the baselines need it."""
        factor = self.diffusion.patch * 2 ** (len(self.diffusion.widths) - 1)
        needs = {"baselines.diffusion.widths and patch": factor}
        if self.feature.encoder == "dinov2":
            needs["baselines.feature.encoder=dinov2"] = 16
        for what, factor in needs.items():
            for side, pixels in (("height", height), ("width", width)):
                if pixels % factor:
                    raise ValueError(f"{side}: {pixels} is not a multiple of {factor}, which {what} asks for")


__all__ = ["BaselineTraining", "Baselines", "DiffusionBaseline", "FeatureBaseline"]
