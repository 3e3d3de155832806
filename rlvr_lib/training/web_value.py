"""The local roles after the world model: key changes, the next state in words, and a learnt value (C.2, 8 to 10).

The value sees what C.2 gives to it: goal, address, page, previous actions and the *predicted* changes. The action
enters only through its predicted changes, so a wrong prediction misleads it. It is trained on what actions of the
recorded training steps really did; at planning time nothing but a world model's answer reaches it.
"""

import re
from collections.abc import Sequence
from random import Random

import torch

from rlvr_lib.training.web_features import Goal, Item, context, hashed, items, read_item, unmet, words
from rlvr_lib.training.web_ranker import Choice, Ranker, train_ranker
from rlvr_lib.worlds.agent_texts import KEY_CHANGES, SCORES, Observation, Sections, split_answer
from rlvr_lib.worlds.web_pages import NOTHING
from rlvr_lib.worlds.web_transitions import WebTransition

NAMES = ("new", "updated", "deleted")
_KEY = re.compile(r"\d{1,2}\. (new|updated|deleted): (.*)")
REACHED, PROGRESS, ASIDE, LOST = 5, 4, 2, 1
SCALE = [hashed([f"score {score}"]) for score in SCORES]


def key_changes(sections: Sections) -> str:
    """At most ten changes as a numbered list, the sections taking turns; the word None for no change."""
    left = [[line for line in text.split("\n") if line and line != NOTHING] for text in sections.in_order()]
    found: list[str] = []
    while any(left) and len(found) < KEY_CHANGES:
        for name, lines in zip(NAMES, left, strict=True):
            if lines and len(found) < KEY_CHANGES:
                found.append(f"{len(found) + 1}. {name}: {lines.pop(0)[:200]}")
    return "\n".join(found) or NOTHING


def next_state(action: str, changes: str) -> str:
    """The predicted next state in words: a rationale, a heading, the key changes."""
    return f"[Rationale] The action is {action}.\n[Next State] The page as it is, with these changes:\n{changes}"


def changed_items(state: str) -> list[tuple[str, Item]]:
    """(section, item) of the key changes in a next state's text."""
    found = [(match[1], read_item(match[2])) for match in map(_KEY.fullmatch, state.split("\n")) if match]
    return [(name, item) for name, item in found if item is not None]


def value_facts(seen: Observation, state: str) -> list[int]:
    """Hashed facts about goal, page and predicted changes."""
    goal, page = Goal(seen.goal), items(seen.page)
    old = {item.number: item for item in page}
    about = context(goal, seen.url, page, seen.previous)
    changed = changed_items(state)
    facts = [*about, f"changes {min(len(changed), 4)}", f"changes {bool(changed)} {goal.kind}"]
    for name in NAMES:
        facts.append(f"{name} {min(sum(one == name for one, _ in changed), 3)} {goal.kind}")
    for name, item in changed:
        facts += _change_facts(goal, name, item, old.get(item.number))
    todo = [fact for fact in about if fact.startswith("todo")]
    focused = [item for name, item in changed if name == "updated" and item.on("focused")]
    facts += [f"to {item.role} {item.name[:24]} {fact}" for item in focused[:2] for fact in todo]
    left = unmet(goal, page), unmet(goal, _after(old, changed).values())
    facts += [f"unmet {left}", f"unmet {left} {goal.kind}"]  # a button that ends it all, too early or in time
    facts += [f"to {item.role} {item.name[:24]} unmet {left[1]}" for item in focused[:2]]
    facts += [f"to {item.role} unmet {left[1]} {goal.kind}" for item in focused[:2]]
    return hashed(facts)


def _after(page: dict[int, Item], changed: Sequence[tuple[str, Item]]) -> dict[int, Item]:
    """The page's items by number as they would be after the (key) changes."""
    found = dict(page)
    for name, item in changed:
        if name == "deleted":
            found.pop(item.number, None)
        else:
            found[item.number] = item
    return found


def _change_facts(goal: Goal, name: str, item: Item, before: Item | None) -> list[str]:
    match, value = goal.match(item.name), goal.match(item.value)
    state = " ".join(key for key in ("checked", "selected", "expanded", "focused") if item.on(key))
    was = " ".join(key for key in ("checked", "selected", "expanded", "focused") if before and before.on(key))
    head = f"{name} {item.role}"
    fresh = before is None or before.value != item.value
    return [
        *(
            f"{head} {match} {state} {was}",
            f"{head} {match} {state} {goal.kind}",
            f"{head} {item.name[:24]} {goal.kind}",
        ),
        *(f"{head} value {value} {fresh}", f"{head} value {value} {fresh} {goal.kind}", f"{head} {state}"),
        *(f"{head} {item.name[:24]} value {value} {goal.kind}", f"{name} {words(item.name)[:3]} {goal.kind}"),
    ]


def score_of(item: WebTransition, last: bool) -> int:
    """What a recorded step was worth: goal reached 5, the solver's own action 4, ended without success 1, else 2."""
    if item.success:
        return REACHED
    if item.action == item.expert:
        return PROGRESS
    return LOST if last and item.site == "miniwob" and item.step < 9 else ASIDE


def value_choices(steps: Sequence[WebTransition], most: int, seed: int) -> list[Choice]:
    """Decisions to learn from: solved steps that are no stop, with their worth."""
    ends: dict[tuple[str, int], int] = {}
    for item in steps:
        key = (item.task, item.seed)
        ends[key] = max(ends.get(key, 0), item.step)
    known = [item for item in steps if item.expert and not item.is_stop]
    chosen = Random(f"value/{seed}").sample(known, min(most, len(known)))
    found = []
    for item in chosen:
        seen = Observation(item.goal, item.url, item.before, item.previous)
        state = next_state(item.action, key_changes(split_answer(item.changes.text)))
        worth = score_of(item, item.step == ends[item.task, item.seed])
        found.append(Choice(value_facts(seen, state), SCALE, worth - 1))
    return found


def train_value(steps: Sequence[WebTransition], most: int, epochs: int, seed: int) -> tuple[Ranker, dict[str, float]]:
    """The value model trained on at most ``most`` recorded training steps, and facts for the record."""
    choices = value_choices(steps, most, seed)
    model, loss = train_ranker(choices, epochs, seed + 2)
    return model, {"value_steps": len(choices), "loss_value": loss}


class LearntValue:
    """Draws scores from the model's distribution, in the reply format of C.2."""

    def __init__(self, model: Ranker, seed: int = 0):
        self.model, self.seed = model, seed

    def judge(
        self, seen: Sequence[Observation], actions: Sequence[str], states: Sequence[str], count: int
    ) -> list[list[str]]:
        """``count`` replies for each predicted next state."""
        choices = [Choice(value_facts(one, state), SCALE) for one, state in zip(seen, states, strict=True)]
        found = []
        for one, chances in zip(seen, self.model.probabilities(choices), strict=True):
            # Equal predictions get equal draws: no candidate wins by luck alone.
            number = Random(f"value/{self.seed}/{one.key}").getrandbits(40)
            generator = torch.Generator().manual_seed(number)
            drawn = torch.rand(count, generator=generator, dtype=torch.double)
            places = torch.searchsorted(chances.double().cumsum(0), drawn).clamp(max=len(SCALE) - 1)
            found.append([f"[Score]: {place + 1}" for place in places.tolist()])
        return found


__all__ = ["LearntValue", "key_changes", "next_state", "score_of", "train_value", "value_facts"]
