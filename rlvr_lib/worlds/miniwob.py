"""MiniWoB++ pages (package ``miniwob``, MIT) in the driven browser: seeded episodes, goal, reward.

Only the package's HTML is used, served from this machine; its Python code is never imported (it would want selenium).
Pages are made still: no clock, no count-down, no animation, no short delays, so that equal
seeds and actions give equal trees.
"""

import importlib.util
from pathlib import Path
from typing import Any

from rlvr_lib.artifacts import UserError
from rlvr_lib.worlds.browser import Browser

HOST = "miniwob.test"
# Tasks whose steps change something and whose elements have a meaning in the tree. Left out: native date and time
# pickers, which show today.
TASKS = (
    "book-flight-nodelay",
    "buy-ticket",
    "choose-date-easy",
    "choose-date-medium",
    "choose-list",
    "click-checkboxes",
    "click-checkboxes-large",
    "click-collapsible-2-nodelay",
    "click-menu-2",
    "click-option",
    "click-tab-2",
    "click-tab-2-hard",
    "email-inbox",
    "enter-password",
    "enter-text",
    "form-sequence-3",
    "login-user",
    "login-user-popup",
    "multi-layouts",
    "multi-orderings",
    "navigate-tree",
    "number-checkboxes",
    "order-food",
    "phone-book",
    "read-table-2",
    "search-engine",
    "social-media",
    "use-autocomplete-nodelay",
)
HELD_OUT = ("form-sequence-3", "multi-layouts", "phone-book")
PATCH = """if (location.hostname === 'miniwob.test') {
  const Real = Date, now = Real.UTC(2016, 11, 15);
  window.Date = class extends Real {
    constructor(...parts) { if (parts.length) super(...parts); else super(now); }
    static now() { return now; }
  };
  const later = window.setTimeout.bind(window);  // short delays (a menu that opens under the mouse) become none
  window.setTimeout = (work, delay, ...rest) => later(work, delay > 5000 ? delay : 0, ...rest);
}
addEventListener('DOMContentLoaded', () => {
  if (location.hostname !== 'miniwob.test') return;
  const style = document.createElement('style');
  style.textContent = '#reward-display, #click-canvas, #sync-task-cover { display: none !important; }'
    + ' * { animation: none !important; transition: none !important; caret-color: transparent !important; }';
  document.head.appendChild(style);
  if (window.jQuery) jQuery.fx.off = true;
  if (window.core) {
    core.EPISODE_MAX_TIME = 1e9;
    core.countdownTimer = core.clearTimer = () => {};
  }
});"""
BEGIN = "(seed) => { Math.seedrandom(seed); core.startEpisodeReal(); return core.getUtterance(); }"
# A page that was left (a form that went elsewhere) has ended without success.
STATE = "() => typeof WOB_DONE_GLOBAL === 'undefined' ? [true, -1] : [WOB_DONE_GLOBAL, WOB_RAW_REWARD_GLOBAL]"


def html_folder() -> Path:
    """Where the package keeps its pages. UserError when it is not installed."""
    found = importlib.util.find_spec("miniwob")
    folder = Path(found.origin).parent / "html" if found and found.origin else None
    if folder is None or not (folder / "miniwob" / "click-test.html").is_file():
        raise UserError("the package miniwob is not installed: pip install --no-deps miniwob==1.1.0")
    return folder


def begin(browser: Browser, task: str, seed: int) -> str:
    """Load a task's page, begin the episode of a seed, return the goal in words."""
    browser.open(f"http://{HOST}/miniwob/{task}.html")
    goal = browser.ask_page(BEGIN, f"{task} {seed}")
    browser.settle()
    return " ".join(str(goal).split())


def state(browser: Browser) -> tuple[bool, float]:
    """Whether the episode has ended, and its reward without the penalty for time (-1 to 1)."""
    done, reward = browser.ask_page(STATE)
    return bool(done), float(reward)


def is_task(name: Any) -> bool:
    return name in TASKS


__all__ = ["HELD_OUT", "HOST", "PATCH", "TASKS", "begin", "html_folder", "is_task", "state"]
