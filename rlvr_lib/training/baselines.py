"""The two baselines of Table 4, trained on the base world model's clips: stages, training loop, predictions.

Both see what the single-step model sees (A.3): C history frames and their actions; both predict the next frame. Update
i draws its clips and its noise from (seed, i), so a resumed run goes on as an unbroken one would have gone.
"""

import functools
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from rlvr_lib.artifacts import Stage, UserError
from rlvr_lib.profile import Profile
from rlvr_lib.profile_schema_baselines import BaselineTraining, DiffusionBaseline, FeatureBaseline
from rlvr_lib.progress import MetricsLog, say
from rlvr_lib.provenance import fast_bfloat16
from rlvr_lib.tokens.action_bins import ActionBins
from rlvr_lib.training.checkpoints import load_parts, named_when_memory_ends, save_parts
from rlvr_lib.training.diffusion_baseline import DiffusionModel, VideoDiffusion
from rlvr_lib.training.feature_baseline import DinoEncoder, FeaturePredictor, FeatureWorldModel, TokenizerEncoder
from rlvr_lib.training.released import released_input, take_released_video
from rlvr_lib.training.video import load_bins, open_episodes
from rlvr_lib.training.video_stages import tokenizer_folder, video_stage
from rlvr_lib.training.video_tokenizers import rate_share
from rlvr_lib.worlds.video_clips import IN_MEMORY, Clip, ClipSource
from rlvr_lib.worlds.video_segments import Segment, to_float

BASELINES = ("feature", "diffusion")
Baseline: TypeAlias = FeatureWorldModel | VideoDiffusion


def baseline_stage(profile: Profile, kind: str) -> Stage:
    """The stage of ``feature`` or ``diffusion`` in a domain's own profile; nothing is run."""
    inputs = {"data": video_stage(profile, "data").folder, **released_input(f"baseline_{kind}", profile)}
    if kind == "feature" and profile.domains.baselines.feature.encoder == "tokenizer":
        inputs["tokenizer"] = tokenizer_folder(profile, "single_step") / "model"
    uses = [f"domains.baselines.{kind}", "video.data", "video.single_step.context"]
    return Stage(profile, f"baseline_{kind}", uses=uses, inputs=inputs)


def run_baseline(profile: Profile, kind: str) -> Path:
    """Train or load a baseline of a domain's own profile; its folder. Episodes and tokenizer must be there."""
    data = video_stage(profile, "data").folder
    return baseline_stage(profile, kind).run(make_baseline, profile=profile, data=data, kind=kind)


def make_baseline(folder: Path, profile: Profile, data: Path, kind: str) -> dict[str, Any]:
    """``folder``/model: one baseline, released or trained on the training episodes; facts say with how much of all."""
    settings = getattr(profile.domains.baselines, kind)
    if settings.start == "released":
        facts = take_released_video(f"baseline_{kind}", profile, folder)
        manifest = facts["manifest"]
        return {**manifest["facts"], **facts, "trained_seconds": manifest["seconds"]}
    episodes, bins = open_episodes(profile, data), load_bins(data)
    baseline = new_baseline(profile, kind, bins.dims)
    source = ClipSource(episodes, episodes.train, profile.video.single_step.context + 1, whole_only=True)
    run = BaselineRun(baseline, source, bins, settings, folder, seed=profile.seed, device=profile.torch_device())
    with named_when_memory_ends(f"domains.baselines.{kind}.batch"):
        facts = run.run()
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return {**facts, "name": baseline.name, "train_episodes": len(episodes.train)}


def new_baseline(profile: Profile, kind: str, actions: int) -> Baseline:
    """A fresh ``feature`` or ``diffusion`` baseline of the profile's sizes, seeded, for actions of so many numbers."""
    context, device = profile.video.single_step.context, profile.torch_device()
    if kind == "diffusion":
        own: DiffusionBaseline = profile.domains.baselines.diffusion
        torch.manual_seed(profile.seed)
        sizes = (list(own.widths), own.blocks, own.norm_groups, own.attention_levels, own.patch)
        model = DiffusionModel(context, actions, *sizes, own.target, own.noise_steps)
        return VideoDiffusion(model.to(device), profile.domains.baselines.sampling_steps)
    size: FeatureBaseline = profile.domains.baselines.feature
    encoder = _encoder(profile)
    torch.manual_seed(profile.seed)
    sizes = (size.hidden, size.layers, size.heads, size.intermediate, size.action_width)
    predictor = FeaturePredictor(context, encoder.tokens, encoder.width, actions, *sizes, encoder.doublings)
    return FeatureWorldModel(encoder, predictor.to(device))


def load_baseline(stage: Path, profile: Profile, kind: str) -> Baseline:
    """The trained baseline in ``stage``/model, ready to predict."""
    device = profile.torch_device()
    if kind == "diffusion":
        model = DiffusionModel.from_pretrained(stage / "model").to(device).eval()
        return VideoDiffusion(model, profile.domains.baselines.sampling_steps)
    return FeatureWorldModel(_encoder(profile), FeaturePredictor.from_pretrained(stage / "model").to(device).eval())


def _encoder(profile: Profile) -> TokenizerEncoder | DinoEncoder:
    settings, device = profile.domains.baselines.feature, profile.torch_device()
    if settings.encoder == "tokenizer":
        return TokenizerEncoder(tokenizer_folder(profile, "single_step"), device)
    return DinoEncoder(settings.dinov2, (profile.video.data.height, profile.video.data.width), device)


def predict_next(baseline: Baseline, bins: ActionBins, clips: Sequence[Clip], seed: int = 0, batch: int = 32) -> Tensor:
    """One prediction per clip of C + 1 frames, float32 [n, 1, 3, H, W] in [0, 1]; its last frame is not looked at."""
    device = next(baseline.model.parameters()).device
    generator = torch.Generator(device=device).manual_seed(seed)
    frames = []
    for first in range(0, len(clips), batch):
        part = clips[first : first + batch]
        history = torch.stack([clip.frames[:-1] for clip in part]).to(device)
        actions = torch.from_numpy(bins.scaled(np.stack([clip.actions[:-1] for clip in part]))).to(device)
        with torch.no_grad():
            frames.append(baseline.next_frame(history, actions, generator))
    return torch.cat(frames)[:, None]


class BaselineRun:
    """The training loop with its state: model, optimiser, update. :meth:`run` trains, logs, saves, resumes."""

    def __init__(
        self,
        baseline: Baseline,
        source: ClipSource,
        bins: ActionBins,
        settings: BaselineTraining,
        folder: Path,
        *,
        seed: int,
        device: str = "cpu",
    ):
        self.baseline, self.source, self.bins, self.settings = baseline, source, bins, settings
        self.folder, self.seed, self.device, self.update = folder, seed, torch.device(device), 0
        self.features: dict[str, Tensor] = {}
        parameters = baseline.model.parameters()
        self.optimiser = torch.optim.AdamW(
            parameters, settings.learning_rate, settings.betas, weight_decay=settings.weight_decay
        )
        whole = settings.updates if settings.schedule == "cosine" else None
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda update: rate_share(update, settings.warmup, whole)
        )

    def run(self) -> dict[str, Any]:
        """Train up to ``updates``; ``folder``/model; updates, clips seen, parameters and the last mean loss."""
        settings, name, checkpoints = self.settings, self.baseline.name, self.folder / "checkpoints"
        parts = {"model": self.baseline.model, "optimiser": self.optimiser, "schedule": self.schedule}
        self.update = load_parts(checkpoints, parts, self.device, name)
        log = MetricsLog(self.folder / "metrics.jsonl", self.update)
        self.baseline.model.train()
        every, losses, last = max(1, settings.updates // 100), [], float("nan")
        while self.update < settings.updates:
            losses.append(self._step())
            self.update += 1
            ended = self.update == settings.updates
            if self.update % every == 0 or ended:
                last, losses = self._told(log, losses), []
            if self.update % settings.save_every == 0 or ended:
                save_parts(checkpoints, self.update, parts)
        self.baseline.model.eval().save_pretrained(self.folder / "model")
        numbers = {"updates": self.update, "clips_seen": self.update * settings.batch, "loss": last}
        return {**numbers, "parameters": sum(value.numel() for value in self.baseline.model.parameters())}

    def _told(self, log: MetricsLog, losses: list[Tensor]) -> float:
        """The mean loss since the last time, logged. Only here does the host wait for a GPU."""
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean):
            kind = "diffusion" if self.baseline.random else "feature"
            raise UserError(
                f"{self.baseline.name}: the loss is {mean} by update {self.update}: "
                f"lower domains.baselines.{kind}.learning_rate"
            )
        row = log.log(self.update, loss=mean, learning_rate=self.schedule.get_last_lr()[0])
        if self.update % max(1, self.settings.updates // 10) == 0:
            say(f"{self.baseline.name}: {self.update}/{self.settings.updates}, {mean:.4f}, {row['seconds']:.0f} s")
        return mean

    def _step(self) -> Tensor:
        rng = np.random.default_rng((self.seed, self.update))
        frames, features, actions = self.batch(rng)
        generator = torch.Generator(device=self.device).manual_seed(int(rng.integers(2**62)))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=fast_bfloat16(self.device.type)):
            loss = self.baseline.loss(frames, features, actions, generator)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.baseline.model.parameters(), self.settings.grad_clip)
        self.optimiser.step()
        self.schedule.step()
        return loss.detach()

    def batch(self, rng: np.random.Generator) -> tuple[Tensor, Tensor | None, Tensor]:
        """Random clips: frames [B, C + 1, 3, H, W], their features (or None), scaled actions [B, C, A]."""
        picks = [self.source.pick(rng) for _ in range(self.settings.batch)]
        clips = [(self.source.episode(name), segment.frames) for name, segment in picks]
        frames = torch.stack([to_float(episode.frames[rows]) for episode, rows in clips])
        actions = torch.from_numpy(self.bins.scaled(np.stack([episode.actions[rows[:-1]] for episode, rows in clips])))
        features = None if self.baseline.encode is None else self._features(picks, frames)
        return frames.to(self.device), features, actions.to(self.device)

    def _features(self, picks: list[tuple[str, Segment]], frames: Tensor) -> Tensor:
        """Features of clips [B, C + 1, N, D]: each episode encoded once and kept (nothing is jittered), or on line."""
        if not self._keeps:
            return self.baseline.encode(frames.to(self.device).flatten(0, 1)).unflatten(0, frames.shape[:2])
        for name in {name for name, _ in picks} - self.features.keys():
            whole = to_float(self.source.episode(name).frames).to(self.device)
            self.features[name] = self.baseline.encode(whole).cpu()
        return torch.stack([self.features[name][segment.frames] for name, segment in picks]).to(self.device)

    @functools.cached_property
    def _keeps(self) -> bool:
        """Whether the features of all episodes fit into memory, by the length of the first one."""
        frames = len(self.source.names) * len(self.source.episode(self.source.names[0]))
        return 4 * frames * self.baseline.encoder.tokens * self.baseline.encoder.width <= IN_MEMORY
