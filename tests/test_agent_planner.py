"""The agent's decision (C.2): replies, top three, stop shortcut, sections, scores; local roles; endpoints."""

import json

import pytest
from chat_server import SECRET, chat_server, reply

from rlvr_lib.artifacts import UserError
from rlvr_lib.evaluation.agent_endpoint import KEY, ChatPolicy, ChatValue, ChatWorldModel, Endpoint
from rlvr_lib.evaluation.agent_local import RuleExtractor, RuleSummariser, load_local_roles, train_local_roles
from rlvr_lib.evaluation.agent_planner import Numbers, Planner
from rlvr_lib.profile import load_profile
from rlvr_lib.training.endpoint import ChatClient
from rlvr_lib.training.web_features import Goal, read_item, spans, to_do, unmet
from rlvr_lib.training.web_page_data import RECORDED
from rlvr_lib.training.web_value import LearntValue, key_changes, next_state, train_value, value_facts
from rlvr_lib.worlds.agent_prompts import extractor_messages, policy_messages, summariser_messages, value_messages
from rlvr_lib.worlds.agent_texts import (
    Observation,
    Sections,
    described,
    mean_score,
    read_score,
    split_answer,
    stops_at_once,
)
from rlvr_lib.worlds.web_actions import answer_of, read_action
from rlvr_lib.worlds.web_transitions import load_web_set

PAGE = "Tab 0 (current): Shop\n\n[1] RootWebArea 'Shop'\n\t[7] button 'Go'\n\t[8] searchbox 'Search'"
SEEN = Observation("Buy the lamp", "http://shop.test/", PAGE, ("click [3]",), case="shop", seed=1)
LINKS = "[8] link 'a'\n[9] link 'b'"
FULL = "Thoughts.\nNew items:\nNone\n\nDeleted items:\n[7] button 'Go'\n\nUpdated items:\n[8] link 'a'\n[9] link 'b'\n"


# ---- texts
@pytest.mark.parametrize(
    "answer,expected",
    [
        (FULL, Sections(None, "[7] button 'Go'", "[8] link 'a'\n[9] link 'b'")),
        (FULL.replace("Deleted items:\n[7] button 'Go'", "Deleted items:\nNone"), Sections(None, "None", LINKS)),
        (FULL + "\nmore words", Sections(None, "[7] button 'Go'", "[8] link 'a'\n[9] link 'b'")),
        ("New items:\n[1] a 'b'\nDeleted items:\nNone\n\nUpdated items:\nNone", Sections(None, "None", "None")),
        (FULL + "\n\n" + FULL.replace("'a'", "'z'"), Sections(None, "[7] button 'Go'", "[8] link 'z'\n[9] link 'b'")),
        ("", Sections()),
        ("New items:\n[1] a 'b'", Sections()),
    ],
)
def test_an_answer_is_cut_as_released(answer, expected):
    """None counts as missing in the new section alone; a section needs a blank line and the next header behind it."""
    assert split_answer(answer) == expected


@pytest.mark.parametrize(
    "text,score",
    [
        ("[Rationale]: x\n[Score]: 4", 4),
        ("[Score]:5 [Score]: 1", 5),
        ("[Score]: 6", 0),
        ("[Score]: 0", 0),
        ("[Score]: -3", 0),
        ("[Score]: four", 0),
        ("Score: 4", 0),
        ("", 0),
    ],
)
def test_a_score_is_an_integer_from_one_to_five(text, score):
    assert read_score(text) == score


def test_unreadable_scores_count_as_zero_or_are_left_out():
    replies = ["[Score]: 4", "[Score]: 2", "no", "[Score]: 9"]
    assert mean_score(replies) == 1.5 and mean_score(replies, "left_out") == 3
    assert mean_score([]) == mean_score(["no"], "left_out") == 0


def test_the_stop_rules():
    kept = ["click [1]", "type [7] [bus stop] [1]", "stop [x]"]
    assert stops_at_once(kept) == kept[1]
    assert stops_at_once(kept, "action") == kept[2]
    assert stops_at_once(kept, "most_frequent") is None and stops_at_once(kept[::-1], "most_frequent") == kept[2]
    assert stops_at_once(["click [1]", "None"]) is None


def test_prompts_hold_what_the_roles_may_see():
    assert described(PAGE, "click [7]") == "click [7] where [7] is button 'Go'"
    assert described(PAGE, "click [99]") == "click [99]" and described(PAGE, "stop [a]") == "stop [a]"
    policy = policy_messages(SEEN)
    assert [one["role"] for one in policy] == ["system", "user", "assistant", "user", "assistant", "user"]
    assert policy[-1]["content"].endswith("PREVIOUS ACTION:\nNone\nclick [3]") and "N/A" not in str(policy)
    for example in policy[2:5:2]:
        assert read_action(answer_of(example["content"])).kind in ("type", "stop")
    extract = extractor_messages(Sections(None, "[7] a 'b'", "[8] c 'd'"))
    text = extract[0]["content"]
    assert extract[1]["content"] == "" and text.index("New items:\nNone") < text.index("[8]") < text.index("[7]")
    told = summariser_messages(SEEN, "click [7]", "1. x")[-1]["content"]
    assert "where [7] is button 'Go'" in told and told.endswith("KEY CHANGES:\n1. x")
    assert value_messages(SEEN, "click [7]", "next")[-1]["content"].endswith("PREDICTED NEXT STATE:\nnext")


# ---- one decision
class Scripted:
    """All roles at once, from tables; remembers what it was asked."""

    def __init__(self, replies, scores=None):
        self.replies, self.scores, self.asked = replies, scores or {}, []

    def propose(self, seen, count):
        return [self.replies[:count] for _ in seen]

    def predict(self, seen, actions):
        self.asked += [("predict", action) for action in actions]
        return [f"New items:\n[1] {action} 'x'\n\nDeleted items:\nNone\n\nUpdated items:\nNone" for action in actions]

    def extract(self, seen, sections):
        return [one.new for one in sections]

    def summarise(self, seen, actions, changes):
        return [f"state {action}: {text}" for action, text in zip(actions, changes, strict=True)]

    def judge(self, seen, actions, states, count):
        self.asked += [("judge", state) for state in states]
        return [[f"[Score]: {self.scores.get(action, 3)}"] * count for action in actions]


def planner(roles, **numbers):
    return Planner(roles, Numbers(**numbers), roles, roles, roles, roles)


def ticks(*texts):
    return [f"```{text}```" for text in texts]


def test_the_best_of_the_three_most_frequent_is_done():
    votes = ticks(*["click [1]"] * 8, *["click [2]"] * 6, *["click [3]"] * 4, *["click [4]"] * 2)
    roles = Scripted(votes, {"click [1]": 2, "click [2]": 4, "click [3]": 4, "click [4]": 5})
    decision = planner(roles).decide([SEEN])[0]
    assert decision.text == "click [2]"  # the first of equals; the fourth was never tried
    assert [(one.text, one.votes, one.value) for one in decision.candidates] == [
        ("click [1]", 8, 2.0),
        ("click [2]", 6, 4.0),
        ("click [3]", 4, 4.0),
    ]
    assert sum(decision.calls.values()) == 89  # C.2: 20 + 3 (1 + 1 + 1 + 20)
    assert ("judge", "state click [3]: [1] click [3] 'x'") in roles.asked


def test_a_stop_among_the_three_ends_it_without_prediction():
    roles = Scripted(ticks("click [1]", "click [1]", "type [7] [bus stop] [1]"))
    decision = planner(roles, candidates=3).decide([SEEN])[0]
    assert decision.text == "type [7] [bus stop] [1]" and decision.candidates[1].value == 1.0
    assert roles.asked == [] and decision.calls == {"propose": 3}
    assert planner(roles, candidates=3, stop_rule="action").decide([SEEN])[0].text == "click [1]"


def test_episodes_side_by_side_decide_as_alone():
    other = Observation("Other", "http://shop.test/", PAGE, (), case="shop", seed=2)
    roles = Scripted(ticks("click [1]", "click [2]"), {"click [2]": 5})
    together = planner(roles, candidates=2).decide([SEEN, other])
    alone = [planner(roles, candidates=2).decide([one])[0] for one in (SEEN, other)]
    assert [one.text for one in together] == [one.text for one in alone] == ["click [2]"] * 2


def test_unreadable_replies_are_a_candidate_of_their_own():
    decision = Planner(Scripted(["hm", "well", "`click [2]`"]), Numbers(candidates=3)).decide([SEEN])[0]
    assert decision.text == "None" and read_action(decision.text).kind == "none"


# ---- local roles
STEPS = load_web_set(RECORDED, ("validation",), stops=True)["validation"]


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """Local roles trained for a moment on validation steps that are declared training ones."""
    from dataclasses import replace

    folder = tmp_path_factory.mktemp("roles")
    settings = load_profile("smoke", overrides="web_page.agent.cloning_steps=120 web_page.agent.value_steps=120")
    steps = [replace(step, split="train") for step in STEPS if step.site == "miniwob"]
    facts = train_local_roles(folder, settings.web_page.agent, 0, steps)
    assert facts["steps"] > 20 and facts["value_steps"] > 20
    return load_local_roles(folder, 1.0, 0)


def test_other_splits_are_refused(tmp_path):
    with pytest.raises(ValueError, match="training episodes only"):
        train_local_roles(tmp_path, load_profile("smoke").web_page.agent, 0, STEPS)


def test_the_cloned_policy_proposes_possible_actions_and_repeats_itself_only_when_asked(local):
    policy = local[0]
    seen = [Observation(i.goal, i.url, i.before, i.previous, i.task, i.seed) for i in STEPS[:6]]
    found = policy.propose(seen, 20)
    for one, replies in zip(seen, found, strict=True):
        for action in (read_action(answer_of(text)) for text in replies):
            assert action.kind in ("click", "type", "stop")
            assert action.element is None or f"[{action.element}] " in one.page
    assert found == policy.propose(seen, 20) and found[3:] == policy.propose(seen[3:], 20)
    assert any(len(set(replies)) > 1 for replies in found)


def test_the_value_follows_the_predicted_changes(local):
    state = next_state("click [7]", "1. new: [9] heading 'Lamp'")
    assert value_facts(SEEN, state) != value_facts(SEEN, next_state("click [7]", "None"))
    replies = local[1].judge([SEEN, SEEN], ["click [7]", "click [8]"], [state, state], 20)
    assert replies[0] == replies[1] and len(replies[0]) == 20  # the action counts through its prediction only
    assert all(1 <= read_score(text) <= 5 for text in replies[0])


def test_what_a_form_still_asks_for_by_hand():
    """Chrome writes three-valued properties small (checked: true) and two-valued ones large (selected: True)."""
    lines = (
        "[3] checkbox 'Zj14A' checked: false",  # wanted, off
        "[4] checkbox 'Other' focused: True checked: true",  # on by mistake
        "[5] radio 'kO' checked: true",  # wanted, on
        "[6] option 'Rome' selected: True",  # on by mistake
        "[7] textbox '' required: False",
        "[8] textbox 'Name' value: Ann required: False",
    )
    goal, page = Goal("Select Zj14A, kO and click Submit."), [read_item(line) for line in lines]
    assert to_do(goal, page) == {"checkbox": 1, "radio": 0, "option": 0, "empty": 1, "filled": 1, "wrong": 2}
    assert unmet(goal, page) == 3 and unmet(goal, page[2:3]) == 0 and unmet(goal, page[:1]) == 1


def test_the_value_tells_an_early_end_from_one_in_time():
    """Pages made up here; the value as at laptop, from recorded training steps."""
    steps = load_web_set(RECORDED, ("train",), stops=True)["train"]
    value = LearntValue(train_value(steps, 6000, 3, 0)[0])
    page = "\n\t".join(
        (
            "[1] RootWebArea 'Enter Text Task'",
            "[2] StaticText 'Enter \"Zoe\" into the text field and press Submit.'",
            "[3] textbox '' {}required: False",
            "[4] button 'Submit'",
        )
    )
    state = next_state("click [4]", "1. updated: [4] button 'Submit' focused: True")
    goal, url = 'Enter "Zoe" into the text field and press Submit.', "http://miniwob.test/miniwob/enter-text.html"
    early = Observation(goal, url, page.format(""), ())
    late = Observation(goal, url, page.format("value: Zoe "), ("type [3] [Zoe] [0]",))
    scores = [mean_score(value.judge([seen], ["click [4]"], [state], 200)[0]) for seen in (early, late)]
    assert scores[0] < scores[1] - 0.5, scores


def test_key_changes_take_turns_and_end_at_ten():
    many = "\n".join(f"[{n}] link 'x'" for n in range(9))
    lines = key_changes(Sections(many, many, "[1] button 'y'")).split("\n")
    assert len(lines) == 10 and [line.split()[1] for line in lines[:4]] == ["new:", "updated:", "deleted:", "new:"]
    assert key_changes(Sections(None, "None", "None")) == "None"


def test_items_and_spans_of_hostile_text():
    assert read_item("\t[7] button 'it\\'s' focused: True").name == "it's"
    assert read_item("[7] <script>alert(1)</script>") is None and read_item("__import__('os')") is None
    assert ("V9", "password", "quote") in spans('Enter the password "V9" into both')
    assert Goal("Buy the Aldo lamp").match("Aldo lamp") == "whole" and Goal("").match("") == "empty"


# ---- endpoints
def endpoint(server, tmp_path, monkeypatch, **settings):
    monkeypatch.setenv(KEY, SECRET)
    client = ChatClient(server.url, "chat", api_key_env=KEY, concurrency=8, backoff_s=0.01, retries=1, **settings)
    return Endpoint(client, tmp_path / "chat.jsonl")


def test_roles_behind_an_endpoint_plan_as_the_local_ones(tmp_path, monkeypatch, capfd):
    def behave(server, body, number):
        text = body["messages"][0]["content"]
        if "You judge" in text:
            return reply("[Rationale]: r\n[Score]: " + ("5" if "click [8]" in str(body) else "2"))
        if "You are an agent" in text:
            return reply(f"In summary, the next action is ```click [{7 + number % 2}]```")
        return reply(FULL)

    with chat_server(behave) as server:
        chat = endpoint(server, tmp_path, monkeypatch)
        plan = Planner(
            *(ChatPolicy(chat), Numbers(6, 2, 3), ChatWorldModel(chat)),
            *(RuleExtractor(), RuleSummariser(), ChatValue(chat)),
        )
        decision = plan.decide([SEEN])[0]
        asked = len(server.bodies)
        again = plan.decide([SEEN])[0]
    assert asked == 6 + 2 + 2 * 3 == len(server.bodies)  # the second time everything came from the cache
    assert decision.text == "click [8]" == again.text
    assert {one.text: one.value for one in decision.candidates} == {"click [7]": 2.0, "click [8]": 5.0}
    shown = "".join(capfd.readouterr()) + (tmp_path / "chat.jsonl").read_text()
    assert SECRET not in shown and SECRET not in json.dumps(chat.facts())


def test_the_budget_stops_cleanly(tmp_path, monkeypatch):
    with chat_server(lambda *_: reply("```click [1]```", tokens=(1000, 1000))) as server:
        chat = endpoint(server, tmp_path, monkeypatch, budget_usd=0.02, price_in=1.0, price_out=1.0, max_tokens=100)
        with pytest.raises(UserError, match=r"budget of 0\.02 USD is reached.*budget_usd"):
            ChatPolicy(chat).propose([SEEN], 50)
    assert chat.spent_usd <= 0.02 + 0.01


def test_impossible_settings_name_the_key():
    for words, key in (
        ("kept=30", "kept"),
        ("policy=endpoint", "endpoint"),
        ("world_model=endpoint", "world_model"),
        ("extractor=endpoint endpoint.base_url=http://x endpoint.model=m", "value"),
    ):
        overrides = " ".join(f"web_page.agent.{word}" for word in words.split())
        with pytest.raises(UserError, match=key):
            load_profile("laptop", overrides=overrides)
    agent = load_profile("paper").web_page.agent
    assert (agent.candidates, agent.kept, agent.values, agent.max_steps, agent.instances) == (20, 3, 20, 5, 812)
