"""Released weights: what takes long to train, kept in data/weights in half precision with a manifest.

A manifest holds the command, seed, settings, versions, hardware and the end of the curve of the run that made the
weights, and their hash; weights that do not match their manifest are refused.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from rlvr_lib.artifacts import ROOT, UserError, atomic_write_json, read_json, sha256_of
from rlvr_lib.profile import Profile
from rlvr_lib.progress import MetricsLog
from rlvr_lib.tokens.compressive_tokenizer import CompressiveTokenizer
from rlvr_lib.tokens.frame_tokenizer import FrameTokenizer
from rlvr_lib.tokens.text_tokenizer import load_tokenizer
from rlvr_lib.worlds.recorders import RECORDERS

RELEASED = ROOT / "data" / "weights" / "text_games"
RELEASED_WEB = ROOT / "data" / "weights" / "web_pages"
RELEASED_VIDEO = ROOT / "data" / "weights" / "robot_video"
RELEASED_DOMAINS = ROOT / "data" / "weights"  # pusht, rope, granular
VIDEO_PARTS = {
    "frame_tokenizer": FrameTokenizer,
    "compressive_tokenizer": CompressiveTokenizer,
    "single_step": LlamaForCausalLM,
    "multi_step": LlamaForCausalLM,
    "multi_step_third": LlamaForCausalLM,
    "multi_step_same_time": LlamaForCausalLM,
}

BASELINE_PARTS = ("baseline_feature", "baseline_diffusion")  # of a domain

VIDEO_STAGES = {part: f"video_{part}{'_base' if part.endswith('_step') else ''}" for part in VIDEO_PARTS}
VIDEO_STAGES |= {part: part for part in BASELINE_PARTS}

KNOWN = {"text_game": ("embedded", "the embedded games"), "web_page": ("recorded", "the recorded pages")}


def _folder_of(modality: str) -> Path:
    return RELEASED_WEB if modality == "web_page" else RELEASED


def released(part: str, profile: Profile, modality: str = "text_game") -> Path:
    """Folder of released weights (``base`` or ``sft``); they only fit our own data and the released size."""
    source, words = KNOWN[modality]
    if getattr(profile, modality).data.source != source:
        raise UserError(
            f"released {part} weights know {words} only: "
            f"set {modality}.pretrain.start=scratch {modality}.sft.start=scratch"
        )
    return _checked(_folder_of(modality) / part)


def _checked(folder: Path) -> Path:
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"{folder}/model.safetensors is missing: check the files out again, or use start: scratch")
    manifest = read_json(folder / "manifest.json")
    if sha256_of(folder / "model.safetensors") != manifest["sha256"]:
        raise UserError(f"{folder}/model.safetensors is not the released file (wrong hash): check it out again")
    return folder


def release_language(profile: Profile, modality: str, part: str, command: str) -> Path:
    """Write ``base`` or ``sft``, trained with ``start: scratch``, to data/weights in half precision with a manifest.

    ``command`` is what was run. The manifest holds what ``done.json`` says of the training (settings, seed, versions,
    hardware, seconds) and the curve of validation losses.
    """
    stage = Path(profile.runs_dir) / profile.name / f"{modality}_{part}"
    done, folder = read_json(stage / "done.json"), _folder_of(modality) / part
    if "released" in done["facts"]:
        raise UserError(f"{stage} holds released weights already; train it with --start scratch")
    AutoModelForCausalLM.from_pretrained(stage / "model", dtype=torch.float16).save_pretrained(folder)
    load_tokenizer(stage / "model").save_pretrained(folder)
    curve = [
        {"step": row["step"], "validation_loss": round(row["eval_loss"], 5), "seconds": row["seconds"]}
        for row in MetricsLog(stage / "metrics.jsonl").read()
        if "eval_loss" in row
    ]
    manifest = {"part": part, "command": command, "profile": profile.name, "curve": curve}
    manifest |= {name: done[name] for name in ("seed", "settings", "seconds", "provenance", "facts")}
    manifest |= {"sha256": sha256_of(folder / "model.safetensors"), "dtype": "float16"}
    atomic_write_json(folder / "manifest.json", manifest)
    return folder


def take_released(part: str, profile: Profile, folder: Path, modality: str = "text_game") -> dict[str, Any]:
    """Copy released weights to ``folder``/model in float32; returns facts with their manifest."""
    source = released(part, profile, modality)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    model.save_pretrained(folder / "model")
    load_tokenizer(source).save_pretrained(folder / "model")
    return {"released": part, "manifest": read_json(source / "manifest.json")}


def released_video(part: str, profile: Profile) -> Path:
    """Folder of released video weights (a name of ``VIDEO_STAGES``) of the profile's own data: drawers, PushT, rope,
    granular. They only fit the recorded episodes at their size, and never the very episodes they were trained on."""
    source, scratch = profile.video.data.source, f"{start_key(part, profile)}=scratch"
    if source not in RECORDERS:
        raise UserError(f"the released {part} knows the embedded {_known(source)} only: set {scratch}")
    folder = _weights_of(source) / part
    if not folder.is_dir() and source != "drawers":
        raise UserError(f"no {part} weights of {source} are released yet: set {scratch}")
    manifest = read_json(_checked(folder) / "manifest.json")
    trained_on = (manifest["height"], manifest["width"])
    if profile.seed == manifest["seed"]:
        raise UserError(
            f"seed {profile.seed} records the episodes that the released {part} was trained on: choose another seed, "
            f"or set {scratch}"
        )
    if trained_on != (profile.video.data.height, profile.video.data.width):
        raise UserError(f"the released {part} knows frames of {trained_on[0]} x {trained_on[1]}: set {scratch}")
    return folder


def released_input(part: str, profile: Profile, modality: str = "video") -> dict[str, Path]:
    """What a stage that starts from released weights depends on besides its settings: which weights they are.

    ``part``: a name of ``VIDEO_STAGES``; of a language ``modality``, ``base`` or ``sft``. Empty for ``start: scratch``.
    """
    section = getattr(profile, modality)
    if modality == "video":
        settings = part_settings(part, profile)
    else:
        settings = section.pretrain if part == "base" else section.sft
    if settings.start != "released" or (modality != "video" and section.model.kind == "hub"):
        return {}
    folder = _weights_of(section.data.source) if modality == "video" else _folder_of(modality)
    return {"released": folder / part / "manifest.json"}


def part_settings(part: str, profile: Profile) -> Any:
    """The settings of a part of robot video, or of a domain's baseline."""
    if part in BASELINE_PARTS:
        return getattr(profile.domains.baselines, part.removeprefix("baseline_"))
    return getattr(profile.video, part)


def start_key(part: str, profile: Profile) -> str:
    """The setting that says where a part of robot video, or of another domain, starts from."""
    if part in BASELINE_PARTS:
        return f"domains.baselines.{part.removeprefix('baseline_')}.start"
    return f"{'domains' if is_domain(profile) else 'video'}.{part}.start"


def is_domain(profile: Profile) -> bool:
    """Whether this is the profile of another domain (PushT, rope, granular), not of robot video."""
    return profile.video.data.source not in ("drawers", "rt1")


def policy_world(profile: Profile) -> str:
    """The world model that policies are judged in: a domain has a single-step one only (spec A.3, G)."""
    return "single_step" if is_domain(profile) else "multi_step"


def _known(source: str) -> str:
    return "drawers" if source == "rt1" else "simulators"


def _class_of(part: str) -> Any:
    """The class whose ``from_pretrained`` reads a part."""
    if part == "baseline_feature":
        from rlvr_lib.training.feature_baseline import FeaturePredictor

        return FeaturePredictor
    if part == "baseline_diffusion":
        from rlvr_lib.training.diffusion_baseline import DiffusionModel  # brings diffusers in, which is slow to import

        return DiffusionModel
    return VIDEO_PARTS[part]


def _weights_of(source: str) -> Path:
    return RELEASED_VIDEO if source == "drawers" else RELEASED_DOMAINS / source


def release_video(profile: Profile, part: str, command: str) -> Path:
    """Write a part trained with ``start: scratch`` to data/weights in half precision; ``command`` is what was run.

    It holds what ``done.json`` says of the training (settings, seed, versions, hardware, seconds), the curve, the
    hash of the episodes, and for world models the action ranges.
    """
    runs = Path(profile.runs_dir) / profile.name
    stage, data = runs / VIDEO_STAGES[part], runs / "video_data"
    done, episodes = read_json(stage / "done.json"), read_json(data / "episodes" / "manifest.json")
    if "released" in done["facts"]:
        raise UserError(f"{stage} holds released weights already; train it with --start scratch")
    folder = _weights_of(profile.video.data.source) / part
    _class_of(part).from_pretrained(stage / "model").half().save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)  # the hub's empty card; data/README.md holds ours
    manifest = {
        **{"part": part, "command": command, "profile": profile.name},
        **{name: done[name] for name in ("seed", "settings", "seconds", "provenance", "facts")},
        **{"height": episodes["height"], "width": episodes["width"], "renderer": episodes["renderer"]},
        **{"episodes": episodes["episodes"], "episodes_sha256": episodes["sha256"]},
        "generator": episodes["generator"],
        "action_bins": read_json(data / "action_bins.json"),
        "curve": MetricsLog(stage / "metrics.jsonl").read(),
    }
    manifest |= {"sha256": sha256_of(folder / "model.safetensors"), "dtype": "float16"}
    atomic_write_json(folder / "manifest.json", manifest)
    return folder


def take_released_video(part: str, profile: Profile, folder: Path) -> dict[str, Any]:
    """Copy released weights to ``folder``/model in float32; returns facts with their manifest."""
    source = released_video(part, profile)
    kind = _class_of(part)
    options = {"dtype": torch.float32} if kind is LlamaForCausalLM else {}
    kind.from_pretrained(source, **options).float().save_pretrained(folder / "model")
    return {"released": part, "manifest": read_json(source / "manifest.json")}


def curve_of(stage: Path) -> list[dict[str, Any]]:
    """The training curve of the model in ``stage``: its own log, or that of the released weights' training."""
    facts = read_json(stage / "done.json").get("facts", {})
    return facts.get("manifest", {}).get("curve") or MetricsLog(stage / "metrics.jsonl").read()
