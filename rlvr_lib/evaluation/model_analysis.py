"""The stages of the model analysis (Figure 4), all with the single-step model; each writes one row per case.

``video_best_of_evaluation``        best_of.csv: model, segment, sample, metrics
``video_group_size_evaluation``     group_sizes.csv: size, seed, step, prompts, samples, seconds, segment, metrics
``video_metric_reward_evaluation``  metric_rewards.csv: model (the metric it was rewarded with), segment, metrics
``video_action_evaluation``         unusual.csv, obedience.csv
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from rlvr_lib.artifacts import Stage, atomic_write_text
from rlvr_lib.evaluation.action_trials import obedience, unusual_scores
from rlvr_lib.evaluation.best_of import sampled_scores
from rlvr_lib.evaluation.video import load_world_model, segments_of
from rlvr_lib.evaluation.video_scores import group_scores
from rlvr_lib.profile import Profile
from rlvr_lib.progress import MetricsLog, say
from rlvr_lib.side_by_side import side_by_side
from rlvr_lib.tokens.video_task import VideoTask
from rlvr_lib.training.rlvr_variants import KIND, Variant, run_variants, variant_stage
from rlvr_lib.training.video import make_task
from rlvr_lib.training.video_pretrain import predict_samples
from rlvr_lib.training.video_stages import base_folder, tokenizer_folder, video_stage
from rlvr_lib.worlds.drawer_trials import make_trials
from rlvr_lib.worlds.drawers import recording_for
from rlvr_lib.worlds.perceptual import perceptual

METRICS = ("mae", "mse", "psnr", "ssim", "lpips")
BASE, TUNED = "base", "RLVR"
EVALUATION = ["video.evaluation", "video.data.test_segments", "video.metric"]


def group_size_variants(profile: Profile) -> list[Variant]:
    """A training for each size and seed; sizes alternate, so that two side by side cost alike."""
    settings = profile.analysis.group_sizes
    return [
        Variant(
            f"group_{size}_seed_{seed}",
            profile.seed + seed,
            {
                **{"group_size": size, "steps": settings.steps(size), "prompts_per_step": settings.prompts_per_step},
                **{"prompts_per_update": settings.prompts_per_step, "evaluate_segments": settings.segments},
                "evaluate_every": settings.steps(size) // settings.validations,
                "sequences_per_micro_batch": settings.prompts_per_step * size,
            },
            keep_model=False,
        )
        for seed in range(settings.seeds)
        for size in sorted(settings.sizes, reverse=True)
    ]


def metric_variants(profile: Profile) -> dict[str, Variant]:
    """A training for each metric as the only reward."""
    settings = profile.analysis.metric_rewards
    return {
        metric: Variant(
            f"reward_{metric}",
            profile.seed,
            {
                "reward": {name: float(name == metric) for name in METRICS},
                **{"steps": settings.steps, "prompts_per_step": settings.prompts_per_step},
                **{"prompts_per_update": settings.prompts_per_step, "group_size": settings.group_size},
                **{"evaluate_every": settings.steps, "evaluate_segments": 1},  # their table is made afterwards
                "sequences_per_micro_batch": settings.prompts_per_step * settings.group_size,
            },
        )
        for metric in METRICS
    }


def train_variants(profile: Profile) -> dict[str, Path]:
    """All trainings of :func:`group_sizes` and :func:`metric_rewards`, the longest first, side by side on a CPU."""
    return run_variants(profile, [*metric_variants(profile).values(), *group_size_variants(profile)])


def best_of_n(profile: Profile) -> tuple[Stage, Path]:
    """Many samples of each segment by the base, the base at lower temperatures, and the RLVR model."""
    stage = _stage(profile, "video_best_of_evaluation", ["analysis.best_of"], _models(profile))
    return stage, stage.run(_best_of_n, profile=profile)


def _best_of_n(folder: Path, profile: Profile) -> dict[str, Any]:
    settings = profile.analysis.best_of
    count = len(segments_of(profile, video_stage(profile, "data").folder, _task(profile), settings.segments))
    half, own = -(-count // 2), profile.video.evaluation.temperature
    arms = {BASE: own, **{f"{BASE}, temperature {cooler:g}": cooler for cooler in settings.cooler}, TUNED: own}
    parts = [(*arm, first, min(first + half, count)) for arm in arms.items() for first in range(0, count, half)]
    work = [(profile, (folder / "parts" / f"{place}.csv", *part)) for place, part in enumerate(parts)]
    tables = side_by_side(_sampled_part, work, sum(not path.exists() for _, (path, *_) in work))
    _write(folder / "best_of.csv", pd.concat([table for table, _ in tables], ignore_index=True))
    return {"metric": tables[0][1], "segments": count, "samples": settings.samples}


def _sampled_part(profile: Profile, part: tuple[Path, str, float, int, int]) -> tuple[pd.DataFrame, str]:
    """Rows of one model and a range of segments, kept in a file of their own; and the perceptual metric's name."""
    path, name, temperature, first, end = part
    distance, samples = perceptual(profile.video.metric, profile.torch_device()), profile.analysis.best_of.samples
    if not path.exists():
        task = _task(profile)
        scores = sampled_scores(
            load_world_model(_models(profile)[TUNED if name == TUNED else BASE].parent, profile),
            task,
            segments_of(profile, video_stage(profile, "data").folder, task, end)[first:],
            samples,
            distance,
            seed=profile.seed,
            first_clip=first,
            temperature=temperature,
            top_k=profile.video.evaluation.top_k,
            label=f"best of N, {name}, segments {first} to {end - 1}",
        )
        index = pd.MultiIndex.from_product([range(first, end), range(samples)], names=["segment", "sample"])
        flat = {metric: values.ravel().round(6) for metric, values in scores.items()}
        _write(path, pd.DataFrame(flat, index=index).reset_index().assign(model=name))
    return pd.read_csv(path), distance.name


def group_sizes(profile: Profile) -> tuple[Stage, Path]:
    """RLVR with groups of several sizes and seeds, and their validation segment by segment."""
    variants = group_size_variants(profile)
    run_variants(profile, variants)
    inputs = {one.name: variant_stage(profile, one).folder / "validation_segments.jsonl" for one in variants}
    stage = Stage(profile, "video_group_size_evaluation", uses=["analysis.group_sizes"], inputs=inputs)
    return stage, stage.run(_group_sizes, profile=profile, variants=variants)


def _group_sizes(folder: Path, profile: Profile, variants: Sequence[Variant]) -> dict[str, Any]:
    tables = [_curve(variant_stage(profile, one).folder, one) for one in variants]
    _write(folder / "group_sizes.csv", pd.concat(tables, ignore_index=True))
    return {"metric": perceptual(profile.video.metric, profile.torch_device()).name, "trainings": len(variants)}


def _curve(run: Path, variant: Variant) -> pd.DataFrame:
    """Validations of a run, one row per step and segment, with what had been spent until then."""
    spent = {0: 0.0}
    for row in MetricsLog(run / "metrics.jsonl").read():
        parts = sum(value for name, value in row.items() if name.startswith("seconds_"))
        spent[row["step"]] = spent[max(spent)] + parts
    size, prompts = variant.changes["group_size"], variant.changes["prompts_per_step"]
    tables = []
    for row in MetricsLog(run / "validation_segments.jsonl").read():
        step = row["step"]
        facts = {"size": size, "seed": variant.seed, "step": step, "prompts": step * prompts}
        facts |= {"samples": step * prompts * size, "seconds": round(spent[step], 3)}
        values = pd.DataFrame({name: row[name] for name in row if name in METRICS}).round(6)
        tables.append(values.assign(segment=range(len(values)), **facts))
    return pd.concat(tables, ignore_index=True)


def metric_rewards(profile: Profile) -> tuple[Stage, Path]:
    """RLVR with each metric as the only reward; every model is scored by every metric, beside the base."""
    variants = metric_variants(profile)
    folders = run_variants(profile, list(variants.values()))
    inputs = {metric: folders[one.name] / "model" for metric, one in variants.items()}
    inputs[BASE] = base_folder(profile, KIND) / "model"
    uses = ["analysis.metric_rewards", *EVALUATION]
    stage = _stage(profile, "video_metric_reward_evaluation", uses, inputs)
    return stage, stage.run(_metric_rewards, profile=profile, models=inputs)


def _metric_rewards(folder: Path, profile: Profile, models: Mapping[str, Path]) -> dict[str, Any]:
    work = [(profile, (folder / "parts" / f"{name}.csv", name, path)) for name, path in models.items()]
    tables = side_by_side(_rewarded_part, work, sum(not path.exists() for _, (path, *_) in work))
    whole = pd.concat([table for table, _ in tables], ignore_index=True)
    _write(folder / "metric_rewards.csv", whole)
    facts = {"segments": whole["segment"].nunique(), "samples": profile.analysis.metric_rewards.samples}
    return {"metric": tables[0][1], **facts}


def _rewarded_part(profile: Profile, part: tuple[Path, str, Path]) -> tuple[pd.DataFrame, str]:
    """Rows of one model, kept in a file of their own; and the perceptual metric's name."""
    path, name, weights = part
    distance = perceptual(profile.video.metric, profile.torch_device())
    if not path.exists():
        task, settings = _task(profile), profile.video.evaluation
        clips = segments_of(profile, video_stage(profile, "data").folder, task)
        options = {"temperature": settings.temperature, "top_k": settings.top_k, "batch": settings.batch}
        samples = profile.analysis.metric_rewards.samples
        with task.keeping():
            model = load_world_model(weights.parent, profile)
            frames, _ = predict_samples(model, task, clips, samples, seed=profile.seed, **options)
        values = group_scores(task.truth(clips), frames, distance)
        scores = pd.DataFrame({metric: one.mean(1) for metric, one in values.items()})
        _write(path, scores.assign(model=name, segment=range(len(clips))))
        say(f"rewarded with {name}: {distance.name} {scores[distance.name].mean():.4f}")
    return pd.read_csv(path), distance.name


def action_trials(profile: Profile) -> tuple[Stage, Path]:
    """Base and RLVR under behaviour that the training episodes do not show, and under other actions (ours)."""
    uses = ["analysis.trials", "video.data", "video.evaluation", "video.metric"]
    stage = _stage(profile, "video_action_evaluation", uses, _models(profile))
    return stage, stage.run(_action_trials, profile=profile)


def _action_trials(folder: Path, profile: Profile) -> dict[str, Any]:
    data, settings, task = profile.video.data, profile.analysis.trials, _task(profile)
    recording = recording_for(profile.seed, data.height, data.width, data.frame_every)
    context = task.clip_frames - 1
    episodes, found = make_trials(recording, settings.episodes, settings.branches, context, data.workers)
    distance = perceptual(profile.video.metric, profile.torch_device())
    models = {name: load_world_model(path.parent, profile) for name, path in _models(profile).items()}
    _write(folder / "unusual.csv", unusual_scores(models, task, episodes, profile, distance))
    _write(folder / "obedience.csv", obedience(models, task, found, profile))
    return {"metric": distance.name, "renderer": recording.renderer}


def _models(profile: Profile) -> dict[str, Path]:
    return {
        BASE: base_folder(profile, KIND) / "model",
        TUNED: video_stage(profile, f"{KIND}_rlvr").folder / "model",
    }


def _stage(profile: Profile, name: str, uses: list[str], models: Mapping[str, Path]) -> Stage:
    inputs = {"data": video_stage(profile, "data").folder, **models}
    return Stage(profile, name, uses=list(dict.fromkeys([*uses, *EVALUATION])), inputs=inputs)


def _task(profile: Profile) -> VideoTask:
    torch.manual_seed(profile.seed)
    return make_task(profile, video_stage(profile, "data").folder, tokenizer_folder(profile, KIND), KIND)


def _write(path: Path, frame: pd.DataFrame) -> None:
    atomic_write_text(path, frame.to_csv(index=False))


__all__ = [
    "METRICS",
    "action_trials",
    "best_of_n",
    "group_size_variants",
    "group_sizes",
    "metric_rewards",
    "metric_variants",
    "train_variants",
]
