"""Released weights: what takes long to train, kept in data/weights in half precision with a manifest.

A manifest holds the command, seed, settings, versions, hardware and the end of the curve of the run that made the
weights, and their hash; weights that do not match their manifest are refused.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from rlvr_lib.artifacts import ROOT, UserError, atomic_write_json, read_json, sha256_of
from rlvr_lib.profile import Profile
from rlvr_lib.tokens.text_tokenizer import load_tokenizer

RELEASED = ROOT / "data" / "weights" / "text_games"


def released(part: str, profile: Profile) -> Path:
    """Folder of released weights (``base`` or ``sft``); they only fit the embedded games and the released size."""
    folder = RELEASED / part
    if profile.text_game.data.source != "embedded":
        raise UserError(
            f"released {part} weights know the embedded games only: "
            "set text_game.pretrain.start=scratch text_game.sft.start=scratch"
        )
    if not (folder / "model.safetensors").is_file():
        raise UserError(f"{folder}/model.safetensors is missing: check the files out again, or use start: scratch")
    manifest = read_json(folder / "manifest.json")
    if sha256_of(folder / "model.safetensors") != manifest["sha256"]:
        raise UserError(f"{folder}/model.safetensors is not the released file (wrong hash): check it out again")
    return folder


def release(checkpoint: Path, part: str, facts: dict[str, Any]) -> Path:
    """Write a checkpoint to data/weights in half precision with its manifest (command, data, seed, curve's end)."""
    folder = RELEASED / part
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float16)
    model.save_pretrained(folder)
    load_tokenizer(checkpoint).save_pretrained(folder)
    manifest = {**facts, "sha256": sha256_of(folder / "model.safetensors"), "dtype": "float16"}
    atomic_write_json(folder / "manifest.json", manifest)
    return folder


def take_released(part: str, profile: Profile, folder: Path) -> dict[str, Any]:
    """Copy released weights to ``folder``/model in float32; returns facts with their manifest."""
    source = released(part, profile)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    model.save_pretrained(folder / "model")
    load_tokenizer(source).save_pretrained(folder / "model")
    return {"released": part, "manifest": read_json(source / "manifest.json")}
