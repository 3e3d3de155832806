"""The local sites over plain HTTP: every errand is solved by its script; pages are escaped and repeatable."""

import pytest
from plain_browser import PlainBrowser

from rlvr_lib.artifacts import UserError
from rlvr_lib.worlds.sites.catalogue import HELD_OUT, SITES, make_site
from rlvr_lib.worlds.sites.markup import el
from rlvr_lib.worlds.sites.server import SiteServer

CASES = [(name, seed) for name, site in SITES.items() for seed in range(2 * len(site.templates))]


@pytest.fixture(scope="module")
def server():
    with SiteServer() as running:
        yield running


def walk(server, name: str, seed: int, most: int = 12):
    """Solve an errand; its site, errand, the answer and how many actions it took."""
    site = make_site(name, seed)
    errand, browser = site.task(seed), PlainBrowser(server.port)
    server.show(site)
    browser.open(f"http://{name}.test/")
    assert not errand.check(site, ""), "solved before it began"
    for step in range(most):
        page = browser.look()
        action = errand.expert(page)
        if action.kind == "stop":
            return site, errand, action.text, step
        browser.act(action, page)
    raise AssertionError(f"{errand.template}: no end after {most} actions")


@pytest.mark.parametrize("name,seed", CASES)
def test_the_script_solves_the_errand(server, name, seed):
    site, errand, answer, steps = walk(server, name, seed)
    assert errand.check(site, answer) and steps >= 2


def test_every_site_has_eight_kinds_of_errand_and_one_site_is_held_out():
    for name, site in SITES.items():
        names = {make_site(name, seed).task(seed).template for seed in range(len(site.templates))}
        assert len(names) == len(site.templates) >= 8 and all(one.startswith(f"{name}.") for one in names)
    assert HELD_OUT == "tracker" and len(SITES) == 3
    with pytest.raises(UserError, match="no site"):
        make_site("bank", 0)


@pytest.mark.parametrize("name", SITES)
def test_equal_seeds_give_equal_pages_and_others_do_not(name):
    first, again, other = (make_site(name, seed).get("/", {}).body for seed in (5, 5, 6))
    assert first == again != other
    for seed in (5, 6):
        assert make_site(name, seed).task(seed).goal == make_site(name, seed).task(seed).goal


@pytest.mark.parametrize("name", SITES)
def test_what_is_typed_is_shown_as_text(server, name):
    """No field of any form lets markup through."""
    site, browser = make_site(name, 1), PlainBrowser(server.port)
    server.show(site)
    for path in ("/", "/product/1", "/thread/1", "/issue/1", "/account", "/profile", "/new", "/report"):
        browser.open(f"http://{name}.test{path}")
        for node in browser.look().nodes:
            if node.role in ("textbox", "searchbox"):
                page = browser.look()
                box = page.nodes[[other.key for other in page.nodes].index(node.key)]
                element = next(one for one, other in browser.shown if other.key == box.key)
                element.value = "<script>alert(1)</script>\"'"
                browser._send(element.form)
                assert "<script>alert" not in browser.html
                break


@pytest.mark.parametrize("name", SITES)
def test_a_page_starts_with_its_declaration_and_not_with_a_text_of_it(name):
    """Escaped, it would be the first text of the page, which the browser would then lay out as of old."""
    html = make_site(name, 1).get("/", {}).body
    assert html.startswith('<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>')
    assert html.count("DOCTYPE") == 1 and html.index("<body>") > html.index("app.css")


def test_markup_escapes_texts_and_attributes():
    assert el("a", "<b>", href='"><script>') == '<a href="&#34;&gt;&lt;script&gt;">&lt;b&gt;</a>'


@pytest.mark.parametrize("name", SITES)
@pytest.mark.parametrize("path", ["/nowhere", "/product/999999", "/board/x", "/issue/abc", "/../etc/passwd", "/search"])
def test_odd_paths_give_a_page(server, name, path):
    server.show(make_site(name, 0))
    browser = PlainBrowser(server.port)
    browser.open(f"http://{name}.test{path}")
    assert browser.status in (200, 404) and browser.look().title


@pytest.mark.parametrize("name", SITES)
def test_odd_forms_break_nothing(server, name):
    site, browser = make_site(name, 0), PlainBrowser(server.port)
    server.show(site)
    for pattern, _ in site.posts:
        path = pattern.replace(r"(\d{1,6})", "999999").replace(r"(\w{1,20})", "nobody")
        for body in ("", "count=-5&product=x", "a=" + "b" * 9000, "%ff=%00", "stars=9&title=%3Cb%3E&text=' OR 1=1 --"):
            browser.open(f"http://{name}.test{path}", "POST", body)
            assert browser.status in (200, 404)


def test_files_outside_the_served_folder_stay_there(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "page.html").write_text("<title>in</title>")
    (tmp_path / "secret.html").write_text("<title>secret</title>")
    with SiteServer({"files.test": tmp_path / "in"}) as server:
        browser = PlainBrowser(server.port)
        for path, status in (("/page.html", 200), ("/../secret.html", 404), ("/%2e%2e/secret.html", 404), ("/", 404)):
            browser.open(f"http://files.test{path}")
            assert browser.status == status and "secret" not in browser.html
        browser.open("http://other.test/")
        assert browser.status == 404
        assert server._server.server_address[0] == "127.0.0.1"
