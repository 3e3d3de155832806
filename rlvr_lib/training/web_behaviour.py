"""The local policy: behaviour cloning of the scripted solvers on recorded training steps (stands in for C.1's policy).

A step is decided in two draws: which element and how (click, type, type and press Enter, stop), then, where something
is typed or answered, which text. It sees goal, address, page and previous actions, as a chat policy would.
"""

from collections.abc import Sequence
from random import Random

import torch

from rlvr_lib.training.web_features import CLICKABLE, Goal, Item, context, hashed, items, spans
from rlvr_lib.training.web_ranker import Choice, Ranker, train_ranker
from rlvr_lib.worlds.agent_texts import Observation
from rlvr_lib.worlds.web_actions import Action, read_action
from rlvr_lib.worlds.web_policy import TYPED
from rlvr_lib.worlds.web_transitions import WebTransition

TEXT_PASSES = 3
ANSWERING = ("cell", "link", "StaticText")
Option = tuple[str, int | None]  # kind of action, number of the element


class View:
    """One observation made ready for choosing."""

    def __init__(self, seen: Observation):
        self.goal, self.page = Goal(seen.goal), items(seen.page)
        self.previous = [read_action(text) for text in seen.previous]
        self.context = context(self.goal, seen.url, self.page, seen.previous)
        self.typed = {action.text for action in self.previous if action.kind == "type"}
        self.options = self._options()

    def _options(self) -> list[Option]:
        found: list[Option] = []
        for item in self.page:
            if item.role in CLICKABLE and item.number > 1:
                found.append(("click", item.number))
            if item.role in TYPED:
                found += [("type", item.number), ("enter", item.number)]
        return [*found, ("stop", None), ("answer", None)]

    def first(self, right: int = 0) -> Choice:
        """The draw of element and kind."""
        near = {item.number: at for at, item in enumerate(self.page)}
        facts = [self._facts(kind, near.get(number) if number is not None else None) for kind, number in self.options]
        return Choice(hashed(self.context), [hashed(one) for one in facts], right)

    def _facts(self, kind: str, at: int | None) -> list[str]:
        goal = self.goal
        if at is None:
            return [f"kind {kind}", f"kind {kind} {goal.kind}", *(f"{kind} {fact}" for fact in self.context)]
        item = self.page[at]
        match, state = goal.match(item.name), _state(goal, item)
        head = f"{kind} {item.role}"
        before, after = (self.page[place] if 0 <= place < len(self.page) else None for place in (at - 1, at + 1))
        around = [
            f"{side} {one.role} {goal.match(one.name)}" if one else f"{side} edge"
            for side, one in (("before", before), ("after", after))
        ]
        rank = sum(other.role == item.role for other in self.page[:at])
        same = sum(other.role == item.role and goal.match(other.name) == match for other in self.page[:at])
        label = before.name.lower()[:24] if before else ""
        return [
            *(head, f"{head} {match}", f"{head} {state}", f"{head} {match} {state}", f"{head} {item.name[:24]}"),
            *(f"{head} {item.name[:24]} {goal.kind}", f"{head} {match} {state} {goal.kind}"),
            *(f"{head} {one}" for one in around),
            *(f"{head} {match} {one}" for one in around),
            *(f"{head} rank {min(rank, 8)}", f"{head} rank {min(rank, 8)} {goal.kind}", f"{head} same {min(same, 3)}"),
            *(f"{head} {match} same {min(same, 3)} {goal.kind}", f"{head} label {label} {goal.kind} {state}"),
            *(f"{head} label {goal.match(label)}", f"{head} long {len(item.name) > 12} {match}"),
            f"{head} {item.name[:24]} {self.context[4]}",
        ]

    def texts(self, option: Option) -> list[tuple[str, list[str]]]:
        """What could be typed into the element (or answered), with facts."""
        kind, number = option
        at = next((place for place, item in enumerate(self.page) if item.number == number), 0)
        label = f"{self.page[at].name} {self.page[at - 1].name if at else ''}".lower().strip()[:40] if number else ""
        rank = sum(item.role in TYPED for item in self.page[:at])
        rows: dict[str, list[str]] = {}
        for text, before, after in spans(self.goal.text) if kind != "answer" else ():
            shape = f"{min(len(text.split()), 5)} {text[:1].isupper()} {text.isdigit()} {after == 'quote'}"
            rows[text] = [
                *(f"text {before}", f"text {after}", f"text {before} {after}", f"text {shape}"),
                *(f"text {self.goal.kind} {before} {after}", f"text {self.goal.kind} {before} {after} {label}"),
                *(f"text {label} {before}", f"text {rank} {before} {self.goal.kind}", f"text {shape} {self.goal.kind}"),
                *(f"text done {text in self.typed}", f"text inside {text.lower() in label}"),
                f"text {label} {shape} {self.goal.kind}",
            ]
        for place, item in enumerate(self.page):
            if item.role in (ANSWERING if kind == "answer" else ("cell",)) and item.name:
                left = self.page[place - 1] if place else item
                rows.setdefault(item.name[:60], []).extend(
                    [
                        *(f"page {item.role} {self.goal.match(left.name)}", f"page label {left.name.lower() in label}"),
                        *(f"page {item.role} {left.role}", f"page {self.goal.kind} {left.name[:16]}"),
                        *(
                            f"page {item.role} {self.goal.match(item.name)}",
                            f"page {kind} {item.role} {self.goal.kind}",
                        ),
                        f"page {left.name.lower() == label.strip(': ')} {bool(left.name)}",
                    ]
                )
        return list(rows.items()) or [("", ["nothing"])]

    def second(self, option: Option, right: int = 0) -> Choice:
        """The draw of the text."""
        kind, number = option
        about = [*self.context[:3], f"for {kind}", f"for {self._name(number)} {self.goal.kind}"]
        return Choice(hashed(about), [hashed(facts) for _, facts in self.texts(option)], right)

    def _name(self, number: int | None) -> str:
        return next((item.name for item in self.page if item.number == number), "")


def _state(goal: Goal, item: Item) -> str:
    on = item.on("checked") or item.on("selected") or item.on("expanded")
    return f"{on} {goal.match(item.value)} {item.on('focused')}"


def teacher_choices(item: WebTransition) -> tuple[Choice | None, Choice | None]:
    """The solver's action of a recorded step as the two draws; None where it cannot be drawn."""
    wanted = read_action(item.expert)
    view = View(Observation(item.goal, item.url, item.before, item.previous))
    option = _option_of(wanted)
    if option not in view.options:
        return None, None
    first = view.first(view.options.index(option))
    if option[0] in ("click", "stop"):
        return first, None
    texts = [text for text, _ in view.texts(option)]
    return first, view.second(option, texts.index(wanted.text)) if wanted.text in texts else None


def _option_of(action: Action) -> Option:
    kinds = {"type": "enter" if action.enter else "type", "stop": "answer" if action.text else "stop"}
    return kinds.get(action.kind, action.kind), action.element


def train_policy(
    steps: Sequence[WebTransition], most: int, epochs: int, seed: int
) -> tuple[dict[str, Ranker], dict[str, float]]:
    """``element`` and ``text`` rankers cloned from at most ``most`` solved steps, and facts for the record."""
    solved = [item for item in steps if item.expert]
    chosen = Random(f"cloning/{seed}").sample(solved, min(most, len(solved)))
    pairs = [teacher_choices(item) for item in chosen]
    first, second = ([pair[at] for pair in pairs if pair[at] is not None] for at in (0, 1))
    element, element_loss = train_ranker(first, epochs, seed)
    text, text_loss = train_ranker(second, TEXT_PASSES * epochs, seed + 1)  # few steps type something
    facts = {"steps": len(first), "texts": len(second), "loss_element": element_loss, "loss_text": text_loss}
    return {"element": element, "text": text}, facts


class ClonedPolicy:
    """Draws actions at a temperature; the random numbers belong to the episode and step."""

    def __init__(self, element: Ranker, text: Ranker, temperature: float = 1.0, seed: int = 0):
        self.element, self.text, self.temperature, self.seed = element, text, temperature, seed

    def propose(self, seen: Sequence[Observation], count: int) -> list[list[str]]:
        """``count`` replies for each observation, the action between back-ticks."""
        views = [View(one) for one in seen]
        chances = self.element.probabilities([view.first() for view in views])
        return [self._draw(*one, count) for one in zip(seen, views, chances, strict=True)]

    def _draw(self, seen: Observation, view: View, chances: torch.Tensor, count: int) -> list[str]:
        generator = torch.Generator().manual_seed(Random(f"policy/{self.seed}/{seen.key}").getrandbits(40))
        drawn = torch.multinomial(self._tempered(chances), count, replacement=True, generator=generator).tolist()
        found = [""] * count
        for place in sorted(set(drawn)):
            option = view.options[place]
            at = [index for index, other in enumerate(drawn) if other == place]
            texts = [""] * len(at)
            if option[0] not in ("click", "stop"):
                known = [text for text, _ in view.texts(option)]
                likely = self._tempered(self.text.probabilities([view.second(option)])[0])
                picked = torch.multinomial(likely, len(at), replacement=True, generator=generator).tolist()
                texts = [known[one] for one in picked]
            for index, text in zip(at, texts, strict=True):
                found[index] = f"```{_action_of(option, text)}```"
        return found

    def _tempered(self, chances: torch.Tensor) -> torch.Tensor:
        return chances.double().pow(1 / self.temperature)


def _action_of(option: Option, text: str) -> Action:
    kind, number = option
    if kind in ("type", "enter"):
        return Action("type", number, text, kind == "enter")
    return Action("stop", None, text) if kind in ("stop", "answer") else Action(kind, number)


__all__ = ["ClonedPolicy", "teacher_choices", "train_policy"]
