"""What all local sites share: a database in memory, pages by path, tasks with a check and a scripted solver.

A site is one user's view of a small SQLite database that is filled from a seed. Pages hold no clock and nothing
random. Tasks are drawn from templates by seed; their checks look at the database or at the agent's answer and are
never shown to an agent.
"""

import re
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from rlvr_lib.worlds.sites.markup import document, el, link
from rlvr_lib.worlds.web_actions import Action
from rlvr_lib.worlds.web_pages import Page

Query = dict[str, str]
Rule = tuple[Callable[[Page], bool], Callable[[Page], Action | None]]
Check = Callable[[Any, str], bool]  # the site, the agent's answer


@dataclass(frozen=True)
class Answer:
    """What a request gets: a page, or the path to go to next."""

    status: int
    body: str = ""
    location: str = ""


@dataclass(frozen=True)
class SiteTask:
    """A goal in words, whether it was reached (site, the agent's answer), and rules that reach it from any page."""

    template: str
    goal: str
    check: Check
    rules: tuple[Rule, ...]

    def expert(self, page: Page) -> Action:
        """The scripted solver's next action: the first rule that fits; stop when none does."""
        for fits, act in self.rules:
            if fits(page) and (action := act(page)) is not None:
                return action
        return Action("stop")


Template = Callable[[Any, Random], SiteTask]


class Site:
    """A seeded site. Subclasses fill the database (:meth:`fill`), and add ``pages``, ``posts`` and ``templates``.

    ``pages`` and ``posts`` hold (pattern of the path, function of this site, the pattern's groups and the form).
    """

    name = ""
    pages: Sequence[tuple[str, Callable[..., str | Answer | None]]] = ()
    posts: Sequence[tuple[str, Callable[..., str]]] = ()
    templates: Sequence[Template] = ()

    def __init__(self, seed: int):
        self.seed, self.notice = seed, ""
        self.data = sqlite3.connect(":memory:", check_same_thread=False)
        self.data.row_factory = sqlite3.Row
        self.fill(Random(f"{self.name} {seed}"))

    def fill(self, rng: Random) -> None:
        """Make and fill the tables."""
        raise NotImplementedError

    def banner(self) -> Any:
        """What stands on every page."""
        raise NotImplementedError

    @property
    def host(self) -> str:
        return f"{self.name}.test"

    def task(self, seed: int) -> SiteTask:
        """The task of a seed; templates take turns."""
        rng = Random(f"{self.name} task {seed}")
        return self.templates[seed % len(self.templates)](self, rng)

    def get(self, path: str, query: Query) -> Answer:
        """A page; a path that leads nowhere gives a page that says so."""
        for pattern, function in self.pages:
            if match := re.fullmatch(pattern, path):
                found = function(self, *match.groups(), query)
                if found is None:
                    break
                return found if isinstance(found, Answer) else Answer(200, found)
        return Answer(404, self.page("Not found", "missing", [el("p", "There is no such page."), link("Home", "/")]))

    def post(self, path: str, form: Query) -> Answer:
        """Do something, then go where the function says."""
        for pattern, function in self.posts:
            if match := re.fullmatch(pattern, path):
                return Answer(303, location=function(self, *match.groups(), form))
        return Answer(404, self.page("Not found", "missing", [el("p", "Nothing can be done here.")]))

    def page(self, title: str, key: str, body: Any) -> str:
        """A whole page; what was done last is said once."""
        notice, self.notice = self.notice, ""
        return document(title, self.banner(), key, body, notice)

    def rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        return self.data.execute(sql, values).fetchall()

    def row(self, sql: str, *values: Any) -> Any:
        """The first row, None without one."""
        return self.data.execute(sql, values).fetchone()

    def value(self, sql: str, *values: Any) -> Any:
        """The first column of the first row, None without a row."""
        found = self.row(sql, *values)
        return found[0] if found else None

    def change(self, sql: str, *values: Any) -> None:
        self.data.execute(sql, values)
        self.data.commit()


def number(text: str, default: int = 0, least: int = 0, most: int = 10**6) -> int:
    """A whole number out of a form or query, within bounds."""
    return min(most, max(least, int(text))) if re.fullmatch(r"-?\d{1,9}", text.strip()) else default


def page_links(count: int, per_page: int, current: int, path: str, **query: Any) -> Any:
    """Links to the other pages of a list."""
    last = max(1, -(-count // per_page))
    parts = [
        el("span", f"Page {shown} of {last}") if shown == current else link(f"Page {shown}", path, **query, page=shown)
        for shown in range(1, last + 1)
    ]
    return el("nav", parts, aria_label="Pages")


__all__ = ["Answer", "Query", "Rule", "Site", "SiteTask", "Template", "number", "page_links"]
