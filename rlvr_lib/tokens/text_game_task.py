"""Text games as a world-model task: a transition becomes (prompt, response) text and ids, and back.

The laptop prompt is compact: state and goals as JSON, the uuid base and the action; the rules of the game are learnt
from data instead of being told. The response is a chain of thought (which rule fires, what it changes) followed by the
paper's answer (A.4.3), so the same extractor and rewards read it. The paper's full prompt (A.4) is used when the
model comes from the hub.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from transformers import PreTrainedTokenizerBase

from rlvr_lib.worlds.text_game_rewards import perfect_answer
from rlvr_lib.worlds.transitions import GameState, TextTransition

NOTHING = "tick: nothing"


def state_text(state: GameState) -> str:
    """A game state as JSON text."""
    return json.dumps({"game_state": state})


def compact_prompt(transition: TextTransition) -> str:
    """The laptop prompt, up to and including the action and its line end."""
    return f"{situation_text(transition)}Action: {transition.action}\n"


def situation_text(transition: TextTransition) -> str:
    """The part of the prompt that all actions tried in one situation share."""
    return f"{state_text(transition.current)}\n{transition.task}\nUUID base: {transition.max_uuid}\n"


def thoughts(transition: TextTransition) -> str:
    """The engine's chain of thought: one line per rule that fired."""
    return "\n".join(transition.notes or (NOTHING,)) + "\n"


def changed_records(transition: TextTransition) -> list[dict]:
    """Records of the next state that are new or different, score record excluded."""
    before = {record["uuid"]: record for record in transition.current[:-1]}
    return [record for record in transition.target[:-1] if before.get(record["uuid"]) != record]


def situations(transitions: Sequence[TextTransition]) -> list[list[TextTransition]]:
    """Group consecutive transitions that start from the same state object of one play-through."""
    groups: list[list[TextTransition]] = []
    for transition in transitions:
        same = groups and groups[-1][0].layout_seed == transition.layout_seed and groups[-1][0].game == transition.game
        if same and groups[-1][0].current == transition.current:
            groups[-1].append(transition)
        else:
            groups.append([transition])
    return groups


def pages(
    group: Sequence[TextTransition], rng: Random, tries: int, changed: float, is_changed
) -> list[list[TextTransition]]:
    """Cut one situation into pages of ``tries`` actions, with unchanged ones thinned to about 1 - ``changed``."""
    busy = [transition for transition in group if is_changed(transition.current, transition.target)]
    idle = [transition for transition in group if not is_changed(transition.current, transition.target)]
    keep = max(1, round(len(busy) * (1 - changed) / changed)) if busy else min(len(idle), 2)
    chosen = busy + rng.sample(idle, min(keep, len(idle)))
    rng.shuffle(chosen)
    return [chosen[start : start + tries] for start in range(0, len(chosen), tries)]


def play_parts(transitions: Sequence[TextTransition], end: str) -> list[tuple[str, bool]]:
    """A page as (text, does it carry loss): actions and outcomes do, the situation does not.

    Which action is tried is chance, but its words name objects of the situation: writing their ids is what a model
    has to learn first.
    """
    parts = [(situation_text(transitions[0]), False)]
    for transition in transitions:
        parts.append((f"Action: {transition.action}\n", True))
        parts.append((f"{thoughts(transition)}Then: {json.dumps(changed_records(transition))}{end}", True))
        parts.append(("\n", False))
    return parts


def answered_parts(transitions: Sequence[TextTransition], end: str) -> list[tuple[str, bool]]:
    """A page in the format of the question and answer contract: each action with its whole prompt."""
    parts = []
    for transition in transitions:
        parts.append((compact_prompt(transition), False))
        parts.append((thoughts(transition) + perfect_answer(transition.current, transition.target) + end, True))
        parts.append(("\n", False))
    return parts


@dataclass(frozen=True)
class TextGameTask:
    """Encode transitions to prompt ids and decode response ids; all that sampling, RLVR and evaluation know of a game.

    ``prompt`` writes the prompt text; ``chat`` wraps it into the model's chat template (hub models).
    """

    tokenizer: PreTrainedTokenizerBase
    prompt: Callable[[TextTransition], str] = compact_prompt
    chat: bool = False

    def prompt_ids(self, transitions: Sequence[TextTransition]) -> list[list[int]]:
        """Token ids of the prompts, B lists of different lengths, ready for a response to follow."""
        texts = [self.prompt(transition) for transition in transitions]
        if not self.chat:
            return self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        messages = [[{"role": "user", "content": text}] for text in texts]
        return self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)

    def text(self, ids: Sequence[int]) -> str:
        """The response as text, special tokens left out (the extractor does not care, spec D.17)."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)
