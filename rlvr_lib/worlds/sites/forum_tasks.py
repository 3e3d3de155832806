"""Nine kinds of errand in the forum, each with its check and its scripted solver."""

from random import Random
from typing import Any

from rlvr_lib.worlds.sites.forum import BOARDS, ME, REMARKS, WRITERS, Forum
from rlvr_lib.worlds.sites.rules import always, answer, at, choose, click, fill, shows, titled, when
from rlvr_lib.worlds.sites.site import Rule, SiteTask

MOTTOS = ("Slow is smooth", "Read first", "Two wheels good", "Never too late", "Ask twice")
TOWNS = ("Brook", "Calder", "Dunmore", "Elton", "Fenwick")


def _thread(site: Forum, rng: Random) -> Any:
    """A thread whose title is no part of another thread's title."""
    titles = "SELECT COUNT(*) FROM threads WHERE instr(lower(title), lower(t.title))"
    return rng.choice(site.rows(f"SELECT * FROM threads AS t WHERE ({titles}) = 1 ORDER BY id"))


def _visit(title: str) -> tuple[Rule, ...]:
    """Reach a thread from anywhere by searching."""
    return (*when(at("/search"), click("link", title)), *always(fill("Search", title, enter=True)))


def reply(site: Forum, rng: Random) -> SiteTask:
    thread, text = _thread(site, rng), rng.choice(REMARKS)
    rules = (
        *when(shows("Your reply was added"), answer("")),
        *when(titled(thread["title"]), fill("Your reply", text), click("button", "Reply")),
        *_visit(thread["title"]),
    )
    wanted = [(thread["id"], text)]
    goal = f"Reply to the thread {thread['title']} with the text {text}"
    sql = "SELECT thread, text FROM posts WHERE writer = ?"
    return SiteTask("forum.reply", goal, lambda site, _: [tuple(row) for row in site.rows(sql, ME)] == wanted, rules)


def _threads_in(site: Forum, table: str) -> list[int]:
    return [row[0] for row in site.rows(f"SELECT thread FROM {table}")]


def vote(site: Forum, rng: Random) -> SiteTask:
    thread = _thread(site, rng)
    rules = (*when(titled(thread["title"]), click("button", "Vote up"), answer("")), *_visit(thread["title"]))
    goal = f"Vote for the thread {thread['title']}"
    return SiteTask("forum.vote", goal, lambda site, _: _threads_in(site, "voted") == [thread["id"]], rules)


def bookmark(site: Forum, rng: Random) -> SiteTask:
    thread = _thread(site, rng)
    rules = (*when(titled(thread["title"]), click("button", "Bookmark"), answer("")), *_visit(thread["title"]))
    goal = f"Bookmark the thread {thread['title']}"
    return SiteTask("forum.bookmark", goal, lambda site, _: _threads_in(site, "marks") == [thread["id"]], rules)


def unmark(site: Forum, rng: Random) -> SiteTask:
    first, *others = rng.sample(site.rows("SELECT * FROM threads ORDER BY id"), 4)
    for thread in (first, *others):
        site.change("INSERT INTO marks VALUES (?)", thread["id"])
    kept = sorted(thread["id"] for thread in others)
    rules = (
        *when(titled(first["title"]), click("button", "Remove bookmark"), answer("")),
        *when(at("/bookmarks"), click("link", first["title"])),
        *always(click("link", "Bookmarks (4)"), click("link", "Bookmarks (3)")),
    )
    goal = f"Remove the bookmark of the thread {first['title']}"
    return SiteTask("forum.unmark", goal, lambda site, _: sorted(_threads_in(site, "marks")) == kept, rules)


def publish(site: Forum, rng: Random) -> SiteTask:
    board = rng.choice(list(BOARDS))
    title, text = f"Anyone for {rng.choice(BOARDS[board])}", rng.choice(REMARKS)
    rules = (
        *when(shows("Your thread was published"), answer("")),
        *when(at("/new"), choose("Board", board), fill("Title", title), fill("Text", text), click("button", "Publish")),
        *always(click("link", "New thread")),
    )
    sql = "SELECT board, title, text FROM threads JOIN posts ON thread = threads.id WHERE threads.writer = ?"
    wanted = [(board, title, text)]
    goal = f"Start a thread in the board {board} with the title {title} and the text {text}"
    return SiteTask("forum.publish", goal, lambda site, _: [tuple(row) for row in site.rows(sql, ME)] == wanted, rules)


def delete(site: Forum, rng: Random) -> SiteTask:
    thread = _thread(site, rng)
    site._write(thread["id"], ME, rng.choice(REMARKS))
    rules = (
        *when(shows("Your reply was deleted"), answer("")),
        *when(titled(thread["title"]), click("button", "Delete")),
        *_visit(thread["title"]),
    )
    sql = "SELECT COUNT(*) FROM posts WHERE writer = ?"
    goal = f"Delete my reply in the thread {thread['title']}"
    return SiteTask("forum.delete", goal, lambda site, _: site.value(sql, ME) == 0, rules)


def follow(site: Forum, rng: Random) -> SiteTask:
    name = rng.choice(WRITERS)
    rules = (
        *when(titled(f"Member {name}"), click("button", "Follow"), answer("")),
        *always(click("link", name), click("link", "Page 2")),
    )
    sql = "SELECT writer FROM follows"
    goal = f"Follow the member {name}"
    return SiteTask("forum.follow", goal, lambda site, _: [row[0] for row in site.rows(sql)] == [name], rules)


def most_votes(site: Forum, rng: Random) -> SiteTask:
    board = rng.choice(list(BOARDS))
    truth = site.value("SELECT writer FROM threads WHERE board = ? ORDER BY votes DESC, id", board)
    most = site.value("SELECT MAX(votes) FROM threads WHERE board = ?", board)
    right = {row[0] for row in site.rows("SELECT writer FROM threads WHERE board = ? AND votes = ?", board, most)}
    rules = (
        *when(lambda page: titled(board)(page) and shows("threads, by votes")(page), answer(truth)),
        *when(at(f"/board/{board}"), click("link", "Sort by votes")),
        *always(click("link", board)),
    )
    goal = f"Who wrote the thread with the most votes in the board {board}? Answer with the name only"
    return SiteTask("forum.most-votes", goal, lambda _, said: said.strip().lower() in right, rules)


def profile(site: Forum, rng: Random) -> SiteTask:
    motto, town, mail = rng.choice(MOTTOS), rng.choice(TOWNS), rng.choice(("never", "daily"))
    form = (fill("Motto", motto), fill("Town", town), choose("Mail", mail), click("button", "Save"))
    rules = (*when(shows("Saved"), answer("")), *when(at("/profile"), *form), *always(click("link", "Profile")))
    goal = f"Set the profile: motto {motto}, town {town}, mail {mail}"
    sql = "SELECT motto, town, mail FROM profile"
    return SiteTask("forum.profile", goal, lambda site, _: tuple(site.row(sql)) == (motto, town, mail), rules)


class TheForum(Forum):
    """The forum with its tasks."""

    templates = (reply, vote, bookmark, unmark, publish, delete, follow, most_votes, profile)


__all__ = ["TheForum"]
