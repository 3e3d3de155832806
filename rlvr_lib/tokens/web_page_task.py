"""Web pages as a world-model task: a transition becomes (prompt, response) text and ids, and back (B.4, B.5).

The response is what is thought (public data only) and the three sections of changes. The prompt is compact for our
own small models and the paper's for models from the hub.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from rlvr_lib.worlds.web_answers import next_page, read_changes
from rlvr_lib.worlds.web_pages import Changes
from rlvr_lib.worlds.web_prompt import compact_prompt
from rlvr_lib.worlds.web_transitions import WebTransition


def perfect_answer(item: WebTransition) -> str:
    """The true changes in the answer format; what rewards compare with."""
    return item.changes.text


def trained_answer(item: WebTransition) -> str:
    """What SFT teaches: thoughts, if there are any, then the changes, and a line end before the end token (D.17)."""
    return (f"{item.thoughts}\n\n" if item.thoughts else "") + perfect_answer(item) + "\n"


def browse_parts(item: WebTransition, end: str) -> list[tuple[str, bool]]:
    """A step as (text, does it carry loss) for the base model: the page, the action, then what changes as a diff.

    ``+`` stands for new items, ``-`` for deleted and ``~`` for updated ones. The page carries no loss; the action does,
    for its number names an element of the page.
    """
    head, action, rest = compact_prompt(item).rpartition("Action: ")
    marked = zip("+-~", (item.changes.new, item.changes.deleted, item.changes.updated), strict=True)
    lines = [f"{sign} {line}" for sign, found in marked for line in found]
    return [(head, False), (action + rest, True), ("\n".join(lines or ["="]) + end, True)]


def answered_parts(item: WebTransition, end: str) -> list[tuple[str, bool]]:
    """The same step as question and answer."""
    return [(compact_prompt(item), False), (trained_answer(item) + end, True)]


@dataclass(frozen=True)
class WebPageTask:
    """Encode transitions to prompt ids, decode response ids: all that sampling, RLVR and evaluation know of a page.

    ``prompt`` writes the prompt text; ``chat`` wraps it into the model's chat template (hub models).
    """

    tokenizer: PreTrainedTokenizerBase
    prompt: Callable[[WebTransition], str] = compact_prompt
    chat: bool = False

    def prompt_ids(self, items: Sequence[WebTransition]) -> list[list[int]]:
        """Token ids of the prompts, B lists of different lengths, ready for a response to follow."""
        texts = [self.prompt(item) for item in items]
        if not self.chat:
            return self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        messages = [[{"role": "user", "content": text}] for text in texts]
        return self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)

    def response_ids(self, items: Sequence[WebTransition]) -> list[list[int]]:
        """Token ids of the answers to learn, without an end token."""
        return self.tokenizer([trained_answer(item) for item in items], add_special_tokens=False)["input_ids"]

    def tokens(self, item: WebTransition) -> int:
        """Length of prompt and answer together, for the filter of B.3."""
        return len(self.prompt_ids([item])[0]) + len(self.response_ids([item])[0])

    def text(self, ids: Sequence[int]) -> str:
        """The response as text, special tokens left out (D.17)."""
        return self.tokenizer.decode(ids, skip_special_tokens=True)

    def predicted(self, item: WebTransition, response: str) -> tuple[Changes, str]:
        """The changes that a response names, and the page that they would leave."""
        changes = read_changes(response)
        return changes, next_page(item.before, changes)


__all__ = ["WebPageTask", "answered_parts", "browse_parts", "perfect_answer", "trained_answer"]
