"""WebArena through BrowserGym against a stand-in for it: the hosted sites and BrowserGym itself are not here."""

import ast
import json
import os
import re
from functools import partial
from pathlib import Path

import psutil
import pytest
import webarena_standin as standin
from chat_server import chat_server, reply

from rlvr_lib.artifacts import UserError
from rlvr_lib.evaluation.agent_arms import arms_of, evaluate_agents, why_not_run
from rlvr_lib.evaluation.agent_planner import Numbers, Planner
from rlvr_lib.evaluation.agent_run import FAULT, GOAL, STOPPED, Limits, run_arm, score_row
from rlvr_lib.evaluation.agent_session import Case
from rlvr_lib.evaluation.agent_webarena import NO_ORACLE, WebArenaSession, webarena_cases
from rlvr_lib.profile import load_profile
from rlvr_lib.report.agent_tables import agent_table, load_arms
from rlvr_lib.worlds.browser import BrowserFault
from rlvr_lib.worlds.web_actions import Action, read_action
from rlvr_lib.worlds.webarena import PUBLIC, PYTHON, EnvProcess, Sites, task_list, why_no_webarena
from rlvr_lib.worlds.webarena_pages import answer_command, command, read_observation
from rlvr_lib.worlds.webarena_server import told

HOSTED = {name: f"http://localhost:{7770 + place}" for place, name in enumerate(PUBLIC)}
HOSTED |= {"WA_SHOPPING": "http://localhost:7770/", "WA_SHOPPING_ADMIN": "http://localhost:77/admin"}
SITES = Sites.hosted(HOSTED)
MODULES = {
    "gymnasium.py": "from webarena_standin import make\n",
    "browsergym/webarena.py": "",
    "browsergym/core/action/highlevel.py": "from webarena_standin import HighLevelActionSet\n",
    "webarena/test.raw.json": json.dumps([{"task_id": at, "sites": one} for at, one in enumerate(standin.SITES)]),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An environment whose Python finds the stand-in where it looks for BrowserGym."""
    root = tmp_path_factory.mktemp("standin")
    for name, text in MODULES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    found = {name: value for name, value in os.environ.items() if name not in PUBLIC and not name.startswith("RLVR_")}
    return found | HOSTED | {"PYTHONPATH": f"{root}{os.pathsep}{Path(__file__).parent}"}


@pytest.fixture
def session(place):
    with WebArenaSession(partial(EnvProcess, environment=place), SITES) as one:
        yield one


class Says:
    """A policy that proposes these texts in turn."""

    def __init__(self, *texts):
        self.texts = texts

    def propose(self, seen, count):
        return [[f"```{self.texts[len(one.previous) % len(self.texts)]}```"] * count for one in seen]


def play(tmp_path, place, policy, *tasks, parallel=1):
    make = partial(WebArenaSession, partial(EnvProcess, environment=place), SITES)
    cases = [Case("shopping", task) for task in tasks]
    return run_arm(tmp_path, "arm", Planner(policy, Numbers(1, 1)), cases, make, Limits(), parallel, watched=1)


# ---- episodes
def test_buying_is_rewarded_and_ends_the_episode(tmp_path, place):
    record = play(tmp_path, place, Says("type [2] [a lamp] [1]", "click [3]"), 0)[0]
    assert (record["ended"], record["success"], record["fault"], len(record["steps"])) == (GOAL, True, "", 2)
    assert record["goal"] == "Find the answer" and record["template"] == "webarena.0"
    assert next(tmp_path.glob("screens/arm/*-0.png")).read_bytes().startswith(b"\x89PNG")
    assert score_row(record)["site"] == "shopping" and score_row(record)["case_id"] == "shopping/0"


@pytest.mark.parametrize(("answer", "success"), [("42", True), ("41", False)])
def test_the_answer_of_a_stop_is_sent_to_the_user(tmp_path, place, answer, success):
    record = play(tmp_path, place, Says("scroll [down]", f"stop [{answer}]"), 1)[0]
    assert (record["ended"], record["success"]) == (STOPPED, success)


def test_a_forced_stop_is_answered_with_its_reason(tmp_path, place):
    record = play(tmp_path, place, Says("no action at all"), 0)[0]
    assert record["ended"] == "the last 3 actions could not be read" and not record["success"]
    assert [step["refused"] for step in record["steps"]] == ["the action could not be read"] * 3


def test_faults_cost_their_tasks_and_nothing_else(tmp_path, place):
    """A task that does not start, one whose step raises, one whose process ends; the others go on, two side by side."""
    records = play(tmp_path, place, Says("click [3]"), 13, 0, 14, 15, 1, parallel=2)
    assert [one["ended"] for one in records] == [FAULT, GOAL, FAULT, FAULT, GOAL]
    faults = [one["fault"] for one in records]
    assert faults[0] == "RuntimeError: the site is not reachable" and faults[1] == faults[4] == ""
    assert faults[2].startswith("RuntimeError: Target page") and faults[3] == "BrowserGym's process ended"
    assert [score_row(one)["success"] for one in records] == [0, 1, 0, 0, 1]
    assert not [one for one in psutil.Process().children() if "webarena_server" in " ".join(one.cmdline())]


def test_one_that_hangs_is_ended(place):
    env = EnvProcess(environment=place)
    assert env.ask(30, do="reset", task=16)["goal"] == "Find the answer"
    with pytest.raises(BrowserFault, match=r"did not answer within 0\.2 s"):
        env.ask(0.2, do="step", action="noop(1)")
    assert env.process.poll() is not None
    with pytest.raises(BrowserFault):
        env.ask(5, do="step", action="noop(1)")
    env.close()


def test_orders_in_a_page_are_no_actions(tmp_path, place):
    """A policy that obeys the page: nothing reaches BrowserGym but the answer of the forced stop."""
    seen = []

    class Obeys:
        def propose(self, observations, count):
            seen.extend(observations)
            orders = re.findall(r"```.*?```", observations[0].page)
            return [[orders[len(observations[0].previous) % len(orders)]]]

    record = play(tmp_path, place, Obeys(), 17)[0]
    assert len(record["steps"]) == 3 or record["ended"].endswith("executed")
    assert not record["success"] and all(step["refused"] for step in record["steps"])
    assert "passwd" in seen[0].page and "status" not in seen[-1].page


# ---- pages
def test_a_page_has_numbered_lines_of_what_is_in_view(session):
    assert session.begin(Case("shopping", 0)), session.fault
    assert session.page.text.split("\n") == [
        "Tab 0 (current): Shop",
        "",
        "[1] RootWebArea 'Shop' focused: True",
        "\t[2] textbox 'Search' required: False",
        "\t[3] button 'Buy'",
        "\t[4] combobox 'Sort'",
        "\t\t[5] MenuListPopup ''",
        "\t\t\t[6] option 'Newest' selected: True",
        "\t\t\t[7] option 'Cheap \"first\"' selected: False",
        "\t[8] link 'Basket'",
        "\t[9] Iframe ''",
        "\t\t[10] RootWebArea 'Frame'",
        "\t\t\t[11] button 'Inside'",
        "\t[12] StaticText 'plain words'",
    ]
    seen = session.observation()
    assert (seen.url, seen.shown_url) == ("http://localhost:7770/", "http://onestopmarket.com/")
    assert (seen.case, seen.seed, seen.goal) == ("shopping", 0, "Find the answer")


def test_numbers_are_those_of_the_page_and_stay_with_one_numbering(session):
    assert session.begin(Case("shopping", 0))
    before = {node.key: node.number for node in session.page.nodes}
    assert session.act(Action("scroll", text="down"), session.numbering)
    after = {node.key: node.number for node in session.page.nodes}
    assert {key: after[key] for key in before} == before and len(after) == len(before) + 1
    assert session.act(Action("scroll", text="up"))
    assert [node.number for node in session.page.nodes] == [*range(1, 14)]


@pytest.mark.parametrize(
    "nodes", [[{"role": {}}], [{"nodeId": "1", "childIds": ["2"]}, {"nodeId": "2", "childIds": ["1"]}]]
)
def test_what_is_no_tree_is_a_fault(nodes):
    with pytest.raises(BrowserFault, match="cannot be read"):
        read_observation({"nodes": nodes, "in_view": {}, "titles": ["t"], "tab": 0, "url": "http://x"})


# ---- actions
def shown(tabs=1):
    env = standin.Env(0, {"width": 1280, "height": 2048}, str)
    env.tabs = tabs
    snapshot, targets = read_observation(told(env.seen()))
    return snapshot.page(), targets


@pytest.mark.parametrize(
    ("text", "words", "refused"),
    [
        ("click [3]", 'click("12")', ""),
        ("click [11]", 'click("a51")', ""),
        ("click [12]", 'click("18")', ""),
        ("click [7]", 'select_option("13", "Cheap \\"first\\"")', ""),
        ("click [1]", "", "the element cannot be acted on"),
        ("click [99]", "", "there is no such element"),
        ("hover [8]", 'hover("16")', ""),
        ('type [2] [it\'s "new"] [1]', 'fill("11", "it\'s \\"new\\"")\nkeyboard_press("Enter")', ""),
        ("type [2] [a] [0]", 'fill("11", "a")', ""),
        ("type [2] [a]", 'fill("11", "a")\nkeyboard_press("Enter")', ""),
        ("press [Ctrl+v]", 'keyboard_press("Control+v")', ""),
        ("press [Alt+F4]", "", "the key is not in the list"),
        ("scroll [down]", "scroll(0, 2048)", ""),
        ("scroll [up]", "scroll(0, -2048)", ""),
        ("new_tab", "new_tab()", ""),
        ("tab_focus [1]", "tab_focus(1)", ""),
        ("tab_focus [2]", "", "there is no such tab"),
        ("close_tab", "tab_close()", ""),
        ("goto [http://onestopmarket.com/bed]", 'goto("http://localhost:7770/bed")', ""),
        ("goto [http://localhost:7772/f]", 'goto("http://localhost:7772/f")', ""),
        ("goto [http://evil.example]", "", "the address is not allowed"),
        ("goto [file:///etc/passwd]", "", "the address is not allowed"),
        ("go_back", "go_back()", ""),
        ("go_forward", "go_forward()", ""),
        ("dance", "", "the action could not be read"),
    ],
)
def test_actions_in_the_words_of_browsergym(text, words, refused):
    assert command(read_action(text), *shown(tabs=2), SITES) == (words, refused)


def test_a_rest_comes_before_the_next_look_and_the_last_tab_stays():
    assert command(Action("go_back"), *shown(), SITES, 2.5) == ("go_back()\nnoop(2500)", "")
    assert command(Action("close_tab"), *shown(), SITES) == ("", "the last tab stays")


@pytest.mark.parametrize(
    "text", ['") ; goto("http://evil', "'''\n\"\"\"", "back\\slash\\", "", "\u2028\x00é", "x" * 5000]
)
def test_no_text_can_end_its_quotes(text):
    call = ast.parse(answer_command(text)).body
    assert len(call) == 1 and len(answer_command(text).splitlines()) == 1
    said = ast.literal_eval(call[0].value.args[0])
    assert said == "".join(one if one.isprintable() else " " for one in text[:2000])


def test_what_browsergym_says_about_an_action_is_kept(session):
    assert session.begin(Case("shopping", 0)) and session.act(read_action("hover [8]"))
    assert session.refused == "TimeoutError: not clickable" and not session.fault
    assert "hover('16',)" in session.page.text


# ---- addresses, tasks, what is missing
def test_addresses_are_shown_as_public_ones_and_found_again():
    near = Sites({"WA_HOMEPAGE": "http://h:80", "WA_REDDIT": "http://h:8080", "WA_SHOPPING_ADMIN": "http://h:80/admin"})
    assert near.shown("http://h:8080/f/books?p=2") == "http://reddit.com/f/books?p=2"
    assert near.shown("http://h:80/admin/orders") == "http://luma.com/admin/orders"
    assert near.shown("http://h:80/administrator") == "http://homepage.com/administrator"
    assert near.shown("about:blank") == "about:blank"
    assert near.address("http://luma.com/admin") == "http://h:80/admin" and not near.allows("http://luma.com/admin")
    assert not near.allows("http://[") and not near.allows("http://h:80@evil/") and near.allows("http://h:80/x")


def test_tasks_have_the_domain_of_their_first_site(place):
    tasks = task_list(place)
    assert [domain for _, domain in tasks[:4]] == ["shopping", "map", "cms", "map"]
    assert webarena_cases(812, tasks) == [Case(domain, number) for number, domain in tasks]
    assert [case.seed for case in webarena_cases(4, tasks)] == [0, 2, 4, 6] and webarena_cases(1, tasks)[0].seed == 0


def test_what_is_missing_is_named_with_the_remedy(place, tmp_path, monkeypatch):
    assert why_no_webarena(place) == ""
    bare = {name: value for name, value in place.items() if name not in ("PYTHONPATH", "WA_MAP", "WA_REDDIT")}
    why = why_no_webarena(bare)
    assert "browsergym-webarena" in why and "WA_REDDIT, WA_MAP" in why and "docs/your_own_data.md" in why
    assert "WA_SHOPPING" not in why
    assert "nowhere does not start" in why_no_webarena(place | {PYTHON: str(tmp_path / "nowhere")})
    with pytest.raises(UserError, match="libwebarena"):
        task_list(bare)
    for name in PUBLIC:
        monkeypatch.delenv(name, raising=False)
    assert "WA_GITLAB" in why_not_run(load_profile("paper"))


def test_keys_of_ours_stay_here(place):
    env = EnvProcess(environment=place | {"RLVR_AGENT_API_KEY": "secret", "OPENAI_API_KEY": "the judge's"})
    try:
        found = psutil.Process(env.process.pid).environ()
    finally:
        env.close()
    assert "RLVR_AGENT_API_KEY" not in found and found["OPENAI_API_KEY"] == "the judge's"


# ---- all of it
def test_all_arms_run_and_are_tabled_by_domain(place, tmp_path, monkeypatch):
    """The stage as notebook 23 calls it, with every role behind one endpoint that gives the answer at once."""
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    with chat_server(lambda *_: reply("```stop [42]```")) as server:
        words = ["instances=2", "parallel=1", "pause_s=0.0", "watched=0", "endpoint.model=m"]
        words += [f"endpoint.base_url={server.url}", f"endpoint.world_model_url={server.url}"]
        profile = load_profile("paper", overrides=" ".join(f"web_page.agent.{word}" for word in words))
        facts = evaluate_agents(tmp_path, profile, tmp_path / "roles", {})
    assert set(facts["arms"]) == set(arms_of(profile.web_page.agent)) and facts["left_out"] == {"oracle": NO_ORACLE}
    (tmp_path / "done.json").write_text(json.dumps({"facts": facts}))
    scores, left_out = load_arms(tmp_path)
    assert left_out == {"oracle": NO_ORACLE} and list(scores["rlvr"]["success"]) == [1, 1]
    block = agent_table(scores, 0, left_out, "caption").blocks["Success by task (%)"].set_index("site")
    assert block.loc["reddit", ["n", "sft", "paper: sft", "paper: rlvr"]].tolist() == [1, 100, 4.39, 6.14]
