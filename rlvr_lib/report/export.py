"""A finished report and what it was computed from, copied to a folder that is kept (``reports/reference``)."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from rlvr_lib.artifacts import ROOT, UserError, atomic_write_bytes, atomic_write_text
from rlvr_lib.report import agent_tables
from rlvr_lib.report.build import report_folder, runs_folder

if TYPE_CHECKING:
    from rlvr_lib.profile import Profile

WRITTEN = (".html", ".md", ".csv", ".tex")


def export_reference(profile: "Profile", name: str = "reference") -> Path:
    """Copy a finished report (pages, claims, tables, figures without PDFs, executed notebooks as HTML) and its per-case
    scores to reports/``name``, without this machine's paths.

    Replaces what a former export left there. UserError when there is no report, or it is a smoke run.
    """
    source, runs = report_folder(profile), runs_folder(profile)
    target = Path(profile.reports_dir) / name
    if not (source / "report.html").exists():
        raise UserError(f"{source}/report.html does not exist; run rlvr reproduce --profile {profile.name} first")
    if profile.name == "smoke":
        raise UserError("a smoke run's numbers mean nothing; export another profile's report")
    for part in ("tables", "figures", "notebooks", "scores"):
        shutil.rmtree(target / part, ignore_errors=True)
    for pattern in ("report.*", "claims.csv", "tables/*", "figures/*.png", "figures/*.gif", "notebooks/*.html"):
        for path in sorted(source.glob(pattern)):
            _copy(path, target / path.relative_to(source))
    for pattern in ("*_evaluation/*.csv", "*/*_evaluation/*.csv", f"{agent_tables.STAGE}/*.csv"):
        for path in sorted(runs.glob(pattern)):
            _copy(path, target / "scores" / path.relative_to(runs))
    return target


def _copy(path: Path, target: Path) -> None:
    if path.suffix not in WRITTEN:
        atomic_write_bytes(target, path.read_bytes())
        return
    text = path.read_text(encoding="utf-8").replace(f"{ROOT}/", "").replace(str(ROOT), ".")
    shared = os.environ.get("RLVR_SHARED_DATA")
    atomic_write_text(target, text.replace(shared, "$RLVR_SHARED_DATA") if shared else text)


__all__ = ["export_reference"]
