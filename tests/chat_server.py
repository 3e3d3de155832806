"""A chat endpoint on loopback that tests script: it answers, fails, stalls, lies, rate-limits and counts."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY_NAME = "RLVR_TEACHER_API_KEY"
SECRET = "sk-very-secret-0123456789"


def reply(
    content: Any = "fine", reasoning: Any = None, tokens: tuple[int, int] | None = (10, 5), **choice: Any
) -> bytes:
    """The body of a chat completion."""
    message = {"role": "assistant", "content": content}
    if reasoning is not None:
        message["reasoning_content"] = reasoning
    body: dict[str, Any] = {"choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}]}
    if tokens is not None:
        body["usage"] = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    return json.dumps(body).encode()


class Server(ThreadingHTTPServer):
    """``behave(server, body, number)`` returns bytes (sent with 200) or (status, headers, bytes or None to hang up)."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, behave: Callable[["Server", dict, int], Any]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behave, self.lock = behave, threading.Lock()
        self.bodies: list[dict] = []
        self.headers: list[dict] = []
        self.times: list[float] = []
        self.active = self.most_active = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are part of the tests."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: Any) -> None:
        pass

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            number = len(server.bodies)
            server.bodies.append(body)
            server.headers.append(dict(self.headers))
            server.times.append(time.monotonic())
            server.active += 1
            server.most_active = max(server.most_active, server.active)
        try:
            self.send(server.behave(server, body, number))
        finally:
            with server.lock:
                server.active -= 1

    def send(self, action: Any) -> None:
        status, headers, data = action if isinstance(action, tuple) else (200, {}, action)
        if data is None:  # hang up without a word
            self.close_connection = True
            return
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        if int(headers.get("Content-Length", len(data))) > len(data):
            self.close_connection = True


@contextmanager
def chat_server(behave: Callable[[Server, dict, int], Any]) -> Iterator[Server]:
    server = Server(behave)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
