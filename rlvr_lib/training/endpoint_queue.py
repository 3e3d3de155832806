"""Working through many questions at once: workers, retries, pauses, the budget (spec A.10.1; our own design)."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx

from rlvr_lib.progress import LINE_EVERY_SECONDS, say
from rlvr_lib.training.endpoint_cache import AnswerCache, request_hash
from rlvr_lib.training.endpoint_reply import LONGEST_PAUSE_S, ChatAnswer, FailedAttempt

if TYPE_CHECKING:
    from rlvr_lib.training.endpoint import ChatClient

Messages = Sequence[dict[str, str]]


class BudgetReached(Exception):
    """The next request could cost more than what is left."""


@dataclass
class ChatRun:
    """What came of a list of questions: ``answers`` and ``failed`` (reasons) by the caller's keys.

    ``cached`` answers were not asked again; ``stopped`` says why the run ended early, empty if it did not;
    ``spent_usd`` counts everything the cache file knows of, earlier runs and failed attempts included.
    """

    asked: int
    answers: dict[str, ChatAnswer] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    cached: int = 0
    retries: Counter = field(default_factory=Counter)
    spent_usd: float = 0.0
    stopped: str = ""

    def line(self, label: str, budget_usd: float | None = None) -> str:
        """One line: counts, tokens, cost."""
        tokens_in = sum(answer.tokens_in for answer in self.answers.values())
        tokens_out = sum(answer.tokens_out for answer in self.answers.values())
        budget = f" of {budget_usd:g}" if budget_usd is not None else ""
        text = (
            f"{label}: {len(self.answers)}/{self.asked} answered ({self.cached} cached), {len(self.failed)} failed, "
            f"{self.retries.total()} retries, {tokens_in:,} tokens in, {tokens_out:,} out, "
            f"{self.spent_usd:.4f}{budget} USD"
        )
        return f"{text}; stopped: {self.stopped}" if self.stopped else text


class Purse:
    """Money spent, and money that requests in flight may still cost."""

    def __init__(self, limit: float | None, spent: float):
        self.limit, self.spent = limit, spent
        self.in_flight: list[float] = []
        self._freed = asyncio.Condition()

    @asynccontextmanager
    async def reserve(self, most: float):
        """Hold back ``most`` for one request; waits for requests in flight, raises BudgetReached when there are none.

        What the request really cost must be added to ``spent`` inside the block.
        """
        async with self._freed:
            while self.limit is not None and self.spent + sum(self.in_flight) + most > self.limit:
                if not self.in_flight:
                    raise BudgetReached
                await self._freed.wait()
            self.in_flight.append(most)
        try:
            yield
        finally:
            self.in_flight.remove(most)
            async with self._freed:
                self._freed.notify_all()


class Queue:
    """One call of ``complete_many``: workers that share a list of questions, a purse and a pause."""

    def __init__(self, client: "ChatClient", requests: Sequence[tuple[str, Messages]], cache: AnswerCache, label: str):
        self.client, self.cache, self.label = client, cache, label
        self.result = ChatRun(asked=len(requests), spent_usd=cache.spent_usd)
        self.todo = iter(list(self._unanswered(requests)))
        self.purse = Purse(client.budget_usd, cache.spent_usd)
        self.jitter = random.Random()  # spreads retries in time; no result depends on it
        self.resume_at, self.in_row, self.said_at = 0.0, 0, time.monotonic()

    def _unanswered(self, requests: Sequence[tuple[str, Messages]]) -> Iterator[tuple[str, str, Messages]]:
        """(key, hash, messages) of what is not cached. The n-th repetition of one question is a question of its own."""
        times: Counter = Counter()
        for key, messages in requests:
            plain = request_hash({"url": self.client.base_url, **self.client.request_body(messages)})
            digest = request_hash({"request": plain, "sample": times[plain]})
            times[plain] += 1
            if digest in self.cache.answers:
                self.result.answers[key] = self.cache.answers[digest]
                self.result.cached += 1
            else:
                yield key, digest, messages

    async def run(self) -> None:
        async with self.client.http() as http:
            workers = [asyncio.create_task(self._worker(http)) for _ in range(self.client.concurrency)]
            try:
                await asyncio.gather(*workers)
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)
                self._say()

    async def _worker(self, http: httpx.AsyncClient) -> None:
        for key, digest, messages in self.todo:
            if self.result.stopped:
                return
            await self._question(http, key, digest, messages)
            if time.monotonic() - self.said_at > LINE_EVERY_SECONDS:
                self._say()

    async def _question(self, http: httpx.AsyncClient, key: str, digest: str, messages: Messages) -> None:
        """Ask until there is an answer, the tries are used up, or the run has ended."""
        for attempt in range(self.client.retries + 1):
            await self._wait(attempt)
            if self.result.stopped:
                return
            try:
                async with self.purse.reserve(self.client.worst_cost(messages)):
                    if await self._attempt(http, key, digest, messages, last=attempt == self.client.retries):
                        return
            except BudgetReached:
                self._stop(f"the budget of {self.client.budget_usd:g} USD is reached")
                return

    async def _attempt(self, http: httpx.AsyncClient, key: str, digest: str, messages: Messages, last: bool) -> bool:
        """Ask once and book it; True when the question is settled, one way or the other."""
        if self.result.stopped:  # while this question waited for the budget
            return True
        try:
            answer = await self.client.attempt(http, messages)
        except FailedAttempt as failure:
            return self._book_failure(failure, key, digest, last)
        self.cache.add(digest, key, answer)
        self._charge()
        self.result.answers[key], self.in_row = answer, 0
        return True

    def _charge(self) -> None:
        self.purse.spent = self.result.spent_usd = self.cache.spent_usd

    def _stop(self, reason: str) -> None:
        self.result.stopped = self.result.stopped or reason

    def _book_failure(self, failure: FailedAttempt, key: str, digest: str, last: bool) -> bool:
        """True when the question is not to be asked again in this run."""
        if failure.cost_usd:
            self.cache.add_failure(digest, key, failure.reason, failure.cost_usd)
            self._charge()
        self.resume_at = max(self.resume_at, time.monotonic() + failure.pause_s)
        if failure.again and not last:
            self.result.retries[failure.reason] += 1
            return False
        self.result.failed[key] = failure.reason
        self.in_row += 1
        if failure.ends_run:
            self._stop(failure.reason)
        elif self.in_row >= self.client.failures_in_row:
            self._stop(f"{self.in_row} failures in a row, the last: {failure.reason}")
        return True

    async def _wait(self, attempt: int) -> None:
        """Exponential backoff with full jitter, and whatever Retry-After asked of all workers."""
        backoff = min(LONGEST_PAUSE_S, self.client.backoff_s * 2 ** (attempt - 1)) if attempt else 0.0
        asked = self.resume_at - time.monotonic()
        pause = max(asked, 0.0) + backoff * self.jitter.uniform(0.5, 1.0)
        if pause > 0:
            await asyncio.sleep(pause)

    def _say(self) -> None:
        self.said_at = time.monotonic()
        say(self.result.line(self.label, self.client.budget_usd))
