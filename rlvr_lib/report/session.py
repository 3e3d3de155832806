"""Opening and closing a notebook: one call that loads the profile, says where it runs and how long it will take."""

import warnings
from collections.abc import Sequence
from typing import Any

import pandas as pd
from transformers.utils.logging import disable_progress_bar

from rlvr_lib.artifacts import Stage, provenance
from rlvr_lib.profile import Profile, load_profile
from rlvr_lib.progress import clock, say
from rlvr_lib.report.build import report_folder
from rlvr_lib.report.figures import style


def open_notebook(profile: str, seed: str | int = "", overrides: str = "") -> Profile:
    """Validate the parameters, seed everything, set the figure style, and print versions, hardware and settings."""
    loaded = load_profile(profile, seed, overrides)
    loaded.seed_everything()
    style()
    # transformers and trl announce renamed options to each other; the versions are pinned, so readers need not see it
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"transformers\.")
    disable_progress_bar()  # of loading and saving weights: a second each; our own bars stay
    facts = provenance(threads=loaded.threads)
    hardware, versions = facts["hardware"], facts["versions"]
    shown = ("torch", "transformers", "trl", "peft")
    say(f"profile {loaded.name}, seed {loaded.seed}, device {loaded.torch_device()}, {loaded.threads} threads")
    say("versions: " + ", ".join(f"{name} {versions[name]}" for name in shown if name in versions))
    say(f"machine: {', '.join(f'{key} {value}' for key, value in hardware.items())}")
    if loaded.name == "smoke":
        say("SMOKE PROFILE: everything runs, nothing is trained long enough; the numbers mean nothing.")
    return loaded


def timings(profile: Profile, *names: str) -> list[dict[str, Any]]:
    """Seconds of stages that have run on this profile; for the last cell of a notebook."""
    rows = []
    for name in names:
        stage = Stage(profile, name)
        record = stage.folder / "done.json"
        if record.exists():
            rows.append({"stage": name, "time": clock(stage.seconds), "folder": str(stage.folder)})
    return rows


def show_table(profile: Profile, name: str) -> Any:
    """A table of the report (``table1_text_games``) for display in a notebook, with its caption."""
    from IPython.display import Markdown

    path = report_folder(profile) / "tables" / f"{name}.md"
    return Markdown(path.read_text(encoding="utf-8") if path.exists() else f"{name} has not been made yet.")


def show_claims(profile: Profile, names: Sequence[str] = ()) -> pd.DataFrame:
    """Claims with our figures and verdicts (all, or the named ones) as the last report wrote them."""
    claims = pd.read_csv(report_folder(profile) / "claims.csv")
    key = claims.columns[0]
    return claims[claims[key].isin(names)] if names else claims


def show_settings(profile: Profile, section: str) -> pd.DataFrame:
    """Settings of a section (``text_game.rlvr``): value and where it comes from."""
    part: Any = profile
    for name in section.split("."):
        part = getattr(part, name)
    rows = [
        {"setting": name, "value": getattr(part, name), "source": field.description}
        for name, field in type(part).model_fields.items()
    ]
    return pd.DataFrame(rows)
