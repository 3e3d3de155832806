"""The forum: boards with about 60 threads, posts, votes, bookmarks, a profile, search and sorting."""

from random import Random
from typing import Any

from rlvr_lib.worlds.sites.markup import button_form, choice, el, field, link
from rlvr_lib.worlds.sites.site import Query, Site, number, page_links

BOARDS = {
    "Cooking": ("soup", "bread", "curry", "jam", "pasta", "tea"),
    "Cycling": ("brakes", "tyres", "saddle", "route", "lights", "helmet"),
    "Music": ("guitar", "choir", "piano", "drums", "concert", "violin"),
    "Travel": ("train", "ferry", "hostel", "visa", "map", "luggage"),
}
OPENERS = ("Help with", "Best", "Question about", "My first", "Cheap", "Old or new", "Trouble with", "Looking for")
ENDINGS = ("", "for beginners", "in winter", "at home", "this week", "on a budget")
WRITERS = ("anna", "bert", "carla", "dmitri", "elsa", "femi", "greta", "hiro", "ines", "jamal", "kira", "luca")
REMARKS = (
    "I had the same problem",
    "Try it the other way round",
    "Thanks, that helped",
    "I would not do that",
    "Ask in a shop nearby",
    "It depends on the weather",
    "Mine is ten years old",
    "Could you post a picture?",
)
SORTS = {"new": "id DESC", "old": "id", "votes": "votes DESC, id", "replies": "replies DESC, id"}
PER_PAGE = 25
ME = "sam"
TABLES = """
CREATE TABLE threads (id INTEGER PRIMARY KEY, board TEXT, title TEXT, writer TEXT, votes INTEGER, replies INTEGER);
CREATE TABLE posts (id INTEGER PRIMARY KEY, thread INTEGER, writer TEXT, text TEXT, votes INTEGER);
CREATE TABLE marks (thread INTEGER PRIMARY KEY);
CREATE TABLE voted (thread INTEGER PRIMARY KEY);
CREATE TABLE follows (writer TEXT PRIMARY KEY);
CREATE TABLE profile (motto TEXT, town TEXT, mail TEXT);
"""


class Forum(Site):
    """A forum seen by its member ``sam``, who is signed in."""

    name = "forum"

    def fill(self, rng: Random) -> None:
        self.data.executescript(TABLES)
        threads = [(board, title) for board in BOARDS for title in self._titles(rng, board)]
        rng.shuffle(threads)
        for board, title in threads:
            values = (board, title, rng.choice(WRITERS), rng.randint(0, 60))
            sql = "INSERT INTO threads (board, title, writer, votes, replies) VALUES (?, ?, ?, ?, 0)"
            thread = self.data.execute(sql, values).lastrowid
            for _ in range(rng.randint(1, 9)):
                self._write(thread, rng.choice(WRITERS), rng.choice(REMARKS), rng.randint(0, 20))
        self.change("INSERT INTO profile VALUES ('Ride on', 'Arden', 'weekly')")

    def _titles(self, rng: Random, board: str) -> list[str]:
        titles = [f"{start} {thing} {end}".strip() for start in OPENERS for thing in BOARDS[board] for end in ENDINGS]
        return rng.sample(titles, rng.randint(12, 22))

    def _write(self, thread: int, writer: str, text: str, votes: int = 0) -> None:
        self.data.execute(
            "INSERT INTO posts (thread, writer, text, votes) VALUES (?, ?, ?, ?)", (thread, writer, text, votes)
        )
        self.data.execute("UPDATE threads SET replies = replies + 1 WHERE id = ?", (thread,))

    def banner(self) -> Any:
        marks = self.value("SELECT COUNT(*) FROM marks")
        search = el("form", field("Search", "q", kind="search"), el("button", "Go"), action="/search", key="search")
        boards = [link(name, f"/board/{name}") for name in BOARDS]
        own = [link(f"Bookmarks ({marks})", "/bookmarks"), link("New thread", "/new"), link("Profile", "/profile")]
        return el("header", el("nav", link("All threads", "/"), boards, own), search)

    def _list(self, rows: list[Any]) -> Any:
        return el("ul", [self._entry(row) for row in rows])

    def _entry(self, row: Any) -> Any:
        facts = f"{row['votes']} votes, {row['replies']} replies, in {row['board']}"
        writer = link(row["writer"], f"/member/{row['writer']}")
        return el("li", link(row["title"], f"/thread/{row['id']}"), " by ", writer, " ", facts, key=row["id"])

    def _found(self, title: str, path: str, where: str, value: str, query: Query, kept: Query) -> str:
        sort = query.get("sort", "new") if query.get("sort") in SORTS else "new"
        count = self.value(f"SELECT COUNT(*) FROM threads WHERE {where}", value)
        shown = number(query.get("page", ""), 1, 1, 50)
        order = f"ORDER BY {SORTS[sort]} LIMIT {PER_PAGE} OFFSET {PER_PAGE * (shown - 1)}"
        rows = self.rows(f"SELECT * FROM threads WHERE {where} {order}", value)
        sorts = el("nav", [link(f"Sort by {name}", path, **kept, sort=name) for name in SORTS], aria_label="Sort")
        pages = page_links(count, PER_PAGE, shown, path, **kept, sort=query.get("sort", ""))
        return self.page(title, title, [el("p", f"{count} threads, by {sort}"), sorts, self._list(rows), pages])

    def home(self, query: Query) -> str:
        return self._found("All threads", "/", "? = ''", "", query, {})

    def board(self, name: str, query: Query) -> str | None:
        return self._found(name, f"/board/{name}", "board = ?", name, query, {}) if name in BOARDS else None

    def search(self, query: Query) -> str:
        words = query.get("q", "").strip()[:60]
        where = "instr(lower(title), lower(?))"
        return self._found(f"Results for {words}", "/search", where, words, query, {"q": words})

    def bookmarks(self, query: Query) -> str:
        rows = self.rows("SELECT threads.* FROM marks JOIN threads ON thread = id ORDER BY title")
        return self.page("Bookmarks", "marks", self._list(rows) if rows else el("p", "There are no bookmarks yet."))

    def thread(self, key: str, query: Query) -> str | None:
        row = self.row("SELECT * FROM threads WHERE id = ?", key)
        if row is None:
            return None
        posts = self.rows("SELECT * FROM posts WHERE thread = ? ORDER BY id", key)
        head = el("p", "By ", link(row["writer"], f"/member/{row['writer']}"), f" in {row['board']}")
        reply = el("form", field("Your reply", "text"), el("button", "Reply"), method="post", key="reply")
        parts = [
            head,
            self._buttons(row),
            el("h2", f"{len(posts)} replies"),
            el("ul", [self._post(post) for post in posts]),
        ]
        return self.page(row["title"], f"thread {key}", [*parts, reply])

    def _buttons(self, row: Any) -> Any:
        voted = self.value("SELECT COUNT(*) FROM voted WHERE thread = ?", row["id"])
        marked = self.value("SELECT COUNT(*) FROM marks WHERE thread = ?", row["id"])
        vote = button_form("Take vote back" if voted else "Vote up", f"/thread/{row['id']}/vote")
        mark = button_form("Remove bookmark" if marked else "Bookmark", f"/thread/{row['id']}/mark")
        return [el("p", f"{row['votes']} votes"), vote, mark]

    def _post(self, post: Any) -> Any:
        writer = link(post["writer"], f"/member/{post['writer']}")
        own = button_form("Delete", f"/post/{post['id']}/delete") if post["writer"] == ME else None
        return el("li", writer, f": {post['text']} ({post['votes']} votes) ", own, key=post["id"])

    def member(self, name: str, query: Query) -> str | None:
        if name not in (*WRITERS, ME):
            return None
        rows = self.rows("SELECT * FROM threads WHERE writer = ? ORDER BY id DESC", name)
        follows = self.value("SELECT COUNT(*) FROM follows WHERE writer = ?", name)
        follow = button_form("Unfollow" if follows else "Follow", f"/member/{name}/follow")
        return self.page(
            f"Member {name}", f"member {name}", [follow, el("p", f"{len(rows)} threads"), self._list(rows)]
        )

    def new(self, query: Query) -> str:
        fields = [choice("Board", "board", list(BOARDS), "Cooking"), field("Title", "title"), field("Text", "text")]
        return self.page("New thread", "new", el("form", fields, el("button", "Publish"), method="post", action="/new"))

    def profile(self, query: Query) -> str:
        row = self.row("SELECT * FROM profile")
        mail = choice("Mail", "mail", ["never", "weekly", "daily"], row["mail"])
        fields = [field("Motto", "motto", row["motto"]), field("Town", "town", row["town"]), mail]
        return self.page(
            "Profile", "profile", el("form", fields, el("button", "Save"), method="post", action="/profile")
        )

    def reply(self, key: str, form: Query) -> str:
        text = form.get("text", "").strip()[:80]
        if text and self.row("SELECT id FROM threads WHERE id = ?", key):
            self._write(int(key), ME, text)
            self.data.commit()
        self.notice = "Your reply was added" if text else "A reply needs a text"
        return f"/thread/{key}"

    def _toggle(self, table: str, key: str) -> bool:
        """Put a thread into a table, or take it out again; whether it is in now."""
        if self.value(f"SELECT COUNT(*) FROM {table} WHERE thread = ?", key):
            self.change(f"DELETE FROM {table} WHERE thread = ?", key)
            return False
        self.change(f"INSERT INTO {table} SELECT id FROM threads WHERE id = ?", key)
        return True

    def vote(self, key: str, form: Query) -> str:
        step = 1 if self._toggle("voted", key) else -1
        self.change("UPDATE threads SET votes = votes + ? WHERE id = ?", step, key)
        return f"/thread/{key}"

    def mark(self, key: str, form: Query) -> str:
        self._toggle("marks", key)
        return f"/thread/{key}"

    def delete(self, key: str, form: Query) -> str:
        row = self.row("SELECT * FROM posts WHERE id = ? AND writer = ?", key, ME)
        if row is None:
            return "/"
        self.change("DELETE FROM posts WHERE id = ?", key)
        self.change("UPDATE threads SET replies = replies - 1 WHERE id = ?", row["thread"])
        self.notice = "Your reply was deleted"
        return f"/thread/{row['thread']}"

    def follow(self, name: str, form: Query) -> str:
        if self.value("SELECT COUNT(*) FROM follows WHERE writer = ?", name):
            self.change("DELETE FROM follows WHERE writer = ?", name)
        elif name in WRITERS:
            self.change("INSERT INTO follows VALUES (?)", name)
        return f"/member/{name}"

    def publish(self, form: Query) -> str:
        board, title, text = (form.get(name, "").strip()[:80] for name in ("board", "title", "text"))
        if board not in BOARDS or not title or not text:
            self.notice = "A thread needs a title and a text"
            return "/new"
        sql = "INSERT INTO threads (board, title, writer, votes, replies) VALUES (?, ?, ?, 0, 0)"
        thread = self.data.execute(sql, (board, title, ME)).lastrowid
        self._write(thread, ME, text)
        self.data.commit()
        self.notice = "Your thread was published"
        return f"/thread/{thread}"

    def save(self, form: Query) -> str:
        values = [form.get(name, "").strip()[:60] for name in ("motto", "town", "mail")]
        self.change("UPDATE profile SET motto = ?, town = ?, mail = ?", *values)
        self.notice = "Saved"
        return "/profile"

    pages = (
        ("/", home),
        (r"/board/(\w{1,20})", board),
        ("/search", search),
        (r"/thread/(\d{1,6})", thread),
        (r"/member/(\w{1,20})", member),
        ("/bookmarks", bookmarks),
        ("/new", new),
        ("/profile", profile),
    )
    posts = (
        (r"/thread/(\d{1,6})", reply),
        (r"/thread/(\d{1,6})/vote", vote),
        (r"/thread/(\d{1,6})/mark", mark),
        (r"/post/(\d{1,6})/delete", delete),
        (r"/member/(\w{1,20})/follow", follow),
        ("/new", publish),
        ("/profile", save),
    )


__all__ = ["BOARDS", "ME", "REMARKS", "WRITERS", "Forum"]
