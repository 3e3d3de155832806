"""The local sites by name. The tracker is held out: none of its transitions is ever trained on."""

from rlvr_lib.artifacts import UserError
from rlvr_lib.worlds.sites.forum_tasks import TheForum
from rlvr_lib.worlds.sites.shop_tasks import TheShop
from rlvr_lib.worlds.sites.site import Site
from rlvr_lib.worlds.sites.tracker_tasks import TheTracker

SITES: dict[str, type[Site]] = {site.name: site for site in (TheShop, TheForum, TheTracker)}
HELD_OUT = "tracker"


def make_site(name: str, seed: int) -> Site:
    """A fresh site with the content of a seed."""
    if name not in SITES:
        raise UserError(f"no site {name!r}; there are {', '.join(SITES)}")
    return SITES[name](seed)


__all__ = ["HELD_OUT", "SITES", "make_site"]
