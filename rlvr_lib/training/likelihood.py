"""Likelihood training of the small language model on play-through text (the paper's "base"; ours stands in for it).

A page is one situation followed by several actions tried in it and their outcomes; the loss counts outcome tokens only
(the random layout and the choice of action carry no dynamics). transformers' ``Trainer`` does the work.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from transformers import (
    PreTrainedTokenizerFast,
    PrinterCallback,
    Qwen2Config,
    Qwen2ForCausalLM,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_callback import TrainerCallback
from transformers.trainer_pt_utils import get_length_grouped_indices

from rlvr_lib.progress import MetricsLog, say
from rlvr_lib.training.checkpoints import last_whole_checkpoint, named_when_memory_ends, step_of

IGNORED = -100


def tiny_qwen2(
    tokenizer: PreTrainedTokenizerFast,
    hidden: int,
    layers: int,
    heads: int,
    kv_heads: int,
    intermediate: int,
    seed: int,
):
    """A fresh Qwen2 causal LM of a few million parameters, tied embeddings, seeded."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=intermediate,
        max_position_embeddings=4096,
        initializer_range=hidden**-0.5,  # the default, 0.02, suits models ten times as wide; learns slower here
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    return Qwen2ForCausalLM(config)


class Pages(Dataset):
    """Token ids and the mask of tokens that carry loss, per page; kept as arrays, a tenth of the lists' memory."""

    def __init__(self, pages: Iterable[tuple[list[int], list[bool]]]):
        self.pages = [(np.array(ids, dtype=np.int32), np.array(counted, dtype=bool)) for ids, counted in pages]

    def __len__(self) -> int:
        return len(self.pages)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        ids, counted = self.pages[index]
        return {"input_ids": ids.tolist(), "labels": np.where(counted, ids, IGNORED).tolist()}


def encode_page(
    tokenizer: PreTrainedTokenizerFast, parts: Sequence[tuple[str, bool]], most: int
) -> tuple[list[int], list[bool]]:
    """Tokens of (text, carries loss) parts, cut after the last whole part that fits into ``most`` tokens."""
    ids: list[int] = []
    counted: list[bool] = []
    for (_, on), piece in zip(parts, tokenizer([text for text, _ in parts])["input_ids"], strict=True):
        if ids and len(ids) + len(piece) > most:
            break
        ids += piece
        counted += [on] * len(piece)
    return ids, counted


class LengthGrouped(Sampler):
    """Batches of similar lengths in random order, drawn from (seed, epoch), so that a resumed run draws the same.

    (The Trainer's own draws from the global generator, whose state it restores too late after the first epoch.)
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int):
        self.lengths, self.batch, self.seed, self.epoch = list(lengths), batch, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        return iter(get_length_grouped_indices(self.lengths, self.batch, generator=generator))


class LengthGroupedTrainer(Trainer):
    """transformers' Trainer with :class:`LengthGrouped` batches."""

    def _get_train_sampler(self, train_dataset=None):
        pages = self.train_dataset if train_dataset is None else train_dataset
        return LengthGrouped([len(ids) for ids, _ in pages.pages], self.args.train_batch_size, self.args.seed)


def collate(rows: Sequence[dict[str, Any]], pad: int = 0) -> dict[str, torch.Tensor]:
    """Right-pad to the longest: ``input_ids``, ``labels``, ``attention_mask``, each int64 (B, L)."""
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(key: str, fill: int) -> torch.Tensor:
        return torch.tensor([row[key] + [fill] * (longest - len(row[key])) for row in rows])

    ids = padded("input_ids", pad)
    lengths = torch.tensor([[len(row["input_ids"])] for row in rows])
    return {
        "input_ids": ids,
        "labels": padded("labels", IGNORED),
        "attention_mask": (torch.arange(longest) < lengths).long(),
    }


class LogToFile(TrainerCallback):
    """Append what the Trainer logs to a JSON-lines file and say a line now and then."""

    def __init__(self, path: Path, label: str, resume_step: int | None = None):
        self.log, self.label = MetricsLog(path, resume_step), label

    def on_log(self, args, state, control, logs=None, **_):
        row = {key: value for key, value in (logs or {}).items() if isinstance(value, int | float)}
        if "loss" in row or "eval_loss" in row:
            written = self.log.log(state.global_step, **row)
            shown = ", ".join(f"{key} {row[key]:.4f}" for key in ("loss", "eval_loss") if key in row)
            say(f"{self.label}: step {state.global_step}/{state.max_steps}, {shown}, {written['seconds']:.0f} s")


def train_likelihood(
    model,
    train: Dataset,
    validation: Dataset,
    folder: Path,
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    warmup: int,
    weight_decay: float,
    seed: int,
    evaluate_every: int,
    save_every: int,
    bf16: bool,
    label: str = "likelihood",
    cpu: bool = True,
    lower: str = "batch",
):
    """AdamW (0.9, 0.98) with a cosine to 0; resumes from the last checkpoint in ``folder``/checkpoints.

    ``lower`` names the setting that takes less memory.
    """
    checkpoints = folder / "checkpoints"
    last = last_whole_checkpoint(checkpoints)
    arguments = TrainingArguments(
        output_dir=str(checkpoints),
        max_steps=steps,
        per_device_train_batch_size=batch,
        per_device_eval_batch_size=batch,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=warmup,
        weight_decay=weight_decay,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        logging_steps=max(1, min(20, steps // 10)),
        eval_strategy="steps",
        eval_steps=evaluate_every,
        save_steps=save_every,
        save_total_limit=2,
        bf16=bf16,
        use_cpu=cpu,
        seed=seed,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    step = step_of(last)
    log = LogToFile(folder / "metrics.jsonl", label, step)
    trainer = LengthGroupedTrainer(
        model, arguments, data_collator=collate, train_dataset=train, eval_dataset=validation, callbacks=[log]
    )
    if last:
        say(f"{label}: resumes at step {step}")
    trainer.remove_callback(PrinterCallback)
    with named_when_memory_ends(lower):
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    return trainer


def shuffled(items: Sequence, seed: int) -> Iterator:
    """The items in a seeded random order."""
    order = list(range(len(items)))
    Random(seed).shuffle(order)
    return (items[index] for index in order)
