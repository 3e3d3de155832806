"""GRPO of a language world model as a stage, for text games and web pages alike, with greedy validation (spec 0.3)."""

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset

from rlvr_lib.profile import Profile
from rlvr_lib.progress import say
from rlvr_lib.training.checkpoints import train_from_last
from rlvr_lib.training.generation import sample
from rlvr_lib.training.grpo import GroupedGRPOTrainer, MetricsCallback
from rlvr_lib.training.grpo_monitor import Validation
from rlvr_lib.training.grpo_settings import grpo_config

PREFIX = "validation_"
Measure = Callable[[list[str]], dict[str, float]]  # answers in the order of the cases -> values for the log


def evenly(cases: Sequence[Any], most: int) -> list[Any]:
    """At most ``most`` of ``cases``, at even distances: files are ordered by game or site, and all have to be seen."""
    count = min(most, len(cases))
    return [cases[place * len(cases) // count] for place in range(count)]


class GreedyValidation(Validation):
    """Greedy answers to validation cases, one each; ``measure`` turns their texts into ``validation_...`` values."""

    def __init__(self, task: Any, cases: Sequence[Any], measure: Measure, settings: Any, trainer: Any):
        super().__init__(settings)
        self.task, self.measure, self.trainer = task, measure, trainer
        self.prompts = task.prompt_ids(cases)

    def _measure(self, step: int) -> dict[str, float]:
        tokenizer = self.task.tokenizer
        result = sample(
            self.trainer.model,
            self.prompts,
            1,
            self.settings.max_response,
            tokenizer.eos_token_id,
            tokenizer.pad_token_id,
            greedy=True,
            generator=torch.Generator().manual_seed(0),
        )
        found = self.measure([self.task.text(ids) for ids in result.completions])
        shown = (f"{name.removeprefix(PREFIX)} {value:.3f}" for name, value in found.items())
        say(f"validation at step {step}: " + ", ".join(shown))
        return found


def train_rlvr(
    folder: Path,
    profile: Profile,
    modality: str,
    task: Any,
    sft: Path,
    reward: Callable,
    questions: Dataset,
    cases: Sequence[Any],
    measure: Measure,
    label: str,
) -> dict[str, Any]:
    """GRPO from the model in ``sft``/model on ``questions`` in their order: ``folder``/model and metrics.jsonl."""
    settings = getattr(profile, modality).rlvr
    trainer = GroupedGRPOTrainer(
        model=str(sft / "model"),
        reward_funcs=reward,
        args=grpo_config(settings, folder / "checkpoints", profile.seed, profile.torch_device(), shuffle_dataset=False),
        train_dataset=questions,
        processing_class=task.tokenizer,
        shared_prompt=settings.shared_prompt,
        skip_equal=settings.skip_equal,
        max_prompt=settings.max_prompt,
    )
    trainer.add_callback(GreedyValidation(task, cases, measure, settings, trainer))
    trainer.add_callback(MetricsCallback(folder / "metrics.jsonl", label=label))
    train_from_last(trainer, f"{modality}.rlvr.sequences_per_micro_batch")
    trainer.model.save_pretrained(folder / "model")
    task.tokenizer.save_pretrained(folder / "model")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return {"steps": settings.steps, "fallback": trainer.fallback_reason}
