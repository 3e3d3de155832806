"""WebArena through BrowserGym (C.5): the hosted sites, what is missing to run there, and environments as processes.

BrowserGym is no dependency of ours. It is driven by the Python that RLVR_WEBARENA_PYTHON names (our own without it),
one process for each session; see :mod:`rlvr_lib.worlds.webarena_server`.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from rlvr_lib.artifacts import UserError
from rlvr_lib.worlds.browser import BrowserFault

PYTHON = "RLVR_WEBARENA_PYTHON"
# The hosted sites by BrowserGym's variables, and the addresses that policy and world model are shown instead (C.2, 1).
PUBLIC = {
    "WA_SHOPPING": "http://onestopmarket.com",
    "WA_SHOPPING_ADMIN": "http://luma.com/admin",
    "WA_REDDIT": "http://reddit.com",
    "WA_GITLAB": "http://gitlab.com",
    "WA_WIKIPEDIA": "http://wikipedia.org",
    "WA_MAP": "http://openstreetmap.org",
    "WA_HOMEPAGE": "http://homepage.com",
}
REMEDY = "docs/your_own_data.md, section WebArena, says how to install and host it; or set web_page.agent.world=local"
DOMAINS = {"shopping_admin": "cms", "wikipedia": "map"}  # the other domains have their site's name (C.5)
CHECK_SECONDS, RESET_SECONDS, STEP_SECONDS = 60.0, 300.0, 180.0  # a reset logs in on the sites; a step may ask a judge


@dataclass(frozen=True)
class Sites:
    """Addresses of the hosted sites by variable, without a slash at the end."""

    local: Mapping[str, str]

    @classmethod
    def hosted(cls, environment: Mapping[str, str] | None = None) -> "Sites":
        """As the environment names them; what it does not name is left out."""
        found = os.environ if environment is None else environment
        return cls({name: found[name].rstrip("/") for name in PUBLIC if found.get(name)})

    def missing(self) -> list[str]:
        """Variables that are not set."""
        return [name for name in PUBLIC if name not in self.local]

    def shown(self, url: str) -> str:
        """The public-looking address of a page; one of no hosted site stays as it is."""
        return _moved(url, {self.local[name]: PUBLIC[name] for name in self.local})

    def address(self, url: str) -> str:
        """The hosted address behind a public-looking one."""
        return _moved(url, {PUBLIC[name]: self.local[name] for name in self.local})

    def allows(self, url: str) -> bool:
        """Whether a hosted address leads to one of the sites: BrowserGym would let ``file:`` pass."""
        try:
            parts = urlsplit(url)
        except ValueError:
            return False
        return parts.scheme in ("http", "https") and parts.netloc in {
            urlsplit(one).netloc for one in self.local.values()
        }


def _moved(url: str, places: Mapping[str, str]) -> str:
    """``url`` below the longest of ``places`` that it lies in; port 80 does not lie in port 8080."""
    for start in sorted(places, key=len, reverse=True):
        rest = url.removeprefix(start)
        if url.startswith(start) and (not rest or rest[0] in "/?#"):
            return places[start] + rest
    return url


class EnvProcess:
    """An environment in a process of its own. BrowserFault when it ends or does not answer in time."""

    def __init__(self, python: str = "", environment: Mapping[str, str] | None = None):
        """``environment`` replaces ours; keys of ours stay here in any case."""
        found = dict(os.environ if environment is None else environment)
        program = python or found.get(PYTHON) or sys.executable
        server = Path(__file__).with_name("webarena_server.py")
        kept = {name: value for name, value in found.items() if not name.startswith("RLVR_")}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        try:
            self.process = subprocess.Popen([program, str(server)], env=kept, text=True, encoding="utf-8", **pipes)
        except OSError as error:
            raise BrowserFault(f"{program} does not start ({error.strerror}); {PYTHON} names the program") from None
        self.answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(ValueError, OSError):
            for line in self.process.stdout or ():
                self.answers.put(line)
        self.answers.put(None)

    def ask(self, seconds: float, **request: Any) -> dict[str, Any]:
        """The answer to a request; BrowserFault with its ``fault`` when it has one."""
        try:
            assert self.process.stdin is not None
            print(json.dumps(request), file=self.process.stdin, flush=True)
            line = self.answers.get(timeout=seconds)
        except queue.Empty:
            self.close(patience=0.0)
            raise BrowserFault(f"BrowserGym did not answer within {seconds:g} s") from None
        except (OSError, ValueError):
            line = None
        if line is None:
            raise BrowserFault("BrowserGym's process ended")
        answer = json.loads(line)
        if "fault" in answer:
            raise BrowserFault(answer["fault"])
        return answer

    def close(self, patience: float = 10.0) -> None:
        """End the process, gently first, and every browser below it; may be called twice."""
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            family = psutil.Process(self.process.pid).children(recursive=True)
        with contextlib.suppress(OSError, ValueError, subprocess.TimeoutExpired):
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.wait(patience)
        self.process.kill()
        self.process.wait()
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()


def why_no_webarena(environment: Mapping[str, str] | None = None) -> str:
    """Empty when tasks could be tried, else what is missing and the remedy. Whether the sites answer is not tried."""
    variables = Sites.hosted(environment).missing()
    try:
        packages = _asked("check", environment)["missing"]
    except BrowserFault as fault:
        return f"{fault}; {REMEDY}"
    lacks = [f"Python package {', '.join(packages)}"] if packages else []
    lacks += [f"environment variable {', '.join(variables)} (addresses of the hosted sites)"] if variables else []
    return f"WebArena misses {' and '.join(lacks)}; {REMEDY}" if lacks else ""


def task_list(environment: Mapping[str, str] | None = None) -> list[tuple[int, str]]:
    """Number and domain of every task, by number. UserError when the list cannot be had."""
    try:
        found = _asked("tasks", environment)["tasks"]
    except BrowserFault as fault:
        raise UserError(f"the list of WebArena tasks cannot be read ({fault}); {REMEDY}") from None
    return sorted((int(one["task"]), domain(one["sites"])) for one in found)


def domain(sites: list[str]) -> str:
    """The first site decides; wikipedia counts as map, the shop's administration is the CMS (C.5)."""
    return DOMAINS.get(sites[0], sites[0])


def _asked(what: str, environment: Mapping[str, str] | None) -> dict[str, Any]:
    process = EnvProcess(environment=environment)
    try:
        return process.ask(CHECK_SECONDS, do=what)
    finally:
        process.close()


__all__ = ["PUBLIC", "PYTHON", "EnvProcess", "Sites", "domain", "task_list", "why_no_webarena"]
