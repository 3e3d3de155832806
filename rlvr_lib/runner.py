"""Running the notebooks: a plan, a Snakemake DAG over it, papermill in every rule, and a clear word when one fails.

Snakemake orders and parallelises (and spreads over a cluster when its executor says so); freshness is decided before,
by hashes (:mod:`rlvr_lib.notebooks`), so the DAG holds only what has to run. ``python -m rlvr_lib.runner finish|fail``
is what the rules of the ``Snakefile`` call after papermill.
"""

import argparse
import contextlib
import fcntl
import shlex
import subprocess
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlvr_lib.artifacts import ROOT, UserError, atomic_write_json, named_disk_faults, read_json
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
from rlvr_lib.profile import Profile, load_profile
from rlvr_lib.progress import clock, say


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
    plan = _write_plan(shelf, todo, profile, overrides, force)
    with _one_run_at_a_time(profile):
        code = _snakemake(plan, profile, jobs, extra, force)
    return _tell(shelf, todo, profile, code, again)


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
        "shelf": [asdict(notebook) for notebook in shelf.notebooks],
        "rules": rules,
        "force": force,
    }
    with named_disk_faults(profile.reports_dir):
        output_of(todo[0], profile).parent.mkdir(parents=True, exist_ok=True)
    return atomic_write_json(records_folder(profile) / "plan.json", plan)


@contextlib.contextmanager
def _one_run_at_a_time(profile: Profile) -> Iterator[None]:
    """Two runs of one profile in one place would overwrite each other's notebooks; the lock dies with the process."""
    with open(records_folder(profile) / ".lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            folder = profile.runs_dir / profile.name
            raise UserError(f"another rlvr reproduce works in {folder}; wait for it or set another runs_dir") from None
        yield


def _snakemake(plan: Path, profile: Profile, jobs: int, extra: Sequence[str], force: bool) -> int:
    since = datetime.now(UTC).isoformat(timespec="seconds") if force else ""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
    command += ["--directory", str(profile.runs_dir / profile.name), "--config", f"plan={plan}"]
    # Freshness is already decided, hence --forceall; --nolock because a killed run leaves Snakemake's lock behind.
    command += ["--forceall", "--nolock", "--rerun-incomplete", "--keep-going", "--quiet", "all"]
    command += ["--cores", str(max(1, jobs) * profile.threads), *extra]
    return subprocess.run(command, env=kernel_environment(profile, since)).returncode


def _tell(shelf: Shelf, todo: list[Notebook], profile: Profile, code: int, again: str) -> int:
    """What ended, what failed in which cell, and the one command that goes on."""
    states = {notebook.name: state_of(shelf, notebook, profile) for notebook in todo}
    ended = [name for name, (state, _) in states.items() if state == "done"]
    failed = [notebook for notebook in todo if states[notebook.name][0] == "failed"]
    for notebook in failed:
        say(failure_text(read_json(failure_of(notebook, profile))))
    waiting = [name for name, (state, _) in states.items() if state not in ("done", "failed")]
    if waiting:
        say(f"not run: {', '.join(waiting)}")
    say(f"{len(ended)} of {len(todo)} notebooks ended well; their results are in {profile.reports_dir / profile.name}")
    if failed or waiting:
        say(f"to go on (what is done is kept): {again}")
    return 0 if code == 0 and len(ended) == len(todo) else 1


def failure_text(failure: dict[str, Any]) -> str:
    """One line: notebook, cell, its first line, the error."""
    return (
        f"FAILED {failure['notebook']}, cell {failure['cell']} ({failure['line']}): {failure['error']} "
        f"[see {failure['output']}]"
    )


# ---- what a rule calls after papermill -------------------------------------------------------------------------------
def finish(plan: dict[str, Any], name: str) -> None:
    """Keep the executed notebook (and its HTML), write the stamp, rebuild the report."""
    shelf, notebook, profile = _from_plan(plan, name)
    output = output_of(notebook, profile)
    with named_disk_faults(output):
        output.with_suffix(".running.ipynb").replace(output)
    _to_html(output)
    failure_of(notebook, profile).unlink(missing_ok=True)
    output.with_suffix(".failed.ipynb").unlink(missing_ok=True)
    stamp = {
        "key": key_of(shelf, notebook, profile),
        "seconds": round(_seconds_of(output), 1),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "output": str(output),
    }
    atomic_write_json(stamp_of(notebook, profile), stamp)
    say(f"{name}: done in {clock(stamp['seconds'])}")
    rebuild_report(profile, remaining(shelf, plan, profile))


def fail(plan: dict[str, Any], name: str) -> None:
    """Note which cell failed and keep the broken notebook beside the last good one."""
    _, notebook, profile = _from_plan(plan, name)
    running = output_of(notebook, profile).with_suffix(".running.ipynb")
    broken = output_of(notebook, profile).with_suffix(".failed.ipynb")
    note = {"notebook": name, "cell": "?", "line": "", "error": "papermill did not start; see the messages above"}
    if running.exists():
        with named_disk_faults(broken):
            running.replace(broken)
        note |= broken_cell(broken)
    note |= {"output": str(broken), "date": datetime.now(UTC).isoformat(timespec="seconds")}
    atomic_write_json(failure_of(notebook, profile), note)
    say(failure_text(note))


def broken_cell(path: Path) -> dict[str, Any]:
    """Index (from 1, counted as in the source notebook), first line and error line of the cell that failed.

    Papermill adds cells of its own (parameters, error banners); they are not counted. A cell still marked as running
    means that the kernel died under it.
    """
    import nbformat

    inserted = {"injected-parameters", "papermill-error-cell-tag"}
    cells = nbformat.read(path, as_version=4).cells
    own = [cell for cell in cells if not inserted & set(cell.metadata.get("tags", []))]
    for index, cell in enumerate(own, start=1):
        errors = [output for output in cell.get("outputs", []) if output.output_type == "error"]
        running = cell.metadata.get("papermill", {}).get("status") in ("running", "failed")
        if errors or running:
            line = next((line.strip() for line in cell.source.splitlines() if line.strip()), "")
            text = f"{errors[0].ename}: {errors[0].evalue}" if errors else "the kernel died (killed, or out of memory)"
            return {"cell": index, "line": line[:100], "error": " ".join(text.split())[:400]}
    return {"cell": "?", "line": "", "error": "papermill stopped outside a cell; see the messages above"}


def remaining(shelf: Shelf, plan: dict[str, Any], profile: Profile) -> list[str]:
    """Planned notebooks still to come, each with the time it took last (from its benchmark) when that is known."""
    left = []
    for notebook in shelf.notebooks:
        if notebook.name in plan["rules"] and state_of(shelf, notebook, profile)[0] != "done":
            seconds = measured(notebook, profile).get("s")
            left.append(notebook.name + (f" (about {clock(seconds)})" if seconds else ""))
    return left


def measured(notebook: Notebook, profile: Profile) -> dict[str, float]:
    """Snakemake's last measurement of a notebook: ``s`` wall seconds, ``max_rss`` MB; empty when there is none."""
    path = records_folder(profile) / f"{notebook.name}.benchmark.tsv"
    with contextlib.suppress(OSError, ValueError):
        head, row = (line.split("\t") for line in path.read_text().splitlines()[:2])
        values = dict(zip(head, row, strict=False))
        return {key: float(values[key]) for key in ("s", "max_rss") if values.get(key, "-") not in ("-", "NA", "")}
    return {}


def rebuild_report(profile: Profile, remaining: list[str]) -> Path | None:
    """Build the report from what exists. It must never cost a result, so its own errors are told and passed over."""
    try:
        from rlvr_lib.report.build import build_report
    except ImportError:
        return None
    records_folder(profile).mkdir(parents=True, exist_ok=True)
    with open(records_folder(profile) / ".report.lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            path = build_report(profile, remaining)
        except UserError as error:
            say(f"report not rebuilt: {error}")
        except Exception:
            say(f"report not rebuilt: {traceback.format_exc(limit=-2).strip()}")
        else:
            say(f"report: {path}" + (f"; still to come: {', '.join(remaining)}" if remaining else ""))
            return path
    return None


def _from_plan(plan: dict[str, Any], name: str) -> tuple[Shelf, Notebook, Profile]:
    notebooks = tuple(Notebook(entry["name"], tuple(entry["after"]), tuple(entry["uses"])) for entry in plan["shelf"])
    notebook = next(notebook for notebook in notebooks if notebook.name == name)
    profile = load_profile(plan["profile"], plan["seed"], plan["overrides"])
    return Shelf(Path(plan["folder"]), notebooks), notebook, profile


def _seconds_of(output: Path) -> float:
    import nbformat

    return float(nbformat.read(output, as_version=4).metadata.get("papermill", {}).get("duration") or 0.0)


def _to_html(output: Path) -> None:
    """HTML beside the executed notebook; a page that cannot be made is told, not fatal."""
    from nbconvert import HTMLExporter

    from rlvr_lib.artifacts import atomic_write_text

    try:
        html, _ = HTMLExporter().from_filename(str(output))
        atomic_write_text(output.with_suffix(".html"), html)
    except Exception as error:
        say(f"no HTML of {output.name}: {type(error).__name__}: {error}")


def main() -> None:
    """Entry of the rules: ``finish`` or ``fail``, the plan, the notebook's name."""
    parser = argparse.ArgumentParser(prog="python -m rlvr_lib.runner")
    parser.add_argument("step", choices=("finish", "fail"))
    parser.add_argument("plan", type=Path)
    parser.add_argument("name")
    arguments = parser.parse_args()
    try:
        {"finish": finish, "fail": fail}[arguments.step](read_json(arguments.plan), arguments.name)
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
