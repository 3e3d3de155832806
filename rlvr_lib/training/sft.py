"""Supervised fine-tuning on teacher answers with LoRA, merged into the base afterwards (spec 0.3, A.10).

``trl.SFTTrainer`` and peft do the work. The loss counts response tokens, end token included; prompts are masked. As in
the paper's script the cosine schedule is laid out for the *planned* epochs, of which only some are run.

Differs from the paper: the mean is over the tokens of a batch, not over samples first (their micro-batch of one).
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, PeftConfig, PeftModel
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    EarlyStoppingCallback,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerCallback,
)
from trl import SFTConfig, SFTTrainer

from rlvr_lib.artifacts import UserError
from rlvr_lib.provenance import fast_bfloat16
from rlvr_lib.tokens.text_tokenizer import load_tokenizer
from rlvr_lib.training.checkpoints import last_whole_checkpoint, named_when_memory_ends, step_of
from rlvr_lib.training.likelihood import IGNORED, LengthGrouped, LogToFile


class StopAfter(TrainerCallback):
    """Stop at a step although the schedule is planned for more (spec D.19)."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step >= self.step:
            control.should_save = control.should_evaluate = control.should_training_stop = True
        return control


class LengthGroupedSFT(SFTTrainer):
    """trl's SFTTrainer with batches of similar lengths: long pages else pad the short ones to four times their size."""

    def _get_train_sampler(self, train_dataset=None):
        rows = self.train_dataset if train_dataset is None else train_dataset
        return LengthGrouped([len(ids) for ids in rows["input_ids"]], self.args.train_batch_size, self.args.seed)


def encode_answers(tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]], max_length: int) -> Dataset:
    """(prompt, response) texts to rows with ``input_ids`` and ``labels`` (-100 on the prompt); too long is an error."""
    rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    prompts = tokenizer([prompt for prompt, _ in pairs], add_special_tokens=False)["input_ids"]
    responses = tokenizer([response for _, response in pairs], add_special_tokens=False)["input_ids"]
    for prompt, response in zip(prompts, responses, strict=True):
        ids = [*prompt, *response, tokenizer.eos_token_id]
        if len(ids) > max_length:
            raise UserError(
                f"an SFT sample has {len(ids)} tokens, sft.max_length is {max_length}: raise it or filter the data"
            )
        rows["input_ids"].append(ids)
        rows["labels"].append([IGNORED] * len(prompt) + ids[len(prompt) :])
    return Dataset.from_dict(rows)


def sft_config(settings: Any, folder: Path, seed: int, cpu: bool, steps: int, evaluate_every: int) -> SFTConfig:
    """The paper's optimiser settings (AdamW, warm-up over a share of the planned steps, cosine to 0) for SFTTrainer."""
    return SFTConfig(
        output_dir=str(folder / "checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=settings.batch,
        per_device_eval_batch_size=settings.batch,
        learning_rate=settings.learning_rate,
        adam_beta1=settings.betas[0],
        adam_beta2=settings.betas[1],
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.grad_clip,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(settings.warmup_ratio * steps),
        logging_steps=max(1, min(10, steps // 20)),
        eval_strategy="steps",
        eval_steps=evaluate_every,
        save_steps=evaluate_every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        max_length=None,
        bf16=fast_bfloat16("cpu" if cpu else "cuda"),
        use_cpu=cpu,
        seed=seed,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=False,
        gradient_checkpointing=False,
    )


def train_sft(
    base: Path,
    tokenizer: PreTrainedTokenizerBase,
    train: Sequence[tuple[str, str]],
    validation: Sequence[tuple[str, str]],
    folder: Path,
    settings: Any,
    seed: int,
    *,
    cpu: bool = True,
    dtype: str = "float32",
    most_steps: int | None = None,
    lower: str = "batch",
) -> dict[str, Any]:
    """LoRA SFT of the model in ``base``; the merged model goes to ``folder``/model. Returns facts for ``done.json``.

    Stops after ``epochs_used`` epochs, or when the validation loss has not improved for ``patience`` evaluations (one
    per epoch); the best checkpoint is merged. ``most_steps`` shortens the run for teaching, ``lower`` names
    the setting that takes less memory.
    """
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype))
    per_epoch = math.ceil(len(train) / settings.batch)
    planned, used = per_epoch * settings.epochs_planned, per_epoch * settings.epochs_used
    used = min(used, most_steps or used)
    arguments = sft_config(settings, folder, seed, cpu, planned, min(per_epoch, used))
    last = last_whole_checkpoint(arguments.output_dir)
    trainer = (LengthGroupedSFT if settings.length_grouped else SFTTrainer)(
        model,
        arguments,
        train_dataset=encode_answers(tokenizer, train, settings.max_length),
        eval_dataset=encode_answers(tokenizer, validation, settings.max_length),
        processing_class=tokenizer,
        peft_config=lora_config(settings),
        callbacks=[
            LogToFile(folder / "metrics.jsonl", "sft", step_of(last)),
            StopAfter(used),
            EarlyStoppingCallback(early_stopping_patience=settings.patience),
        ],
    )
    trainer.remove_callback(PrinterCallback)
    with named_when_memory_ends(lower):
        trainer.train(resume_from_checkpoint=str(last) if last else None)
    merge_adapter(trainer.model, tokenizer, folder / "model")
    return {
        "steps": trainer.state.global_step,
        "best_validation_loss": trainer.state.best_metric,
        "samples": len(train),
    }


def lora_config(settings: Any) -> LoraConfig:
    """LoRA on all linear layers of the trunk, no bias."""
    return LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        target_modules="all-linear",
        bias="none",
        task_type="CAUSAL_LM",
    )


def merge_adapter(model: PeftModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> Path:
    """Merge the adapter into the weights and save a plain transformers checkpoint (safetensors)."""
    merged = model.merge_and_unload()
    merged.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def merge_lora(adapter: Path, folder: Path, base: str | None = None) -> Path:
    """Merge a saved peft adapter into its base (the one it names, or ``base``) and save a plain checkpoint."""
    try:
        named = PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path
        model = AutoModelForCausalLM.from_pretrained(base or named, dtype="auto")
        tokenizer = load_tokenizer(adapter) if has_tokenizer(adapter) else AutoTokenizer.from_pretrained(base or named)
        return merge_adapter(PeftModel.from_pretrained(model, str(adapter)), tokenizer, folder)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(
            f"{adapter} cannot be merged ({type(error).__name__}: {error}); give the base with --base"
        ) from error


def has_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer.json").is_file()
