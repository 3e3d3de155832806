"""The text-game trainings as stages: base, SFT and RLVR (paper section 4). Each fills one folder and can be killed.

A function takes the folder to fill, the profile and the folders it starts from, and returns facts for ``done.json``.
Trainings resume from their last whole checkpoint. Released weights (``start: released``) replace the long trainings at
the laptop profile; a short live training then still shows what the training does.
"""

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlvr_lib.artifacts import UserError
from rlvr_lib.profile import Profile
from rlvr_lib.progress import say
from rlvr_lib.provenance import fast_bfloat16
from rlvr_lib.tokens.text_game_task import TextGameTask
from rlvr_lib.tokens.text_tokenizer import load_tokenizer
from rlvr_lib.training import likelihood
from rlvr_lib.training.checkpoints import train_from_last
from rlvr_lib.training.grpo import GroupedGRPOTrainer, MetricsCallback, grpo_config
from rlvr_lib.training.released import take_released
from rlvr_lib.training.sft import train_sft
from rlvr_lib.training.teacher import read_sft_samples
from rlvr_lib.training.text_game_corpus import PAGE_TOKENS, base_pages, hub_tokenizer, prompt_writer, validation_pages
from rlvr_lib.training.text_game_rollouts import GreedyValidation, reward_with_accuracy
from rlvr_lib.worlds.bytesized32 import MixedPool
from rlvr_lib.worlds.text_game_data import load_cases
from rlvr_lib.worlds.transitions import TextTransition


def make_task(profile: Profile, folder: Path) -> TextGameTask:
    """The task for a profile; ``folder`` holds the tokenizer (the data stage's, or a checkpoint of a hub model)."""
    if profile.text_game.model.kind == "tiny_qwen2":
        return TextGameTask(load_tokenizer(folder), prompt_writer(profile))
    return TextGameTask(AutoTokenizer.from_pretrained(folder), prompt_writer(profile), chat=True)


def make_base(folder: Path, profile: Profile, data: Path) -> dict[str, Any]:
    """``folder``/model: hub model, released weights, or likelihood training on play-through pages from scratch.

    With released weights a fresh model is trained for ``live_steps`` beside it (``folder``/live), for its curve.
    """
    settings, model = profile.text_game.pretrain, profile.text_game.model
    if model.kind == "hub":
        return _fetch_hub_model(folder, profile)
    if settings.start == "scratch":
        trained = _train_base(folder, profile, data, settings.steps, settings.layouts)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return trained
    facts = take_released("base", profile, folder)
    if settings.live_steps:
        facts["live"] = _train_base(folder / "live", profile, data, settings.live_steps, 4)
        for leftover in ("checkpoints", "model"):
            shutil.rmtree(folder / "live" / leftover, ignore_errors=True)
    return facts


def _train_base(folder: Path, profile: Profile, data: Path, steps: int, layouts: int) -> dict[str, Any]:
    settings, size = profile.text_game.pretrain, profile.text_game.model
    tokenizer = load_tokenizer(data / "tokenizer")
    encode = partial(likelihood.encode_page, tokenizer, most=PAGE_TOKENS)
    train = likelihood.Pages(encode(page) for page in base_pages(profile, "train", layouts))
    validation = likelihood.Pages(encode(page) for page in validation_pages(profile))
    tokens = sum(len(ids) for ids, _ in train.pages)
    say(f"base: {len(train)} pages, {tokens:,} tokens; validation {len(validation)} pages")
    model = likelihood.tiny_qwen2(
        tokenizer, size.hidden, size.layers, size.heads, size.kv_heads, size.intermediate, profile.seed
    )
    every = max(1, min(200, steps // 2))
    trainer = likelihood.train_likelihood(
        model,
        train,
        validation,
        folder,
        steps=steps,
        batch=settings.batch,
        learning_rate=settings.learning_rate,
        warmup=min(settings.warmup, steps // 2),
        weight_decay=settings.weight_decay,
        seed=profile.seed,
        evaluate_every=every,
        save_every=every,
        bf16=fast_bfloat16(profile.torch_device()),
        label="base",
        cpu=profile.torch_device() == "cpu",
    )
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    losses = [row["eval_loss"] for row in trainer.state.log_history if "eval_loss" in row]
    return {
        "steps": steps,
        "pages": len(train),
        "tokens": tokens,
        "parameters": model.num_parameters(),
        "validation_loss": losses[-1:],
    }


def _fetch_hub_model(folder: Path, profile: Profile) -> dict[str, Any]:
    name = profile.text_game.model.name
    tokenizer = hub_tokenizer(name)
    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=getattr(torch, profile.text_game.model.dtype))
    except OSError as error:
        raise UserError(
            f"text_game.model.name: {name} is neither in the local cache nor reachable ({type(error).__name__}); "
            "unset HF_HUB_OFFLINE on a machine with a network, or use --profile laptop"
        ) from error
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return {"hub": name, "parameters": model.num_parameters()}


def make_sft(folder: Path, profile: Profile, data: Path, base: Path) -> dict[str, Any]:
    """``folder``/model: LoRA SFT on the teacher's answers, merged; or the released one beside a short live training."""
    settings = profile.text_game.sft
    task = make_task(profile, base / "model")
    samples = [(sample.prompt, sample.response) for sample in read_sft_samples(data / "sft.jsonl")][: settings.samples]
    held = max(1, len(samples) // 20)
    train = partial(
        train_sft,
        base / "model",
        task.tokenizer,
        samples[held:],
        samples[:held],
        settings=settings,
        seed=profile.seed,
        cpu=profile.torch_device() == "cpu",
        dtype=profile.text_game.model.dtype,
    )
    if settings.start == "released":
        facts = take_released("sft", profile, folder)
        if settings.live_steps:
            facts["live"] = train(folder / "live", most_steps=settings.live_steps)
            for leftover in ("checkpoints", "model"):
                shutil.rmtree(folder / "live" / leftover, ignore_errors=True)
        return facts
    facts = train(folder)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return facts


def evenly(cases: Sequence[Any], most: int) -> list[Any]:
    """At most ``most`` of ``cases``, at even distances: files are ordered by game, and every game has to be seen."""
    count = min(most, len(cases))
    return [cases[place * len(cases) // count] for place in range(count)]


def make_rlvr(folder: Path, profile: Profile, data: Path, sft: Path, reward: str) -> dict[str, Any]:
    """GRPO from the SFT model with the ``binary`` or ``task_specific`` reward: model and metrics.jsonl."""
    settings, seed = profile.text_game.rlvr, profile.seed
    task = make_task(profile, sft / "model")
    device = profile.torch_device()
    order = rollout_order(data, profile, reward)
    trainer = GroupedGRPOTrainer(
        model=str(sft / "model"),
        reward_funcs=reward_with_accuracy(reward),
        args=grpo_config(settings, folder / "checkpoints", seed, device, shuffle_dataset=False),
        train_dataset=rollout_dataset(task, order),
        processing_class=task.tokenizer,
        shared_prompt=settings.shared_prompt,
        skip_equal=settings.skip_equal,
        max_prompt=settings.max_prompt,
    )
    validation = evenly(load_cases(data / "validation.jsonl"), settings.evaluate_cases)
    trainer.add_callback(GreedyValidation(task, validation, settings, trainer))
    trainer.add_callback(MetricsCallback(folder / "metrics.jsonl", label=f"rlvr {reward}"))
    train_from_last(trainer, "text_game.rlvr.sequences_per_micro_batch")
    trainer.model.save_pretrained(folder / "model")
    task.tokenizer.save_pretrained(folder / "model")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return {"steps": settings.steps, "reward": reward, "fallback": trainer.fallback_reason}


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
