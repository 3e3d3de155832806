"""The stages of Real2Sim: policies, judge, simulators, two world models, and all their episodes in one table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rlvr_lib.artifacts import Stage, atomic_write_text
from rlvr_lib.evaluation.real2sim import simulate
from rlvr_lib.evaluation.real2sim_dreams import dream
from rlvr_lib.profile import Profile
from rlvr_lib.side_by_side import side_by_side
from rlvr_lib.training.picture_policies import make_policies
from rlvr_lib.training.released import policy_world
from rlvr_lib.training.success_judge import make_judge
from rlvr_lib.training.video_stages import base_folder, tokenizer_folder, video_stage

EVALUATION = "real2sim_evaluation"
MODELS = {"base": "base world model", "rlvr": "RLVR world model"}
SECTION = "video.real2sim"
ABOUT = ("decides", "bootstrap_draws")
POLICIES = [f"{SECTION}.{name}" for name in ("policy_kind", "policies", "rt1", "checkpoints", "tasks")]
RUN = [*POLICIES, *(f"{SECTION}.{name}" for name in ("episodes", "starts", "rounds"))]
SAMPLING = [f"{SECTION}.{name}" for name in ("temperature", "top_k", "repetition_penalty")]


def real2sim_stage(profile: Profile, part: str) -> Stage:
    """The stage of ``policies``, ``judge``, ``simulators``, ``base``, ``rlvr`` or ``evaluation``; nothing is run."""
    folders = {name: Path(profile.runs_dir) / profile.name / f"real2sim_{name}" for name in _PARTS}
    inputs = {"data": video_stage(profile, "data").folder}
    if part == "policies":
        uses = [*POLICIES, f"{SECTION}.cloning"]
    elif part == "judge":
        uses = [f"{SECTION}.tasks", f"{SECTION}.judge"]
        inputs["tokenizer"] = tokenizer_folder(profile, policy_world(profile)) / "model"
    elif part == "evaluation":
        uses, inputs = [f"{SECTION}.{name}" for name in ABOUT], {name: folders[name] for name in _PARTS[1:]}
    else:
        uses = [*RUN, *(SAMPLING if part in MODELS else [f"{SECTION}.hand_made"])]
        inputs |= {name: folders[name] for name in _PARTS[:2]}
        if part in MODELS:
            inputs["tokenizer"] = tokenizer_folder(profile, policy_world(profile)) / "model"
            inputs["model"] = _model(profile, part) / "model"
    return Stage(profile, f"real2sim_{part}", uses=uses, inputs=inputs)


_PARTS = ("policies", "judge", "simulators", *MODELS)


def _model(profile: Profile, part: str) -> Path:
    kind = policy_world(profile)
    return base_folder(profile, kind) if part == "base" else video_stage(profile, f"{kind}_rlvr").folder


def run_real2sim(profile: Profile, part: str) -> Path:
    """Make or load a part that :func:`real2sim_stage` knows; its folder. What it builds on must be there."""
    stage, data = real2sim_stage(profile, part), video_stage(profile, "data").folder
    if part == "policies":
        return stage.run(make_policies, profile=profile, data=data)
    tokenizer = tokenizer_folder(profile, policy_world(profile))
    if part == "judge":
        return stage.run(make_judge, profile=profile, data=data, tokenizer=tokenizer)
    if part == "evaluation":
        return stage.run(collect, profile=profile, inputs=stage.inputs)
    folders = {name: real2sim_stage(profile, name).folder for name in _PARTS[:2]}
    if part == "simulators":
        return stage.run(simulate, profile=profile, data=data, **folders)
    model = _model(profile, part)
    return stage.run(dream, profile=profile, data=data, tokenizer=tokenizer, model=model, name=MODELS[part], **folders)


def run_parts(profiles: Sequence[Profile], parts: Sequence[str]) -> list[dict[str, Path]]:
    """``parts`` that do not need each other, for every profile, side by side on a CPU; their folders by part."""
    pairs = [(profile, part) for part in parts for profile in profiles]
    left = sum(real2sim_stage(*pair).state()[0] != "done" for pair in pairs)
    folders = side_by_side(_run_part, pairs, left)
    return [dict(zip(parts, folders[place :: len(profiles)], strict=True)) for place in range(len(profiles))]


def run_dreams(profile: Profile) -> dict[str, Path]:
    """Both world models, side by side on a CPU: the folder of ``base`` and of ``rlvr``."""
    return run_parts([profile], list(MODELS))[0]


def _run_part(profile: Profile, part: str) -> Path:
    profile.seed_everything()
    return run_real2sim(profile, part)


def collect(folder: Path, profile: Profile, inputs: dict[str, Path]) -> dict[str, Any]:
    """Every episode in ``episodes.csv``, the judge's held-out ones in ``judge.csv``: what the figure is made from."""
    paths = [inputs[name] / "episodes.csv" for name in ("simulators", *MODELS)]
    tables = [pd.read_csv(path) for path in paths if path.exists()]
    if (inputs["simulators"] / "published.csv").exists():  # RT-1: nothing was simulated here
        published = (inputs["simulators"] / "published.csv").read_text(encoding="utf-8")
        atomic_write_text(folder / "published.csv", published)
    table = pd.concat(tables, ignore_index=True)
    atomic_write_text(folder / "episodes.csv", table.to_csv(index=False))
    atomic_write_text(folder / "judge.csv", (inputs["judge"] / "validation.csv").read_text(encoding="utf-8"))
    settings = profile.video.real2sim
    about = pd.DataFrame([{name: getattr(settings, name) for name in ABOUT}])
    atomic_write_text(folder / "about.csv", about.to_csv(index=False))
    return {"episodes": len(table)}
