"""Recording web-page transitions from the live browser (B.1 to B.3): episodes, then one file per split.

Every episode is a function of its task and seed alone, so a recording can be broken off and resumed, and recorded
again bit for bit with the same browser. An episode that fails (the browser dies, hangs, a page cannot be read) is
noted with its reason, and the recording goes on with a new browser.
"""

import json
import lzma
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from random import Random
from typing import Any

from rlvr_lib.artifacts import ROOT, UserError, atomic_write_bytes, atomic_write_json, read_json, sha256_of, text_hash
from rlvr_lib.progress import say, track
from rlvr_lib.worlds import web_tasks
from rlvr_lib.worlds.browser import Browser, BrowserFault
from rlvr_lib.worlds.miniwob import TASKS
from rlvr_lib.worlds.sites.catalogue import HELD_OUT, SITES
from rlvr_lib.worlds.sites.server import SiteServer
from rlvr_lib.worlds.transitions import record_lines
from rlvr_lib.worlds.web_actions import NO_ACTION, Action
from rlvr_lib.worlds.web_pages import Numbering, changes
from rlvr_lib.worlds.web_policy import random_action
from rlvr_lib.worlds.web_transitions import MANIFEST, SPLITS, WebTransition, assert_disjoint, split_of

GENERATOR = 1  # raise it when equal settings no longer give equal sets
NOTE, PARTS = "recording.json", "episodes"
FRESH_EVERY = 100  # episodes per browser: a long-lived one grows
PATIENCE = 60.0  # seconds for one action: a busy machine must not cost an episode


@dataclass(frozen=True)
class WebRecording:
    """What decides about the content of a set, the browser apart.

    ``site_episodes`` per site, ``miniwob_episodes`` per MiniWoB task. ``expert`` is the share of steps that follow the
    solver where there is one. ``idle`` is the share that transitions without a change may have.
    """

    seed: int = 0
    site_episodes: int = 240
    miniwob_episodes: int = 30
    steps: int = 10
    expert: float = 0.55
    idle: float = 0.15
    names: tuple[str, ...] = (*SITES, *TASKS)
    generator: int = GENERATOR

    def episodes(self) -> list[tuple[str, int]]:
        """(site or task, seed of the episode), names taking turns."""
        counts = {name: self._count(name) for name in self.names}
        turns = range(max(counts.values(), default=0))
        # Seeds of two recordings differ as long as neither has a thousand turns.
        return [(name, 1000 * self.seed + turn) for turn in turns for name in self.names if turn < counts[name]]

    def _count(self, name: str) -> int:
        """The held-out site needs enough for a test, not for a training."""
        if name not in SITES:
            return self.miniwob_episodes
        return max(1, self.site_episodes // 4) if name == HELD_OUT else self.site_episodes


def record_episode(browser: Browser, server: SiteServer, name: str, seed: int, plan: WebRecording) -> list[dict]:
    """Walk one episode; JSON records of its transitions, and of its end when the solver says stop."""
    task = web_tasks.begin(browser, server, name, seed)
    rng = Random(f"walk {name} {seed} {plan.generator}")
    split = split_of(task.site, name, seed, web_tasks.is_held_out(name))
    found: list[WebTransition] = []
    previous: list[str] = []
    snapshot, over = browser.look(), False
    for step in range(plan.steps):
        numbering = Numbering()
        before = snapshot.page(numbering)
        expert = task.expert(before)
        action = _chosen(None if over else expert, before, task.goal, rng, plan.expert)
        refused = browser.act(action, before)
        snapshot = browser.look()
        after = snapshot.page(numbering)
        item = changes(before, after)
        success = task.success(action.text if action.kind == "stop" else "")
        found.append(
            WebTransition(
                *(task.site, task.template, seed, step, task.goal, before.url, tuple(previous), before.text),
                *(str(action), after.text, after.url, item.new, item.deleted, item.updated),
                *("" if expert is None else str(expert), refused, success, split),
            )
        )
        if action.kind == "stop":
            over = True  # the errand is done: what follows only shows more of the site
            continue
        previous.append(str(action))
        if task.ended():
            break
    return [item.record() for item in found]


def _chosen(expert: Action | None, page: Any, goal: str, rng: Random, share: float) -> Action:
    """The solver's action or a random one; both are drawn, so that the draws do not depend on the choice."""
    follow, other = rng.random() < share, random_action(page, goal, rng)
    return expert if follow and expert is not None and expert != NO_ACTION else other


def record_web_set(folder: Path, plan: WebRecording) -> dict[str, Any]:
    """Record a set into ``folder`` (resumes what was begun with equal settings); returns its manifest."""
    parts = folder / PARTS
    parts.mkdir(parents=True, exist_ok=True)
    _same_recording(folder / NOTE, plan)
    episodes = plan.episodes()
    missing = [pair for pair in episodes if not _part(parts, *pair).is_file()]
    if len(missing) < len(episodes):
        say(f"web pages: {len(episodes) - len(missing)} of {len(episodes)} episodes are there already")
    for _ in track(_record(parts, missing, plan), len(missing), "web pages", "episodes"):
        pass
    records = [read_json(_part(parts, *pair)) for pair in episodes]
    manifest = write_set(folder, plan, records)
    shutil.rmtree(parts)
    (folder / NOTE).unlink()
    return manifest


def _part(parts: Path, name: str, seed: int) -> Path:
    return parts / f"{name}-{seed:06d}.json"


def _record(parts: Path, missing: Sequence[tuple[str, int]], plan: WebRecording) -> Iterator[None]:
    """Record what is missing; every episode gets a second try, for a busy machine makes pages late."""
    with web_tasks.make_server() as server, Browsers(server) as browsers:
        for name, seed in missing:
            found = browsers.try_episode(name, seed, plan)
            if "fault" in found:
                found = browsers.try_episode(name, seed, plan)
            if "fault" in found:
                say(f"web pages: {name} {seed} failed twice: {found['fault']}")
            atomic_write_json(_part(parts, name, seed), found)
            yield


class Browsers:
    """One browser at a time: a new one after a fault, and after ``FRESH_EVERY`` episodes."""

    def __init__(self, server: SiteServer, make: Callable[[SiteServer], Browser] | None = None):
        self.server = server
        self.make = make or partial(web_tasks.make_browser, seconds=PATIENCE)
        self.browser: Browser | None = None
        self.used = 0

    def try_episode(self, name: str, seed: int, plan: WebRecording) -> dict[str, Any]:
        """An episode's records, or the reason why it failed."""
        if self.used >= FRESH_EVERY:
            self.close()
        try:
            if self.browser is None:
                self.browser, self.used = self.make(self.server), 0
            self.used += 1
            items = record_episode(self.browser, self.server, name, seed, plan)
            return {"items": items, "browser": self.browser.version}
        except BrowserFault as fault:
            self.close()
            return {"items": [], "fault": str(fault)}

    def close(self) -> None:
        browser, self.browser = self.browser, None
        if browser is not None:
            browser.close()

    def __enter__(self) -> "Browsers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _same_recording(note: Path, plan: WebRecording) -> None:
    """A set may grow, for turns come in order; nothing else may change halfway."""
    settings = {key: value for key, value in asdict(plan).items() if not key.endswith("_episodes")}
    settings = json.loads(json.dumps(settings))
    if note.exists() and read_json(note) != settings:
        raise UserError(f"{note.parent} was begun with other settings; delete the folder or repeat the former command")
    atomic_write_json(note, settings)


def write_set(folder: Path, plan: WebRecording, episodes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sort episodes into splits, leave out repeated questions and surplus idle steps, write files and manifest."""
    items = [WebTransition.from_record(record) for episode in episodes for record in episode["items"]]
    kept = thin(without_repeats(items), plan.idle)
    splits = {split: [item for item in kept if item.split == split] for split in SPLITS}
    assert_disjoint({split: [item for item in found if not item.is_stop] for split, found in splits.items()})
    files, texts = {}, {}
    for split, found in splits.items():
        text = "".join(record_lines(item.record() for item in found)).encode()
        path = folder / f"{split}.jsonl.xz"
        atomic_write_bytes(path, lzma.compress(text, preset=9 | lzma.PRESET_EXTREME))
        files[path.name], texts[split] = sha256_of(path), text_hash(text.decode())
    faults = [episode["fault"] for episode in episodes if "fault" in episode]
    manifest = {
        "command": _command(folder, plan),
        **asdict(plan),
        "browser": sorted({episode["browser"] for episode in episodes if "browser" in episode}),
        "playwright": _version("playwright"),
        "miniwob": _version("miniwob"),
        "episodes": len(episodes),
        "failed": faults,
        "recorded": len(items),
        "counts": {split: _counts(found) for split, found in splits.items()},
        "files": files,
        "text_sha256": texts,
    }
    atomic_write_json(folder / MANIFEST, manifest)
    return manifest


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _command(folder: Path, plan: WebRecording) -> str:
    """What records this set again; the folder relative to the project when it lies there."""
    place = folder.resolve()
    name = place.relative_to(ROOT) if place.is_relative_to(ROOT) else place.name
    sizes = f"--site-episodes {plan.site_episodes} --miniwob-episodes {plan.miniwob_episodes}"
    return f"rlvr record-web {name} --seed {plan.seed} {sizes}"


def without_repeats(items: Sequence[WebTransition]) -> list[WebTransition]:
    """Each question once, the first time it is asked; held-out splits come first, so they lose nothing to training."""
    seen: set[Any] = set()
    kept = []
    for item in sorted(items, key=lambda item: -SPLITS.index(item.split)):  # stable
        key = (item.is_stop, *item.question)
        if key not in seen:
            seen.add(key)
            kept.append(item)
    return kept


def thin(items: Sequence[WebTransition], share: float) -> list[WebTransition]:
    """Leave out transitions without a change beyond a share per split and site or task, chosen by their own hash."""
    groups: dict[Any, list[WebTransition]] = {}
    for item in items:
        if not item.is_stop and not item.changes:
            groups.setdefault((item.split, item.site, item.task.split(".")[0]), []).append(item)
    busy = Counter((item.split, item.site, item.task.split(".")[0]) for item in items if item.changes)
    dropped: set[str] = set()
    for key, idle in groups.items():
        idle.sort(key=lambda item: text_hash(item.case_id))
        dropped |= {item.case_id for item in idle[max(1, round(busy[key] * share / (1 - share))) :]}
    return [item for item in items if item.case_id not in dropped]


def _counts(items: Sequence[WebTransition]) -> dict[str, Any]:
    steps = [item for item in items if not item.is_stop]
    return {
        "transitions": len(steps),
        "changed": sum(bool(item.changes) for item in steps),
        "stops": len(items) - len(steps),
        "episodes": len({(item.site, item.task, item.seed) for item in items}),
        "sites": dict(sorted(Counter(item.site for item in steps).items())),
    }


__all__ = ["WebRecording", "record_episode", "record_web_set", "thin", "without_repeats", "write_set"]
