"""The paper's full prompt for a text game (spec A.4): contract, two solved examples, rules, state, action.

Content and order are the released ones, the sentences are ours. States and expected responses are Python literals, as
released (single quotes, ``True``, ``None``), although the contract says JSON; the rewards read either. Prompts of the
official test cases have 18 201 to 22 838 characters (released wording: 18 970 to 23 603).
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rlvr_lib.artifacts import UserError
from rlvr_lib.worlds.bytesized32 import Rules, data_folder, load_examples, load_rules
from rlvr_lib.worlds.text_game_answers import PHRASES, ideal_answer
from rlvr_lib.worlds.text_game_rules import embedded_examples, embedded_rules
from rlvr_lib.worlds.transitions import GameState, TextTransition

ROLE = (
    "You simulate a text game. You are told the task of the game and its current state in JSON. Work out the state of "
    "the game after an action has been taken, the score included.\n"
    "An action may bring new objects into the game. Number them upwards from the UUID base that is given.\n"
)
CONTRACT = (
    "Answer with one JSON object with three keys, 'modified', 'removed' and 'score'. 'modified' is a list of the full "
    "records of all objects that are new or that have changed; leave the list empty when there are none. 'removed' is "
    "a list of the uuids of the objects that no longer exist; leave the list empty when there are none. 'score' is a "
    "record with three keys: 'score' is the score of the game, 'gameOver' says whether the game has ended, and "
    "'gameWon' says whether the player has won.\n"
)
TIME = (
    "The state of a game can change because of an action, and also by itself as time passes. The tick rule of each "
    "class of objects says what one step of time does to it.\n"
    "Two examples come first, both from one game.\n\n"
)
CLOSING = f"Write '{PHRASES[0]}' right before the JSON object that is your answer.\n"


@dataclass(frozen=True)
class FullPrompt:
    """A writer of prompts: rules by game, and the examples ``action`` and ``tick``. Can be pickled."""

    rules: dict[str, Rules]
    examples: dict[str, TextTransition]

    def __call__(self, transition: TextTransition) -> str:
        """The user message. UserError when there are no rules for the game."""
        return prompt_text(transition, self.rules, self.examples)


def full_prompt(root: str | Path | None = None, source: str = "bytesized32") -> FullPrompt:
    """The writer for a source: ``embedded``, or ``bytesized32`` with the files in ``root`` (UserError if missing)."""
    if source == "embedded":
        return FullPrompt(embedded_rules(), embedded_examples())
    folder = data_folder(root or None)
    return FullPrompt(load_rules(folder), load_examples(folder))


def prompt_text(transition: TextTransition, rules: dict[str, Rules], examples: dict[str, TextTransition]) -> str:
    """The user message for one transition. UserError when ``rules`` has none for its game."""
    if transition.game not in rules:
        raise UserError(
            f"no rules for the game {transition.game}: the paper's prompt needs them; set text_game.data.source to "
            "where the game comes from, or use text_game.model.kind=tiny_qwen2 (compact prompt)"
        )
    return (
        ROLE
        + CONTRACT
        + TIME
        + _examples(rules[examples["action"].game], examples["action"], examples["tick"])
        + "The game to simulate:\n"
        + _game(transition.task, rules[transition.game])
        + f"{_situation(transition)}The action is:\n{transition.action}\n\n"
        + CLOSING
    )


@cache
def _rule_text(rules: Rules) -> str:
    return (
        f"Rules of the objects:\n{rules.objects}\n\n"
        f"Rules of the actions:\n{rules.actions}\n\n"
        f"Rules of the score:\n{rules.score}\n\n"
    )


def _game(task: str, rules: Rules) -> str:
    return f"Task of the game:\n{task}\n\n{_rule_text(rules)}"


def _examples(rules: Rules, action: TextTransition, tick: TextTransition) -> str:
    return (
        "The game of the examples:\n"
        + _game(action.task, rules)
        + "Example 1, in which the action changes the state:\n"
        + _example(action)
        + "Example 2, in which time changes the state (both can happen in one step):\n"
        + _example(tick)
    )


def _example(transition: TextTransition) -> str:
    return (
        f"{_situation(transition)}The action is: {transition.action}\n"
        f"The expected response:\n{ideal_answer(transition.current, transition.target)}\n\n"
    )


def _situation(transition: TextTransition) -> str:
    """State and UUID base: the next free uuid. The public ``max_UUID`` is that, our engine's is the last one in use."""
    base = transition.max_uuid + (1 if transition.layout_seed >= 0 else 0)
    return f"The state of the game:\n{state_literal(transition.current)}\n\nThe UUID base is {base}\n"


def state_literal(state: GameState) -> str:
    """A state as released: a Python literal with the single key ``game_state``."""
    return str({"game_state": state})
