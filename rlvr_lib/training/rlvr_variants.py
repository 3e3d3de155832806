"""RLVR of the single-step model once more with other settings: another group size, another reward, another seed.

Each variant is a stage of its own (``video_variant_<name>``) and starts from the same base. On a CPU several are
trained side by side with one thread each.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlvr_lib.artifacts import Stage
from rlvr_lib.profile import Profile
from rlvr_lib.profile_schema_video import VideoRLVR
from rlvr_lib.side_by_side import side_by_side
from rlvr_lib.training.video_rlvr import make_video_rlvr
from rlvr_lib.training.video_stages import base_folder, tokenizer_folder, video_stage

KIND = "single_step"


@dataclass(frozen=True)
class Variant:
    """``changes`` go over ``video.single_step_rlvr``; without ``keep_model`` only the curves stay."""

    name: str
    seed: int
    changes: Mapping[str, Any] = field(default_factory=dict)
    keep_model: bool = True


def varied(profile: Profile, variant: Variant) -> Profile:
    """The profile with the variant's seed and settings."""
    rlvr = VideoRLVR.model_validate({**profile.video.single_step_rlvr.model_dump(), **variant.changes})
    video = profile.video.model_copy(update={f"{KIND}_rlvr": rlvr})
    return profile.model_copy(update={"seed": variant.seed, "video": video})


def variant_stage(profile: Profile, variant: Variant) -> Stage:
    """Nothing is run."""
    inputs = {
        "data": video_stage(profile, "data").folder,
        "tokenizer": tokenizer_folder(profile, KIND) / "model",
        "base": base_folder(profile, KIND) / "model",
    }
    uses = [f"video.{KIND}_rlvr", "video.data", "video.metric"]
    return Stage(varied(profile, variant), f"video_variant_{variant.name}", uses=uses, inputs=inputs)


def run_variants(profile: Profile, variants: Sequence[Variant]) -> dict[str, Path]:
    """Train what is not there yet; the folder of each variant by its name."""
    left = sum(variant_stage(profile, one).state()[0] != "done" for one in variants)
    folders = side_by_side(_run, [(profile, one) for one in variants], left)
    return {one.name: folder for one, folder in zip(variants, folders, strict=True)}


def _run(profile: Profile, variant: Variant) -> Path:
    stage = variant_stage(profile, variant)
    if stage.state()[0] != "done":
        stage.profile.seed_everything()
    folder = stage.run(
        _make,
        profile=stage.profile,
        data=video_stage(profile, "data").folder,
        tokenizer=tokenizer_folder(profile, KIND),
        base=base_folder(profile, KIND),
        keep_model=variant.keep_model,
    )
    profile.seed_everything()
    return folder


def _make(folder: Path, profile: Profile, data: Path, tokenizer: Path, base: Path, keep_model: bool) -> dict[str, Any]:
    facts = make_video_rlvr(folder, profile, data, tokenizer, base, KIND)
    if not keep_model:
        shutil.rmtree(folder / "model")
    return facts


__all__ = ["Variant", "run_variants", "variant_stage", "varied"]
