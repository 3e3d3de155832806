"""Stages of the robot-video part: episodes, visual tokenizers, base world models; each takes a folder and fills it.

What was trained is saved as ``model``; tokenizers and world models in the hub's layout, action bins as JSON beside the
world model, so that a folder says by itself how to read a clip.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import LlamaForCausalLM

from rlvr_lib.artifacts import UserError, atomic_write_json, read_json
from rlvr_lib.profile import Profile
from rlvr_lib.profile_schema_video import MoreLikelihood, VideoModel, VisualTokenizer
from rlvr_lib.progress import say
from rlvr_lib.tokens.action_bins import ActionBins
from rlvr_lib.tokens.compressive_tokenizer import CompressiveTokenizer
from rlvr_lib.tokens.frame_tokenizer import FrameTokenizer
from rlvr_lib.tokens.video_task import MultiStepTask, SingleStepTask, VideoTask
from rlvr_lib.tokens.world_model import Size, world_model
from rlvr_lib.training.released import released_video, take_released_video
from rlvr_lib.training.video_pretrain import ContextSequences, FrameSequences, OnlineSequences, pretrain
from rlvr_lib.training.video_tokenizers import TokenizerTraining, reconstruct
from rlvr_lib.worlds.perceptual import perceptual, structural_distance
from rlvr_lib.worlds.recorders import RECORDERS
from rlvr_lib.worlds.video_clips import ClipSource, held_out_clips
from rlvr_lib.worlds.video_episodes import EpisodeSet

KINDS = ("single_step", "multi_step")
CONTROLS = ("multi_step_third", "multi_step_same_time")
FURTHER = 1  # added to the seed where likelihood goes on, so that it sees other clips


def make_video_data(folder: Path, profile: Profile) -> dict[str, Any]:
    """Record the set, or check a converted one (RT-1, DINO-WM); measure action ranges on training episodes."""
    settings = profile.video.data
    recorder = RECORDERS.get(settings.source)
    facts = recorder(folder / "episodes", profile.seed, settings) if recorder else {"root": settings.root}
    episodes = open_episodes(profile, folder)
    facts |= {"train": len(episodes.train), "test": len(episodes.test), "damaged": len(episodes.damaged)}
    bins = _bins(profile, episodes)
    atomic_write_json(folder / "action_bins.json", bins.to_dict())
    longest = profile.video.multi_step.horizon + 1
    return facts | oddities(episodes, bins, max(longest, profile.video.single_step.context + 1))


def oddities(episodes: EpisodeSet, bins: ActionBins, clip: int) -> dict[str, int]:
    """What the definitions let pass, counted and said: episodes shorter than a clip, actions outside the ranges.

    A short episode is padded in RLVR and evaluation and not drawn in pre-training; outside values go to the end bins.
    """
    lengths, outside = [], 0
    for episode in episodes:
        lengths.append(len(episode))
        outside += bins.outside(episode.actions)
    short = sum(length < clip for length in lengths)
    if short:
        say(f"{short} of {len(lengths)} episodes are shorter than a clip of {clip} frames: padded, or not drawn")
    if outside:
        say(f"{outside} action values lie outside the ranges: they count as the outermost bin")
    return {"short_episodes": short, "actions_outside": outside}


def _bins(profile: Profile, episodes: EpisodeSet) -> ActionBins:
    """RT-1's ranges, those that the released models were trained with, or the training episodes' own."""
    if profile.video.data.ranges == "rt1":
        return ActionBins.rt1()
    if profile.video.single_step.start == "released":
        return ActionBins.from_dict(read_json(released_video("single_step", profile) / "manifest.json")["action_bins"])
    return _measured(episodes)


def _measured(episodes: EpisodeSet) -> ActionBins:
    return ActionBins.measured(np.concatenate([episodes[name].actions for name in episodes.train]))


def open_episodes(profile: Profile, data: Path) -> EpisodeSet:
    """The set of a profile, checked; at most ``episodes`` of it."""
    settings = profile.video.data
    if settings.source not in RECORDERS and not settings.root:
        command = f"rlvr convert-{settings.source.replace('_', '-')}"
        raise UserError(f"video.data.root: set it to a folder made by `{command}`, or use video.data.source=drawers")
    folder = data / "episodes" if settings.source in RECORDERS else Path(settings.root).expanduser()
    episodes = EpisodeSet(folder, settings.test_every)
    episodes.limit(settings.episodes)
    episodes.check((settings.height, settings.width))
    return episodes


def load_bins(data: Path) -> ActionBins:
    return ActionBins.from_dict(read_json(data / "action_bins.json"))


def new_tokenizer(profile: Profile, kind: str) -> FrameTokenizer | CompressiveTokenizer:
    """A fresh tokenizer of the profile's sizes: ``frame`` or ``compressive``."""
    video = profile.video
    settings: VisualTokenizer = getattr(video, f"{kind}_tokenizer")
    sizes = {
        **{"height": video.data.height, "width": video.data.width, "widths": list(settings.widths)},
        **{"encoder_blocks": settings.encoder_blocks, "decoder_blocks": settings.decoder_blocks},
        **{"latent": settings.latent, "levels": list(settings.levels), "groups": settings.norm_groups},
    }
    torch.manual_seed(profile.seed)
    if kind == "frame":
        return FrameTokenizer(**sizes)
    return CompressiveTokenizer(**sizes, patch=video.dynamics_patch, heads=video.attention_heads)


def make_tokenizer(folder: Path, profile: Profile, data: Path, kind: str) -> dict[str, Any]:
    """``folder``/model: the ``frame`` or ``compressive`` tokenizer, released or trained from scratch.

    With released weights a fresh one is trained for ``live_iterations`` beside it (``folder``/live), for its curve.
    """
    settings: VisualTokenizer = getattr(profile.video, f"{kind}_tokenizer")
    if settings.start == "scratch":
        return _train_tokenizer(folder, profile, data, kind, settings.iterations)
    facts = take_released_video(f"{kind}_tokenizer", profile, folder)
    if settings.live_iterations:
        facts["live"] = _train_tokenizer(folder / "live", profile, data, kind, settings.live_iterations)
        shutil.rmtree(folder / "live" / "model", ignore_errors=True)
    return facts


def _train_tokenizer(folder: Path, profile: Profile, data: Path, kind: str, iterations: int) -> dict[str, Any]:
    settings: VisualTokenizer = getattr(profile.video, f"{kind}_tokenizer")
    episodes, device = open_episodes(profile, data), profile.torch_device()
    options = {"jitter": profile.video.data.jitter, "crop": profile.video.data.crop}
    source = ClipSource(episodes, episodes.train, settings.clip_frames, **options)
    distance = perceptual(profile.video.metric, device)
    held = [clip.frames for clip in held_out_clips(episodes, settings.clip_frames, 16)]
    clips = torch.stack(held).to(device)

    def validate(tokenizer: torch.nn.Module) -> dict[str, float]:
        pairs, _ = reconstruct(tokenizer, clips)
        truth, again = pairs[-1]
        again = again.float().clamp(0, 1)
        return {"l1": float((truth - again).abs().mean()), "perceptual": float(distance(truth, again).mean())}

    loss = structural_distance(device) if settings.perceptual_loss == "ms_ssim" else distance
    run = TokenizerTraining(
        new_tokenizer(profile, kind),
        settings,
        source,
        loss,
        folder,
        seed=profile.seed,
        device=device,
        iterations=iterations,
        label=f"{kind} tokenizer",
        validate=validate,
    )
    facts = run.run()
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    facts |= {"parameters": sum(value.numel() for value in run.tokenizer.parameters())}
    return {**facts, "metric": distance.name, "perceptual_loss": loss.name}


def make_task(profile: Profile, data: Path, tokenizer: Path, kind: str) -> VideoTask:
    """The ``single_step`` or ``multi_step`` task with the frozen tokenizer in ``tokenizer``/model."""
    bins, device = load_bins(data), profile.torch_device()
    if kind == "single_step":
        frozen = FrameTokenizer.from_pretrained(tokenizer / "model")
        return SingleStepTask(frozen, bins, profile.video.single_step.context, device)
    frozen = CompressiveTokenizer.from_pretrained(tokenizer / "model")
    return MultiStepTask(frozen, bins, profile.video.multi_step.horizon, device)


def make_world_model(folder: Path, profile: Profile, data: Path, tokenizer: Path, kind: str) -> dict[str, Any]:
    """``folder``/model: the ``single_step`` or ``multi_step`` base world model, released or pre-trained here (D).

    With released weights a fresh one is trained for ``live_steps`` beside it (``folder``/live), for its curve.
    """
    settings: VideoModel = getattr(profile.video, kind)
    if settings.start == "scratch":
        return _pretrain(folder, profile, data, tokenizer, kind, settings.steps)
    facts = take_released_video(kind, profile, folder)
    if settings.live_steps:
        facts["live"] = _pretrain(folder / "live", profile, data, tokenizer, kind, settings.live_steps)
        shutil.rmtree(folder / "live" / "model", ignore_errors=True)
    return facts


def make_longer(folder: Path, profile: Profile, data: Path, tokenizer: Path, base: Path, part: str) -> dict[str, Any]:
    """``folder``/model: the multi-step base after more likelihood, the control of claim C8.

    ``part`` is ``multi_step_third`` (a third more updates) or ``multi_step_same_time`` (as many as RLVR's time allows).
    Clips are new ones; the rate goes as the base's did (constant, or down to 0: a base that ended at 0 would lose by a
    constant one). Where the base kept its best validation, so does the control: of four, so that overfitting does not
    weaken it.
    """
    settings: MoreLikelihood = getattr(profile.video, part)
    if settings.start == "released":
        return take_released_video(part, profile, folder)
    changes = {
        **{"learning_rate": settings.learning_rate, "warmup": 0},
        "evaluate_every": max(1, settings.steps // 4),
    }
    return _pretrain(
        folder, profile, data, tokenizer, "multi_step", settings.steps, base, changes, seed=profile.seed + FURTHER
    )


def _pretrain(
    folder: Path,
    profile: Profile,
    data: Path,
    tokenizer: Path,
    kind: str,
    steps: int,
    start: Path | None = None,
    changes: dict[str, Any] | None = None,
    seed: int | None = None,
) -> dict[str, Any]:
    """Likelihood training of ``kind`` for ``steps`` updates, from ``start``/model or from nothing."""
    settings: VideoModel = getattr(profile.video, kind).model_copy(update=changes or {})
    seed = profile.seed if seed is None else seed
    episodes, task = open_episodes(profile, data), make_task(profile, data, tokenizer, kind)
    device = profile.torch_device()
    source = ClipSource(
        episodes,
        episodes.train,
        task.clip_frames,
        context=task.has_context,
        jitter=profile.video.data.jitter,
        whole_only=True,
    )
    train = _sequences(task, source, steps * settings.batch, profile, settings.history_loss, seed)
    size = Size(settings.hidden, settings.layers, settings.heads, settings.intermediate)
    model = LlamaForCausalLM.from_pretrained(start / "model") if start else world_model(task.layout, size, seed)
    distance = perceptual(profile.video.metric, device)
    held = list(held_out_clips(episodes, task.clip_frames, settings.evaluate_segments, task.has_context))
    facts = pretrain(
        model,
        task,
        train,
        held,
        folder,
        settings,
        steps=steps,
        seed=seed,
        distance=distance,
        top_k=profile.video.evaluation.top_k,
        label=kind.replace("_", "-"),
        cpu=device == "cpu",
    )
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return {**facts, "metric": distance.name}


def _sequences(task: VideoTask, source: ClipSource, count: int, profile: Profile, history: bool, seed: int) -> Dataset:
    """Training items: tokenised when asked for with colour jitter and in short runs, else every frame once."""
    contexts = 1 if isinstance(task, SingleStepTask) else 2  # how often a frame is tokenised, about
    stored = contexts * sum(len(source.episode(name)) for name in source.names)
    if profile.video.data.jitter or count * task.clip_frames < stored:
        return OnlineSequences(task, source, count, seed, history)
    if isinstance(task, SingleStepTask):
        return FrameSequences(task, source, count, seed, history)
    say("multi-step: clips share a few context frames per episode (no colour jitter; the paper tokenises on line)")
    return ContextSequences(task, source, count, seed, history)
