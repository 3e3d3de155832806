"""A chat client for OpenAI-compatible endpoints: concurrent, resumable, with a budget (spec A.10.1; DeepSeek-R1 there).

Our own design; the paper's script asks one question after the other. Also meant for the roles of the web agent (C.1).
The key comes from the environment and goes into the Authorization header, nowhere else: what the endpoint sends back
is searched for it before it reaches a file, a line of output or an exception.
"""

import asyncio
import dataclasses
import json
import os
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
from pydantic import SecretStr

from rlvr_lib.artifacts import UserError
from rlvr_lib.progress import say
from rlvr_lib.training.endpoint_cache import AnswerCache
from rlvr_lib.training.endpoint_queue import ChatRun, Messages, Queue
from rlvr_lib.training.endpoint_reply import (
    BadReply,
    ChatAnswer,
    FailedAttempt,
    parse_reply,
    retry_after_seconds,
    usage_of_body,
)

Result = TypeVar("Result")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
RETRY_STATUS = (408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529)
REFUSED_ITEM = (400, 413, 422)  # this question is refused (too long, filtered); others may go through
TEMPLATE_TOKENS = 16  # what a chat template adds per message, generously
ERROR_EXCERPT = 200


@dataclass
class ChatClient:
    """One model behind one endpoint.

    ``base_url`` ends before ``/chat/completions``. ``price_in`` and ``price_out`` are USD per million tokens;
    ``budget_usd`` bounds what all runs on one cache file may cost: a request is sent only if its worst case still fits.
    ``timeout_s`` is for a whole reply. ``temperature`` None leaves it to the endpoint. ``extra`` is merged into the
    request (``top_p`` and the like). Raises UserError for settings that cannot work.
    """

    base_url: str
    model: str
    api_key_env: str = "RLVR_TEACHER_API_KEY"
    concurrency: int = 16
    max_tokens: int = 8192
    temperature: float | None = None
    timeout_s: float = 600.0
    retries: int = 6
    budget_usd: float | None = None
    price_in: float = 0.0
    price_out: float = 0.0
    backoff_s: float = 1.0
    failures_in_row: int = 10
    max_reply_bytes: int = 4_000_000
    extra: dict[str, Any] = field(default_factory=dict)
    _key: SecretStr = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.base_url = self.base_url.rstrip("/")
        self._key = SecretStr(os.environ.get(self.api_key_env, "").strip())
        self._check_url()
        if self.concurrency < 1 or self.max_tokens < 1 or self.timeout_s <= 0 or self.retries < 0:
            raise UserError("concurrency, max_tokens and timeout_s must be positive, retries not negative")
        if self.budget_usd is not None and self.price_in <= 0 and self.price_out <= 0:
            raise UserError("budget_usd needs price_in and price_out, in USD per million tokens")

    def _check_url(self) -> None:
        try:
            url = httpx.URL(self.base_url)
        except (httpx.InvalidURL, TypeError):
            raise UserError("base_url is not a URL; it looks like https://api.deepseek.com/v1") from None
        if url.scheme not in ("http", "https") or not url.host:
            raise UserError("base_url must begin with http:// or https:// and name a host")
        if url.userinfo:
            raise UserError(f"base_url holds a user name or password; put the key in {self.api_key_env} instead")
        key = self._key.get_secret_value()
        if not key.isascii() or not key.isprintable() or " " in key:
            raise UserError(f"{self.api_key_env} holds characters that cannot be in a key; set it again")
        if not key and url.host not in LOOPBACK:
            raise UserError(f"no key for {url.host}: set {self.api_key_env} in the environment")
        if key and url.scheme == "http" and url.host not in LOOPBACK:
            say(f"warning: the key in {self.api_key_env} travels unencrypted to {url.host} (http)")

    # ---- asking ------------------------------------------------------------------------------------------------------
    async def complete_many(
        self, requests: Sequence[tuple[str, Messages]], cache: Path | str | None = None, label: str = "endpoint"
    ) -> ChatRun:
        """Ask all (key, messages); answers go to ``cache`` (JSON lines) as they come and are never asked for again.

        Questions that keep failing are left out and named in ``failed``. The run ends early, keeping its answers, at
        the budget, at a refused key or an unknown model, and after ``failures_in_row`` failures without an answer
        between them. A cancelled or killed run loses only what is in flight. Raises UserError on a disk fault.
        """
        if len({key for key, _ in requests}) != len(requests):
            raise ValueError("the keys of the requests must differ")
        with AnswerCache(cache) as answers:
            work = Queue(self, requests, answers, label)
            await work.run()
            return work.result

    def ask_all(
        self, requests: Sequence[tuple[str, Messages]], cache: Path | str | None = None, label: str = "endpoint"
    ) -> ChatRun:
        """:meth:`complete_many` for code that is not async, notebooks included."""
        return run_async(self.complete_many(requests, cache, label))

    def request_body(self, messages: Messages) -> dict[str, Any]:
        """The JSON that is posted."""
        body = {"model": self.model, "messages": list(messages), "max_tokens": self.max_tokens, **self.extra}
        return body if self.temperature is None else {**body, "temperature": self.temperature}

    def cost(self, tokens_in: int, tokens_out: int) -> float:
        """USD for one request."""
        return (tokens_in * self.price_in + tokens_out * self.price_out) / 1e6

    def worst_cost(self, messages: Messages) -> float:
        """USD that a request can cost at most: a token is at least one byte, an answer at most ``max_tokens``."""
        size = sum(len(message["content"].encode("utf-8", "replace")) + TEMPLATE_TOKENS for message in messages)
        return self.cost(size, self.max_tokens)

    def http(self) -> httpx.AsyncClient:
        """A connection pool with the key in its header. Loopback never goes through a proxy."""
        key = self._key.get_secret_value()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.AsyncClient(
            headers={**headers, "Content-Type": "application/json", "Accept-Encoding": "identity"},
            timeout=httpx.Timeout(self.timeout_s, connect=min(30.0, self.timeout_s)),
            limits=httpx.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency),
            trust_env=httpx.URL(self.base_url).host not in LOOPBACK,
        )

    def hide_key(self, text: str) -> str:
        """The text without the key, should it hold it."""
        key = self._key.get_secret_value()
        return text.replace(key, "[key]") if key else text

    async def attempt(self, http: httpx.AsyncClient, messages: Messages) -> ChatAnswer:
        """Ask once; raises FailedAttempt."""
        question = "\n".join(message["content"] for message in messages)
        asked = self.cost(*usage_of_body(b"", question))
        try:
            async with asyncio.timeout(self.timeout_s):  # httpx's own limit starts again at every byte
                status, header, body = await self._post(http, messages)
        except TimeoutError:
            raise FailedAttempt(f"no whole reply within {self.timeout_s:g} s", again=True, cost_usd=asked) from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise FailedAttempt(f"cannot connect ({type(error).__name__})", again=True) from None
        except httpx.HTTPError as error:
            raise FailedAttempt(f"connection broke ({type(error).__name__})", again=True, cost_usd=asked) from None
        if status != 200:
            raise self._status_failure(status, header, body)
        return self._believed(body, question)

    async def _post(self, http: httpx.AsyncClient, messages: Messages) -> tuple[int, str | None, bytes]:
        """(status, Retry-After, body), the body read up to ``max_reply_bytes`` + 1."""
        body = bytearray()
        url = f"{self.base_url}/chat/completions"
        content = json.dumps(self.request_body(messages)).encode()  # ASCII: stray surrogates cannot break it
        async with http.stream("POST", url, content=content) as response:
            async for chunk in response.aiter_bytes(65536):
                body += chunk
                if len(body) > self.max_reply_bytes:
                    break
            return response.status_code, response.headers.get("retry-after"), bytes(body)

    def _status_failure(self, status: int, retry_after: str | None, body: bytes) -> FailedAttempt:
        excerpt = " ".join(self.hide_key(body.decode("utf-8", "replace")).split())[:ERROR_EXCERPT]
        reason = f"status {status}" + (f": {excerpt}" if excerpt else "")
        if status in RETRY_STATUS:
            return FailedAttempt(reason, again=True, pause_s=retry_after_seconds(retry_after))
        if status in (401, 403):
            reason += f" (check the key in {self.api_key_env})"
        return FailedAttempt(reason, again=False, ends_run=status not in REFUSED_ITEM)

    def _believed(self, body: bytes, question: str) -> ChatAnswer:
        try:
            if len(body) > self.max_reply_bytes:
                raise BadReply(f"the reply is longer than {self.max_reply_bytes} bytes")
            answer = parse_reply(body, question)
        except BadReply as error:
            cost = self.cost(*usage_of_body(body, question))
            raise FailedAttempt(self.hide_key(str(error)), again=True, cost_usd=cost) from None
        return dataclasses.replace(
            answer,
            content=self.hide_key(answer.content),
            reasoning=self.hide_key(answer.reasoning),
            finish_reason=self.hide_key(answer.finish_reason),
            cost_usd=self.cost(answer.tokens_in, answer.tokens_out),
        )


def run_async(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine to its end, also from inside a notebook, whose own event loop is already running."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    return _in_thread(lambda: asyncio.run(work))


def _in_thread(function: Callable[[], Result]) -> Result:
    outcome: list[Any] = []

    def body() -> None:
        try:
            outcome.append((function(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=body, daemon=True)
    thread.start()
    thread.join()
    result, error = outcome[0]
    if error is not None:
        raise error
    return result
