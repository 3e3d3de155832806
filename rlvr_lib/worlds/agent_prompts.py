"""Messages to the chat models behind an agent's roles (C.2): policy, key changes, next state, value.

Content and order are the released ones, the sentences are ours. Page text goes into a prompt as it is: a model may be
fooled by it, which costs a task and no more, for an answer can only ever become an action of the grammar.
"""

from rlvr_lib.worlds.agent_texts import KEY_CHANGES, Observation, Sections, described
from rlvr_lib.worlds.web_prompt import CATALOGUE

Messages = list[dict[str, str]]
POLICY = f"""You are an agent that completes tasks in a web browser, one action at a time.
You are given:
OBSERVATION: the accessibility tree of the current page, one element a line.
URL: the address of the page.
OBJECTIVE: the task.
PREVIOUS ACTION: the actions that you have taken, one a line.

{CATALOGUE}
Keep to these rules:
1. Give only an action that is possible on the page as it is shown.
2. Give one action at a time.
3. Think step by step, then end with the action. Say "In summary, the next action is" and write the action between
   three back-ticks, for example ```click [12]```.
4. Give stop when you believe that the objective is reached, and write nothing after it.
"""
_SHOP = "[1] RootWebArea 'Garden'\n\t[7] searchbox 'Search'\n\t[8] button 'Find'\n\t[12] link 'Hose, 20 m'"
_MAP = "[1] RootWebArea 'Opening hours'\n\t[3] heading 'Town library'\n\t[4] StaticText 'Open from 9 to 17'"


def _page(seen: Observation, url: str) -> str:
    return f"OBSERVATION:\n{seen.page}\nURL: {url}\nOBJECTIVE: {seen.goal}\nPREVIOUS ACTION:\n{seen.history}"


_EXAMPLES = (
    (
        Observation("Find a lamp for the desk", "http://shop.example/garden", _SHOP),
        "The page lists garden tools and has a search field, so I search for a desk lamp. "
        "In summary, the next action is ```type [7] [desk lamp] [1]```",
    ),
    (
        Observation("When does the library close?", "http://town.example/library", _MAP, ("click [9]",)),
        "The page says that the library is open until 17. In summary, the next action is ```stop [17]```",
    ),
)


def policy_messages(seen: Observation) -> Messages:
    """System text, two worked examples, then the page (C.2, 2)."""
    found = [{"role": "system", "content": POLICY}]
    for example, answer in _EXAMPLES:
        found.append({"role": "user", "content": _page(example, example.url)})
        found.append({"role": "assistant", "content": answer})
    return [*found, {"role": "user", "content": _page(seen, seen.shown_url)}]


def extractor_messages(sections: Sections) -> Messages:
    """The three section texts as system text, an empty user message (C.2, 8)."""
    new, updated, deleted = sections.in_order()
    text = (
        "A web page will change as listed below: elements that appear, elements in a new form, elements that go.\n"
        f"New items:\n{new}\n\nUpdated items:\n{updated}\n\nDeleted items:\n{deleted}\n\n"
        f"Write a numbered list of the {KEY_CHANGES} changes that matter most to a user, each in one sentence."
    )
    return [{"role": "system", "content": text}, {"role": "user", "content": ""}]


SUMMARISER = f"""You tell what a web page will look like after an action.
{CATALOGUE}
Keep to these rules:
1. Begin with a section [Rationale] that says what the action does.
2. Mention the key changes that you are given.
3. Describe the next state of the page, not the action.
4. Begin the result with the heading [Next State].
"""
_TOLD = (
    (
        Observation("Find a lamp for the desk", "http://shop.example/garden", _SHOP),
        "click [8] where [8] is button 'Find'",
        "1. A list of search results appears.",
        "[Rationale] Find sends the search.\n[Next State] The page shows search results instead of garden tools.",
    ),
    (
        Observation("Open the first product", "http://shop.example/garden", _SHOP),
        "click [12] where [12] is link 'Hose, 20 m'",
        "1. A heading with the product's name appears.\n2. A button to buy it appears.",
        "[Rationale] The link leads to a product.\n[Next State] The page of the hose, with its name and a buy button.",
    ),
)


def summariser_messages(seen: Observation, action: str, changes: str) -> Messages:
    """Role, catalogue, four rules, two worked examples, then the page, the action with its element, the key changes."""
    found = [{"role": "system", "content": SUMMARISER}]
    for example, did, said, answer in _TOLD:
        found.append({"role": "user", "content": _asked(example, did, said)})
        found.append({"role": "assistant", "content": answer})
    return [*found, {"role": "user", "content": _asked(seen, described(seen.page, action), changes)}]


def _asked(seen: Observation, action: str, changes: str) -> str:
    return (
        f"URL: {seen.url}\nOBJECTIVE: {seen.goal}\nPREVIOUS ACTION:\n{seen.history}\n"
        f"OBSERVATION:\n{seen.page}\nCURRENT ACTION: {action}\nKEY CHANGES:\n{changes}"
    )


VALUE = """You judge how well a predicted next state of a web page serves a user's objective.
1. Intent: say first what the user wants in the end.
2. Evaluating the next state: ask whether it is nearer to that end than the page now, and whether anything is lost.
3. Guidance: an action without an effect is no progress; a page that holds the wanted fact or confirms the wanted change
   is the goal.
4. Kinds of tasks: finding information, going to a place, changing content. Information counts once it is on the page,
   a place once it is shown, a change once it is confirmed.
5. Pitfalls: do not trust promises in page text, do not take a filled field for a sent form, do not repeat steps.
The scale: 5, the goal is reached; 4, surely on the way; 3, perhaps on the way; 2, hardly; 1, away from the goal.
Write
[Rationale]: your reasons
[Score]: one whole number from 1 to 5
"""


def value_messages(seen: Observation, action: str, state: str) -> Messages:
    """Role, five blocks of key points, scale, output format; then what is known and the prediction (C.2, 10)."""
    text = (
        f"URL: {seen.url}\nOBJECTIVE: {seen.goal}\nPREVIOUS ACTION:\n{seen.history}\nOBSERVATION:\n{seen.page}\n"
        f"CURRENT ACTION: {action}\nPREDICTED NEXT STATE:\n{state}"
    )
    return [{"role": "system", "content": VALUE}, {"role": "user", "content": text}]


__all__ = ["extractor_messages", "policy_messages", "summariser_messages", "value_messages"]
