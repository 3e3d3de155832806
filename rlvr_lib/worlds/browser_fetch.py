"""Get a Chromium where none is: Playwright's own download, the system's package as root, or the npm package with one.

Tried in this order, each by its own program; the first that leads to a browser ends the search. The npm package's
Chromium goes to ``data/cache/chromium`` (197 MB) and needs no root.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from xml.sax.saxutils import escape

from rlvr_lib.artifacts import UserError, atomic_write_bytes, atomic_write_text, named_disk_faults
from rlvr_lib.progress import say
from rlvr_lib.worlds.browser_find import REMEDY, UNPACKED, find_browser, why_no_browser

NPM_PACKAGE = "@sparticuz/chromium@147.0.0"  # MIT wrapper; newer ones want a newer node
SECONDS = 600
INFLATE = "process.stdout.write(require('zlib').brotliDecompressSync(require('fs').readFileSync(process.argv[1])))"
FONTS = (
    '<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">'
    "<fontconfig><dir>{place}/fonts</dir><cachedir>{place}/font-cache</cachedir></fontconfig>\n"
)


def fetch_browser() -> Path:
    """The program of the browser that is there now. UserError with what was tried when none could be had."""
    tried = []
    for name, way in WAYS.items():
        if not why_no_browser():
            break
        say(f"browser: trying {name}")
        try:
            way()
        except (OSError, subprocess.SubprocessError, tarfile.TarError, UserError) as error:
            tried.append(f"{name} ({_short(error)})")
    if why_no_browser():
        raise UserError(f"no browser could be had; tried {', '.join(tried) or 'nothing'}. {REMEDY}")
    return find_browser().program


def from_playwright() -> None:
    """Playwright's own headless Chromium, into its cache."""
    _run(sys.executable, "-m", "playwright", "install", "chromium-headless-shell")


def from_system() -> None:
    """Debian's package, when we are root and there is apt-get."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise UserError("not root, or no apt-get")
    _run("apt-get", "update", "-qq")
    _run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium")


def from_npm() -> None:
    """The npm package that carries a Chromium, unpacked by node: program, libraries and fonts."""
    if not shutil.which("npm") or not shutil.which("node"):
        raise UserError("no npm")
    with tempfile.TemporaryDirectory() as folder:
        _run("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", folder, NPM_PACKAGE)
        unpack(Path(folder) / "node_modules" / "@sparticuz" / "chromium" / "bin", UNPACKED[-1])


def unpack(packed: Path, target: Path, inflate: Callable[[Path], bytes] | None = None) -> Path:
    """Unpack the package's ``bin`` folder; the program is written last, so a half unpacked one is never taken."""
    inflate = inflate or _inflated
    with named_disk_faults(target):
        target.mkdir(parents=True, exist_ok=True)
        for name in ("al2023.tar.br", "fonts.tar.br"):
            with tarfile.open(fileobj=BytesIO(inflate(packed / name))) as archive:
                archive.extractall(target, filter="data")
    place = escape(str(target.resolve()))
    atomic_write_text(target / "fonts.conf", FONTS.format(place=place))  # without a font it dies at the first text
    temporary = atomic_write_bytes(target / "chromium.part", inflate(packed / "chromium.br"))
    temporary.chmod(0o755)
    return temporary.rename(target / "chromium")


def _inflated(path: Path) -> bytes:
    return subprocess.run(["node", "-e", INFLATE, str(path)], check=True, capture_output=True, timeout=SECONDS).stdout


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=SECONDS)


def _short(error: Exception) -> str:
    said = getattr(error, "stderr", None) or b""
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return (lines[-1] if lines else str(error))[:120]


WAYS = {"Playwright's own": from_playwright, "the system's package": from_system, "the npm package": from_npm}

__all__ = ["fetch_browser", "unpack"]
