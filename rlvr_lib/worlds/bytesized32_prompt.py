"""The paper's full prompt for text games (spec A.4): one user message with rules, two worked examples and the question.

The parts come in the paper's order and states are Python literals, as released; the fixed sentences are our wording.
Public games get the human-written rules and the examples from *dishwasher*. Embedded games get rules put together from
their verbs and laws, and examples from a layout that no split reaches. Our small model is asked with the compact prompt
of :mod:`rlvr_lib.tokens.text_game_task` instead.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rlvr_lib.artifacts import UserError
from rlvr_lib.worlds.bytesized32 import EXAMPLE_GAME, Rules, data_folder, load_examples, load_rules
from rlvr_lib.worlds.text_crawl import crawl, layout_seed, start
from rlvr_lib.worlds.text_engine import Game
from rlvr_lib.worlds.text_game_answers import PHRASES, extract_answer, perfect_answer
from rlvr_lib.worlds.text_games import GAMES
from rlvr_lib.worlds.transitions import GameState, TextTransition

EMBEDDED_EXAMPLE_GAME = "do-laundry"
EXAMPLE_LAYOUT = layout_seed("train", 1_000_000)  # far beyond the layouts of any split
KIND_LAYOUTS = 12  # layouts looked at for the kinds of objects of an embedded game

ROLE = (
    "You are the simulator of a text game. You get a description of the task and the present state of the game written"
    " as JSON. Work out the state that the game is in after the player's action, the score included."
)
NEW_OBJECTS = (
    "An object that comes into being needs a uuid of its own: the first new object takes the number given as"
    ' "UUID base", and further ones count upwards from there.'
)
CONTRACT = (
    "Answer with one JSON object that has three keys. `modified` is a list with the complete record of every object"
    " that is new or that differs from before, or an empty list when there is none. `removed` is a list with the uuid"
    " of every object that no longer exists, or an empty list when there is none. `score` is the record with `score`,"
    " `gameOver` and `gameWon` after the step."
)
TIME = (
    "Not every change is the player's doing: time passes with each action, and the tick rules tell what it does to the"
    " objects of each class. Two worked examples follow, both from the same game."
)
FIRST = "Example 1. Here the action changes the state."
SECOND = (
    "Example 2. Here the passing of time changes the state. (The action and the passing of time may also both change it"
    " in one step.)"
)
QUESTION = "Now the game that you simulate."
CLOSING = f'Introduce your answer with the words "{PHRASES[0]}".'


def state_literal(state: GameState) -> str:
    """A game state as the prompts print it: a Python dict with the single key ``game_state``."""
    return repr({"game_state": state})


@dataclass(frozen=True)
class FullPrompt:
    """Writes the prompt of a transition; holds the rules of all games and the two examples. Can be pickled.

    ``action`` and ``tick`` are the examples, both of one game, driven by the action and by time.
    """

    rules: dict[str, Rules]
    action: TextTransition
    tick: TextTransition

    def __call__(self, transition: TextTransition) -> str:
        """The user message. UserError when the rules of the game are not there."""
        parts = [ROLE, NEW_OBJECTS, CONTRACT, TIME]
        parts += self._told("Example game", self.action)
        parts += [FIRST, *_worked(self.action), SECOND, *_worked(self.tick)]
        parts += [QUESTION, *self._told("The game", transition), *_situation(transition)]
        parts += [f"Action:\n{transition.action}", CLOSING]
        return "\n\n".join(parts)

    def _told(self, title: str, transition: TextTransition) -> list[str]:
        """Task and rules of the game that a transition belongs to."""
        if transition.game not in self.rules:
            raise UserError(f"no rules for the game {transition.game}; there are rules for {', '.join(self.rules)}")
        rules = self.rules[transition.game]
        return [
            f"{title}, task:\n{transition.task}",
            f"{title}, objects:\n{rules.objects.strip()}",
            f"{title}, actions:\n{rules.actions.strip()}",
            f"{title}, score:\n{rules.score.strip()}",
        ]


def _situation(transition: TextTransition) -> list[str]:
    """State and UUID base. The public ``max_UUID`` is the next free uuid, that of our engine the last one in use."""
    base = transition.max_uuid + (1 if transition.layout_seed >= 0 else 0)
    return [f"State:\n{state_literal(transition.current)}", f"UUID base: {base}"]


def _worked(example: TextTransition) -> list[str]:
    """An example: situation, action on the line of its label, expected answer."""
    answer = extract_answer(perfect_answer(example.current, example.target, "python"))
    return [*_situation(example), f"Action: {example.action}", f"Expected answer:\n{answer}"]


def full_prompt(root: str | Path | None = None, source: str = "bytesized32") -> FullPrompt:
    """The prompt writer of a source: ``bytesized32`` (rules and examples read below ``root``) or ``embedded``."""
    return embedded_prompt() if source == "embedded" else public_prompt(root)


def public_prompt(root: str | Path | None = None) -> FullPrompt:
    """Prompts of the public games; UserError says what to fetch when the rules are missing."""
    folder = data_folder(root)
    rules, examples = load_rules(folder), load_examples(folder)
    if EXAMPLE_GAME not in rules:
        raise UserError(f"{folder / 'object_rules.json'} has no rules for {EXAMPLE_GAME}, the game of the examples")
    return FullPrompt(rules, examples["action"], examples["tick"])


# ---- embedded games
def embedded_prompt() -> FullPrompt:
    """Prompts of our own games, with examples from a layout that is in no split (always the same two)."""
    crawled = [TextTransition.from_record(record) for record in crawl(GAMES[EMBEDDED_EXAMPLE_GAME], EXAMPLE_LAYOUT)]
    rules = {name: embedded_rules(game) for name, game in GAMES.items()}
    return FullPrompt(rules, _first_driven_by("action", crawled), _first_driven_by("tick", crawled))


def _first_driven_by(phase: str, crawled: Iterable[TextTransition]) -> TextTransition:
    """The first transition whose objects change in this phase only."""
    for item in crawled:
        phases = {note.partition(":")[0] for note in item.notes} - {"score"}
        if phases == {phase}:
            return item
    raise RuntimeError(f"{EMBEDDED_EXAMPLE_GAME}: no transition is driven by the {phase} alone")


def embedded_rules(game: Game) -> Rules:
    """Rules of an embedded game: its kinds of objects and its laws, its verbs, and how the score counts."""
    kinds = [f"Object: {kind}\nProperties: {', '.join(keys) or 'none'}" for kind, keys in _kinds(game).items()]
    laws = [f"Tick rule ({law.name}): {law.rule}" for law in game.laws]
    verbs = [f"{_call(verb.template)}: {verb.rule}" for verb in game.verbs]
    score = "The score counts the goals that hold. The game is won, and over, when all of them hold."
    return Rules("\n\n".join([*kinds, *laws]), "\n".join(verbs), score)


def _kinds(game: Game) -> dict[str, list[str]]:
    """Property names by type, over a few layouts."""
    found: dict[str, list[str]] = {}
    for number in range(KIND_LAYOUTS):
        for thing in start(game, layout_seed("train", number)).things.values():
            keys = found.setdefault(thing.type, [])
            keys += [key for key in thing.properties if key not in keys]
    return found


def _call(template: str) -> str:
    """A verb's template with letters for what it takes: ``put X in Y``."""
    return template.format(*"XYZW"[: template.count("{}")])
