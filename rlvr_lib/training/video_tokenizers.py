"""Training of both visual tokenizers (B.4): L1 + LPIPS, and an adversary that joins later.

Even loop iterations update the tokenizer, odd ones the adversary, each on a batch of its own; before the adversary
starts odd iterations do nothing but count. With ``adversary_weight`` 0 there is none and every iteration updates
the tokenizer. Batches are drawn from (seed, iteration), so a resumed run sees what an unbroken one would have seen.
"""

import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from rlvr_lib.artifacts import UserError
from rlvr_lib.profile_schema_video import VisualTokenizer
from rlvr_lib.progress import MetricsLog, say
from rlvr_lib.provenance import fast_bfloat16
from rlvr_lib.tokens.compressive_tokenizer import CompressiveTokenizer
from rlvr_lib.tokens.discriminator import WIDTHS, Discriminator
from rlvr_lib.tokens.frame_tokenizer import FrameTokenizer
from rlvr_lib.training.checkpoints import load_parts, save_parts

Clips = Callable[[np.random.Generator, int], Tensor]  # (generator, number) -> float32 [number, T, 3, H, W] in [0, 1]
Validate = Callable[[nn.Module], dict[str, float]]
Pair = tuple[Tensor, Tensor]  # truth and reconstruction, images [n, 3, H, W]


class TokenizerTraining:
    """The loop with its state: models, optimisers, iteration. :meth:`run` trains, logs, saves, resumes."""

    def __init__(
        self,
        tokenizer: FrameTokenizer | CompressiveTokenizer,
        settings: VisualTokenizer,
        clips: Clips,
        perceptual: nn.Module,
        folder: Path,
        *,
        seed: int,
        device: str = "cpu",
        iterations: int | None = None,
        label: str = "tokenizer",
        validate: Validate | None = None,
    ):
        torch.manual_seed(seed)
        self.settings, self.clips, self.folder, self.seed, self.label = settings, clips, folder, seed, label
        self.device, self.validate = torch.device(device), validate
        self.iterations = settings.iterations if iterations is None else iterations
        self.tokenizer, self.perceptual = tokenizer.to(self.device).train(), perceptual.to(self.device)
        self.adversary = Discriminator(_depth(tokenizer.size)).to(self.device) if settings.adversary_weight else None
        self.optimiser, self.schedule = self._optimiser(self.tokenizer, decays=True)
        if self.adversary is not None:
            self.adversary_optimiser, self.adversary_schedule = self._optimiser(self.adversary, decays=False)
        self.iteration = 0
        self._reader = ThreadPoolExecutor(1)  # draws the next batch while this one is learnt
        self._ahead: tuple[int, Future[Tensor]] | None = None

    def run(self) -> dict[str, Any]:
        """Train up to ``iterations``; returns the last losses and validation values."""
        self.iteration = load_parts(self.folder / "checkpoints", self._state(), self.device, self.label)
        log = MetricsLog(self.folder / "metrics.jsonl", self.iteration)
        latest: dict[str, float] = {}
        while self.iteration < self.iterations:
            values = self._iterate()
            self.iteration += 1
            if values and (self.iteration % max(1, self.iterations // 200) == 0 or self.iteration == self.iterations):
                read = self._read(values)
                latest |= read
                row = log.log(self.iteration, **read, learning_rate=self.schedule.get_last_lr()[0])
                say(f"{self.label}: {self.iteration}/{self.iterations}, L1 {read['l1']:.4f}, {row['seconds']:.0f} s")
            if self.iteration % self.settings.save_every == 0 or self.iteration == self.iterations:
                self._read(values)
                latest |= self._validate(log)
                save_parts(self.folder / "checkpoints", self.iteration, self._state())
        self._reader.shutdown(cancel_futures=True)
        self.tokenizer.eval().save_pretrained(self.folder / "model")
        return {"iterations": self.iteration, **latest}

    def _read(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Values as numbers. Only here does the host wait for a GPU and see a loss out of range."""
        found = {name: float(value) for name, value in values.items()}
        if not math.isfinite(found.get("grad_norm", 0.0)):
            raise UserError(
                f"{self.label}: the loss is {found['loss']} by iteration {self.iteration}: lower the learning_rate"
            )
        return found

    def _batch(self) -> Tensor:
        """The clips of this iteration; those of the next are drawn meanwhile."""

        def draw(iteration: int) -> Tensor:
            return self.clips(np.random.default_rng((self.seed, iteration)), self.settings.clips)

        ready = self._ahead is not None and self._ahead[0] == self.iteration
        clips = self._ahead[1].result() if ready else draw(self.iteration)
        following = self.iteration + (2 if self._idle(self.iteration + 1) else 1)
        self._ahead = (following, self._reader.submit(draw, following)) if following < self.iterations else None
        return clips.to(self.device)

    def _idle(self, iteration: int) -> bool:
        """The adversary's turn before its start: only counted."""
        return self.adversary is not None and iteration % 2 == 1 and iteration < self.settings.adversary_start

    def _iterate(self) -> dict[str, Tensor]:
        adversary_turn = self.adversary is not None and self.iteration % 2 == 1
        started = self.iteration >= self.settings.adversary_start
        if self._idle(self.iteration):
            return {}
        clips = self._batch()
        return self._adversary_step(clips) if adversary_turn else self._tokenizer_step(clips, started)

    def _tokenizer_step(self, clips: Tensor, started: bool) -> dict[str, Tensor]:
        with self._autocast():
            pairs, index = reconstruct(self.tokenizer, clips)
            l1 = sum(functional.l1_loss(again.float(), truth) for truth, again in pairs)
            distance = sum(self.perceptual(truth, again.float()).mean() for truth, again in pairs)
            loss = l1 + self.settings.perceptual_weight * distance
            used = torch.bincount(index.flatten(), minlength=self.tokenizer.quantiser.size).count_nonzero()
            values = {"l1": l1.detach(), "perceptual": distance.detach(), "codes_used": used}
            if started and self.adversary is not None:
                fooled = self.adversary(torch.cat([again for _, again in pairs])).float().mean()
                loss = loss - self.settings.adversary_weight * fooled
                values["fooled"] = fooled.detach()
        values["grad_norm"] = self._update(loss, self.tokenizer, self.optimiser, self.schedule)
        return {**values, "loss": loss.detach()}

    def _adversary_step(self, clips: Tensor) -> dict[str, Tensor]:
        with self._autocast():
            with torch.no_grad():
                pairs, _ = reconstruct(self.tokenizer, clips)
            truth, again = (torch.cat(images) for images in zip(*pairs, strict=True))
            loss = (
                functional.relu(1 + self.adversary(again).float()).mean()
                + functional.relu(1 - self.adversary(truth).float()).mean()
            )
        loss = loss + self.settings.penalty_weight * gradient_penalty(self.adversary, pairs[-1][0])
        self._update(loss, self.adversary, self.adversary_optimiser, self.adversary_schedule)
        return {}

    def _update(self, loss: Tensor, model: nn.Module, optimiser: Any, schedule: Any) -> Tensor:
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), self.settings.grad_clip)
        if self.device.type == "cpu":
            self._read({"grad_norm": norm, "loss": loss.detach()})
        optimiser.step()
        schedule.step()
        return norm

    def _optimiser(self, model: nn.Module, decays: bool) -> tuple[Any, Any]:
        optimiser = torch.optim.AdamW(
            model.parameters(), self.settings.learning_rate, self.settings.betas, eps=1e-8, weight_decay=0.0
        )
        warmup, whole = self.settings.warmup, self.iterations
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda update: rate_share(update, warmup, whole if decays else None)
        )
        return optimiser, schedule

    def _autocast(self) -> Any:
        """bfloat16, on a CPU as well where its cores have it: measured twice as fast there (docs/tried.md)."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=fast_bfloat16(self.device.type))

    def _validate(self, log: MetricsLog) -> dict[str, float]:
        if self.validate is None:
            return {}
        self.tokenizer.eval()
        with torch.no_grad():
            values = {f"validation_{name}": value for name, value in self.validate(self.tokenizer).items()}
        self.tokenizer.train()
        log.log(self.iteration, **values)
        return values

    def _state(self) -> dict[str, Any]:
        """Everything with a state, by name."""
        parts = {"tokenizer": self.tokenizer, "optimiser": self.optimiser, "schedule": self.schedule}
        if self.adversary is not None:
            parts["adversary"] = self.adversary
            parts["adversary_optimiser"] = self.adversary_optimiser
            parts["adversary_schedule"] = self.adversary_schedule
        return parts


def reconstruct(tokenizer: nn.Module, clips: Tensor) -> tuple[list[Pair], Tensor]:
    """Clips [B, T, 3, H, W] -> (truth, reconstruction) pairs whose losses are added, and all codes.

    The per-frame tokenizer gives one pair over all frames. The compressive one gives two: first frames, which are the
    context, and the others; so the one context frame weighs as much as the rest together (B.4, trap H.18).
    """
    if isinstance(tokenizer, FrameTokenizer):
        frames = clips.flatten(0, 1)
        again, index = tokenizer(frames)
        return [(frames, again)], index
    context, frames, context_index, index = tokenizer(clips[:, 0], clips[:, 1:])
    pairs = [(clips[:, 0], context), (clips[:, 1:].flatten(0, 1), frames.flatten(0, 1))]
    return pairs, torch.cat([context_index.flatten(), index.flatten()])


def gradient_penalty(adversary: nn.Module, images: Tensor) -> Tensor:
    """Mean over images of (norm of d sum D(x) / dx - 1) squared, at real images, in float32."""
    images = images.detach().float().requires_grad_()
    (slope,) = torch.autograd.grad(adversary(images).sum(), images, create_graph=True)
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()


def rate_share(update: int, warmup: int, whole: int | None) -> float:
    """Share of the peak rate: linear warm-up, then constant (``whole`` None) or a cosine that ends at ``whole``.

    With an adversary only every second iteration updates the tokenizer, so the cosine is traversed half way (H.17).
    """
    if update < warmup:
        return (update + 1) / warmup
    if whole is None:
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (update - warmup) / max(1, whole - warmup))))


def _depth(size: tuple[int, int]) -> tuple[int, ...]:
    """Stages of the adversary: the paper's six, or as many as leave more than one position to normalise over."""
    most = int(math.log2(min(size))) - 1
    return WIDTHS[:most]
