"""The text-game trainings as stages: base, SFT and RLVR (paper section 4). Each fills one folder and can be killed.

A function takes the folder to fill, the profile and the folders it starts from, and returns facts for ``done.json``;
what the stages share with web pages is in ``language.py`` and ``language_rlvr.py``.
"""

import json
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer

from rlvr_lib.profile import Profile
from rlvr_lib.tokens.text_game_task import TextGameTask
from rlvr_lib.tokens.text_tokenizer import load_tokenizer
from rlvr_lib.training import language
from rlvr_lib.training.language_rlvr import evenly, train_rlvr
from rlvr_lib.training.teacher import read_sft_samples
from rlvr_lib.training.text_game_corpus import PAGE_TOKENS, base_pages, prompt_writer, validation_pages
from rlvr_lib.training.text_game_rollouts import reward_with_accuracy, validation_accuracies
from rlvr_lib.worlds.bytesized32 import MixedPool
from rlvr_lib.worlds.text_game_data import load_cases
from rlvr_lib.worlds.transitions import TextTransition

MODALITY = "text_game"
LIVE_LAYOUTS = 4  # of the short live training


def make_task(profile: Profile, folder: Path) -> TextGameTask:
    """The task for a profile; ``folder`` holds the tokenizer (the data stage's, or a checkpoint of a hub model)."""
    if profile.text_game.model.kind == "tiny_qwen2":
        return TextGameTask(load_tokenizer(folder), prompt_writer(profile))
    return TextGameTask(AutoTokenizer.from_pretrained(folder), prompt_writer(profile), chat=True)


def make_base(folder: Path, profile: Profile, data: Path) -> dict[str, Any]:
    """``folder``/model: hub model, released weights, or likelihood training on play-through pages from scratch."""

    def corpus(live: bool):
        layouts = LIVE_LAYOUTS if live else profile.text_game.pretrain.layouts
        return base_pages(profile, "train", layouts), validation_pages(profile)

    return language.make_base(folder, profile, MODALITY, data, corpus, PAGE_TOKENS)


def make_sft(folder: Path, profile: Profile, data: Path, base: Path) -> dict[str, Any]:
    """``folder``/model: LoRA SFT on the teacher's answers, merged; or the released one beside a short live training."""
    task, wanted = make_task(profile, base / "model"), profile.text_game.sft.samples
    samples = [(sample.prompt, sample.response) for sample in read_sft_samples(data / "sft.jsonl")][:wanted]
    held = max(1, len(samples) // 20)
    return language.make_sft(folder, profile, MODALITY, task.tokenizer, samples[held:], samples[:held], base)


def make_rlvr(folder: Path, profile: Profile, data: Path, sft: Path, reward: str) -> dict[str, Any]:
    """GRPO from the SFT model with the ``binary`` or ``task_specific`` reward: model and metrics.jsonl."""
    task = make_task(profile, sft / "model")
    questions = rollout_dataset(task, rollout_order(data, profile, reward))
    cases = evenly(load_cases(data / "validation.jsonl"), profile.text_game.rlvr.evaluate_cases)
    measure, function = partial(validation_accuracies, cases), reward_with_accuracy(reward)
    label = f"rlvr {reward}"
    facts = train_rlvr(folder, profile, MODALITY, task, sft, function, questions, cases, measure, label)
    return {**facts, "reward": reward}


def rollout_order(data: Path, profile: Profile, reward: str) -> list[TextTransition]:
    """Training items in the order they are rolled out: changed ones mixed with unchanged ones as A.11 says."""
    settings = profile.text_game.rlvr
    ratio = getattr(settings, f"unchanged_ratio_{reward}")
    changed, unchanged = (load_cases(data / f"pool_{kind}.jsonl") for kind in ("changed", "unchanged"))
    pool = MixedPool(
        changed, unchanged, slots=round(len(changed) * ratio), batch=settings.prompts_per_step, seed=profile.seed
    )
    order: list[TextTransition] = []
    epoch = 0
    while len(order) < settings.steps * settings.prompts_per_step:
        order += pool.epoch(epoch)
        epoch += 1
    return order[: settings.steps * settings.prompts_per_step]


def rollout_dataset(task: TextGameTask, order: list[TextTransition]) -> Dataset:
    """Columns of GRPO: ``prompt`` (token ids) and what the rewards need as JSON text."""
    return Dataset.from_dict(
        {
            "prompt": task.prompt_ids(order),
            "current_state": [json.dumps(item.current) for item in order],
            "gold_state": [json.dumps(item.target) for item in order],
        }
    )


__all__ = ["evenly", "make_base", "make_rlvr", "make_sft", "make_task", "rollout_dataset", "rollout_order"]
