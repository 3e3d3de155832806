"""The agent's roles behind OpenAI-compatible endpoints (C.1): concurrent, cached on disk, with a budget that stops.

Answers are cached by question, so arms that see the same page get the same proposals, and a run that was broken off
pays for nothing twice. The n-th of several equal questions is a question of its own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlvr_lib.artifacts import UserError
from rlvr_lib.training.endpoint import ChatClient
from rlvr_lib.worlds.agent_prompts import extractor_messages, policy_messages, summariser_messages, value_messages
from rlvr_lib.worlds.agent_texts import Observation, Sections
from rlvr_lib.worlds.web_prompt import full_prompt

KEY, WORLD_MODEL_KEY = "RLVR_AGENT_API_KEY", "RLVR_WORLD_MODEL_API_KEY"
Messages = Sequence[dict[str, str]]


class Endpoint:
    """One client and its cache file. ``spent_usd``, ``tokens_in`` and ``tokens_out`` count this run's answers."""

    def __init__(self, client: ChatClient, cache: Path | None):
        self.client, self.cache = client, cache
        self.spent_usd, self.tokens_in, self.tokens_out, self.failed = 0.0, 0, 0, 0

    def ask(self, questions: Sequence[Messages], label: str) -> list[str]:
        """A text for each question, empty for one that kept failing; UserError when the run must end (budget, key)."""
        requests = [(f"{number}", messages) for number, messages in enumerate(questions)]
        run = self.client.ask_all(requests, self.cache, label=f"agent, {label}")
        self.spent_usd = run.spent_usd
        self.tokens_in += sum(answer.tokens_in for answer in run.answers.values())
        self.tokens_out += sum(answer.tokens_out for answer in run.answers.values())
        self.failed += len(run.failed)
        if run.stopped:
            raise UserError(
                f"web agent, {label}: {run.stopped}; episodes that ended are kept. Mend it (a budget: "
                "web_page.agent.endpoint.budget_usd) and run again"
            )
        return [run.answers[key].content if key in run.answers else "" for key, _ in requests]

    def facts(self) -> dict[str, Any]:
        """For the record of a stage."""
        counts = {"tokens_in": self.tokens_in, "tokens_out": self.tokens_out, "failed_requests": self.failed}
        return {"model": self.client.model, "spent_usd": round(self.spent_usd, 4), **counts}


class ChatPolicy:
    """One answer per call (C.1); ``count`` calls for each observation."""

    def __init__(self, endpoint: Endpoint):
        self.endpoint = endpoint

    def propose(self, seen: Sequence[Observation], count: int) -> list[list[str]]:
        texts = self.endpoint.ask([policy_messages(one) for one in seen for _ in range(count)], "policy")
        return _groups(texts, count)


class ChatWorldModel:
    """A world model behind an endpoint: the prompt of B.4 as one user message, no examples, no system text."""

    def __init__(self, endpoint: Endpoint):
        self.endpoint = endpoint

    def predict(self, seen: Sequence[Observation], actions: Sequence[str]) -> list[str]:
        questions = [full_prompt(one.question(action)) for one, action in zip(seen, actions, strict=True)]
        return self.endpoint.ask([[{"role": "user", "content": text}] for text in questions], "world model")


class ChatExtractor:
    """Ten key changes of a prediction."""

    def __init__(self, endpoint: Endpoint):
        self.endpoint = endpoint

    def extract(self, seen: Sequence[Observation], sections: Sequence[Sections]) -> list[str]:
        return self.endpoint.ask([extractor_messages(one) for one in sections], "key changes")


class ChatSummariser:
    """The next state in words."""

    def __init__(self, endpoint: Endpoint):
        self.endpoint = endpoint

    def summarise(self, seen: Sequence[Observation], actions: Sequence[str], changes: Sequence[str]) -> list[str]:
        rows = zip(seen, actions, changes, strict=True)
        return self.endpoint.ask([summariser_messages(*row) for row in rows], "next state")


class ChatValue:
    """Scores from 1 to 5."""

    def __init__(self, endpoint: Endpoint):
        self.endpoint = endpoint

    def judge(
        self, seen: Sequence[Observation], actions: Sequence[str], states: Sequence[str], count: int
    ) -> list[list[str]]:
        rows = zip(seen, actions, states, strict=True)
        texts = self.endpoint.ask([value_messages(*row) for row in rows for _ in range(count)], "value")
        return _groups(texts, count)


def _groups(texts: Sequence[str], size: int) -> list[list[str]]:
    return [list(texts[start : start + size]) for start in range(0, len(texts), size)]


def chat_endpoint(settings: Any, cache: Path) -> Endpoint:
    """The endpoint of the chat roles; ``settings`` is ``web_page.agent``, the key comes from the environment."""
    place = settings.endpoint
    client = ChatClient(
        place.base_url,
        place.model,
        api_key_env=KEY,
        concurrency=place.concurrency,
        max_tokens=place.max_tokens,
        temperature=settings.temperature,
        budget_usd=place.budget_usd or None,
        price_in=place.price_in,
        price_out=place.price_out,
        extra={"top_p": settings.top_p},
    )
    return Endpoint(client, cache)


def world_model_endpoint(settings: Any, name: str, cache: Path) -> Endpoint:
    """The endpoint of one world model, called ``name`` there."""
    client = ChatClient(
        settings.endpoint.world_model_url,
        name,
        api_key_env=WORLD_MODEL_KEY,
        concurrency=settings.endpoint.concurrency,
        max_tokens=settings.max_response,
        temperature=settings.temperature,
        extra={"top_p": settings.top_p},
    )
    return Endpoint(client, cache)


__all__ = [
    "ChatExtractor",
    "ChatPolicy",
    "ChatSummariser",
    "ChatValue",
    "ChatWorldModel",
    "Endpoint",
    "chat_endpoint",
    "world_model_endpoint",
]
