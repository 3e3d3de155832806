"""Sections of a profile for robot video; sources as in :mod:`rlvr_lib.profile_schema` ("spec B.4" and so on)."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from rlvr_lib.profile_fields import Beta, Count, NotNegative, Positive, Section, Start, Whole, even_batches
from rlvr_lib.profile_schema_real2sim import Real2Sim

Widths = Annotated[list[Count], Field(min_length=2)]


class VideoData(Section):
    source: Literal["drawers", "rt1", "pusht", "rope", "granular", "dino_wm"] = Field(
        description="Meta-World drawers recorded here, or RT-1 converted to one file per episode (spec A.1); the "
        "others are set by the section domains."
    )
    root: str = Field(description="Folder of converted episodes, for sources rt1 and dino_wm. Our choice.")
    episodes: Count = Field(description="Episodes recorded (drawers) or used at most (rt1); spec A.1: 87 212.")
    height: Count = Field(description="Rows of a frame; spec A.1: 256.")
    width: Count = Field(description="Columns of a frame; spec A.1: 320.")
    test_every: Annotated[int, Field(ge=2)] = Field(
        description="Episodes whose position is a multiple of this are test; spec A.1: 100."
    )
    test_segments: Count = Field(description="Test segments evaluated at most, one per test episode; spec F.2: 873.")
    frame_every: Count = Field(description="Simulator steps between recorded frames (drawers). Our choice.")
    workers: Count = Field(description="Processes that record (drawers). Our choice.")
    ranges: Literal["rt1", "measured"] = Field(
        description="Action ranges: RT-1's own (spec A.2), or measured on the training episodes."
    )
    jitter: bool = Field(description="One random colour jitter per clip in training; spec A.1: yes.")
    crop: bool = Field(description="Random crop in tokenizer training; spec A.1: yes.")


class VisualTokenizer(Section):
    """Sizes and training of one visual tokenizer (spec B.2 or B.3, B.4)."""

    start: Start = Field(description="released: load our weights, train live_iterations live; scratch: train it all.")
    widths: Widths = Field(description="Channels per stage of encoder and decoder; spec B.2, B.3.")
    encoder_blocks: Count = Field(description="Residual blocks per encoder stage; spec B.2, B.3: 2.")
    decoder_blocks: Count = Field(description="Residual blocks per decoder stage; spec B.2: 2, B.3: 3.")
    latent: Count = Field(description="Channels of the latent; spec B.2, B.3: 64.")
    norm_groups: Count = Field(description="Groups of the group normalisation; spec B.2: 32.")
    levels: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)] = Field(
        description="FSQ levels per scalar; spec B.1: 7, 5, 5, 5, 5."
    )
    iterations: Whole = Field(description="Loop iterations, generator and discriminator alternate; spec B.4: 600 000.")
    live_iterations: Whole = Field(description="Iterations shown live with released weights. Our choice.")
    clips: Count = Field(description="Clips per update over all devices; spec B.4: 16.")
    clip_frames: Count = Field(description="Frames per clip; spec B.4: 8.")
    learning_rate: Positive = Field(description="AdamW peak rate; spec B.4: 5e-4.")
    betas: tuple[Beta, Beta] = Field(description="AdamW betas; spec B.4: 0.9, 0.999.")
    warmup: Whole = Field(description="Warm-up updates; spec B.4: 5 000.")
    grad_clip: Positive = Field(description="Gradient norm limit; spec B.4: 1.0.")
    perceptual_weight: NotNegative = Field(description="Weight of LPIPS beside L1; spec B.4: 1.0.")
    perceptual_loss: Literal["lpips", "ms_ssim"] = Field(
        default="lpips", description="Perceptual part; spec B.4: LPIPS. 1 - MS-SSIM draws flat pictures better."
    )
    adversary_weight: NotNegative = Field(description="Weight of the adversary's term; spec B.4: 0.1. 0: no adversary.")
    adversary_start: Whole = Field(description="Iteration at which the adversary starts; spec B.4: 10 000.")
    penalty_weight: NotNegative = Field(description="Weight of the gradient penalty; spec B.4: 10.")
    save_every: Count = Field(description="Iterations between checkpoints. Our choice.")


class VideoModel(Section):
    """A world model over one layout and its likelihood pre-training (spec C, D)."""

    start: Start = Field(description="released: load our weights, train live_steps live; scratch: train it all.")
    hidden: Count = Field(description="Width; spec C.1: 768.")
    layers: Count = Field(description="Layers; spec C.1: 12.")
    heads: Count = Field(description="Attention heads; spec C.1: 12.")
    intermediate: Count = Field(description="Width of the feed-forward layer; spec C.1: 3072.")
    context: Count = Field(
        description="History frames (single-step), context frames (multi-step); spec C.3: 4, C.4: 1."
    )
    horizon: Count = Field(description="Predicted frames; spec C.3: 1, C.4: 7.")
    steps: Whole = Field(description="Updates; spec D: 990 000 single-step, 450 000 multi-step.")
    live_steps: Whole = Field(description="Updates shown live with released weights. Our choice.")
    batch: Count = Field(description="Sequences per update; spec D: 32.")
    learning_rate: Positive = Field(description="AdamW rate, constant after warm-up; spec D: 5e-5.")
    betas: tuple[Beta, Beta] = Field(description="AdamW betas; spec D: 0.9, 0.999.")
    weight_decay: NotNegative = Field(description="AdamW weight decay; spec D: 0.")
    warmup: Whole = Field(description="Linear warm-up updates; spec D: 5 000.")
    grad_clip: Positive = Field(description="Gradient norm limit; spec D: 1.0.")
    schedule: Literal["constant", "cosine"] = Field(description="After warm-up; spec D: constant.")
    history_loss: bool = Field(description="Frames of the prompt are learnt as well; spec C.3, C.4: no.")
    keep_best: bool = Field(description="Keep the validation with the lowest loss, not the end. Our choice.")
    evaluate_every: Count = Field(description="Updates between validations; spec D: 5 000.")
    evaluate_segments: Count = Field(description="Segments of a validation's frame metrics. Our choice (spec D: none).")
    save_every: Count = Field(description="Updates between checkpoints; spec D: 10 000.")


class MoreLikelihood(Section):
    """The base model trained further by likelihood: the control that RLVR is held against (claim C8)."""

    start: Start = Field(description="released: load our weights; scratch: train them.")
    steps: Count = Field(description="Further updates; spec I: a third of the base's, 150 000. Same time: as measured.")
    learning_rate: Positive = Field(description="AdamW rate at the start, scheduled as the base's; spec D: 5e-5.")


class RewardWeights(Section):
    """R = -(mae MAE + lpips LPIPS + mse MSE - psnr PSNR - ssim SSIM), mean over predicted frames (spec E.3)."""

    mae: NotNegative = Field(description="Mean absolute error; spec E.3: 1.")
    lpips: NotNegative = Field(description="LPIPS with the trunk video.metric; spec E.3: 1.")
    mse: NotNegative = Field(description="Mean squared error; spec E.3: 0.")
    psnr: NotNegative = Field(description="PSNR in dB; spec E.3: 0.")
    ssim: NotNegative = Field(description="SSIM; spec E.3: 0.")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not any((self.mae, self.lpips, self.mse, self.psnr, self.ssim)):
            raise ValueError("lpips: at least one weight must be above 0")
        return self


class VideoRLVR(Section):
    """GRPO of one world model (spec E)."""

    steps: Count = Field(description="Rollout batches; spec E.1: 100 to 300, stopped by hand.")
    prompts_per_step: Count = Field(description="Clips per rollout batch; spec E.1: 128.")
    prompts_per_update: Count = Field(description="Clips per optimiser update; spec E.1: 32, four updates a batch.")
    group_size: Annotated[int, Field(ge=2)] = Field(description="Responses per clip, G; spec E.1: 16.")
    learning_rate: Positive = Field(description="Constant, no warm-up; spec E.1: 5e-5.")
    betas: tuple[Beta, Beta] = Field(description="AdamW betas; spec E.1: 0.9, 0.999.")
    weight_decay: NotNegative = Field(description="AdamW weight decay; spec E.1: 0.01.")
    trainable: Literal["all", "norms"] = Field(
        description="Weights that RLVR changes; spec E.1: all. The gains of the norms suit few rollouts. Our choice."
    )
    head_scale_rate: NotNegative = Field(
        description="Adam's rate for one number more, the scale of the gains before the head; 0: none. Our choice."
    )
    grad_clip: Positive = Field(description="Gradient norm limit; spec E.1: 1.0.")
    kl_coefficient: NotNegative = Field(description="Weight of the KL in the loss; spec E.1: 1e-3.")
    clip: Positive = Field(description="Range of the token ratio around 1; spec E.1: 0.2.")
    dual_clip: Annotated[float, Field(gt=1)] = Field(description="Bound for negative advantages; spec E.1: 3.")
    entropy_coefficient: NotNegative = Field(description="Entropy bonus; spec E.1: 0.")
    temperature: Positive = Field(description="Of the rollouts, all ids kept; spec E.2: 1.0.")
    top_p: Annotated[float, Field(gt=0, le=1)] = Field(description="Of the rollouts; spec E.2: 1.")
    reward: RewardWeights = Field(description="Weights of the metrics in the reward (spec E.3).")
    evaluate_every: Count = Field(description="Rollout batches between validations; spec E.5: 10.")
    evaluate_segments: Count = Field(description="Test segments of a validation; spec E.5: 40.")
    save_every: Count = Field(description="Rollout batches between checkpoints. Our choice.")
    bf16: bool = Field(description="Log-probabilities and updates in bfloat16 autocast; spec E.1: yes.")
    shared_prompt: bool = Field(description="Run a prompt once for all responses of its group. Exact. Our choice.")
    skip_equal: bool = Field(
        description="Leave groups of equal rewards out of passes and updates: exact but for KL and entropy. Our choice."
    )
    sequences_per_micro_batch: Count = Field(
        description="Sequences per forward pass over all devices; spec E.1: 8 on each of 4 GPUs."
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        even_batches(self)
        return self


class Samples(Section):
    """How often a segment is sampled; what a sample costs differs by kind."""

    single_step: Count = Field(description="Of single-step models, those of other domains too; spec F.2: 1.")
    multi_step: Count = Field(description="Of multi-step models; spec F.2: 1.")


class VideoEvaluation(Section):
    temperature: NotNegative = Field(description="Of sampled predictions; spec F.2: 1.0.")
    top_k: Whole = Field(description="Most likely ids kept, 0 for all; spec F.2: 100.")
    samples: Samples = Field(description="Samples per segment at that temperature, their scores averaged. Our choice.")
    batch: Count = Field(description="Segments sampled together. Our choice.")
    bootstrap_draws: Annotated[int, Field(ge=100)] = Field(description="Resamples behind an interval. Our choice.")


class Video(Section):
    data: VideoData = Field(description="Episodes and segments (spec A).")
    metric: Literal["vgg", "squeeze", "alex"] = Field(description="Trunk of LPIPS; spec E.3, F.1: vgg.")
    frame_tokenizer: VisualTokenizer = Field(description="Per-frame tokenizer (spec B.2).")
    compressive_tokenizer: VisualTokenizer = Field(description="Tokenizer with cross-attention (spec B.3).")
    dynamics_patch: Count = Field(description="Latent positions per side that one dynamics token covers; spec B.3: 4.")
    attention_heads: Count = Field(description="Heads of the compressive tokenizer's cross-attention; spec B.3: 4.")
    single_step: VideoModel = Field(description="World model over per-frame tokens (spec C.3).")
    multi_step: VideoModel = Field(description="World model over compressive tokens (spec C.4).")
    single_step_rlvr: VideoRLVR = Field(description="GRPO of the single-step model (spec E).")
    multi_step_rlvr: VideoRLVR = Field(description="GRPO of the multi-step model (spec E).")
    multi_step_third: MoreLikelihood = Field(description="The multi-step base after a third more updates (C8).")
    multi_step_same_time: MoreLikelihood = Field(description="The same after as long as RLVR takes (C8).")
    evaluation: VideoEvaluation = Field(description="Sampling and intervals of the tables (spec F.2).")
    real2sim: Real2Sim = Field(description="Policies judged inside a world model (spec G, Figure 5).")

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for name, tokenizer in (("frame", self.frame_tokenizer), ("compressive", self.compressive_tokenizer)):
            check_sizes(name, tokenizer, self.data.height, self.data.width, "data.")
        if self.compressive_tokenizer.clip_frames < 2:
            raise ValueError("compressive_tokenizer.clip_frames: must be at least 2, a context frame and one more")
        return self


def check_sizes(name: str, tokenizer: VisualTokenizer, height: int, width: int, above: str = "") -> None:
    """Raise unless the ``name`` tokenizer's widths fit its groups and its stages halve both sides of a frame evenly."""
    factor = 2 ** (len(tokenizer.widths) - 1)
    if any(channels % tokenizer.norm_groups for channels in tokenizer.widths):
        raise ValueError(f"{name}_tokenizer.widths: must be multiples of norm_groups, {tokenizer.norm_groups}")
    for side, pixels in (("height", height), ("width", width)):
        if pixels % factor:
            raise ValueError(
                f"{above}{side}: {pixels} is not a multiple of {factor}, which {name}_tokenizer.widths asks for"
            )


__all__ = [
    "MoreLikelihood",
    "Video",
    "VideoData",
    "VideoEvaluation",
    "VideoModel",
    "VideoRLVR",
    "VisualTokenizer",
    "check_sizes",
]
