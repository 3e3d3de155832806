"""What an OpenAI-compatible chat endpoint may send back, and what of it can be believed (spec A.10.1, A.10.3).

Our own; the paper's scripts trust the reply. Here every field is checked, because one bad line in an SFT file costs a
training run.
"""

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

CHARACTERS_PER_TOKEN = 4  # a guess for replies that do not say what they used
MOST_TOKENS = 10_000_000
LONGEST_PAUSE_S = 120.0
THINK_START, THINK_END = "<think>", "</think>"


class FailedAttempt(Exception):
    """An attempt that gave no answer.

    ``again``: worth another try; ``ends_run``: no other question will fare better; ``pause_s``: what the endpoint asked
    for; ``cost_usd``: what the attempt may have cost.
    """

    def __init__(self, reason: str, again: bool, ends_run: bool = False, pause_s: float = 0.0, cost_usd: float = 0.0):
        super().__init__(reason)
        self.reason, self.again, self.ends_run, self.pause_s, self.cost_usd = reason, again, ends_run, pause_s, cost_usd


class BadReply(Exception):
    """A reply that came with status 200 and is no answer; the text says what is wrong with it."""


@dataclass(frozen=True)
class ChatAnswer:
    """One answer. ``reasoning`` is empty for models without a reasoning part; ``cost_usd`` is what it cost.

    ``estimated`` says that the endpoint did not report token counts and they were guessed from the text's length.
    """

    content: str
    reasoning: str = ""
    finish_reason: str = ""
    tokens_in: int = 0
    tokens_out: int = 0
    cost_usd: float = 0.0
    estimated: bool = False

    @property
    def text(self) -> str:
        """Reasoning immediately followed by the final text: no tags, no separator (A.10.3)."""
        return self.reasoning + self.content

    @property
    def cut(self) -> bool:
        """True when the answer ended at the token limit, not by itself."""
        return self.finish_reason == "length"


def estimate_tokens(text: str | bytes) -> int:
    """Rough number of tokens of a text whose tokenizer is unknown; at least 1 for a text that is not empty."""
    return math.ceil(len(text) / CHARACTERS_PER_TOKEN)


def parse_reply(body: bytes, question: str) -> ChatAnswer:
    """Read the body of a chat completion, without its price; raises BadReply for anything that is not an answer.

    ``question`` is the text that was asked; its length stands in for a missing token count.
    """
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        raise BadReply("the reply is not JSON") from None
    message, finish_reason = _first_choice(reply)
    content = _text(message, "content")
    reasoning = _text(message, "reasoning_content") or _text(message, "reasoning")
    if not reasoning:
        reasoning, content = _split_thinking(content)
    if not content and not reasoning:
        raise BadReply("the answer is empty")
    tokens_in, tokens_out = reported_usage(reply) or (estimate_tokens(question), estimate_tokens(reasoning + content))
    return ChatAnswer(content, reasoning, finish_reason, tokens_in, tokens_out, estimated=reported_usage(reply) is None)


def _first_choice(reply: Any) -> tuple[dict[str, Any], str]:
    """The message and the finish reason of the first choice."""
    if not isinstance(reply, dict):
        raise BadReply("the reply is no JSON object")
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices:
        raise BadReply("the reply holds no choices")
    choice = choices[0] if isinstance(choices[0], dict) else {}
    if not isinstance(choice.get("message"), dict):
        raise BadReply("the first choice holds no message")
    reason = choice.get("finish_reason")
    return choice["message"], reason[:40] if isinstance(reason, str) else ""


def _text(message: dict[str, Any], field: str) -> str:
    """A text field; absent and null are empty, any other type is a fault. Lone surrogates become question marks."""
    value = message.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise BadReply(f"{field} is of type {type(value).__name__}, not text")
    return value.encode("utf-8", "replace").decode("utf-8")


def _split_thinking(content: str) -> tuple[str, str]:
    """Take think tags out of a text that carries its reasoning inline (a server without a reasoning parser)."""
    reasoning, end, rest = content.partition(THINK_END)
    if not end:
        return "", content
    return reasoning.replace(THINK_START, "", 1), rest


def reported_usage(reply: Any) -> tuple[int, int] | None:
    """(tokens in, tokens out) when the reply reports both as believable counts, else None."""
    usage = reply.get("usage") if isinstance(reply, dict) else None
    if not isinstance(usage, dict):
        return None
    counts = usage.get("prompt_tokens"), usage.get("completion_tokens")
    believable = all(type(count) is int and 0 <= count <= MOST_TOKENS for count in counts)
    return counts if believable else None  # type: ignore[return-value]


def usage_of_body(body: bytes, question: str) -> tuple[int, int]:
    """Tokens to charge for a reply that could not be used: as reported, else guessed from the lengths."""
    try:
        reported = reported_usage(json.loads(body))
    except (ValueError, RecursionError):
        reported = None
    return reported or (estimate_tokens(question), estimate_tokens(body))


def retry_after_seconds(header: str | None) -> float:
    """Seconds that a Retry-After header asks for (a number or a date); 0 if absent or senseless, capped."""
    if not header:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        seconds = _seconds_until(header)
    return min(seconds, LONGEST_PAUSE_S) if math.isfinite(seconds) and seconds > 0 else 0.0


def _seconds_until(date: str) -> float:
    try:
        moment = parsedate_to_datetime(date)
    except (ValueError, TypeError, OverflowError):
        return 0.0
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - datetime.now(UTC)).total_seconds()
