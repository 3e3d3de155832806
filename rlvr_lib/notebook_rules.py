"""What a rule of the Snakefile calls after papermill: keep the result, stamp it, or say which cell failed.

``python -m rlvr_lib.notebook_rules finish|fail PLAN NAME``. Our own choice throughout.
"""

import argparse
import contextlib
import fcntl
import sys
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rlvr_lib.artifacts import UserError, atomic_write_json, atomic_write_text, named_disk_faults, read_json
from rlvr_lib.notebooks import Notebook, Shelf, failure_of, output_of, records_folder, stamp_of
from rlvr_lib.profile import Profile, load_profile
from rlvr_lib.progress import clock, say


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
        "key": plan["rules"][name]["key"],  # as it was when the run began, whatever was edited since
        "began": plan["began"],
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


def failure_text(failure: dict[str, Any]) -> str:
    """One line: notebook, cell, its first line, the error."""
    return (
        f"FAILED {failure['notebook']}, cell {failure['cell']} ({failure['line']}): {failure['error']} "
        f"[see {failure['output']}]"
    )


def ended_well(notebook: Notebook, profile: Profile, plan: dict[str, Any]) -> bool:
    """Whether the notebook ended well in this very run."""
    with contextlib.suppress(UserError, AttributeError):
        return bool(read_json(stamp_of(notebook, profile)).get("began") == plan["began"])
    return False


def remaining(shelf: Shelf, plan: dict[str, Any], profile: Profile) -> list[str]:
    """Planned notebooks still to come, each with the time it took last (from its benchmark) when that is known."""
    left = []
    for notebook in shelf.notebooks:
        if notebook.name in plan["rules"] and not ended_well(notebook, profile, plan):
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
    return Shelf(Path(plan["folder"]), notebooks, Path(plan["library"])), notebook, profile


def _seconds_of(output: Path) -> float:
    import nbformat

    return float(nbformat.read(output, as_version=4).metadata.get("papermill", {}).get("duration") or 0.0)


def _to_html(output: Path) -> None:
    """HTML beside the executed notebook; a page that cannot be made is told, not fatal."""
    from nbconvert import HTMLExporter

    try:
        html, _ = HTMLExporter().from_filename(str(output))
        atomic_write_text(output.with_suffix(".html"), html)
    except Exception as error:
        say(f"no HTML of {output.name}: {type(error).__name__}: {error}")


def main() -> None:
    """Entry of the rules: ``finish`` or ``fail``, the plan, the notebook's name."""
    parser = argparse.ArgumentParser(prog="python -m rlvr_lib.notebook_rules")
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
