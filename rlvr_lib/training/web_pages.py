"""The web-page trainings as stages: base, SFT and RLVR with F1 (paper section 4). Each fills one folder.

A function takes the folder to fill, the profile and the folders it starts from, and returns facts for ``done.json``;
what the stages share with text games is in ``language.py`` and ``language_rlvr.py``.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer

from rlvr_lib.profile import Profile
from rlvr_lib.tokens.text_tokenizer import load_tokenizer
from rlvr_lib.tokens.web_page_task import WebPageTask, perfect_answer, trained_answer
from rlvr_lib.training import language
from rlvr_lib.training.language_rlvr import PREFIX, evenly, train_rlvr
from rlvr_lib.training.web_page_data import base_pages, make_task_of
from rlvr_lib.worlds.web_rewards import ChangeScore, Variant, score_changes
from rlvr_lib.worlds.web_transitions import WebTransition, read_web_file

MODALITY = "web_page"
LIVE_PAGES, VALIDATION_PAGES = 200, 160


def make_task(profile: Profile, folder: Path) -> WebPageTask:
    """The task for a profile; ``folder`` holds the tokenizer (the data stage's, or a checkpoint of a hub model)."""
    tiny = profile.web_page.model.kind == "tiny_qwen2"
    return make_task_of(profile, load_tokenizer(folder) if tiny else AutoTokenizer.from_pretrained(folder))


def make_base(folder: Path, profile: Profile, data: Path) -> dict[str, Any]:
    """``folder``/model: hub model, released weights, or likelihood training on recorded steps from scratch."""

    def corpus(live: bool):
        train, held = read_web_file(data / "train.jsonl"), validation_cases(data, VALIDATION_PAGES)
        pages = base_pages(evenly(train, LIVE_PAGES) if live else train, profile.seed, profile.web_page.data.reworded)
        return pages, base_pages(held, profile.seed)

    return language.make_base(folder, profile, MODALITY, data, corpus, profile.web_page.data.max_tokens + 64)


def validation_cases(data: Path, most: int) -> list[WebTransition]:
    """At most ``most`` validation cases; test cases where there are none, as in the paper (spec 0.3)."""
    return evenly(read_web_file(data / "validation.jsonl") or read_web_file(data / "test.jsonl"), most)


def make_sft(folder: Path, profile: Profile, data: Path, base: Path) -> dict[str, Any]:
    """``folder``/model: LoRA SFT on the recorded answers, merged; or the released one beside a short live training."""
    task = make_task(profile, base / "model")
    train = evenly(read_web_file(data / "train.jsonl"), profile.web_page.sft.samples)
    pairs = [answer_pairs(task, items) for items in (train, validation_cases(data, VALIDATION_PAGES))]
    return language.make_sft(folder, profile, MODALITY, task.tokenizer, *pairs, base)


def answer_pairs(task: WebPageTask, items: Sequence[WebTransition]) -> list[tuple[str, str]]:
    """Prompt as the model reads it (chat template included) and the answer to learn."""
    if not task.chat:
        return [(task.prompt(item), trained_answer(item)) for item in items]
    prompts = [task.tokenizer.decode(ids) for ids in task.prompt_ids(items)]
    return [(prompt, trained_answer(item)) for prompt, item in zip(prompts, items, strict=True)]


class F1Reward:
    """F1 of a predicted page change (B.6) as TRL wants it, which also logs precision and recall. Picklable."""

    def __init__(self, variant: Variant = "released"):
        self.variant, self.__name__ = variant, "f1_reward"

    def __call__(
        self,
        prompts: list,
        completions: list[str],
        truth: list[str],
        log_metric: Callable[[str, float], None] | None = None,
        **_: Any,
    ) -> list[float]:
        """One reward in [0, 1] per completion; ``truth`` holds the true changes in the answer format."""
        scores = [score_changes(text, true, self.variant) for text, true in zip(completions, truth, strict=True)]
        if log_metric is not None:
            for name, value in means(scores).items():
                log_metric(name, value)
        return [score.f1 for score in scores]


def means(scores: Sequence[ChangeScore], prefix: str = "") -> dict[str, float]:
    """Macro means of precision, recall and F1, and the share of perfect answers."""
    rows = [{**asdict(score), "exact": float(score.f1 == 1)} for score in scores]
    return {f"{prefix}{name}": sum(row[name] for row in rows) / len(rows) for name in rows[0]} if rows else {}


def validation_scores(cases: Sequence[WebTransition], variant: Variant, answers: Sequence[str]) -> dict[str, float]:
    """What greedy validation logs of its answers: ``validation_f1`` and its parts."""
    pairs = zip(answers, cases, strict=True)
    return means([score_changes(text, perfect_answer(case), variant) for text, case in pairs], PREFIX)


def make_rlvr(folder: Path, profile: Profile, data: Path, sft: Path) -> dict[str, Any]:
    """GRPO from the SFT model with F1 as the reward: model and metrics.jsonl."""
    settings, variant = profile.web_page.rlvr, profile.web_page.evaluation.variant
    task = make_task(profile, sft / "model")
    order = rollout_order(read_web_file(data / "rlvr.jsonl"), settings.steps * settings.prompts_per_step, profile.seed)
    questions = rollout_dataset(task, order)
    cases = validation_cases(data, settings.evaluate_cases)
    measure = partial(validation_scores, cases, variant)
    reward = F1Reward(variant)
    return train_rlvr(folder, profile, MODALITY, task, sft, reward, questions, cases, measure, "rlvr f1")


def rollout_order(pool: Sequence[WebTransition], count: int, seed: int) -> list[WebTransition]:
    """``count`` questions: the pool in a new random order for every epoch."""
    order: list[WebTransition] = []
    epoch = 0
    while len(order) < count:
        order += Random(f"rollouts/{seed}/{epoch}").sample(list(pool), len(pool))
        epoch += 1
    return order[:count]


def rollout_dataset(task: WebPageTask, order: Sequence[WebTransition]) -> Dataset:
    """Columns of GRPO: ``prompt`` (token ids) and ``truth``, which the reward needs."""
    return Dataset.from_dict({"prompt": task.prompt_ids(order), "truth": [perfect_answer(item) for item in order]})


__all__ = ["F1Reward", "make_base", "make_rlvr", "make_sft", "make_task", "rollout_dataset", "validation_cases"]
