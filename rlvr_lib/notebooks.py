"""The notebooks as data: which there are, what builds on what, and which are up to date.

A notebook is fresh when the stamp of its last complete execution carries the same key as now: source, settings, seed,
library sources and the keys of the notebooks it builds on. Keys are computed, not looked up, so a change upstream is
seen before anything runs. Stages inside a notebook decide for themselves (:class:`rlvr_lib.artifacts.Stage`): running
a notebook again is cheap when only its text changed.
"""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr_lib.artifacts import ROOT, UserError, read_json, sha256_of, text_hash
from rlvr_lib.profile import Profile

FOLDER = ROOT / "notebooks"
LIBRARY = ROOT / "rlvr_lib"
_ALL = ("*",)


@dataclass(frozen=True)
class Notebook:
    """``name`` is the file's stem (``12_text_game_rlvr``); ``after`` lists the numbers it builds on, ``*`` for all."""

    name: str
    after: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()

    @property
    def number(self) -> str:
        return self.name.partition("_")[0]


NOTEBOOKS = (
    Notebook("00_tour", uses=("text_game",)),
    Notebook("10_text_game_data", uses=("text_game",)),
    Notebook("11_text_game_sft", after=("10",), uses=("text_game",)),
    Notebook("12_text_game_rlvr", after=("11",), uses=("text_game",)),
    Notebook("20_web_page_data", uses=("web_page",)),
    Notebook("21_web_page_sft", after=("20",), uses=("web_page",)),
    Notebook("22_web_page_rlvr", after=("21",), uses=("web_page",)),
    Notebook("23_web_agent", after=("22",), uses=("web_page",)),
    Notebook("30_robot_video_data", uses=("video",)),
    Notebook("31_visual_tokenizers", after=("30",), uses=("video",)),
    Notebook("32_video_pretraining", after=("31",), uses=("video",)),
    Notebook("33_video_rlvr", after=("32",), uses=("video",)),
    Notebook("34_video_evaluation", after=("33",), uses=("video",)),
    Notebook("35_other_domains", uses=("domains", "video")),
    Notebook("36_model_analysis", after=("33",), uses=("video", "analysis")),
    Notebook("37_real2sim", after=("33", "35"), uses=("video", "domains")),
    Notebook("90_report", after=_ALL, uses=("text_game", "web_page", "video", "domains", "analysis")),
)


@dataclass(frozen=True)
class Shelf:
    """A folder of notebooks with their dependencies; the tests make small ones of their own."""

    folder: Path = FOLDER
    notebooks: tuple[Notebook, ...] = NOTEBOOKS
    library: Path = LIBRARY

    def present(self) -> list[Notebook]:
        """Notebooks whose file exists, in order of their numbers."""
        return [notebook for notebook in self.notebooks if self.source(notebook).exists()]

    def source(self, notebook: Notebook) -> Path:
        return self.folder / f"{notebook.name}.ipynb"

    def upstream(self, notebook: Notebook) -> list[Notebook]:
        """Notebooks that must have run before this one."""
        if notebook.after == _ALL:
            return [other for other in self.present() if other.after != _ALL]
        return [other for other in self.present() if other.number in notebook.after]

    def select(self, only: str | None) -> list[Notebook]:
        """``"10-12,90"`` -> those present; all without a selection. UserError when nothing matches a part of it."""
        present = self.present()
        if not only:
            return present
        chosen = set()
        for part in only.split(","):
            match = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
            if match is None:
                raise UserError(f'--only: "{part}" is neither a number nor a range; write for example 10-12,90')
            low, high = int(match[1]), int(match[2] or match[1])
            names = {notebook.name for notebook in present if low <= int(notebook.number) <= high}
            if not names:
                numbers = ", ".join(notebook.number for notebook in present) or "none"
                raise UserError(f"--only: no notebook in {part.strip()}; there are: {numbers}")
            chosen |= names
        return [notebook for notebook in present if notebook.name in chosen]


def key_of(shelf: Shelf, notebook: Notebook, profile: Profile) -> dict[str, Any]:
    """What a result of the notebook depends on, part by part, so that a stale one can say which part changed."""
    return {
        "source": sha256_of(shelf.source(notebook)),
        "settings": text_hash([profile.config_of(notebook.uses), profile.seed]),
        "library": library_hash(shelf.library),
        "upstream": {other.name: text_hash(key_of(shelf, other, profile)) for other in shelf.upstream(notebook)},
    }


def library_hash(folder: Path) -> str:
    """One hash over the library's source files."""
    return text_hash([(str(path.relative_to(folder)), sha256_of(path)) for path in sorted(folder.rglob("*.py"))])


def records_folder(profile: Profile) -> Path:
    """Where stamps and failure notes of a profile's notebooks lie."""
    return profile.runs_dir / profile.name / "notebooks"


def stamp_of(notebook: Notebook, profile: Profile) -> Path:
    return records_folder(profile) / f"{notebook.name}.done.json"


def failure_of(notebook: Notebook, profile: Profile) -> Path:
    return records_folder(profile) / f"{notebook.name}.failed.json"


def output_of(notebook: Notebook, profile: Profile) -> Path:
    """The executed notebook."""
    return profile.reports_dir / profile.name / "notebooks" / f"{notebook.name}.ipynb"


def state_of(shelf: Shelf, notebook: Notebook, profile: Profile) -> tuple[str, str]:
    """(``done`` | ``stale`` | ``missing`` | ``failed``, why)."""
    if failure_of(notebook, profile).exists():
        try:
            failure = read_json(failure_of(notebook, profile))
            return "failed", f"cell {failure['cell']}: {failure['error']}"
        except (UserError, KeyError, TypeError):
            return "failed", "no note of why; run it again"
    stamp = stamp_of(notebook, profile)
    if not stamp.exists():
        return "missing", "not run yet"
    try:
        before = read_json(stamp)["key"]
        reason = _difference(before, key_of(shelf, notebook, profile))
    except (UserError, KeyError, TypeError, AttributeError):
        return "stale", f"{stamp} is damaged"
    if not reason and not output_of(notebook, profile).exists():
        reason = "the executed notebook is gone"
    return ("stale", reason) if reason else ("done", "")


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    for part, words in (("source", "the notebook"), ("settings", "settings or seed"), ("library", "the library")):
        if before.get(part) != now[part]:
            return f"{words} changed"
    changed = [name for name, key in now["upstream"].items() if before.get("upstream", {}).get(name) != key]
    return f"{', '.join(changed)} changed" if changed else ""


def papermill_command(shelf: Shelf, notebook: Notebook, profile: Profile, overrides: str) -> list[str]:
    """The command that executes a notebook with this environment's own Python, into ``*.running.ipynb``."""
    running = output_of(notebook, profile).with_suffix(".running.ipynb")
    parameters = ["-p", "profile", profile.name, "-p", "seed", str(profile.seed), "-r", "overrides", overrides]
    options = ["--log-output", "--no-progress-bar", "--autosave-cell-every", "30", "-k", "python3"]
    return [
        *(sys.executable, "-m", "papermill", str(shelf.source(notebook)), str(running)),
        *options,
        *("--cwd", str(shelf.folder)),
        *parameters,
    ]


def kernel_environment(profile: Profile, forced_since: str = "") -> dict[str, str]:
    """Environment of an executed notebook: offline where the profile promises it, this venv's kernel, its threads."""
    environment = {
        **os.environ,
        "RLVR_HEADLESS": "1",
        "JUPYTER_PREFER_ENV_PATH": "1",
        "OMP_NUM_THREADS": str(profile.threads),
        "PYTHONUNBUFFERED": "1",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]),
    }
    if profile.name.startswith(("smoke", "laptop")):
        environment["HF_HUB_OFFLINE"] = "1"
    if forced_since:
        environment["RLVR_FORCE"] = forced_since
    return environment
