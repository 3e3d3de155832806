"""Opening and closing a notebook: one call that loads the profile, says where it runs and how long it will take."""

from typing import Any

from rlvr_lib.artifacts import Stage, provenance
from rlvr_lib.profile import Profile, load_profile
from rlvr_lib.progress import clock, say
from rlvr_lib.report.figures import style


def open_notebook(profile: str, seed: str | int = "", overrides: str = "") -> Profile:
    """Validate the parameters, seed everything, set the figure style, and print versions, hardware and settings."""
    loaded = load_profile(profile, seed, overrides)
    loaded.seed_everything()
    style()
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
