"""Base and SFT of a language world model as stages, for text games and web pages alike (paper section 4).

``modality`` is the profile's section, ``text_game`` or ``web_page``. A function fills one folder, can be killed, and
returns facts for ``done.json``. Released weights (``start: released``) replace the long trainings at the laptop
profile; a short live training then still shows what the training does.
"""

import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from rlvr_lib.artifacts import UserError
from rlvr_lib.profile import Profile
from rlvr_lib.progress import say
from rlvr_lib.provenance import fast_bfloat16
from rlvr_lib.tokens.text_tokenizer import load_tokenizer
from rlvr_lib.training import likelihood
from rlvr_lib.training.released import take_released
from rlvr_lib.training.sft import train_sft

Parts = list[tuple[str, bool]]  # a page of text: (text, does it carry loss)
Corpus = Callable[[bool], tuple[Iterable[Parts], Iterable[Parts]]]  # short live run? -> training, validation pages
Pairs = Sequence[tuple[str, str]]  # prompt, answer to learn


def hub_tokenizer(profile: Profile, modality: str) -> PreTrainedTokenizerBase:
    """The tokenizer of the section's hub model; an error that names the setting when it cannot be had."""
    name = getattr(profile, modality).model.name
    try:
        return AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UserError(_unreachable(modality, name, error)) from error


def _unreachable(modality: str, name: str, error: Exception) -> str:
    return (
        f"{modality}.model.name: {name} is neither in the local cache nor reachable ({type(error).__name__}); "
        "unset HF_HUB_OFFLINE on a machine with a network, or use --profile laptop"
    )


def make_base(folder: Path, profile: Profile, modality: str, data: Path, corpus: Corpus, most: int) -> dict[str, Any]:
    """``folder``/model: hub model, released weights, or likelihood training from scratch on pages of ``most`` tokens.

    With released weights a fresh model is trained for ``live_steps`` beside it (``folder``/live), for its curve.
    """
    section = getattr(profile, modality)
    if section.model.kind == "hub":
        return _fetch_hub_model(folder, profile, modality)
    train = partial(_train_base, profile=profile, modality=modality, data=data, corpus=corpus, most=most)
    if section.pretrain.start == "scratch":
        trained = train(folder, steps=section.pretrain.steps, live=False)
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        return trained
    facts = take_released("base", profile, folder, modality)
    if section.pretrain.live_steps:
        facts["live"] = train(folder / "live", steps=section.pretrain.live_steps, live=True)
        _keep_curve(folder / "live")
    return facts


def _keep_curve(folder: Path) -> None:
    """Of a live training only its log is kept."""
    for leftover in ("checkpoints", "model"):
        shutil.rmtree(folder / leftover, ignore_errors=True)


def _train_base(
    folder: Path, profile: Profile, modality: str, data: Path, corpus: Corpus, most: int, steps: int, live: bool
) -> dict[str, Any]:
    settings, size = (getattr(getattr(profile, modality), name) for name in ("pretrain", "model"))
    tokenizer = load_tokenizer(data / "tokenizer")
    pages = [likelihood.Pages(likelihood.encode_page(tokenizer, page, most) for page in part) for part in corpus(live)]
    train, validation = pages
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
        lower=f"{modality}.pretrain.batch",
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


def _fetch_hub_model(folder: Path, profile: Profile, modality: str) -> dict[str, Any]:
    settings = getattr(profile, modality).model
    tokenizer = hub_tokenizer(profile, modality)
    try:
        model = AutoModelForCausalLM.from_pretrained(settings.name, dtype=getattr(torch, settings.dtype))
    except OSError as error:
        raise UserError(_unreachable(modality, settings.name, error)) from error
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return {"hub": settings.name, "parameters": model.num_parameters()}


def make_sft(
    folder: Path,
    profile: Profile,
    modality: str,
    tokenizer: PreTrainedTokenizerBase,
    samples: Pairs,
    held: Pairs,
    base: Path,
) -> dict[str, Any]:
    """``folder``/model: LoRA SFT on ``samples``, merged; or the released one beside a short live training.

    ``held`` are the pairs of the validation loss.
    """
    section = getattr(profile, modality)
    train = partial(
        train_sft,
        base / "model",
        tokenizer,
        samples,
        held,
        settings=section.sft,
        seed=profile.seed,
        cpu=profile.torch_device() == "cpu",
        dtype=section.model.dtype,
        lower=f"{modality}.sft.batch",
    )
    if section.sft.start == "released":
        facts = take_released("sft", profile, folder, modality)
        if section.sft.live_steps:
            facts["live"] = train(folder / "live", most_steps=section.sft.live_steps)
            _keep_curve(folder / "live")
        return facts
    facts = train(folder)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return facts
