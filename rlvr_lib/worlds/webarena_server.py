"""BrowserGym's WebArena environments behind standard input and output: a request a line, an answer a line, both JSON.

This file is run as a script by the Python that has BrowserGym, which may be another one than ours (BrowserGym pins
another Playwright), so it imports nothing of the project. Playwright belongs to the thread that started it: a process
for each session keeps sessions apart, and one that hangs can be ended.

Requests: ``check``, ``tasks``, ``reset`` (task), ``step`` (action), ``screenshot``. An answer is an object, and holds
``fault`` when something went wrong.
"""

import base64
import importlib
import importlib.util
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

NEEDED = {"gymnasium": "gymnasium", "browsergym.webarena": "browsergym-webarena", "webarena": "libwebarena"}
VIEWPORT = {"width": 1280, "height": 2048}  # C.6


def check() -> dict[str, Any]:
    """Names of the packages that are missing, as pip calls them."""
    return {"missing": [package for module, package in NEEDED.items() if not _found(module)]}


def _found(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def tasks() -> dict[str, Any]:
    """Number and sites of every task, from the file that comes with the benchmark."""
    spec = importlib.util.find_spec("webarena")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    paths = [path for folder in folders if (path := Path(folder) / "test.raw.json").is_file()]
    if not paths:
        raise FileNotFoundError("the package libwebarena holds no test.raw.json")
    found = json.loads(paths[0].read_text("utf-8"))
    return {"tasks": [{"task": one["task_id"], "sites": one["sites"]} for one in found]}


def make(task: int) -> Any:
    """The environment of a task. Only BrowserGym's own WebArena actions are read, and nothing beside them."""
    import gymnasium

    importlib.import_module("browsergym.webarena")  # registers the tasks
    actions = importlib.import_module("browsergym.core.action.highlevel").HighLevelActionSet("webarena", strict=True)
    return gymnasium.make(
        f"browsergym/webarena.{task}",
        disable_env_checker=True,
        viewport=VIEWPORT,
        action_mapping=actions.to_python_code,
    )


class Server:
    """At most one environment at a time, and what it showed last."""

    def __init__(self) -> None:
        self.env: Any = None
        self.seen: dict[str, Any] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what is asked; whatever goes wrong becomes the answer's ``fault``."""
        try:
            return self._answer(request)
        except Exception as error:
            lines = str(error).strip().splitlines()
            return {"fault": f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__}

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] == "reset":
            return self._reset(request["task"])
        if request["do"] == "step":
            return self._step(request["action"])
        return {"check": check, "tasks": tasks, "screenshot": self._screenshot}[request["do"]]()

    def _reset(self, task: int) -> dict[str, Any]:
        self.close()
        self.env = make(task)
        self.seen, _ = self.env.reset()
        return told(self.seen)

    def _step(self, action: str) -> dict[str, Any]:
        self.seen, reward, terminated, truncated, info = self.env.step(action)
        error = (info.get("task_info") or {}).get("error", "")
        return {**told(self.seen), "reward": float(reward), "ended": bool(terminated or truncated), "why": str(error)}

    def _screenshot(self) -> dict[str, Any]:
        from PIL import Image

        png = io.BytesIO()
        Image.fromarray(self.seen["screenshot"]).save(png, "PNG")
        return {"png": base64.b64encode(png.getvalue()).decode()}

    def close(self) -> None:
        """End the environment and its browser."""
        env, self.env = self.env, None
        if env is not None:
            env.close()


def told(seen: dict[str, Any]) -> dict[str, Any]:
    """What an agent needs of an observation: goal, address, tabs, accessibility nodes, what of them is in view."""
    extra = seen.get("extra_element_properties") or {}
    return {
        "goal": seen.get("goal") or "\n".join(part.get("text", "") for part in seen.get("goal_object", ())),
        "url": seen["url"],
        "titles": list(seen.get("open_pages_titles", ())),
        "tab": int(seen["active_page_index"][0]) if "active_page_index" in seen else 0,
        "nodes": seen["axtree_object"]["nodes"],
        "in_view": {bid: one.get("visibility") for bid, one in extra.items()},
        "error": seen.get("last_action_error", ""),
    }


def main() -> None:
    """Answer until the other side closes; prints of the packages go to standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    server = Server()
    try:
        for line in sys.stdin:
            print(json.dumps(server.answer(json.loads(line)), default=str), file=out, flush=True)
    finally:
        server.close()


if __name__ == "__main__":
    del sys.path[0]  # the folder of this file: its neighbours are none of BrowserGym's modules
    main()
