"""A task in the live browser: a local site with an errand, or a MiniWoB page with its goal, told apart by one name.

``shop``, ``forum`` and ``tracker`` are sites; every other name is a MiniWoB task. Success is looked up where the agent
cannot see it: in the site's database, or in the page's reward.
"""

from dataclasses import dataclass

from rlvr_lib.artifacts import UserError
from rlvr_lib.worlds import miniwob
from rlvr_lib.worlds.browser import Browser
from rlvr_lib.worlds.miniwob_experts import expert_action
from rlvr_lib.worlds.sites.catalogue import HELD_OUT, SITES, make_site
from rlvr_lib.worlds.sites.server import SiteServer
from rlvr_lib.worlds.sites.site import Site, SiteTask
from rlvr_lib.worlds.web_actions import Action
from rlvr_lib.worlds.web_pages import Page

MINIWOB = "miniwob"


@dataclass
class LiveTask:
    """One seeded episode that has begun. ``template`` names the kind of errand, ``site`` where it takes place."""

    browser: Browser
    site: str
    template: str
    seed: int
    goal: str
    place: Site | None = None
    errand: SiteTask | None = None

    def expert(self, page: Page) -> Action | None:
        """The scripted solver's next action; None where there is no solver."""
        return self.errand.expert(page) if self.errand else expert_action(self.template, self.goal, page)

    def ended(self) -> bool:
        """Whether the page itself has ended the episode (MiniWoB pages do)."""
        return self.errand is None and miniwob.state(self.browser)[0]

    def success(self, answer: str = "") -> bool:
        """Whether the goal is reached now; ``answer`` is what the agent said when it stopped."""
        if self.errand and self.place:
            return bool(self.errand.check(self.place, answer))
        done, reward = miniwob.state(self.browser)
        return done and reward == 1.0


def all_hosts(server: SiteServer) -> dict[str, int]:
    """Every host that a task can need, for a browser's fence."""
    return server.hosts(*(f"{name}.test" for name in SITES))


def make_server() -> SiteServer:
    """A server for all tasks; without the package ``miniwob`` for the sites alone."""
    try:
        return SiteServer({miniwob.HOST: miniwob.html_folder()})
    except UserError:
        return SiteServer()


def make_browser(server: SiteServer, seconds: float = 15.0) -> Browser:
    """A browser fenced in to the tasks of a server."""
    return Browser(all_hosts(server), seconds=seconds, patch=miniwob.PATCH)


def begin(browser: Browser, server: SiteServer, name: str, seed: int) -> LiveTask:
    """Start the episode of a seed. UserError for an unknown name or a missing package."""
    if name in SITES:
        site = make_site(name, seed)
        errand = site.task(seed)
        server.show(site)
        browser.open(f"http://{site.host}/")
        return LiveTask(browser, name, errand.template, seed, errand.goal, site, errand)
    if name not in miniwob.TASKS:
        raise UserError(f"no web task {name!r}; there are {', '.join([*SITES, *miniwob.TASKS])}")
    miniwob.html_folder()
    goal = miniwob.begin(browser, name, seed)
    return LiveTask(browser, MINIWOB, name, seed, goal)


def is_held_out(name: str) -> bool:
    """Whether a site or MiniWoB task is never trained on."""
    return name == HELD_OUT or name in miniwob.HELD_OUT


__all__ = ["MINIWOB", "LiveTask", "all_hosts", "begin", "is_held_out", "make_browser", "make_server"]
