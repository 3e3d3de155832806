"""Nine kinds of errand in the issue tracker, each with its check and its scripted solver."""

from random import Random
from typing import Any

from rlvr_lib.worlds.sites.rules import (
    always,
    answer,
    at,
    both,
    choose,
    click,
    click_starting,
    fill,
    shows,
    titled,
    when,
)
from rlvr_lib.worlds.sites.site import Check, Rule, SiteTask
from rlvr_lib.worlds.sites.tracker import FAULTS, LABELS, ME, MILESTONES, NOTES, PEOPLE, PROJECTS, Tracker


def _issue(site: Tracker, rng: Random, where: str = "1 = 1") -> Any:
    return rng.choice(site.rows(f"SELECT * FROM issues WHERE {where} ORDER BY id"))


def _visit(issue: Any) -> tuple[Rule, ...]:
    """Reach an issue by its project's list, turning pages."""
    place = f"/project/{issue['project']}"
    steps = (click("link", issue["title"]), _next_page)
    return (*when(at(place), *steps), *always(click("link", issue["project"])))


def _next_page(page: Any) -> Any:
    """The link to the page after the shown one; the first page after the last."""
    shown = next(
        (node.name for node in page.nodes if node.name.startswith("Page ") and " of " in node.name), "Page 0 of 0"
    )
    return click("link", f"Page {int(shown.split()[1]) + 1}")(page) or click("link", "Page 1")(page)


def _issue_is(issue: Any, **wanted: str) -> Check:
    """Whether an issue has these values and is otherwise as it was."""
    after = {**{key: issue[key] for key in ("title", "owner", "label", "milestone", "state", "comments")}, **wanted}

    def check(site: Any, _: str) -> bool:
        row = site.row("SELECT * FROM issues WHERE id = ?", issue["id"])
        return all(row[key] == value for key, value in after.items())

    return check


def close(site: Tracker, rng: Random) -> SiteTask:
    issue = _issue(site, rng, "state = 'open'")
    rules = (*when(titled(issue["title"]), click("button", "Close issue"), answer("")), *_visit(issue))
    goal = f"Close the issue {issue['title']} of the project {issue['project']}"
    return SiteTask("tracker.close", goal, _issue_is(issue, state="closed"), rules)


def reopen(site: Tracker, rng: Random) -> SiteTask:
    issue = _issue(site, rng, "state = 'closed'")
    rules = (*when(titled(issue["title"]), click("button", "Open again"), answer("")), *_visit(issue))
    goal = f"Open the issue {issue['title']} of the project {issue['project']} again"
    return SiteTask("tracker.reopen", goal, _issue_is(issue, state="open"), rules)


def _set(site: Tracker, rng: Random, column: str, values: tuple[str, ...]) -> SiteTask:
    issue = _issue(site, rng)
    value = rng.choice([value for value in values if value != issue[column]])
    done = both(titled(issue["title"]), shows("The issue was updated"))
    steps = (choose(column.title(), value), click("button", "Update"))
    rules = (
        *when(done, choose(column.title(), value), answer("")),
        *when(titled(issue["title"]), *steps),
        *_visit(issue),
    )
    goal = f"Set the {column} of the issue {issue['title']} of the project {issue['project']} to {value}"
    return SiteTask(f"tracker.{column}", goal, _issue_is(issue, **{column: value}), rules)


def owner(site: Tracker, rng: Random) -> SiteTask:
    return _set(site, rng, "owner", (ME, *PEOPLE))


def label(site: Tracker, rng: Random) -> SiteTask:
    return _set(site, rng, "label", LABELS)


def milestone(site: Tracker, rng: Random) -> SiteTask:
    return _set(site, rng, "milestone", MILESTONES[1:])


def watch(site: Tracker, rng: Random) -> SiteTask:
    issue = _issue(site, rng)
    rules = (*when(titled(issue["title"]), click("button", "Watch"), answer("")), *_visit(issue))
    goal = f"Watch the issue {issue['title']} of the project {issue['project']}"
    sql = "SELECT issue FROM watching"
    return SiteTask("tracker.watch", goal, lambda site, _: [row[0] for row in site.rows(sql)] == [issue["id"]], rules)


def comment(site: Tracker, rng: Random) -> SiteTask:
    issue, text = _issue(site, rng), rng.choice(NOTES)
    rules = (
        *when(shows("The comment was added"), answer("")),
        *when(titled(issue["title"]), fill("Comment", text), click("button", "Send")),
        *_visit(issue),
    )
    sql, wanted = "SELECT issue, text FROM comments WHERE writer = ?", [(issue["id"], text)]
    goal = f"Comment on the issue {issue['title']} of the project {issue['project']} with the text {text}"
    return SiteTask(
        "tracker.comment", goal, lambda site, _: [tuple(row) for row in site.rows(sql, ME)] == wanted, rules
    )


def report(site: Tracker, rng: Random) -> SiteTask:
    project, chosen = rng.choice(list(PROJECTS)), rng.choice(LABELS)
    title = f"export {rng.choice(FAULTS)}"
    form = (choose("Project", project), fill("Title", title), choose("Label", chosen), click("button", "Create"))
    rules = (
        *when(shows("The issue was created"), answer("")),
        *when(at("/report"), *form),
        *always(click("link", "Report")),
    )
    sql, wanted = "SELECT project, title, label FROM issues WHERE writer = ?", [(project, title, chosen)]
    goal = f"Report an issue in the project {project} with the title {title} and the label {chosen}"
    return SiteTask("tracker.report", goal, lambda site, _: [tuple(row) for row in site.rows(sql, ME)] == wanted, rules)


def count(site: Tracker, rng: Random) -> SiteTask:
    project, state = rng.choice(list(PROJECTS)), rng.choice(("open", "closed"))
    truth = str(site.value("SELECT COUNT(*) FROM issues WHERE project = ? AND state = ?", project, state))
    place = f"/project/{project}"
    rules = (
        *when(at(f"{place}?state={state}&label=any"), answer(truth)),
        *when(at(place), choose("State", state), choose("Label", "any"), click("button", "Apply")),
        *always(click_starting("link", project)),
    )
    goal = f"How many issues of the project {project} are {state}? Answer with the number only"
    return SiteTask("tracker.count", goal, lambda _, said: said.strip() == truth, rules)


class TheTracker(Tracker):
    """The tracker with its tasks."""

    templates = (close, reopen, owner, label, milestone, watch, comment, report, count)


__all__ = ["TheTracker"]
