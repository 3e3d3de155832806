"""Pages as text, changes by identity, F1 by the definition's vectors and a slow count, the action grammar."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr_lib.artifacts import UserError
from rlvr_lib.worlds.web_actions import NO_ACTION, Action, answer_of, most_frequent, read_action, reason_to_stop
from rlvr_lib.worlds.web_pages import Changes, Node, Numbering, Page, changes, read_tree
from rlvr_lib.worlds.web_rewards import score_changes, sections


def raw(number, role, name="", children=(), key=None, ignored=False, value=None, **properties):
    node = {
        "nodeId": str(number),
        "backendDOMNodeId": number if key is None else key,
        "role": {"value": role},
        "name": {"value": name},
        "childIds": [str(child) for child in children],
        "properties": [{"name": name, "value": {"value": value}} for name, value in properties.items()],
    }
    return {**node, "ignored": ignored, **({} if value is None else {"value": {"value": value}})}


TREE = [
    raw(1, "RootWebArea", "Shop", [2, 9], focusable=True, focused=True),
    raw(2, "generic", "", [3, 4]),
    raw(3, "link", "Basket", [5], focusable=True),
    raw(5, "StaticText", "Basket", [6]),
    raw(6, "InlineTextBox", "Basket"),
    raw(4, "none", "", [7], ignored=True),
    raw(7, "textbox", "q", value="red\n shoes", editable="plaintext", required=False),
    raw(9, "list", "", [10, 11]),
    raw(10, "listitem", "", [12]),
    raw(12, "StaticText", "Red shoes, 40 EUR"),
    raw(11, "listitem", "", []),
]


def page(nodes, numbering=None):
    return Page("Shop", "http://shop/", (numbering or Numbering())(nodes))


def test_a_tree_as_text_by_hand():
    """Wrappers, ignored nodes, repeated texts and unwanted properties are left out; kept lines are indented."""
    assert page(read_tree(TREE)).text.split("\n") == [
        "Tab 0 (current): Shop",
        "",
        "[1] RootWebArea 'Shop' focused: True",
        "\t[2] link 'Basket'",
        "\t[3] textbox 'q' value: red shoes required: False",
        "\t[4] StaticText 'Red shoes, 40 EUR'",
    ]
    two = Page("b", "", (), tabs=("a", "b"), current_tab=1)
    assert two.text.split("\n")[0] == "Tab 0: a | Tab 1 (current): b"


def test_a_text_is_dropped_only_when_it_stands_close_above():
    lines = [raw(1, "RootWebArea", "t", range(2, 8)), raw(2, "heading", "Total 5"), raw(3, "StaticText", "Total")]
    lines += [raw(number, "button", f"b{number}") for number in (4, 5, 6)] + [raw(7, "StaticText", "Total")]
    assert [node.key for node in read_tree(lines)] == [1, 2, 4, 5, 6, 7]


def test_what_is_no_tree_is_refused():
    with pytest.raises(UserError, match="no root"):
        read_tree([raw(1, "a", "", [2]), raw(2, "b", "", [1])])
    with pytest.raises(UserError, match="twice"):
        read_tree([raw(1, "a", "", [2, 3]), raw(2, "b", "", [3]), raw(3, "c")])
    assert read_tree([]) == [] and read_tree([raw(1, "main", "m", [99])])[0].name == "m"


def test_changes_go_by_the_browsers_own_numbers():
    """The same words under another number are another item; a number that stays with other words is an update."""
    numbering = Numbering()
    before = page([Node(10, "link", "Cart (0)"), Node(11, "button", "Add"), Node(12, "link", "Help")], numbering)
    after = page([Node(10, "link", "Cart (1)"), Node(20, "button", "Add"), Node(12, "link", "Help")], numbering)
    found = changes(before, after)
    assert found == Changes(("[4] button 'Add'",), ("[2] button 'Add'",), ("[1] link 'Cart (1)'",))
    assert found.text == (
        "New items:\n[4] button 'Add'\n\nDeleted items:\n[2] button 'Add'\n\nUpdated items:\n[1] link 'Cart (1)'"
    )
    assert not changes(before, before) and changes(before, before).text.count("None") == 3
    assert after.node(4).key == 20 and after.node(2) is None


@given(st.lists(st.integers(0, 9), max_size=8, unique=True), st.lists(st.integers(0, 9), max_size=8, unique=True))
def test_changes_rebuild_the_next_page(old, new):
    numbering = Numbering()
    before = page([Node(key, "link", str(key)) for key in old], numbering)
    after = page([Node(key, "link", str(key) + "!" * (key % 2)) for key in new], numbering)
    found = changes(before, after)
    numbers = {item.split("]")[0] for item in (*found.deleted, *found.updated)}
    rebuilt = {node.item for node in before.nodes if node.item.split("]")[0] not in numbers}
    assert rebuilt | {*found.new, *found.updated} == {node.item for node in after.nodes}


GOLD = (
    "New items:\n[12] link 'Basket'\n[13] button 'Pay now'\n\nDeleted items:\nNone\n\n"
    "Updated items:\n[5] textbox 'q' focused: True required: False"
)


def test_vectors_of_the_definition():
    extra = score_changes(GOLD + "\n[6] link 'x'\n[7] link 'y'", GOLD)
    assert (extra.precision, extra.recall, extra.f1) == pytest.approx((4 / 6, 1, 0.8))
    nothing = Changes().text
    assert score_changes(nothing, nothing).f1 == 1
    moved = GOLD.replace("Deleted items:\nNone\n\n", "").replace("New items:\n", "New items:\nNone\n")
    assert score_changes(moved, GOLD).recall == pytest.approx(3 / 4)  # an item in another section does not match
    assert score_changes("", GOLD).f1 == 0 and score_changes("", "").f1 == 0
    assert score_changes("", "", variant="paper").f1 == 1 and score_changes("", GOLD, variant="paper").f1 == 0


def test_how_an_answer_is_read():
    text = "I think:\n[1] link 'lost'\nUpdated items: and more\n [2] link 'a' \n\n[2] link 'a'\n**New items:**\n"
    text += "New items:\nx"
    assert sections(text) == ({"x"}, set(), {"[2] link 'a'", "**New items:**"})
    assert sections("Deleted items:\na\nNew items:\nb\nDeleted items:\nc<|endoftext|>\n") == ({"b"}, {"a", "c"}, set())


@given(st.text(max_size=300), st.text(max_size=300))
def test_any_text_gets_a_score(response, truth):
    for variant in ("released", "paper"):
        score = score_changes("New items:\n" + response, "New items:\n" + truth, variant)
        assert 0 <= min(score.precision, score.recall) <= score.f1 <= max(score.precision, score.recall) <= 1


@pytest.mark.parametrize(
    "text,action",
    [
        ("click [7]", Action("click", 7)),
        ("type [3] [red [big] shoes] [0]", Action("type", 3, "red [big] shoes", False)),
        ("type [3] [shoes]", Action("type", 3, "shoes", True)),
        ("press [Control+a]", Action("press", text="Control+a")),
        ("scroll down", Action("scroll", text="down")),
        ("scroll [up]", Action("scroll", text="up")),
        ("tab_focus [1]", Action("tab_focus", 1)),
        ("goto [http://shop/cart]", Action("goto", text="http://shop/cart")),
        ("go_back", Action("go_back")),
        ("stop [12 EUR]", Action("stop", text="12 EUR")),
        ("stop", Action("stop")),
    ],
)
def test_the_grammar(text, action):
    assert read_action(f" {text}\n") == action
    assert read_action(str(action)) == action


@pytest.mark.parametrize(
    "text",
    ["", "click 7", "click [seven]", "click [7]; rm -rf /", "eval [1]", "goto [a b]", "None"],
)
def test_everything_else_does_nothing(text):
    assert read_action(text) == NO_ACTION


@given(st.text(max_size=80))
def test_no_answer_can_break_the_reader(text):
    assert read_action(answer_of(text)).kind and read_action(text).kind


def test_replies_and_their_counts():
    assert answer_of("so ```click [1]``` or `click [2]`") == "click [1]" and answer_of("so `click [2]`") == "click [2]"
    assert answer_of("nothing here") == "None"
    assert most_frequent(["b", "a", "a", "c", "c", "d"]) == ["a", "c", "b"]


def test_when_an_episode_ends():
    click, other, typed = Action("click", 1), Action("click", 2), Action("type", 1, "x")
    assert reason_to_stop([]) is None and reason_to_stop([click] * 4) is None
    assert "5 actions" in reason_to_stop([click] * 5)
    assert "could not be read" in reason_to_stop([click, *[NO_ACTION] * 3])
    assert reason_to_stop([NO_ACTION] * 2 + [click]) is None
    assert "in a row" in reason_to_stop([other, *[click] * 5], most=30)
    assert reason_to_stop([click, click, other, click, click, click], most=30) is None
    assert "typed 5 times" in reason_to_stop([typed, click] * 4 + [typed], most=30)
