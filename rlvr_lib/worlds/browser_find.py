"""Which Chromium to drive: an environment variable, the usual places, Playwright's own, the npm package that has one.

Any of them is driven by Playwright's Python package (measured: Debian's chromium 156, chromium-headless-shell and
@sparticuz/chromium 147). Nothing is downloaded here.
"""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rlvr_lib.artifacts import ROOT, UserError

VARIABLE = "RLVR_BROWSER"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chromium-headless-shell", "chrome")
MACHINE_WIDE = (
    "/usr/bin/chromium",
    "/usr/bin/chromium-browser",
    "/usr/bin/google-chrome",
    "/usr/bin/chromium-headless-shell",
    "/snap/bin/chromium",
    "/opt/google/chrome/chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
IN_PLAYWRIGHT = (
    "chromium-*/chrome-linux*/chrome",
    "chromium_headless_shell-*/chrome-*/*headless*shell",
    "chromium-*/chrome-mac*/Chromium.app/Contents/MacOS/Chromium",
)
# Holds the program, lib/ and fonts.conf, as the package unpacks them.
UNPACKED = (Path("node_modules/@sparticuz/chromium/unpacked"), ROOT / "data" / "cache" / "chromium")
REMEDY = (
    "rlvr get-browser, or apt-get install -y --no-install-recommends chromium (as root); "
    f"or set {VARIABLE} to the program of a Chromium that is there"
)


@dataclass(frozen=True)
class Chromium:
    """A program and what its process needs in its environment (shared libraries beside it, fonts)."""

    program: Path
    environment: dict[str, str] = field(default_factory=dict)


def find_browser() -> Chromium:
    """The first Chromium there is. UserError with the remedy when there is none or Playwright is missing."""
    if importlib.util.find_spec("playwright") is None:
        raise UserError("the package playwright is not installed: pip install -r requirements.lock")
    named = os.environ.get(VARIABLE)
    if named:
        if not _runs(Path(named)):
            raise UserError(f"{VARIABLE} names {named}, which is no program; set it to a Chromium or unset it")
        return _beside(Path(named))
    for place in _places():
        if _runs(place):
            return _beside(place)
    raise UserError(f"no Chromium found for live web pages: {REMEDY}")


def why_no_browser() -> str:
    """Empty when a browser is there, else the reason and the remedy on one line."""
    try:
        find_browser()
    except UserError as error:
        return str(error)
    return ""


def _places() -> Iterator[Path]:
    yield from (Path(found) for found in map(shutil.which, NAMES) if found)
    yield from map(Path, MACHINE_WIDE)
    cache = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache" / "ms-playwright")
    for pattern in IN_PLAYWRIGHT:
        yield from sorted(cache.glob(pattern), reverse=True)
    yield from (folder / "chromium" for folder in UNPACKED)


def _runs(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)


def _beside(program: Path) -> Chromium:
    """The npm package unpacks its libraries and fonts beside the program."""
    folder = program.resolve().parent
    extra = {}
    if (folder / "lib" / "libnss3.so").is_file():
        extra["LD_LIBRARY_PATH"] = str(folder / "lib")
    if (folder / "fonts.conf").is_file():
        extra["FONTCONFIG_PATH"] = str(folder)
    return Chromium(program, extra)


__all__ = ["REMEDY", "VARIABLE", "Chromium", "find_browser", "why_no_browser"]
