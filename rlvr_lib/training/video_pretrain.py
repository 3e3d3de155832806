"""Likelihood pre-training of the video world models with transformers' ``Trainer`` (D).

Item i of the training data is drawn from (seed, i), so that the order is fixed and a resumed run goes on with the items
that an unbroken one would have seen. Frames are tokenised on line, as the paper does for its colour jitter. Without
jitter the single-step model's frames are tokenised once, which gives the same items, and the multi-step model gets a
fixed store of sequences (its codes depend on the context frame), which costs less than half: a departure, said aloud.
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
from rlvr_lib.tokens.video_task import SingleStepTask, VideoTask
from rlvr_lib.training.checkpoints import last_whole_checkpoint, step_of
from rlvr_lib.training.likelihood import LogToFile
from rlvr_lib.training.video_sampling import sample_response
from rlvr_lib.worlds.video_clips import Clip, ClipSource
from rlvr_lib.worlds.video_segments import to_float

Distance = Callable[[Tensor, Tensor], Tensor]


class OnlineSequences(Dataset):
    """Item i: a clip drawn from (seed, i), tokenised when asked for."""

    def __init__(self, task: VideoTask, source: ClipSource, length: int, seed: int):
        self.task, self.source, self.length, self.seed = task, source, length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        ids = self.task.encode([self.source.draw(np.random.default_rng((self.seed, index)))])
        return {"input_ids": ids[0], "labels": self.task.layout.labels(ids)[0]}


class FrameSequences(Dataset):
    """The items of :class:`OnlineSequences` from codes of whole episodes, each frame tokenised once.

    The same wherever a frame's codes do not depend on the clip: single-step sequences without colour jitter.
    """

    def __init__(self, task: SingleStepTask, source: ClipSource, length: int, seed: int):
        self.task, self.source, self.length, self.seed = task, source, length, seed
        self.codes: dict[str, Tensor] = {}
        for name in track(source.names, label=f"tokenising frames ({task.layout.kind})", unit="episodes"):
            self.codes[name] = task.codes(to_float(source.episode(name).frames).to(task.device)).cpu().short()

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        name, segment = self.source.pick(np.random.default_rng((self.seed, index)))
        bins = torch.from_numpy(self.task.bins.to_bins(self.source.episode(name).actions[segment.indices]))
        ids = self.task.layout.encode(self.codes[name][segment.indices].long()[None], bins[None])
        return {"input_ids": ids[0], "labels": self.task.layout.labels(ids)[0]}


class StoredSequences(Dataset):
    """``stored`` sequences tokenised once (int16 [n, S]); item i is one of them, chosen from (seed, i)."""

    def __init__(self, task: VideoTask, ids: Tensor, length: int, seed: int):
        self.layout, self.ids, self.length, self.seed = task.layout, ids, length, seed

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        chosen = int(np.random.default_rng((self.seed, index)).integers(len(self.ids)))
        ids = self.ids[chosen].long()
        return {"input_ids": ids, "labels": self.layout.labels(ids)}


def store_sequences(task: VideoTask, source: ClipSource, count: int, seed: int, at_once: int = 16) -> Tensor:
    """Tokenise ``count`` random clips: int16 [count, S] (ids stay below 32 768)."""
    if task.layout.vocabulary > 2**15:
        raise ValueError("ids do not fit into int16")
    rng = np.random.default_rng((seed, count))
    parts = []
    for first in track(range(0, count, at_once), label=f"tokenising clips ({task.layout.kind})", unit="batches"):
        clips = [source.draw(rng) for _ in range(min(at_once, count - first))]
        parts.append(task.encode(clips).short())
    return torch.cat(parts)


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
    model: LlamaForCausalLM,
    task: VideoTask,
    clips: Sequence[Clip],
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
    batch: int = 32,
) -> tuple[Tensor, Tensor]:
    """The same with the codes of the predicted frames, int64 [n, K, N]."""
    generator = torch.Generator(device=model.device).manual_seed(seed)
    frames, codes = [], []
    for first in range(0, len(clips), batch):
        part = clips[first : first + batch]
        prompt, given = task.prompt(part).to(model.device), task.given(part)
        given = None if given is None else given.to(model.device)
        options = {"temperature": temperature, "top_k": top_k, "generator": generator}
        response = sample_response(model, task.layout, prompt, given, **options)
        frames.append(task.decode(prompt, response))
        codes.append(task.layout.predicted(response))
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
        save_steps=min(settings.save_every, steps),
        save_total_limit=2,
        bf16=True,
        use_cpu=cpu,
        seed=seed,
        data_seed=seed,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    frames = SampledFrames(task, held_out, distance, top_k, seed, label)
    log = VideoLog(folder / "metrics.jsonl", label, step_of(last))
    trainer = InOrderTrainer(
        model=model, args=arguments, train_dataset=train, eval_dataset=validation, callbacks=[frames, log]
    )
    frames.trainer = trainer
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    model.save_pretrained(folder / "model")
    rows = [row for row in trainer.state.log_history if "eval_loss" in row]
    sampled = [row["eval_perceptual"] for row in trainer.state.log_history if "eval_perceptual" in row]
    return {
        "steps": steps,
        "parameters": model.num_parameters(),
        "validation_loss": rows[-1]["eval_loss"] if rows else None,
        "validation_perceptual": sampled[-1] if sampled else None,
    }
