"""Likelihood pre-training of the video world models with transformers' ``Trainer`` (D).

Item i of the training data is drawn from (seed, i), so that the order is fixed and a resumed run goes on with the items
that an unbroken one would have seen. Frames are tokenised on line, as the paper does for its colour jitter. Without
jitter every frame is tokenised once: for the single-step model that gives the same items, for the multi-step model,
whose codes depend on the context frame, clips share a few context frames per episode, a departure that is said aloud.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, SequentialSampler
from transformers import LlamaForCausalLM, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from rlvr_lib.profile_schema_video import VideoModel
from rlvr_lib.progress import say, track
from rlvr_lib.provenance import fast_bfloat16
from rlvr_lib.tokens.video_task import MultiStepTask, SingleStepTask, VideoTask
from rlvr_lib.training.checkpoints import last_whole_checkpoint, named_when_memory_ends, step_of
from rlvr_lib.training.likelihood import LogToFile
from rlvr_lib.training.video_sampling import sample_response
from rlvr_lib.worlds.video_clips import Clip, ClipSource
from rlvr_lib.worlds.video_segments import REACH, to_float

Distance = Callable[[Tensor, Tensor], Tensor]
LOADERS = 4  # processes that make items while a GPU learns


class OnlineSequences(Dataset):
    """Item i: a clip drawn from (seed, i), tokenised when asked for."""

    def __init__(self, task: VideoTask, source: ClipSource, length: int, seed: int, history: bool = False):
        self.task, self.source, self.length, self.seed, self.history = task, source, length, seed, history

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = self.task.encode([self.source.draw(np.random.default_rng((self.seed, index)))])
        return {"input_ids": ids[0], "labels": self.task.layout.labels(ids, self.history)[0]}


class FrameSequences(Dataset):
    """The items of :class:`OnlineSequences` from codes of whole episodes, each frame tokenised once.

    The same wherever a frame's codes do not depend on the clip: single-step sequences without colour jitter.
    """

    def __init__(self, task: SingleStepTask, source: ClipSource, length: int, seed: int, history: bool = False):
        self.task, self.source, self.length, self.seed, self.history = task, source, length, seed, history
        self.codes: dict[str, Tensor] = {}
        for name in track(source.names, label=f"tokenising frames ({task.layout.kind})", unit="episodes"):
            self.codes[name] = task.codes(to_float(source.episode(name).frames).to(task.device)).cpu().short()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        name, segment = self.source.pick(np.random.default_rng((self.seed, index)))
        bins = torch.from_numpy(self.task.bins.to_bins(self.source.episode(name).actions[segment.indices]))
        ids = self.task.layout.encode(self.codes[name][segment.indices].long()[None], bins[None])
        return {"input_ids": ids[0], "labels": self.task.layout.labels(ids, self.history)[0]}


class ContextSequences(Dataset):
    """Multi-step items from codes of whole episodes, made once for a few context frames of each.

    Codes depend on the context frame, so all contexts of all clips would be dear. Stored are the first frame and one
    random frame of every eight, each with the frames that it can serve; a clip's start is drawn as for
    :class:`OnlineSequences`, its context uniformly from the stored ones within the paper's reach.
    """

    STRIDE = 8  # half of the reach, so that every start has a stored context

    def __init__(self, task: MultiStepTask, source: ClipSource, length: int, seed: int, history: bool = False):
        self.task, self.source, self.length, self.seed, self.history = task, source, length, seed, history
        self.codes: dict[str, dict[int, tuple[Tensor, Tensor]]] = {}
        together = 1 if task.device.type == "cpu" else 8  # episodes; a GPU wants many frames at once
        names = [source.names[first : first + together] for first in range(0, len(source.names), together)]
        for group, part in enumerate(track(names, label="tokenising episodes (multi-step)", unit="groups")):
            places = [(name, np.random.default_rng((seed, group * together + n))) for n, name in enumerate(part)]
            self._store(
                [(name, at) for name, rng in places for at in self._contexts(len(source.episode(name).frames), rng)]
            )

    def _contexts(self, frames: int, rng: np.random.Generator) -> list[int]:
        """Frame numbers that serve as context, rising."""
        last = frames - self.source.length
        drawn = [first + int(rng.integers(self.STRIDE)) for first in range(0, max(last, 0) + 1, self.STRIDE)]
        return sorted({0, *(at for at in drawn if at <= last)})

    def _store(self, jobs: list[tuple[str, int]]) -> None:
        """Codes for every (episode, context frame), together; a shorter run of frames is filled up with its last."""
        most = REACH + self.source.length
        clips = [to_float(self.source.episode(name).frames[at : at + most]) for name, at in jobs]
        longest = max(map(len, clips))
        filled = [torch.cat([clip, clip[-1:].expand(longest - len(clip), -1, -1, -1)]) for clip in clips]
        frames = torch.stack(filled).to(self.task.device)
        with torch.no_grad(), self.task.half():
            contexts, codes = self.task.tokenizer.encode(frames[:, 0], frames)
        for (name, at), clip, context, own in zip(jobs, clips, contexts.cpu(), codes.cpu(), strict=True):
            self.codes.setdefault(name, {})[at] = context.short(), own[: len(clip)].short()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        rng = np.random.default_rng((self.seed, index))
        name, segment = self.source.pick(rng)
        start = int(segment.frames[0])
        stored = [at for at in self.codes[name] if start - REACH <= at <= start]
        at = stored[int(rng.integers(len(stored)))]
        context, codes = (part.long() for part in self.codes[name][at])
        bins = torch.from_numpy(self.task.bins.to_bins(self.source.episode(name).actions[segment.frames]))
        ids = self.task.layout.encode(context[None], codes[segment.frames - at][None], bins[None])
        return {"input_ids": ids[0], "labels": self.task.layout.labels(ids, self.history)[0]}


class InOrderTrainer(Trainer):
    """transformers' Trainer that takes the items in their order (they are random already)."""

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(self.train_dataset if train_dataset is None else train_dataset)


class VideoLog(LogToFile):
    """Also keeps the frame metrics of sampled predictions."""

    def on_log(self, args, state, control, logs=None, **_):
        if "eval_perceptual" in (logs or {}):
            self.log.log(state.global_step, **{name: logs[name] for name in ("eval_perceptual", "eval_mae")})
        super().on_log(args, state, control, logs)


class SampledFrames(TrainerCallback):
    """At every validation: sample predictions for fixed test clips, decode them, log their frame metrics."""

    def __init__(self, task: VideoTask, clips: Sequence[Clip], distance: Distance, top_k: int, seed: int, label: str):
        self.task, self.clips, self.distance, self.top_k = task, clips, distance, top_k
        self.seed, self.label, self.trainer = seed, label, None

    def on_evaluate(self, args, state, control, model=None, **_):
        predicted = predict(model, self.task, self.clips, top_k=self.top_k, seed=self.seed)
        truth = self.task.truth(self.clips)
        values = {
            "eval_perceptual": float(self.distance(truth, predicted).mean()),
            "eval_mae": float((truth - predicted).abs().mean()),
        }
        say(f"{self.label}: step {state.global_step}, sampled {values['eval_perceptual']:.4f}")
        self.trainer.log(values)


def predict(
    model: LlamaForCausalLM,
    task: VideoTask,
    clips: Sequence[Clip],
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    batch: int = 32,
) -> Tensor:
    """One sampled prediction per clip, frames float32 [n, K, 3, H, W] in [0, 1]."""
    return predict_with_codes(model, task, clips, temperature=temperature, top_k=top_k, seed=seed, batch=batch)[0]


def predict_with_codes(
    model: LlamaForCausalLM, task: VideoTask, clips: Sequence[Clip], **options: Any
) -> tuple[Tensor, Tensor]:
    """The same with the codes of the predicted frames, int64 [n, K, N]; options as above."""
    frames, codes = predict_samples(model, task, clips, 1, **options)
    return frames[:, 0], codes[:, 0]


def predict_samples(
    model: LlamaForCausalLM,
    task: VideoTask,
    clips: Sequence[Clip],
    samples: int,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    batch: int = 32,
) -> tuple[Tensor, Tensor]:
    """``samples`` predictions per clip, frames float32 [n, S, K, 3, H, W] in [0, 1] and codes int64 [n, S, K, N].

    A clip's prompt is read once for all its samples; about ``batch`` predictions are drawn together.
    """
    generator = torch.Generator(device=model.device).manual_seed(seed)
    step, frames, codes = max(1, batch // samples), [], []
    for first in range(0, len(clips), step):
        part = clips[first : first + step]
        prompt, given = task.prompt(part).to(model.device), task.given(part)
        given = None if given is None else given.to(model.device)
        options = {"group": samples, "temperature": temperature, "top_k": top_k, "generator": generator}
        groups = sample_response(model, task.layout, prompt, given, **options).unflatten(0, (len(part), samples))
        frames.append(task.decode_groups(prompt, groups))
        codes.append(task.layout.predicted(groups.flatten(0, 1)).unflatten(0, groups.shape[:2]))
    return torch.cat(frames), torch.cat(codes)


def pretrain(
    model: LlamaForCausalLM,
    task: VideoTask,
    train: Dataset,
    held_out: Sequence[Clip],
    folder: Path,
    settings: VideoModel,
    *,
    steps: int,
    seed: int,
    distance: Distance,
    top_k: int,
    label: str,
    cpu: bool = True,
) -> dict[str, Any]:
    """Train for ``steps`` updates; validation loss and sampled frames on ``held_out`` clips; resumes to the bit."""
    checkpoints = folder / "checkpoints"
    last = last_whole_checkpoint(checkpoints)
    every = max(1, min(settings.evaluate_every, steps))
    schedule = "constant_with_warmup" if settings.schedule == "constant" else "cosine"
    ids = task.encode(held_out)
    validation = [{"input_ids": row, "labels": task.layout.labels(row)} for row in ids]
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=steps,
        per_device_train_batch_size=settings.batch,
        per_device_eval_batch_size=settings.batch,
        learning_rate=settings.learning_rate,
        adam_beta1=settings.betas[0],
        adam_beta2=settings.betas[1],
        adam_epsilon=1e-8,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.grad_clip,
        lr_scheduler_type=schedule,
        warmup_steps=min(settings.warmup, steps // 4),
        logging_steps=max(1, min(20, steps // 5)),
        eval_strategy="steps",
        eval_steps=every,
        save_steps=every if settings.keep_best else min(settings.save_every, steps),
        save_total_limit=2,
        bf16=fast_bfloat16("cpu" if cpu else "cuda"),
        use_cpu=cpu,
        seed=seed,
        data_seed=seed,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=not cpu,
        dataloader_num_workers=0 if cpu else LOADERS,
        remove_unused_columns=False,
        load_best_model_at_end=settings.keep_best,
        metric_for_best_model="eval_loss",
    )
    frames = SampledFrames(task, held_out, distance, top_k, seed, label)
    log = VideoLog(folder / "metrics.jsonl", label, step_of(last))
    trainer = InOrderTrainer(
        model=model, args=arguments, train_dataset=train, eval_dataset=validation, callbacks=[frames, log]
    )
    frames.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    with named_when_memory_ends(f"video.{label.replace('-', '_')}.batch"):
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    model.save_pretrained(folder / "model")
    kept = trainer.state.best_global_step if settings.keep_best else steps
    history = [row for row in trainer.state.log_history if row["step"] <= kept]
    rows = [row for row in history if "eval_loss" in row]
    sampled = [row["eval_perceptual"] for row in history if "eval_perceptual" in row]
    return {
        "steps": steps,
        "kept_step": kept,
        "parameters": model.num_parameters(),
        "validation_loss": rows[-1]["eval_loss"] if rows else None,
        "validation_perceptual": sampled[-1] if sampled else None,
    }
