"""The ``rlvr`` command. Exit code 0: all well; 1: a notebook failed; 2: bad input or machine, told in one line."""

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rlvr_lib.artifacts import UserError, atomic_write_text, disk_fault
from rlvr_lib.profile import Profile, domain_profile, load_profile, profile_names
from rlvr_lib.profile_schema_domains import DOMAINS
from rlvr_lib.progress import say

RUN_OPTIONS = "reproduce", "status", "report", "settings", "release"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse, run, exit."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    extra: list[str] = []
    if "--" in words:
        cut = words.index("--")
        words, extra = words[:cut], words[cut + 1 :]
    given = _parser().parse_args(words)
    given.extra = extra
    try:
        sys.exit(given.function(given))
    except UserError as error:
        message = str(error)
    except KeyboardInterrupt:
        message = "interrupted; run the same command to go on, what is done is kept"
    except OSError as error:
        fault = disk_fault(error, "a file")
        if fault is None:
            raise
        message = str(fault)
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="rlvr", description="RLVR-World as a workbook: run, look, score.")
    commands = parser.add_subparsers(required=True, metavar="command")
    reproduce = _command(commands, "reproduce", _reproduce, "run the notebooks that are not up to date")
    reproduce.add_argument("--only", help="notebooks by number, for example 10-12,90")
    reproduce.add_argument("--force", action="store_true", help="run all of them and make every stage again")
    reproduce.add_argument("--jobs", type=int, default=1, help="independent notebooks side by side")
    reproduce.add_argument("--start", choices=("released", "scratch"), help="start from released weights or train them")
    _command(commands, "status", _status, "what has run, what is stale, what failed")
    _command(commands, "report", _report, "rebuild the report from what exists")
    _command(commands, "settings", _settings, "every setting of a profile with its source")
    release = _command(commands, "release", _release, "train the video weights and put them into data/weights")
    release.add_argument("--only", help="parts, for example frame_tokenizer,single_step (default: all)")
    release.add_argument("--domain", choices=DOMAINS, help="the weights of another domain instead of robot video")
    release.add_argument("--jobs", type=int, default=1, help="parts trained side by side")
    doctor = _command(commands, "doctor", _doctor, "what this machine can do and what each profile would miss")
    doctor.add_argument("--network", action="store_true", help="also try to reach the model hub")
    score = commands.add_parser("score", help="score anybody's predictions with the paper's metrics")
    kinds = score.add_subparsers(required=True, metavar="what")
    text_game = _command(kinds, "text-game", _score_text_game, "JSON lines with current_state, gold_state, response")
    text_game.add_argument("file", type=Path)
    text_game.add_argument("--per-item", type=Path, metavar="OUT", help="write binary and task_specific per line")
    web_page = _command(kinds, "web-page", _score_web_page, "JSON lines with response, ground_truth")
    web_page.add_argument("file", type=Path)
    web_page.add_argument("--per-item", type=Path, metavar="OUT", help="write precision, recall and f1 per line")
    web_page.add_argument("--variant", choices=("released", "paper"), default="released", help="an empty side: 0, or 1")
    video = _command(kinds, "video", _score_video, "two folders with frames of equal names: npz, npy or pictures")
    video.add_argument("--truth", type=Path, required=True, metavar="DIR")
    video.add_argument("--prediction", type=Path, required=True, metavar="DIR")
    video.add_argument("--net", choices=("squeeze", "vgg", "alex"), default="squeeze", help="trunk of LPIPS")
    video.add_argument("--per-item", type=Path, metavar="OUT.csv", help="write every segment's metrics")
    dino = _command(commands, "convert-dino-wm", _convert_dino_wm, "DINO-WM's PushT, rope or granular files likewise")
    dino.add_argument("source", type=Path, help="pusht_noise, or deformable/rope, deformable/granular")
    dino.add_argument("target", type=Path, help="folder for the episodes; a broken conversion goes on there")
    dino.add_argument("--size", type=int, default=224, help="rows and columns of a frame; 224 keeps them as they are")
    dino.add_argument("--frame-every", type=int, help="frames apart; their actions are joined (PushT: 5, else 1)")
    dino.add_argument("--episodes", type=int, default=None, help="convert at most so many per split")
    convert = _command(commands, "convert-rt1", _convert_rt1, "RT-1 (RLDS or LeRobot) to one file per episode")
    convert.add_argument("source", type=Path, help="folder with TFRecord shards, or a LeRobot data set")
    convert.add_argument("target", type=Path, help="folder for the episodes; a broken conversion goes on there")
    convert.add_argument("--episodes", type=int, default=None, help="convert at most so many")
    record = _command(commands, "record-web", _record_web, "record web-page transitions from the live browser")
    record.add_argument("folder", type=Path, help="for the set; a broken recording goes on there")
    record.add_argument("--seed", type=int, default=0)
    record.add_argument("--site-episodes", type=int, default=240, help="episodes per local site")
    record.add_argument("--miniwob-episodes", type=int, default=30, help="episodes per MiniWoB task")
    _command(commands, "get-browser", _get_browser, "get a Chromium for live web pages where there is none")
    merge = _command(commands, "merge-lora", _merge_lora, "merge a LoRA adapter into its base model")
    merge.add_argument("adapter", type=Path, help="folder with adapter_config.json")
    merge.add_argument("out", type=Path, help="folder for the plain transformers checkpoint")
    merge.add_argument("--base", help="base model instead of the one the adapter names")
    return parser


def _command(commands: Any, name: str, function: Callable[..., int], text: str) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text)
    command.set_defaults(function=function)
    if name in RUN_OPTIONS:
        command.add_argument("--profile", default="laptop", help=f"{', '.join(profile_names())} (default: laptop)")
        command.add_argument("--seed", default=None, help="seed instead of the profile's own")
        command.add_argument("--overrides", default="", help='for example "text_game.rlvr.steps=50 threads=4"')
    return command


def _overrides(given: argparse.Namespace) -> str:
    """The overrides as given, with ``--start`` spelt out for every section that has such a key."""
    start = getattr(given, "start", None)
    if not start:
        return given.overrides
    sections = load_profile(given.profile).model_dump()
    starts = [f"{place}={start}" for place in _places(sections) if place.endswith(".start")]
    return " ".join([*starts, given.overrides]).strip()


def _places(data: dict[str, Any], above: str = "") -> list[str]:
    places = []
    for key, value in data.items():
        place = f"{above}.{key}" if above else key
        places += _places(value, place) if isinstance(value, dict) else [place]
    return places


def _profile(given: argparse.Namespace) -> Profile:
    return load_profile(given.profile, given.seed, _overrides(given))


def _reproduce(given: argparse.Namespace) -> int:
    from rlvr_lib.runner import reproduce

    if given.jobs < 1:
        raise UserError(f"--jobs: must be at least 1, not {given.jobs}")
    profile = _profile(given)
    return reproduce(profile, _overrides(given), given.only, given.force, given.jobs, _again(given), given.extra)


def _again(given: argparse.Namespace) -> str:
    """The command that goes on where this one stopped: the same one, but without ``--force``."""
    words = ["rlvr", "reproduce", "--profile", given.profile]
    for option in ("only", "seed", "overrides", "start"):
        if getattr(given, option):
            words += [f"--{option}", str(getattr(given, option))]
    return shlex.join([*words, *(["--jobs", str(given.jobs)] if given.jobs > 1 else [])])


def _status(given: argparse.Namespace) -> int:
    from rlvr_lib.status import status_table

    say(status_table(_profile(given)))
    return 0


def _report(given: argparse.Namespace) -> int:
    from rlvr_lib.notebooks import Shelf, state_of
    from rlvr_lib.report.build import build_report

    profile, shelf = _profile(given), Shelf()
    missing = [notebook.name for notebook in shelf.present() if state_of(shelf, notebook, profile)[0] != "done"]
    say(f"report: {build_report(profile, missing)}")
    return 0


def _settings(given: argparse.Namespace) -> int:
    from rlvr_lib.status import settings_table

    say(settings_table(_profile(given)))
    return 0


def _release(given: argparse.Namespace) -> int:
    from rlvr_lib.training.video_stages import DOMAIN_PARTS, TRAINED, train_and_release
    from rlvr_lib.worlds.perceptual import trunk_weights

    profile = _profile(given)
    if given.domain:
        profile = domain_profile(profile, given.domain)
    if trunk_weights(profile.video.metric) is None:  # a run may fall back; what is released would hide it
        raise UserError(
            f"no LPIPS-{profile.video.metric} here, so nothing is released: rlvr doctor says where its trunk goes"
        )
    profile.seed_everything()
    parts = given.only.split(",") if given.only else (DOMAIN_PARTS if given.domain else TRAINED)
    for folder in train_and_release(profile, parts, told_command(sys.argv[1:]), given.jobs):
        say(f"released: {folder}")
    return 0


def told_command(words: Sequence[str]) -> str:
    """What was run, for a manifest; without the setting where runs lie, which is one machine's and decides nothing."""
    kept = [" ".join(part for part in word.split(" ") if not part.startswith("runs_dir=")) for word in words]
    pairs = zip_longest(kept, kept[1:])
    return shlex.join(["rlvr", *(word for word, after in pairs if word and not (word == "--overrides" and not after))])


def _doctor(given: argparse.Namespace) -> int:
    from rlvr_lib.doctor import doctor_text

    say(doctor_text(network=given.network))
    return 0


def _score_text_game(given: argparse.Namespace) -> int:
    from rlvr_lib.evaluation.text_game_scores import score_file, table_text

    if not given.file.is_file():
        raise UserError(f"{given.file}: no such file")
    say(table_text(score_file(given.file, given.per_item)))
    return 0


def _score_web_page(given: argparse.Namespace) -> int:
    from rlvr_lib.evaluation.web_scores import score_web_file, web_table

    if not given.file.is_file():
        raise UserError(f"{given.file}: no such file")
    say(web_table(score_web_file(given.file, given.per_item, given.variant)))
    return 0


def _score_video(given: argparse.Namespace) -> int:
    from rlvr_lib.evaluation.video_scores import score_folders, summary
    from rlvr_lib.worlds.perceptual import perceptual

    scores = score_folders(given.truth, given.prediction, perceptual(given.net))
    if given.per_item:
        atomic_write_text(given.per_item, scores.to_csv())
    say(summary(scores).round(5).to_string(index=False))
    return 0


def _convert_rt1(given: argparse.Namespace) -> int:
    from rlvr_lib.worlds.rt1_convert import convert_rt1

    if not given.source.is_dir():
        raise UserError(f"{given.source}: no such folder")
    if given.episodes is not None and given.episodes < 1:
        raise UserError(f"--episodes: must be at least 1, not {given.episodes}")
    facts = convert_rt1(given.source, given.target, given.episodes)
    say(f"{facts['episodes']} episodes in {given.target}, {len(facts['damaged'])} could not be read")
    return 0


def _convert_dino_wm(given: argparse.Namespace) -> int:
    from rlvr_lib.worlds.dino_wm import convert_dino_wm

    for name in ("size", "frame_every", "episodes"):
        if (value := getattr(given, name)) is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')}: must be at least 1, not {value}")
    facts = convert_dino_wm(given.source, given.target, given.size, given.frame_every, given.episodes)
    say(f"{facts['episodes']} episodes in {given.target}, {len(facts['damaged'])} could not be read")
    return 0


def _record_web(given: argparse.Namespace) -> int:
    from rlvr_lib.worlds.web_record import WebRecording, record_web_set

    if min(given.seed, given.site_episodes, given.miniwob_episodes) < 0:
        raise UserError("--seed, --site-episodes and --miniwob-episodes must not be negative")
    plan = WebRecording(given.seed, given.site_episodes, given.miniwob_episodes)
    counts = record_web_set(given.folder, plan)["counts"]
    said = ", ".join(f"{split} {count['transitions']}" for split, count in counts.items())
    say(f"web-page transitions in {given.folder}: {said}")
    return 0


def _get_browser(given: argparse.Namespace) -> int:
    from rlvr_lib.worlds.browser_fetch import fetch_browser

    say(f"browser: {fetch_browser()}")
    return 0


def _merge_lora(given: argparse.Namespace) -> int:
    if not (given.adapter / "adapter_config.json").is_file():
        raise UserError(f"{given.adapter}: no adapter_config.json in it")
    from rlvr_lib.training.sft import merge_lora

    say(f"merged: {merge_lora(given.adapter, given.out, given.base)}")
    return 0


if __name__ == "__main__":
    # Started as a module by the Makefile, with the virtual environment's own Python.
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    main()
