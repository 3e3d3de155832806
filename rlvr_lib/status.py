"""Plain tables about a run: which notebook and stage is done, stale, missing or failed, and every setting's source."""

import contextlib
from typing import Any

from tabulate import tabulate

from rlvr_lib.artifacts import Stage, UserError, read_json
from rlvr_lib.files import DONE, STARTED
from rlvr_lib.notebook_rules import measured
from rlvr_lib.notebooks import Shelf, stamp_of, state_of
from rlvr_lib.profile import Profile, domain_profile
from rlvr_lib.profile_schema_domains import DOMAINS

HEADS = ["", "state", "why", "seconds", "MB", "date"]


def status_table(profile: Profile, shelf: Shelf | None = None) -> str:
    """Notebooks, then the stages found on disk."""
    shelf = shelf or Shelf()
    notebooks = [_notebook_row(shelf, notebook, profile) for notebook in shelf.present()]
    stages = [_stage_row(profile, name) for name in stage_names(profile)]
    parts = [f"profile {profile.name}, seed {profile.seed}, {profile.runs_dir / profile.name}"]
    parts.append(tabulate(notebooks, ["notebook", *HEADS[1:]], disable_numparse=True) if notebooks else "no notebooks")
    parts.append(tabulate(stages, ["stage", *HEADS[1:]], disable_numparse=True) if stages else "no stage has run yet")
    return "\n\n".join(parts)


def _notebook_row(shelf: Shelf, notebook: Any, profile: Profile) -> list[str]:
    state, why = state_of(shelf, notebook, profile)
    stamp: dict[str, Any] = {}
    with contextlib.suppress(UserError):
        stamp = read_json(stamp_of(notebook, profile))
    memory = measured(notebook, profile).get("max_rss")
    seconds = f"{stamp['seconds']:.0f}" if "seconds" in stamp else ""
    return [notebook.name, state, why, seconds, f"{memory:.0f}" if memory else "", stamp.get("date", "")[:16]]


def stage_names(profile: Profile) -> list[str]:
    """Stages that have run or begun, in the order in which they were begun."""
    folder = profile.runs_dir / profile.name
    found = [path.parent for name in (DONE, STARTED) for path in folder.rglob(name)]
    names = {str(path.relative_to(folder)) for path in found if ".previous" not in str(path.relative_to(folder))}
    return sorted(names, key=lambda name: ((folder / name).stat().st_ctime, name))


def _stage_row(profile: Profile, name: str) -> list[str]:
    record: dict[str, Any] = {}
    with contextlib.suppress(UserError):
        record = read_json(profile.runs_dir / profile.name / name / DONE)
    state, why = stage_of(profile, name, record).state()
    seconds = f"{record['seconds']:.0f}" if "seconds" in record else ""
    return [name, state, why, seconds, "", record.get("provenance", {}).get("date", "")[:16]]


def stage_of(profile: Profile, name: str, record: dict[str, Any]) -> Stage:
    """The stage as its own record describes it, with today's settings; ``pusht/video_data`` with the domain's."""
    domain, _, inner = name.partition("/")
    if domain in DOMAINS and inner:
        with contextlib.suppress(UserError):  # a domain whose files are not named has no stage
            return stage_of(domain_profile(profile, domain), inner, record)
    uses = [use for use in record.get("settings", {}) if use != "seed"]
    try:
        return Stage(profile, name, uses, record.get("input_paths", {}))
    except UserError:  # the profile lost a section since
        return Stage(profile, name)


def settings_table(profile: Profile) -> str:
    """Every setting: dotted key, value, where it comes from."""
    return tabulate(_settings_rows(profile, ""), ["setting", "value", "source"], maxcolwidths=[None, 30, 76])


def _settings_rows(section: Any, above: str) -> list[list[Any]]:
    rows: list[list[Any]] = []
    for key, field in type(section).model_fields.items():
        value = getattr(section, key)
        if hasattr(value, "model_fields"):
            rows += _settings_rows(value, f"{above}{key}.")
        else:
            rows.append([f"{above}{key}", str(value), field.description])
    return rows
