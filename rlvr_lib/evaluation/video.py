"""Table 3: held-out segments, sampled and scored frame by frame, beside rows that need no model (F).

Per-segment scores go to ``<kind>.csv``; every number of the report can be recomputed from them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from transformers import LlamaForCausalLM

from rlvr_lib.artifacts import atomic_write_text
from rlvr_lib.evaluation.repetition import repetition_study
from rlvr_lib.evaluation.video_scores import moving, reference_predictions, segment_scores
from rlvr_lib.profile import Profile
from rlvr_lib.progress import say
from rlvr_lib.tokens.video_task import MultiStepTask, VideoTask
from rlvr_lib.training.baselines import Baseline, load_baseline, predict_next
from rlvr_lib.training.video import KINDS, make_task, open_episodes
from rlvr_lib.training.video_pretrain import predict_samples, predict_with_codes
from rlvr_lib.worlds.perceptual import Perceptual, perceptual
from rlvr_lib.worlds.video_clips import Clip, cut, held_out_clips
from rlvr_lib.worlds.video_metrics import repeats
from rlvr_lib.worlds.video_segments import Segment, to_float

COOLER = 0.7
REJECTION = ", repeated samples drawn again"
LONGER = {
    "multi_step_third": "base, a third more likelihood",
    "multi_step_same_time": "base, likelihood for RLVR's time",
}
ATTEMPTS = 50  # draws of a rollout that must not stand still, before the last one is kept
CHANGED = 0.05  # a pixel has changed when a channel differs by more than this


def segments_of(profile: Profile, data: Path, task: VideoTask, most: int | None = None) -> list[Clip]:
    """The fixed clip of every test episode (A.1), at most ``most``."""
    wanted = profile.video.data.test_segments if most is None else most
    return list(held_out_clips(open_episodes(profile, data), task.clip_frames, wanted, task.has_context))


def liveliest_clip(profile: Profile, data: Path, task: VideoTask, facts: dict[str, Any]) -> Clip:
    """The clip in which most changes from first to last frame, among test episodes with these facts (or all).

    For looking at, never for a table: ``{"task": "drawer-open", "success": True}`` shows a drawer opening.
    """
    episodes, length = open_episodes(profile, data), task.clip_frames
    tested = [episodes[name] for name in episodes.test]
    alike = [episode for episode in tested if all(episode.facts.get(name) == value for name, value in facts.items())]
    best, most = None, -1.0
    for episode in alike or tested:
        frames = to_float(episode.frames)
        change = (frames[length - 1 :] - frames[: len(frames) - length + 1]).abs().mean((1, 2, 3))
        if len(change) and float(change.max()) > most:
            most, start = float(change.max()), int(change.argmax())
            context = max(start - length, 0) if task.has_context else None
            best = cut(episode, Segment(np.arange(start, start + length), context))
    return best or segments_of(profile, data, task, 1)[0]


def evaluate_base(
    folder: Path, profile: Profile, data: Path, tokenizers: dict[str, Path], models: dict[str, Path]
) -> dict[str, Any]:
    """Score both base world models and the reference rows; ``tokenizers`` and ``models`` map a kind to its stage."""
    distance, facts = perceptual(profile.video.metric, profile.torch_device()), {}
    for kind in KINDS:
        task = make_task(profile, data, tokenizers[kind], kind)
        model = load_world_model(models[kind], profile)
        with task.keeping():
            scores = evaluate_kind({"base": model}, task, segments_of(profile, data, task), profile, distance)
        atomic_write_text(folder / f"{kind}.csv", scores.to_csv(index=False))
        facts[kind] = scores.groupby("model").mean(numeric_only=True).round(5).to_dict("index")
    return {"metric": distance.name, **facts}


def evaluate_rlvr(
    folder: Path,
    profile: Profile,
    data: Path,
    tokenizers: dict[str, Path],
    bases: dict[str, Path],
    tuned: dict[str, Path],
    controls: dict[str, Path] | None = None,
    baselines: dict[str, Path] | None = None,
) -> dict[str, Any]:
    """Table 3: base (also with repetition rejection) and RLVR of each kind, and the reference rows, in ``folder``.

    ``bases`` and ``tuned`` map a kind to its stage; ``controls`` maps a name of ``CONTROLS`` to its stage: rows of the
    multi-step table; ``baselines`` maps a name of ``BASELINES`` to its stage: rows of Table 4, which has one kind. Also
    the repetition study of the multi-step models, in ``repetition.csv``. A kind that is there
    already is kept.
    """
    distance, facts = perceptual(profile.video.metric, profile.torch_device()), {}
    for kind in bases:
        task = make_task(profile, data, tokenizers[kind], kind)
        models = {"base": load_world_model(bases[kind], profile), "RLVR": load_world_model(tuned[kind], profile)}
        clips = segments_of(profile, data, task)
        with task.keeping():
            if isinstance(task, MultiStepTask) and not (folder / "repetition.csv").exists():
                study = repetition_study(models, task, clips, profile)
                atomic_write_text(folder / "repetition.csv", study.to_csv(index=False))
            for part, stage in (controls or {}).items() if task.has_context else ():
                models[LONGER[part]] = load_world_model(stage, profile)
            if not (folder / f"{kind}.csv").exists():
                others = [load_baseline(stage, profile, part) for part, stage in (baselines or {}).items()]
                samples = getattr(profile.video.evaluation.samples, kind)
                scores = evaluate_kind(models, task, clips, profile, distance, task.has_context, samples, others)
                atomic_write_text(folder / f"{kind}.csv", scores.to_csv(index=False))
        scores = pd.read_csv(folder / f"{kind}.csv")
        facts[kind] = scores.groupby("model").mean(numeric_only=True).round(5).to_dict("index")
    return {"metric": distance.name, **facts}


def load_world_model(stage: Path, profile: Profile) -> LlamaForCausalLM:
    """``stage``/model on the profile's device, in evaluation mode."""
    return LlamaForCausalLM.from_pretrained(stage / "model").to(profile.torch_device()).eval()


def evaluate_kind(
    models: Mapping[str, LlamaForCausalLM],
    task: VideoTask,
    clips: Sequence[Clip],
    profile: Profile,
    distance: Perceptual,
    rejection: bool = False,
    samples: int = 1,
    baselines: Sequence[Baseline] = (),
) -> pd.DataFrame:
    """One row per (model, segment): metrics, whether the segment moves, whether the prediction ends standing still.

    Every model is sampled as in the paper (``samples`` times, scores averaged), and but for the controls cooler and
    greedily; ``rejection`` adds the first one with repeated samples drawn again (F.3). ``baselines`` come last, each
    sampled likewise, once if it draws nothing; they write no tokens, so whether they repeat is not said.
    """
    settings = profile.video.evaluation
    truth, moves, rows = task.truth(clips), moving(clips, task), []

    def scored(frames: torch.Tensor, still: np.ndarray | None) -> pd.DataFrame:
        repeated = [float("nan")] * len(clips) if still is None else still.astype(float)
        return segment_scores(truth, frames, distance).assign(repetition=repeated)

    def averaged(frames: torch.Tensor, codes: torch.Tensor) -> pd.DataFrame:
        pairs = zip(frames.unbind(1), codes.unbind(1), strict=True)
        parts = [scored(one, ends_still(task, clips, ids)) for one, ids in pairs]
        return sum(parts[1:], parts[0]) / len(parts)

    def add(name: str, scores: pd.DataFrame) -> None:
        rows.append(scores.assign(model=name, segment=range(len(clips)), moving=moves))
        say(f"{task.layout.kind}, {name}: {distance.name} {scores[distance.name].mean():.4f}")

    for name, frames in reference_predictions(task, clips).items():
        add(name, scored(frames, true_repeats(task, clips) if name == "tokenizer ceiling" else None))
    options = {"top_k": settings.top_k, "batch": settings.batch}
    ways = ("", settings.temperature, samples), (f", temperature {COOLER}", COOLER, 1), (", greedy", 0, 1)
    for name, model in models.items():
        for suffix, temperature, count in ways[:1] if name in LONGER.values() else ways:
            how = {"seed": profile.seed, "temperature": temperature, **options}
            add(f"{name}{suffix}", averaged(*predict_samples(model, task, clips, count, **how)))
    for name, model in [*models.items()][:1] if rejection else []:
        options["temperature"] = settings.temperature
        add(f"{name}{REJECTION}", averaged(*without_repetition(model, task, clips, profile.seed, samples, **options)))
    for other in baselines:
        seeds = sample_seeds(profile.seed, samples if other.random else 1)
        parts = [scored(predict_next(other, task.bins, clips, seed, settings.batch), None) for seed in seeds]
        add(other.name, sum(parts[1:], parts[0]) / len(parts))
    return pd.concat(rows, ignore_index=True)


def sample_seeds(seed: int, samples: int) -> range:
    """Seeds of a segment's samples, far enough apart for the attempts of :func:`without_repetition`."""
    return range(seed, seed + samples * ATTEMPTS, ATTEMPTS)


def without_repetition(
    model: LlamaForCausalLM,
    task: VideoTask,
    clips: Sequence[Clip],
    seed: int,
    samples: int,
    most: int = ATTEMPTS,
    **options: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames and codes [n, S, ...] of each segment's samples, those that end standing still drawn again (F.3).

    The first attempt is :func:`predict_samples`'s; attempt j of sample s draws with seed + 50 s + j. The paper sets no
    limit; after ``most`` attempts we keep the last one and say so.
    """
    frames, codes = predict_samples(model, task, clips, samples, seed=seed, **options)
    for number, first in enumerate(sample_seeds(seed, samples)):
        still = np.flatnonzero(ends_still(task, clips, codes[:, number]))
        for attempt in range(1, most):
            if not len(still):
                break
            again = [clips[place] for place in still]
            drawn, ids = predict_with_codes(model, task, again, seed=first + attempt, **options)
            frames[still, number], codes[still, number] = drawn, ids
            still = still[ends_still(task, again, ids)]
        if len(still):
            say(f"repetition rejection: {len(still)} of {len(clips)} segments still repeat after {most} attempts")
    return frames, codes


def ends_still(task: VideoTask, clips: Sequence[Clip], codes: torch.Tensor) -> np.ndarray:
    """F.3: the last two predicted frames are equal, token by token; single-step: last history frame and prediction."""
    if codes.shape[1] > 1:
        return repeats(codes).cpu().numpy()
    ids = task.encode(clips)
    before = ids[:, task.layout.frame_at[-2]]
    return repeats(torch.stack([before, codes[:, 0].cpu()], dim=1)).numpy()


def true_repeats(task: VideoTask, clips: Sequence[Clip]) -> np.ndarray:
    """Repetition of the true tokens (F.6): how often the tokenizer itself writes the last two frames alike."""
    ids = task.encode(clips)
    return repeats(ids[:, task.layout.frame_at[-2:]]).numpy()


def code_counts(profile: Profile, data: Path, task: VideoTask) -> np.ndarray:
    """How often each code of the frames (not of the context) is written on the test clips, int64 [codes]."""
    ids = task.encode(segments_of(profile, data, task))
    return torch.bincount(
        task.layout.visual(ids[:, task.layout.frame_at]).flatten(), minlength=task.layout.codes
    ).numpy()


def ceiling_table(profile: Profile, data: Path, task: VideoTask) -> pd.DataFrame:
    """Reconstruction against copying the last seen frame on test segments that move, with the changed pixels' error."""
    distance, clips = perceptual(profile.video.metric, profile.torch_device()), segments_of(profile, data, task)
    moves = moving(clips, task)
    clips = [clip for clip, yes in zip(clips, moves, strict=True) if yes] or clips
    truth, seen = task.truth(clips), task.last_seen(clips)[:, None]
    changed = ((truth - seen).abs().amax(2, keepdim=True) > CHANGED).expand_as(truth)
    rows = []
    for name, frames in reference_predictions(task, clips).items():
        scores = segment_scores(truth, frames, distance).mean()
        error = (truth - frames.clamp(0, 1)).abs()[changed].mean()
        facts = {"kind": task.layout.kind, "row": name, "segments": len(clips)}
        rows.append({**facts, **scores.round(4).to_dict(), "mae on changed pixels": round(float(error), 4)})
    return pd.DataFrame(rows)
