"""Running the notebooks: a plan, a Snakemake DAG over it, papermill in every rule, and a clear word when one fails.

Snakemake orders and parallelises (and spreads over a cluster when its executor says so); freshness is decided before,
by hashes (:mod:`rlvr_lib.notebooks`), so the DAG holds only what has to run. What a rule does after papermill is in
:mod:`rlvr_lib.notebook_rules`.
"""

import contextlib
import fcntl
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlvr_lib.artifacts import ROOT, UserError, atomic_write_json, named_disk_faults, read_json
from rlvr_lib.notebook_rules import ended_well, failure_text, rebuild_report
from rlvr_lib.notebooks import (
    Notebook,
    Shelf,
    failure_of,
    kernel_environment,
    key_of,
    output_of,
    papermill_command,
    records_folder,
    stamp_of,
    state_of,
)
from rlvr_lib.profile import Profile
from rlvr_lib.progress import say

RUN_MARK = "RLVR_RUN"  # environment variable that marks a run's processes


def reproduce(
    profile: Profile,
    overrides: str = "",
    only: str | None = None,
    force: bool = False,
    jobs: int = 1,
    again: str = "rlvr reproduce",
    extra: Sequence[str] = (),
    shelf: Shelf | None = None,
) -> int:
    """Run what is not up to date; returns the exit code (0 all well, 1 a notebook failed).

    ``again`` is the command line to show for going on; ``extra`` goes to Snakemake as it is.
    """
    shelf = shelf or Shelf()
    chosen = shelf.select(only)
    states = {notebook.name: state_of(shelf, notebook, profile) for notebook in shelf.present()}
    todo = [notebook for notebook in chosen if force or states[notebook.name][0] != "done"]
    for notebook in chosen:
        reason = states[notebook.name][1]
        say(f"{notebook.name}: " + ("up to date" if notebook not in todo else reason or "forced"))
    _warn_about_gaps(shelf, todo, states)
    if not todo:
        rebuild_report(profile, [])
        return 0
    with _one_run_at_a_time(profile):
        plan = _write_plan(shelf, todo, profile, overrides, force)
        code = _snakemake(plan, profile, jobs, extra, force)
    return _tell(todo, profile, read_json(plan), code, again)


def _warn_about_gaps(shelf: Shelf, todo: list[Notebook], states: dict[str, tuple[str, str]]) -> None:
    names = {notebook.name for notebook in todo}
    for notebook in todo:
        for other in shelf.upstream(notebook):
            if other.name not in names and states[other.name][0] != "done":
                say(f"note: {notebook.name} builds on {other.name}: {states[other.name][0]} ({states[other.name][1]})")


def _write_plan(shelf: Shelf, todo: list[Notebook], profile: Profile, overrides: str, force: bool) -> Path:
    """Everything the Snakefile and its rules need, as one file."""
    names = {notebook.name for notebook in todo}
    rules = {
        notebook.name: {
            "stamp": str(stamp_of(notebook, profile)),
            "key": key_of(shelf, notebook, profile),
            "after": [str(stamp_of(other, profile)) for other in shelf.upstream(notebook) if other.name in names],
            "papermill": shlex.join(papermill_command(shelf, notebook, profile, overrides)),
            "benchmark": str(records_folder(profile) / f"{notebook.name}.benchmark.tsv"),
        }
        for notebook in todo
    }
    plan = {
        "profile": profile.name,
        "seed": profile.seed,
        "overrides": overrides,
        "threads": profile.threads,
        "python": sys.executable,
        "folder": str(shelf.folder),
        "library": str(shelf.library),
        "began": datetime.now(UTC).isoformat(),
        "shelf": [asdict(notebook) for notebook in shelf.notebooks],
        "rules": rules,
        "force": force,
    }
    with named_disk_faults(profile.reports_dir):
        output_of(todo[0], profile).parent.mkdir(parents=True, exist_ok=True)
    for notebook in todo:  # an old failure must not be told as a new one
        failure_of(notebook, profile).unlink(missing_ok=True)
    return atomic_write_json(records_folder(profile) / "plan.json", plan)


@contextlib.contextmanager
def _one_run_at_a_time(profile: Profile) -> Iterator[None]:
    """Two runs of one profile in one place would overwrite each other's notebooks; the lock dies with the process."""
    with named_disk_faults(records_folder(profile)):
        records_folder(profile).mkdir(parents=True, exist_ok=True)
    with open(records_folder(profile) / ".lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            folder = profile.runs_dir / profile.name
            raise UserError(f"another rlvr reproduce works in {folder}; wait for it or set another runs_dir") from None
        _stop_leftovers(profile)
        yield


def _stop_leftovers(profile: Profile) -> None:
    """End what a killed run left behind: we hold the lock, so any process marked as this run's has lost its parent."""
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(RUN_MARK) == str(records_folder(profile)) and process.pid != os.getpid():
                say(f"ending process {process.pid}, left behind by a run that was killed")
                process.kill()


def _snakemake(plan: Path, profile: Profile, jobs: int, extra: Sequence[str], force: bool) -> int:
    since = datetime.now(UTC).isoformat(timespec="seconds") if force else ""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(profile.runs_dir / profile.name), "--config", f"plan={plan}"]
    # Freshness is already decided, hence --forceall; --nolock because a killed run leaves Snakemake's lock behind.
    command += ["--forceall", "--nolock", "--rerun-incomplete", "--keep-going", "--quiet", "all"]
    command += ["--cores", str(max(1, jobs) * profile.threads), *extra]
    environment = {**kernel_environment(profile, since), RUN_MARK: str(records_folder(profile))}
    return subprocess.run(command, env=environment).returncode


def _tell(todo: list[Notebook], profile: Profile, plan: dict[str, Any], code: int, again: str) -> int:
    """What ended, what failed in which cell, and the one command that goes on."""
    failed = [notebook.name for notebook in todo if failure_of(notebook, profile).exists()]
    ended = [notebook.name for notebook in todo if ended_well(notebook, profile, plan)]
    waiting = [notebook.name for notebook in todo if notebook.name not in [*failed, *ended]]
    for notebook in todo:
        if notebook.name in failed:
            say(failure_text(read_json(failure_of(notebook, profile))))
    if waiting:
        say(f"not run: {', '.join(waiting)}")
    say(f"{len(ended)} of {len(todo)} notebooks ended well; their results are in {profile.reports_dir / profile.name}")
    if failed or waiting:
        say(f"to go on (what is done is kept): {again}")
    return 0 if code == 0 and len(ended) == len(todo) else 1
