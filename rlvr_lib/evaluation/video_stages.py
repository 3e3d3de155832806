"""The evaluation stages of the robot-video part: which models and settings each one depends on."""

from pathlib import Path

from rlvr_lib.artifacts import Stage
from rlvr_lib.evaluation.video import evaluate_base, evaluate_rlvr
from rlvr_lib.profile import Profile
from rlvr_lib.training.video_stages import CONTROLS, KINDS, tokenizer_folder, video_stage

USES = ["video.evaluation", "video.data.test_segments", "video.metric"]


def base_evaluation(profile: Profile) -> tuple[Stage, Path]:
    """Base models and reference rows on the test segments: ``single_step.csv``, ``multi_step.csv``."""
    folders = {kind: video_stage(profile, kind).folder for kind in KINDS}
    data = video_stage(profile, "data").folder
    inputs = {"data": data, **{f"{kind}_model": folder / "model" for kind, folder in folders.items()}}
    stage = Stage(profile, "video_base_evaluation", uses=USES, inputs=inputs)
    return stage, stage.run(evaluate_base, profile=profile, data=data, tokenizers=_tokenizers(profile), models=folders)


def rlvr_evaluation(profile: Profile) -> tuple[Stage, Path]:
    """Table 3 with its controls, and the repetition study: two tables of scores and ``repetition.csv``."""
    parts = [*KINDS, *(f"{kind}_rlvr" for kind in KINDS), *CONTROLS]
    folders = {part: video_stage(profile, part).folder for part in parts}
    data = video_stage(profile, "data").folder
    inputs = {"data": data, **{part: folder / "model" for part, folder in folders.items()}}
    stage = Stage(profile, "video_evaluation", uses=USES, inputs=inputs)
    return stage, stage.run(
        evaluate_rlvr,
        profile=profile,
        data=data,
        tokenizers=_tokenizers(profile),
        bases={kind: folders[kind] for kind in KINDS},
        tuned={kind: folders[f"{kind}_rlvr"] for kind in KINDS},
        controls={part: folders[part] for part in CONTROLS},
    )


def _tokenizers(profile: Profile) -> dict[str, Path]:
    return {kind: tokenizer_folder(profile, kind) for kind in KINDS}
