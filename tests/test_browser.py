"""The driven browser: actions, identity, live tasks, equal recordings. Skipped, with the reason, without a Chromium."""

import asyncio

import pytest

from rlvr_lib.worlds.browser_find import why_no_browser
from rlvr_lib.worlds.web_actions import Action, read_action
from rlvr_lib.worlds.web_pages import Numbering, changes

pytestmark = pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser() or "none")


@pytest.fixture(scope="module")
def server():
    from rlvr_lib.worlds.web_tasks import make_server

    with make_server() as running:
        yield running


@pytest.fixture(scope="module")
def browser(server):
    from rlvr_lib.worlds.web_tasks import make_browser

    with make_browser(server) as started:
        yield started


@pytest.fixture
def shop(browser, server):
    from rlvr_lib.worlds.web_tasks import begin

    return begin(browser, server, "shop", 0)


def number(page, role, name):
    """The shown number of the first element with role and name."""
    return next(node.number for node in page.nodes if node.role == role and node.name == name)


def step(browser, action):
    """Act on a fresh look; what was refused and what changed."""
    numbering = Numbering()
    before = browser.look().page(numbering)
    if isinstance(action, tuple):
        kind, role, name, *rest = action
        action = Action(kind, number(before, role, name), *rest)
    refused = browser.act(action, before)
    return refused, changes(before, browser.look().page(numbering))


def test_pages_are_of_some_size_and_numbered_in_order(browser, shop):
    page = browser.look().page()
    assert [node.number for node in page.nodes] == list(range(1, len(page.nodes) + 1))
    assert 100 < len(page.nodes) < 400 and page.url == "http://shop.test/" and page.title == "Shop"
    assert "127.0.0.1" not in page.text and "url:" not in page.text


def test_sites_are_laid_out_by_the_standard(browser, server):
    from rlvr_lib.worlds.sites.catalogue import SITES
    from rlvr_lib.worlds.web_tasks import begin

    for name in SITES:
        begin(browser, server, name, 0)
        assert browser.ask_page("document.compatMode") == "CSS1Compat"
        assert browser.ask_page("document.head.children.length") == 4
        assert "DOCTYPE" not in browser.look().page().text


def test_what_stays_keeps_its_number(browser, shop):
    """The basket's link counts up (updated); the page around it is exchanged (new, deleted)."""
    _, found = step(browser, ("click", "button", "Add to basket"))
    assert any("link 'Basket (1)'" in item for item in found.updated)
    assert any("Added to the basket" in item for item in found.new) and len(found.deleted) > 50
    _, found = step(browser, ("type", "textbox", "Count", "3", False))
    assert not found.deleted and any("textbox 'Count' value: 3" in item for item in found.updated)
    _, found = step(browser, ("click", "option", "4"))
    assert any("combobox 'Stars' value: 4" in item for item in found.updated)


def test_history_tabs_keys_and_what_cannot_be_done(browser, shop):
    assert step(browser, Action("go_back"))[0] == "there is no such page in the history"
    assert step(browser, ("click", "link", "Basket (0)"))[0] == "" and browser.look().url.endswith("/basket")
    assert step(browser, Action("go_back"))[0] == "" and browser.look().url == "http://shop.test/"
    assert step(browser, Action("go_forward"))[0] == "" and browser.look().url.endswith("/basket")
    assert step(browser, read_action("new_tab"))[0] == "" and browser.look().tabs == ("Basket", "")
    assert step(browser, read_action("goto [http://shop.test/wishes]"))[0] == ""
    assert browser.look().tabs == ("Basket", "Wishes") and browser.look().current_tab == 1
    assert step(browser, read_action("tab_focus [0]"))[0] == "" and browser.look().title == "Basket"
    assert step(browser, read_action("close_tab"))[0] == "" and browser.look().tabs == ("Wishes",)
    for text in ("close_tab", "tab_focus [7]", "click [9999]", "press [Control+t]", "press [F12]", "goto [file:///]"):
        refused, found = step(browser, read_action(text))
        assert refused and not found, text
    for text in ("press [Tab]", "scroll [down]", "stop [12]"):
        assert step(browser, read_action(text))[0] == ""
    assert step(browser, read_action("eval [1]"))[0] == "the action could not be read"


def test_an_element_of_a_former_page_is_gone(browser, shop):
    page = browser.look().page()
    link = number(page, "link", "Basket (0)")
    browser.act(read_action("goto [http://shop.test/wishes]"), page)
    assert browser.act(Action("click", link), page) == "the element is gone"


@pytest.mark.parametrize("name", ["shop", "tracker", "click-checkboxes", "login-user"])
def test_scripts_solve_tasks_in_the_live_browser(browser, server, name):
    from rlvr_lib.worlds.web_tasks import begin

    task = begin(browser, server, name, 4)
    assert not task.success() and not task.ended()
    for _ in range(14):
        page = browser.look().page()
        action = task.expert(page)
        if action.kind == "stop":
            break
        browser.act(action, page)
        if task.ended():
            break
    assert task.success(action.text if action.kind == "stop" else "")


def test_wrong_actions_earn_nothing(browser, server):
    from rlvr_lib.worlds.web_tasks import begin

    task = begin(browser, server, "click-checkboxes", 4)
    step(browser, ("click", "button", "Submit"))
    assert task.ended() and not task.success("anything")


def test_equal_seeds_give_equal_recordings_in_any_order(tmp_path):
    from rlvr_lib.worlds.web_record import WebRecording, record_web_set
    from rlvr_lib.worlds.web_transitions import load_web_set

    names = ("forum", "click-menu-2")
    plans = [WebRecording(site_episodes=1, miniwob_episodes=1, steps=5, names=order) for order in (names, names[::-1])]
    sets = []
    for place, plan in enumerate(plans):
        folder = tmp_path / str(place)
        manifest = record_web_set(folder, plan)
        assert manifest["episodes"] == 2 and not manifest["failed"]
        assert sorted(path.name for path in folder.iterdir())[0] == "manifest.json"
        sets.append({item.case_id: item for items in load_web_set(folder, stops=True).values() for item in items})
    assert sets[0] == sets[1] and len(sets[0]) > 4


def test_it_works_inside_an_event_loop(browser, shop):
    """Notebooks run inside one."""

    async def look() -> str:
        return browser.look().title

    assert asyncio.run(look()) == "Shop" and browser.screenshot()[:4] == b"\x89PNG"
