"""Prompts that ask a model what a web page will look like after an action: the paper's (B.4) and a compact one.

Content and order of the long prompt are the released ones, the sentences are ours. The compact prompt of our small
models leaves out everything that is the same in every question.
"""

from rlvr_lib.worlds.web_answers import element_of
from rlvr_lib.worlds.web_pages import NOTHING
from rlvr_lib.worlds.web_transitions import WebTransition

ROLE = (
    "You predict how a web page changes. Given the page as it is now and an action, work out which elements the page "
    "will show next, thinking about what the action does before you answer.\n"
)
INPUTS = """You are given:
OBJECTIVE: what the user wants to achieve.
CURRENT OBSERVATION: the accessibility tree of the page, one element a line.
URL: the address of the page.
PREVIOUS ACTION: the actions taken so far, one a line.
CURRENT ACTION: the action whose effect you predict.
"""
CATALOGUE = """The actions are these.
On the page:
click [id]: click the element with this id.
type [id] [text] [0 or 1]: type the text into the field with this id; 1, the default, presses Enter afterwards.
hover [id]: move the pointer over the element with this id.
press [keys]: press a key or a combination of keys, for example Control+v.
scroll [down or up]: scroll the page.
Tabs:
new_tab: open an empty tab.
tab_focus [index]: switch to the tab with this index.
close_tab: close the current tab.
Addresses:
goto [url]: go to an address.
go_back: go to the page visited before.
go_forward: undo go_back.
Completion:
stop [answer]: the objective is reached; the answer, if one was asked for, stands in the brackets.
"""
RULES = """Knowing what an action does is essential. Keep to three rules:
1. Reason about what the action causes on this page.
2. Predict the changed elements themselves and do not describe them.
3. Keep to the answer format.
"""
FORMAT = """The answer has three sections in this order, with an empty line between them:
New items: elements that the page will show and does not show now.
Deleted items: elements that the page will no longer show.
Updated items: elements that stay and whose line changes, in their new form.
Write None in a section in which nothing stands. An element is written
[id] type 'content' and attributes, if it has any.
Common attributes are focused, required, value, checked, selected, expanded, disabled, hasPopup, pressed.
For example: [31] button 'Send'
With attributes: [12] textbox 'City' value: Arden focused: True required: False
A whole answer:
New items:
[88] dialog 'Delete draft?'
[91] button 'Yes, delete'

Deleted items:
None

Updated items:
[1] RootWebArea 'Drafts' focused: False

"""
CLOSING = "Give the changed elements directly, in the format above.\n"


def full_prompt(item: WebTransition) -> str:
    """The user message of B.4; public questions are passed on as they are."""
    return item.prompt or (
        f"{ROLE}\n{INPUTS}\n{CATALOGUE}\n{RULES}\n{FORMAT}"
        f"URL: {item.url}\nOBJECTIVE: {item.goal}\nPREVIOUS ACTION: {previous_actions(item)}\n"
        f"CURRENT OBSERVATION:\n{item.before}\n\nCURRENT ACTION: {item.action}\n\n{CLOSING}"
    )


def previous_actions(item: WebTransition) -> str:
    """All actions so far, one a line, beginning with the word None (C.2)."""
    return "\n".join([NOTHING, *item.previous])


def compact_prompt(item: WebTransition) -> str:
    """The laptop prompt: address, page and action with the line of its element."""
    element = element_of(item.before, item.action)
    where = f" where it is {element}" if element else ""
    return item.prompt or f"{item.url}\n{item.before}\nAction: {item.action}{where}\n"


__all__ = ["compact_prompt", "full_prompt", "previous_actions"]
