"""GRPO of a video world model (E): the shared-prompt trainer, with known actions put into multi-step responses."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor, nn
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from rlvr_lib.artifacts import atomic_write_text
from rlvr_lib.profile import Profile
from rlvr_lib.profile_schema_video import VideoRLVR
from rlvr_lib.progress import MetricsLog, say
from rlvr_lib.tokens.video_layouts import Layout
from rlvr_lib.training.checkpoints import train_from_last
from rlvr_lib.training.generation import SampleResult, sample
from rlvr_lib.training.grpo import GroupedGRPOTrainer, MetricsCallback
from rlvr_lib.training.grpo_monitor import Validation
from rlvr_lib.training.grpo_settings import grpo_config
from rlvr_lib.training.scaled_adamw import ScaledAdamW
from rlvr_lib.training.video import make_task, open_episodes
from rlvr_lib.training.video_pretrain import predict
from rlvr_lib.training.video_rollouts import FrameReward, RolloutClips
from rlvr_lib.training.video_sampling import given_columns, sample_response
from rlvr_lib.worlds.perceptual import perceptual
from rlvr_lib.worlds.video_clips import Clip, ClipSource, held_out_clips

VALIDATION_TOP_K = 100  # training rollouts keep all ids, validation the likeliest hundred (E.2, trap H.5)


class VideoGRPOTrainer(GroupedGRPOTrainer):
    """`GroupedGRPOTrainer` over clips: responses of one length, given ids neither sampled nor part of loss and KL.

    Args (all others are the base class's): ``clips`` with the prompts of the dataset's ``item`` column;
    ``head_scale_rate``, see `ScaledAdamW`. ``graphs`` False samples without captured CUDA graphs.
    """

    graphs: bool | None = None

    def __init__(self, *args: Any, clips: RolloutClips, head_scale_rate: float = 0.0, **kw: Any):
        self.clips, self.layout, self._rolled, self.head_scale_rate = clips, clips.task.layout, [], head_scale_rate
        super().__init__(*args, processing_class=id_tokenizer(self.layout), **kw)
        self._head_norm = self._norm_of_head()  # of the base, also where a run is resumed

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """TRL's AdamW, with the scale of the gains before the head as one number more where that has a rate."""
        if self.head_scale_rate and self.optimizer is None:
            args, own = self.args, self.model if model is None else model
            decayed, head = set(self.get_decay_parameter_names(own)), own.model.norm.weight
            named = [(name, weight) for name, weight in own.named_parameters() if weight.requires_grad]
            plain = [weight for name, weight in named if name not in decayed and weight is not head]
            groups: list[dict[str, Any]] = [
                {"params": [weight for name, weight in named if name in decayed], "weight_decay": args.weight_decay},
                {"params": plain, "weight_decay": 0.0},
                {"params": [head], "weight_decay": 0.0, "scale_rate": self.head_scale_rate},
            ]
            betas = args.adam_beta1, args.adam_beta2
            self.optimizer = ScaledAdamW(groups, lr=args.learning_rate, betas=betas, eps=args.adam_epsilon)
        return super().create_optimizer(model)

    def _norm_of_head(self) -> float:
        """Length of the vector of gains before the head."""
        return self.accelerator.unwrap_model(self.model).model.norm.weight.detach().float().norm().item()

    def sample_responses(self, model, prompts, group_size: int, generator: torch.Generator) -> SampleResult:
        """All ids may be drawn, none ends a response; the actions of the prompts' clips are put in."""
        rolled = self.clips.prompts(self._rolled[:: len(self._rolled) // len(prompts)])
        given = torch.stack([prompt.given for prompt in rolled]) if len(self.layout.given) else None
        return sample(
            model,
            prompts,
            group_size,
            self.layout.response,
            None,
            0,
            temperature=self.temperature,
            top_p=self.args.top_p,
            generator=generator,
            given=given_columns(self.layout, given, len(prompts)),
            graphs=self.graphs,
            dtype=torch.bfloat16 if self.args.bf16 else None,
        )

    def _generate_and_score_completions(self, inputs):
        """Rollouts; positions of given ids are masked out of loss and KL (TRL's name for that is tool mask)."""
        self._rolled = [row["item"] for row in inputs]
        batch = super()._generate_and_score_completions(inputs)
        if len(self.layout.given):
            ids = batch["completion_ids"]
            batch["tool_mask"] = self.layout.sampled.int().to(ids.device).expand(len(ids), -1).contiguous()
        if self.head_scale_rate:
            self._metrics["train"]["head_scale"].append(self._norm_of_head() / self._head_norm)
        return batch


class FrameValidation(Validation):
    """One sample for each of the first test segments: the reward and its parts as ``validation_*`` (E.5).

    ``path`` takes the values of single segments, a JSON line per validation: ``step``, and a list per metric.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        reward: FrameReward,
        settings: VideoRLVR,
        trainer: Any,
        seed: int,
        path: Path | None = None,
    ):
        super().__init__(settings)
        self.clips, self.reward, self.trainer, self.seed, self.path = clips, reward, trainer, seed, path

    def _measure(self, step: int) -> dict[str, float]:
        task = self.reward.task
        frames = predict(self.trainer.model, task, self.clips, top_k=VALIDATION_TOP_K, seed=self.seed)
        values = self.reward.compare(task.truth(self.clips), frames[:, None])
        if self.path is not None:
            self._keep(step, {name: value.tolist() for name, value in values.items()})
        found = {name: float(value.mean()) for name, value in values.items()}
        found["reward"] = float(self.reward.reward(values).mean())
        say(f"validation at step {step}: " + ", ".join(f"{name} {value:.4f}" for name, value in found.items()))
        return {f"validation_{name}": value for name, value in found.items()}

    def _keep(self, step: int, values: dict[str, list[float]]) -> None:
        """Lines of this step and later ones, left by a run that was cut off, are replaced."""
        before = [row for row in MetricsLog(self.path).read() if row["step"] < step] if self.path.exists() else []
        rows = [*before, {"step": step, **values}]
        atomic_write_text(self.path, "".join(json.dumps(row) + "\n" for row in rows))


class _IdWords(PreTrainedTokenizerFast):
    """TRL turns every response into text, for logs that nobody reads here; a single one can still be looked at."""

    def batch_decode(self, sequences: Sequence[Any], *_: Any, **__: Any) -> list[str]:
        return [""] * len(sequences)


def id_tokenizer(layout: Layout) -> PreTrainedTokenizerFast:
    """What TRL wants to see as a tokenizer: id 17 is the word "17"; the last two ids pad and end."""
    words = {str(number): number for number in range(layout.vocabulary - 2)}
    words |= {"<pad>": layout.vocabulary - 2, "<end>": layout.vocabulary - 1}
    plain = Tokenizer(WordLevel(words, unk_token="<pad>"))
    plain.pre_tokenizer = WhitespaceSplit()
    return _IdWords(
        tokenizer_object=plain,
        pad_token="<pad>",
        eos_token="<end>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def make_video_rlvr(
    folder: Path, profile: Profile, data: Path, tokenizer: Path, base: Path, kind: str
) -> dict[str, Any]:
    """GRPO from the base world model of ``kind`` (single_step or multi_step): ``folder``/model and metrics.jsonl."""
    settings: VideoRLVR = getattr(profile.video, f"{kind}_rlvr")
    episodes, task, device = (
        open_episodes(profile, data),
        make_task(profile, data, tokenizer, kind),
        profile.torch_device(),
    )
    source = ClipSource(
        episodes, episodes.train, task.clip_frames, context=task.has_context, jitter=profile.video.data.jitter
    )
    clips = RolloutClips(task, source, profile.seed, keep=2 * settings.prompts_per_step)
    distance = perceptual(profile.video.metric, device)
    reward = FrameReward(task, clips, distance, settings.reward, folder)
    trainer = build_trainer(base / "model", clips, reward, settings, folder, profile.seed, device)
    held = list(held_out_clips(episodes, task.clip_frames, settings.evaluate_segments, task.has_context))
    trainer.add_callback(
        FrameValidation(held, reward, settings, trainer, profile.seed, folder / "validation_segments.jsonl")
    )
    trainer.add_callback(MetricsCallback(folder / "metrics.jsonl", label=f"rlvr {kind.replace('_', '-')}"))
    train_from_last(trainer, f"video.{kind}_rlvr.sequences_per_micro_batch")
    trainer.model.save_pretrained(folder / "model")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return {"steps": settings.steps, "metric": distance.name, "fallback": trainer.fallback_reason}


@dataclass(frozen=True)
class Group:
    """G sampled predictions of one training clip: frames [G, K, 3, H, W], truth [K, 3, H, W], the reward of each."""

    truth: Tensor
    frames: Tensor
    rewards: Tensor

    @property
    def advantages(self) -> Tensor:
        """Rewards against the group's own mean, in its standard deviations (E.4); zeros when all are equal."""
        return (self.rewards - self.rewards.mean()) / (self.rewards.std() + 1e-4)


def sample_group(profile: Profile, data: Path, tokenizer: Path, base: Path, kind: str, item: int = 0) -> Group:
    """What GRPO sees of clip ``item``, to be looked at: sampled, decoded and scored as in training."""
    settings: VideoRLVR = getattr(profile.video, f"{kind}_rlvr")
    task, episodes = make_task(profile, data, tokenizer, kind), open_episodes(profile, data)
    source = ClipSource(episodes, episodes.train, task.clip_frames, context=task.has_context)
    clips = RolloutClips(task, source, profile.seed)
    reward = FrameReward(task, clips, perceptual(profile.video.metric, profile.torch_device()), settings.reward, base)
    (prompt,) = clips.prompts([item])
    model = LlamaForCausalLM.from_pretrained(base / "model").to(profile.torch_device()).eval()
    generator = torch.Generator(device=model.device).manual_seed(profile.seed)
    given = None if prompt.given is None else prompt.given[None]
    options = {"group": settings.group_size, "temperature": settings.temperature, "generator": generator}
    response = sample_response(model, task.layout, prompt.ids[None].to(model.device), given, **options)
    frames = task.decode_groups(prompt.ids[None], response[None])
    return Group(prompt.truth, frames[0], reward.reward(reward.compare(prompt.truth[None], frames)))


def build_trainer(
    model: Path,
    clips: RolloutClips,
    reward: FrameReward,
    settings: VideoRLVR,
    folder: Path,
    seed: int,
    device: str | torch.device = "cpu",
    **overrides: Any,
) -> VideoGRPOTrainer:
    """The trainer of a profile's section; ``overrides`` go to `GRPOConfig`."""
    layout = clips.task.layout
    arguments = grpo_config(
        settings,
        folder / "checkpoints",
        seed,
        device,
        max_completion_length=layout.response,
        delta=settings.dual_clip,
        shuffle_dataset=False,
        **{"gradient_checkpointing": False, **overrides},  # a pass less; 128 of the paper's sequences take 24 GB
    )
    trainer = VideoGRPOTrainer(
        model=str(model),
        reward_funcs=reward,
        args=arguments,
        train_dataset=clips.dataset(settings.steps * settings.prompts_per_step),
        shared_prompt=settings.shared_prompt,
        skip_equal=settings.skip_equal,
        max_prompt=layout.prompt,
        clips=clips,
        head_scale_rate=settings.head_scale_rate,
    )
    if settings.trainable == "norms":
        keep_norms(trainer.model)
    return trainer


def keep_norms(model: nn.Module) -> None:
    """Freeze all but the gains of the RMS norms.

    Adam moves every weight it may by about the learning rate, whatever the gradient holds: with few rollouts, in
    millions of directions, that is a random walk away from the base. The gains are a few thousand numbers, among them
    those in front of the head, which work as a temperature.
    """
    for name, weight in model.named_parameters():
        weight.requires_grad_("norm" in name)


__all__ = [
    "FrameValidation",
    "Group",
    "VideoGRPOTrainer",
    "build_trainer",
    "id_tokenizer",
    "keep_norms",
    "make_video_rlvr",
    "sample_group",
]
