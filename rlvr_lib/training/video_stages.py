"""The stages of the robot-video part by name: which settings and inputs each one depends on, and how it is made.

Notebooks and ``rlvr release`` open the same stages here, so a stage made by one is loaded by the other.
"""

from collections.abc import Sequence
from pathlib import Path

from rlvr_lib.artifacts import Stage, UserError
from rlvr_lib.processes import executor
from rlvr_lib.profile import Profile
from rlvr_lib.training.released import (
    BASELINE_PARTS,
    VIDEO_STAGES,
    is_domain,
    part_settings,
    release_video,
    released_input,
    start_key,
)
from rlvr_lib.training.video import CONTROLS, KINDS, make_longer, make_tokenizer, make_video_data, make_world_model

TOKENIZERS = {"single_step": "frame", "multi_step": "compressive"}
TRAINED = (*(f"{name}_tokenizer" for name in TOKENIZERS.values()), *KINDS, *CONTROLS)
DOMAIN_PARTS = ("frame_tokenizer", "single_step", *BASELINE_PARTS)  # what is trained and released per domain
# parts that can be trained side by side
WAVES: tuple[Sequence[str], ...] = (TRAINED[:2], (*TRAINED[2:4], *BASELINE_PARTS), TRAINED[4:])


def video_stage(profile: Profile, part: str) -> Stage:
    """The stage of ``data``, a name of ``TRAINED``, or ``single_step_rlvr`` / ``multi_step_rlvr``; nothing is run."""
    runs = Path(profile.runs_dir) / profile.name
    data = runs / "video_data"
    if part == "data":
        return Stage(profile, "video_data", uses=["video.data", "video.single_step.start"])
    name, uses, inputs = f"video_{part}", [f"video.{part}", "video.data", "video.metric"], {"data": data}
    if part in TRAINED:
        inputs |= released_input(part, profile)
    if part.endswith("_tokenizer"):
        return Stage(profile, name, uses=[*uses, "video.dynamics_patch", "video.attention_heads"], inputs=inputs)
    kind = kind_of(part)
    inputs["tokenizer"] = tokenizer_folder(profile, kind) / "model"
    if part in KINDS:
        return Stage(profile, VIDEO_STAGES[part], uses=uses, inputs=inputs)
    inputs["base"] = base_folder(profile, kind) / "model"
    return Stage(profile, name, uses=[*uses, f"video.{kind}"], inputs=inputs)


def run_video_stage(profile: Profile, part: str) -> Path:
    """Make or load a part that :func:`video_stage` knows; its folder. What it builds on must be there."""
    stage, data = video_stage(profile, part), video_stage(profile, "data").folder
    if part == "data":
        return stage.run(make_video_data, profile=profile)
    if part.endswith("_tokenizer"):
        return stage.run(make_tokenizer, profile=profile, data=data, kind=part.removesuffix("_tokenizer"))
    kind = kind_of(part)
    tokenizer = tokenizer_folder(profile, kind)
    if part in KINDS:
        return stage.run(make_world_model, profile=profile, data=data, tokenizer=tokenizer, kind=kind)
    base = base_folder(profile, kind)
    if part.endswith("_rlvr"):
        from rlvr_lib.training.video_rlvr import make_video_rlvr  # brings TRL in, which only RLVR needs

        return stage.run(make_video_rlvr, profile=profile, data=data, tokenizer=tokenizer, base=base, kind=kind)
    return stage.run(make_longer, profile=profile, data=data, tokenizer=tokenizer, base=base, part=part)


def kind_of(part: str) -> str:
    """``multi_step_rlvr`` -> ``multi_step``."""
    return next(kind for kind in KINDS if part.startswith(kind))


def tokenizer_folder(profile: Profile, kind: str) -> Path:
    """Where the tokenizer of ``single_step`` or ``multi_step`` models lies."""
    return video_stage(profile, f"{TOKENIZERS[kind]}_tokenizer").folder


def base_folder(profile: Profile, kind: str) -> Path:
    return video_stage(profile, kind).folder


def train_and_release(profile: Profile, parts: Sequence[str], command: str, jobs: int = 1) -> list[Path]:
    """Train ``parts`` (what they build on must be there or among them) and release each: names of ``TRAINED``, of
    ``DOMAIN_PARTS`` in a domain's own profile.

    Parts that do not build on each other are trained in processes of their own, ``jobs`` at a time: one such model
    leaves a GPU mostly idle. ``command`` goes into the manifests.
    """
    known = DOMAIN_PARTS if is_domain(profile) else TRAINED
    for part in parts:
        if part not in known:
            raise UserError(f"--only: no part {part!r}; there are {', '.join(known)}")
        if part_settings(part, profile).start != "scratch":
            raise UserError(
                f"{start_key(part, profile)}: must be scratch to train what is released, as in laptop-weights"
            )
    run_video_stage(profile, "data")
    for wave in WAVES:
        chosen = [part for part in wave if part in parts]
        if len(chosen) < 2 or jobs < 2:
            for part in chosen:
                _train(profile, part)
            continue
        with executor(min(jobs, len(chosen))) as processes:  # they may have loaders
            list(processes.map(_train, [profile] * len(chosen), chosen))
    return [release_video(profile, part, command) for part in known if part in parts]


def _train(profile: Profile, part: str) -> None:
    profile.seed_everything()
    if part in BASELINE_PARTS:
        from rlvr_lib.training.baselines import run_baseline  # builds on this module

        run_baseline(profile, part.removeprefix("baseline_"))
    else:
        run_video_stage(profile, part)
