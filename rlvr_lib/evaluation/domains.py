"""Table 4's evaluation: single-step models of PushT, rope or granular on held-out segments, a stage per domain."""

from pathlib import Path

from rlvr_lib.artifacts import Stage
from rlvr_lib.evaluation.video import evaluate_rlvr
from rlvr_lib.profile import Profile, domain_profile
from rlvr_lib.training.baselines import BASELINES, baseline_stage
from rlvr_lib.training.video_stages import tokenizer_folder, video_stage

KIND = "single_step"
PARTS = (KIND, f"{KIND}_rlvr")


def evaluation_name(domain: str) -> str:
    """The stage's name, beside the other stages of the run: its folder holds ``single_step.csv``."""
    return f"{domain}_evaluation"


def domain_evaluation(profile: Profile, domain: str) -> tuple[Stage, Path]:
    """Base, RLVR, baselines and reference rows of a domain, made or loaded; models must be there. The run's profile."""
    own = domain_profile(profile, domain)
    data = video_stage(own, "data").folder
    folders = {part: video_stage(own, part).folder for part in PARTS}
    baselines = {part: baseline_stage(own, part).folder for part in BASELINES}
    inputs = {"data": data, **{part: folder / "model" for part, folder in {**folders, **baselines}.items()}}
    uses = ["video.evaluation", "video.metric", "domains.source", "domains.test_segments"]
    uses += ["domains.baselines.sampling_steps"]
    stage = Stage(profile, evaluation_name(domain), uses=uses, inputs=inputs)
    return stage, stage.run(
        evaluate_rlvr,
        profile=own,
        data=data,
        tokenizers={KIND: tokenizer_folder(own, KIND)},
        bases={KIND: folders[KIND]},
        tuned={KIND: folders[f"{KIND}_rlvr"]},
        baselines=baselines,
    )
