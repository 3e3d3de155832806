"""The issue tracker: projects with about 70 issues in a table, labels, owners, comments, milestones. Held out.

No transition of this site is ever in a training or validation split: it shows how a world model does on a site that
it has not seen.
"""

from random import Random
from typing import Any

from rlvr_lib.worlds.sites.markup import button_form, choice, el, field, link
from rlvr_lib.worlds.sites.site import Query, Site, number, page_links

PROJECTS = {
    "atlas": ("map", "zoom", "legend"),
    "relay": ("queue", "retry", "socket"),
    "vault": ("key", "login", "audit"),
}
FAULTS = ("crashes on start", "is too slow", "loses settings", "shows wrong text", "ignores the mouse", "needs a test")
PEOPLE = ("amir", "beth", "chen", "dora", "emil", "fay")
LABELS = ("bug", "feature", "docs", "urgent")
MILESTONES = ("none", "1.0", "1.1", "2.0")
STATES = ("open", "closed")
NOTES = ("Can confirm", "Cannot reproduce", "Fixed in my branch", "Needs more detail", "See the log", "Works for me")
SORTS = {"newest": "id DESC", "oldest": "id", "title": "title, id", "comments": "comments DESC, id"}
PER_PAGE = 20
ME = "toni"
TABLES = """
CREATE TABLE issues (id INTEGER PRIMARY KEY, project TEXT, title TEXT, writer TEXT, owner TEXT, label TEXT,
  milestone TEXT, state TEXT, comments INTEGER);
CREATE TABLE comments (id INTEGER PRIMARY KEY, issue INTEGER, writer TEXT, text TEXT);
CREATE TABLE watching (issue INTEGER PRIMARY KEY);
"""


class Tracker(Site):
    """A tracker seen by its member ``toni``, who is signed in."""

    name = "tracker"

    def fill(self, rng: Random) -> None:
        self.data.executescript(TABLES)
        titles = [
            (project, f"{part} {fault}") for project in PROJECTS for part in PROJECTS[project] for fault in FAULTS
        ]
        for project, title in rng.sample(titles, rng.randint(36, 50)):
            self._report(rng, project, title)
        self.data.commit()

    def _report(self, rng: Random, project: str, title: str) -> None:
        choices = (rng.choice((*PEOPLE, "nobody")), rng.choice(LABELS), rng.choice(MILESTONES), rng.choice(STATES))
        columns = "project, title, writer, owner, label, milestone, state, comments"
        sql = f"INSERT INTO issues ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, 0)"
        issue = self.data.execute(sql, (project, title, rng.choice(PEOPLE), *choices)).lastrowid
        for _ in range(rng.randint(0, 5)):
            self._write(issue, rng.choice(PEOPLE), rng.choice(NOTES))

    def _write(self, issue: int, writer: str, text: str) -> None:
        self.data.execute("INSERT INTO comments (issue, writer, text) VALUES (?, ?, ?)", (issue, writer, text))
        self.data.execute("UPDATE issues SET comments = comments + 1 WHERE id = ?", (issue,))

    def banner(self) -> Any:
        watched = self.value("SELECT COUNT(*) FROM watching")
        mine = self.value("SELECT COUNT(*) FROM issues WHERE owner = ? AND state = 'open'", ME)
        projects = [link(name, f"/project/{name}") for name in PROJECTS]
        own = [
            link(f"My issues ({mine})", "/mine"),
            link(f"Watching ({watched})", "/watching"),
            link("Report", "/report"),
        ]
        return el("header", el("nav", link("All issues", "/"), projects, own))

    def _table(self, rows: list[Any]) -> Any:
        names = ("Number", "Title", "State", "Label", "Owner", "Comments")
        head = el("tr", [el("th", name, scope="col") for name in names])
        return el("table", el("tbody", head, [self._entry(row) for row in rows]))

    def _entry(self, row: Any) -> Any:
        title = link(row["title"], f"/issue/{row['id']}")
        cells = (f"#{row['id']}", title, row["state"], row["label"], row["owner"], row["comments"])
        return el("tr", [el("td", cell) for cell in cells], key=row["id"])

    def _found(self, title: str, path: str, where: str, values: list[str], query: Query) -> str:
        sort = query.get("sort", "newest") if query.get("sort") in SORTS else "newest"
        state, label = query.get("state", ""), query.get("label", "")
        for column, value, known in (("state", state, STATES), ("label", label, LABELS)):
            if value in known:
                where, values = f"{where} AND {column} = ?", [*values, value]
        count = self.value(f"SELECT COUNT(*) FROM issues WHERE {where}", *values)
        shown = number(query.get("page", ""), 1, 1, 50)
        limit = f"ORDER BY {SORTS[sort]} LIMIT {PER_PAGE} OFFSET {PER_PAGE * (shown - 1)}"
        rows = self.rows(f"SELECT * FROM issues WHERE {where} {limit}", *values)
        filters = [choice("State", "state", ["any", *STATES], state), choice("Label", "label", ["any", *LABELS], label)]
        form = el("form", filters, choice("Order", "sort", list(SORTS), sort), el("button", "Apply"), action=path)
        pages = page_links(count, PER_PAGE, shown, path, state=state, label=label, sort=query.get("sort", ""))
        return self.page(title, title, [form, el("p", f"{count} issues, {sort} first"), self._table(rows), pages])

    def home(self, query: Query) -> str:
        return self._found("All issues", "/", "1 = 1", [], query)

    def project(self, name: str, query: Query) -> str | None:
        return self._found(name, f"/project/{name}", "project = ?", [name], query) if name in PROJECTS else None

    def mine(self, query: Query) -> str:
        return self._found("My issues", "/mine", "owner = ?", [ME], query)

    def watching(self, query: Query) -> str:
        return self._found("Watching", "/watching", "id IN (SELECT issue FROM watching)", [], query)

    def issue(self, key: str, query: Query) -> str | None:
        row = self.row("SELECT * FROM issues WHERE id = ?", key)
        if row is None:
            return None
        notes = self.rows("SELECT * FROM comments WHERE issue = ? ORDER BY id", key)
        head = el("p", f"#{row['id']} in {row['project']}, {row['state']}, reported by {row['writer']}")
        entries = el("ol", [el("li", f"{note['writer']}: {note['text']}", key=note["id"]) for note in notes])
        comment = el(
            "form", field("Comment", "text"), el("button", "Send"), method="post", action=f"/issue/{key}/comment"
        )
        parts = [head, self._buttons(row), self._facts(row), el("h2", f"{len(notes)} comments"), entries, comment]
        return self.page(row["title"], f"issue {key}", parts)

    def _buttons(self, row: Any) -> Any:
        watched = self.value("SELECT COUNT(*) FROM watching WHERE issue = ?", row["id"])
        close = button_form("Close issue" if row["state"] == "open" else "Open again", f"/issue/{row['id']}/state")
        return [close, button_form("Stop watching" if watched else "Watch", f"/issue/{row['id']}/watch")]

    def _facts(self, row: Any) -> Any:
        fields = [choice("Owner", "owner", ["nobody", ME, *PEOPLE], row["owner"])]
        fields += [choice("Label", "label", list(LABELS), row["label"])]
        fields += [choice("Milestone", "milestone", list(MILESTONES), row["milestone"])]
        return el("form", fields, el("button", "Update"), method="post", action=f"/issue/{row['id']}", key="facts")

    def report(self, query: Query) -> str:
        fields = [choice("Project", "project", list(PROJECTS), "atlas"), field("Title", "title")]
        fields += [choice("Label", "label", list(LABELS), "bug")]
        return self.page(
            "Report", "report", el("form", fields, el("button", "Create"), method="post", action="/report")
        )

    def update(self, key: str, form: Query) -> str:
        known = {"owner": ("nobody", ME, *PEOPLE), "label": LABELS, "milestone": MILESTONES}
        for column, values in known.items():
            if form.get(column) in values:
                self.change(f"UPDATE issues SET {column} = ? WHERE id = ?", form[column], key)
        self.notice = "The issue was updated"
        return f"/issue/{key}"

    def change_state(self, key: str, form: Query) -> str:
        swap = "CASE state WHEN 'open' THEN 'closed' ELSE 'open' END"
        self.change(f"UPDATE issues SET state = {swap} WHERE id = ?", key)
        return f"/issue/{key}"

    def watch(self, key: str, form: Query) -> str:
        if self.value("SELECT COUNT(*) FROM watching WHERE issue = ?", key):
            self.change("DELETE FROM watching WHERE issue = ?", key)
        else:
            self.change("INSERT INTO watching SELECT id FROM issues WHERE id = ?", key)
        return f"/issue/{key}"

    def comment(self, key: str, form: Query) -> str:
        text = form.get("text", "").strip()[:80]
        if text and self.row("SELECT id FROM issues WHERE id = ?", key):
            self._write(int(key), ME, text)
            self.data.commit()
        self.notice = "The comment was added" if text else "A comment needs a text"
        return f"/issue/{key}"

    def create(self, form: Query) -> str:
        project, title, label = (form.get(name, "").strip()[:60] for name in ("project", "title", "label"))
        if project not in PROJECTS or label not in LABELS or not title:
            self.notice = "An issue needs a title"
            return "/report"
        sql = (
            "INSERT INTO issues (project, title, writer, owner, label, milestone, state, comments) "
            "VALUES (?, ?, ?, 'nobody', ?, 'none', 'open', 0)"
        )
        issue = self.data.execute(sql, (project, title, ME, label)).lastrowid
        self.data.commit()
        self.notice = "The issue was created"
        return f"/issue/{issue}"

    pages = (
        ("/", home),
        (r"/project/(\w{1,20})", project),
        ("/mine", mine),
        ("/watching", watching),
        (r"/issue/(\d{1,6})", issue),
        ("/report", report),
    )
    posts = (
        (r"/issue/(\d{1,6})", update),
        (r"/issue/(\d{1,6})/state", change_state),
        (r"/issue/(\d{1,6})/watch", watch),
        (r"/issue/(\d{1,6})/comment", comment),
        ("/report", create),
    )


__all__ = ["LABELS", "ME", "MILESTONES", "NOTES", "PEOPLE", "PROJECTS", "Tracker"]
