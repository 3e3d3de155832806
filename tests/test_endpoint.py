"""The chat client against a real local HTTP server that answers, fails, stalls, lies and rate-limits."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from chat_server import KEY_NAME, SECRET, Server, chat_server, reply

from rlvr_lib.artifacts import UserError
from rlvr_lib.training.endpoint import ChatClient, run_async
from rlvr_lib.training.endpoint_cache import AnswerCache
from rlvr_lib.training.endpoint_reply import BadReply, parse_reply, retry_after_seconds


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv(KEY_NAME, SECRET)


def client_of(server: Server, **settings) -> ChatClient:
    return ChatClient(
        server.url, "teacher", **{"concurrency": 4, "backoff_s": 0.01, "timeout_s": 5.0, "retries": 3, **settings}
    )


def questions(number: int) -> list:
    return [(f"q{index}", [{"role": "user", "content": f"question {index}"}]) for index in range(number)]


def echo(server, body, number):
    return reply("answer to " + body["messages"][-1]["content"], reasoning="Hm. ")


def test_answers_and_costs(tmp_path, capsys):
    with chat_server(echo) as server:
        run = client_of(server, price_in=2.0, price_out=4.0).ask_all(questions(9), tmp_path / "cache.jsonl", "teacher")
    assert run.answers["q3"].text == "Hm. answer to question 3"  # no separator (A.10.3)
    assert run.asked == len(run.answers) == 9 and not run.failed and not run.stopped
    assert run.spent_usd == pytest.approx(9 * (10 * 2 + 5 * 4) / 1e6)
    assert server.headers[0]["Authorization"] == f"Bearer {SECRET}"
    assert server.bodies[0]["max_tokens"] == 8192 and "temperature" not in server.bodies[0]
    line = capsys.readouterr().out.splitlines()[-1]
    assert "teacher: 9/9 answered" in line and "90 tokens in, 45 out" in line and "0.0004 USD" in line


def test_nothing_is_asked_twice(tmp_path):
    with chat_server(echo) as server:
        client = client_of(server)
        first = client.ask_all(questions(5), tmp_path / "cache.jsonl")
        again = client.ask_all(questions(7), tmp_path / "cache.jsonl")
        assert len(server.bodies) == 7
        other = client_of(server, temperature=0.5).ask_all(questions(2), tmp_path / "cache.jsonl")
        assert len(server.bodies) == 9 and other.cached == 0
    assert again.cached == 5 and {key: again.answers[key] for key in first.answers} == first.answers


def test_repeated_questions_are_separate_samples(tmp_path):
    def count(server, body, number):
        return reply(f"sample {number}")

    messages = [{"role": "user", "content": "same"}]
    with chat_server(count) as server:
        client = client_of(server)
        run = client.ask_all([(f"s{index}", messages) for index in range(4)], tmp_path / "cache.jsonl")
        again = client.ask_all([(f"s{index}", messages) for index in range(4)], tmp_path / "cache.jsonl")
    assert len({answer.content for answer in run.answers.values()}) == 4
    assert again.answers == run.answers and again.cached == 4


def test_concurrency_is_reached_and_bounded():
    def slow(server, body, number):
        time.sleep(0.05)
        return reply()

    with chat_server(slow) as server:
        client_of(server, concurrency=5).ask_all(questions(20))
    assert server.most_active == 5


STALL = object()
BROKEN_ONCE = {
    "rate limit": (429, {"Retry-After": "0.1"}, b"slow down"),
    "server error": (500, {}, b"oops"),
    "busy, senseless Retry-After": (503, {"Retry-After": "soon"}, b""),
    "hangs up": (200, {}, None),
    "half a body": (200, {"Content-Length": "5000"}, b'{"choices": [{"mess'),
    "invalid JSON": b'{"choices": [}',
    "not UTF-8": b"\xff\xfe{}",
    "deeply nested": b"[" * 200_000,
    "a list": b"[1, 2]",
    "no choices": b'{"choices": []}',
    "choices of a wrong type": b'{"choices": {"0": 1}}',
    "no message": b'{"choices": [3]}',
    "empty answer": reply(""),
    "null": reply(None),
    "content is a number": reply(7),
    "content is a list": reply([{"type": "text", "text": "x"}]),
    "reasoning is an object": reply("x", reasoning={"a": 1}),
    "huge": reply("x" * 300_000),
    "stall": STALL,
}


@pytest.mark.parametrize("fault", BROKEN_ONCE.values(), ids=BROKEN_ONCE.keys())
def test_a_fault_is_retried(fault, tmp_path):
    def once(server, body, number):
        if number == 0:
            if fault is STALL:
                time.sleep(1.0)
                return reply("too late")
            return fault
        return reply("recovered")

    with chat_server(once) as server:
        settings = {"timeout_s": 0.3, "max_reply_bytes": 200_000, "concurrency": 1}
        run = client_of(server, **settings).ask_all(questions(2), tmp_path / "cache.jsonl")
    assert {answer.content for answer in run.answers.values()} == {"recovered"}
    assert run.retries.total() == 1 and len(server.bodies) == 3 and not run.failed


def test_a_dripping_reply_times_out():
    async def ask(url: str) -> float:
        begin = time.monotonic()
        await ChatClient(url, "m", timeout_s=0.3, retries=0).complete_many(questions(1))
        return time.monotonic() - begin

    async def dripping() -> float:
        async def serve(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
            try:
                for _ in range(100):
                    writer.write(b" ")
                    await writer.drain()
                    await asyncio.sleep(0.05)
            except ConnectionError:
                pass
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        seconds = await ask(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        server.close()
        return seconds

    assert asyncio.run(dripping()) < 4.0


def test_retry_after_holds_back_all_workers():
    def limited(server, body, number):
        return (429, {"Retry-After": "0.4"}, b"") if number == 0 else reply()

    with chat_server(limited) as server:
        run = client_of(server, concurrency=1).ask_all(questions(3))
    assert len(run.answers) == 3
    assert server.times[1] - server.times[0] > 0.39  # a wait that was asked for, not a speed


def test_hopeless_questions_do_not_stop_the_others():
    def picky(server, body, number):
        return (400, {}, b"too long") if "question 1" in body["messages"][-1]["content"] else reply()

    with chat_server(picky) as server:
        run = client_of(server).ask_all(questions(5))
    assert list(run.failed) == ["q1"] and "status 400: too long" in run.failed["q1"] and len(run.answers) == 4
    assert len(server.bodies) == 5  # a refused question is not repeated


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_a_refused_key_ends_the_run(status):
    with chat_server(lambda *_: (status, {}, b"no")) as server:
        run = client_of(server, concurrency=2).ask_all(questions(50))
    assert f"status {status}" in run.stopped and len(server.bodies) <= 4 and not run.answers


def test_a_dead_endpoint_ends_the_run():
    with chat_server(echo) as server:
        url = server.url
    run = ChatClient(url, "m", retries=1, backoff_s=0.001, failures_in_row=3, concurrency=1).ask_all(questions(50))
    assert "3 failures in a row" in run.stopped and "cannot connect" in run.stopped and len(run.failed) == 3


def test_the_budget_is_never_exceeded(tmp_path):
    cache = tmp_path / "cache.jsonl"
    with chat_server(lambda *_: reply(tokens=(12, 90))) as server:
        client = client_of(server, concurrency=8, max_tokens=100, price_in=10.0, price_out=1e4, budget_usd=10.0)
        run = client.ask_all(questions(100), cache)
        assert "budget" in run.stopped and run.spent_usd <= 10.0
        assert len(run.answers) == 10  # 0.90 each; the tenth's worst case (1.0) still fits into what nine left
        again = client.ask_all(questions(100), cache)  # the money is spent, whoever asks
        assert again.cached == 10 and len(server.bodies) == 10 and "budget" in again.stopped


def test_unusable_replies_cost_money_too(tmp_path):
    with chat_server(lambda *_: reply("", tokens=(0, 50))) as server:
        client = client_of(server, retries=1, price_out=1e4, concurrency=1)
        run = client.ask_all(questions(1), tmp_path / "cache.jsonl")
    assert run.spent_usd == pytest.approx(1.0) and "empty" in run.failed["q0"]
    with AnswerCache(tmp_path / "cache.jsonl") as cache:
        assert cache.spent_usd == pytest.approx(1.0) and not cache.answers


def test_the_key_is_nowhere(tmp_path, capsys, caplog):
    caplog.set_level(logging.DEBUG)

    def leaky(server, body, number):
        told = server.headers[number]["Authorization"]
        if number < 3:
            return 500, {}, f"bad {told}".encode()
        if "question 1" in body["messages"][-1]["content"]:
            return 400, {}, f"bad {told}".encode()
        return reply(f"you sent {told}", reasoning=told, finish_reason=told)

    with chat_server(leaky) as server:
        client = client_of(server)
        run = client.ask_all(questions(4), tmp_path / "cache.jsonl")
    captured = capsys.readouterr()
    seen = [repr(client), str(vars(client)), repr(run), captured.out, captured.err, caplog.text]
    seen += [(tmp_path / "cache.jsonl").read_text(), repr(client.http()), repr(client.http().headers)]
    assert len(run.answers) == 3 and "[key]" in run.answers["q0"].text and "[key]" in run.failed["q1"]
    assert not any(SECRET in text for text in seen)


@pytest.mark.parametrize("value", ["sk-two words", "sk-line\nbreak", "sk-ümlaut"])
def test_an_impossible_key_is_refused_without_showing_it(value, monkeypatch):
    monkeypatch.setenv(KEY_NAME, value)
    with pytest.raises(UserError, match=KEY_NAME) as error:
        ChatClient("https://api.example.org", "m")
    assert value[3:] not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_url": "api.example.org"}, "base_url must begin with"),
        ({"base_url": "https://user:sesame@api.example.org"}, "holds a user name or password"),
        ({"base_url": "https://"}, "name a host"),
        ({"api_key_env": "RLVR_NOT_SET"}, "set RLVR_NOT_SET"),
        ({"concurrency": 0}, "concurrency"),
        ({"budget_usd": 5.0}, "price_in"),
    ],
)
def test_settings_that_cannot_work(settings, message):
    with pytest.raises(UserError, match=message) as error:
        ChatClient(**{"base_url": "https://api.example.org", "model": "m", **settings})
    assert "sesame" not in str(error.value)


RUNNER = """
import sys, types
sys.modules["torchvision"] = types.ModuleType("torchvision")  # the client needs no torch, and the test no wait for it
from rlvr_lib.training.endpoint import ChatClient
questions = [(f"q{i}", [{"role": "user", "content": f"question {i}"}]) for i in range(30)]
ChatClient(sys.argv[1], "teacher", concurrency=3).ask_all(questions, sys.argv[2])
"""


def test_a_killed_run_repeats_nothing(tmp_path):
    cache = tmp_path / "cache.jsonl"

    def slow(server, body, number):
        time.sleep(0.03)
        return echo(server, body, number)

    with chat_server(slow) as server:
        root = Path(__file__).resolve().parent.parent
        process = subprocess.Popen([sys.executable, "-c", RUNNER, server.url, str(cache)], cwd=root)
        while not cache.exists() or cache.read_bytes().count(b"\n") < 8:
            time.sleep(0.005)
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        known = cache.read_bytes().count(b"\n")
        with cache.open("ab") as file:
            file.write(b'{"request": "torn in the mid')
        before = len(server.bodies)
        run = ChatClient(server.url, "teacher", concurrency=3).ask_all(questions(30), cache)
        assert run.cached == known and len(server.bodies) - before == 30 - known
    assert len(run.answers) == 30 and run.answers["q17"].content == "answer to question 17"
    rows = [json.loads(line) for line in cache.read_text().splitlines()]
    assert len(rows) == len({row["request"] for row in rows}) == 30


def test_damaged_cache_lines_are_asked_again(tmp_path, capsys):
    cache = tmp_path / "cache.jsonl"
    with chat_server(echo) as server:
        client_of(server).ask_all(questions(6), cache)
        lines = cache.read_text().splitlines(keepends=True)
        damaged = [
            lines[0],
            "garbage\n",
            lines[2].replace('"cost_usd": 0.0', '"cost_usd": NaN'),
            '{"a": 1}\n',
            *lines[4:],
        ]
        cache.write_text("".join(damaged))
        run = client_of(server).ask_all(questions(6), cache)
    assert run.cached == 3 and len(run.answers) == 6
    assert "3 of 6 lines are damaged" in capsys.readouterr().out


def test_two_runs_do_not_share_a_cache(tmp_path):
    with AnswerCache(tmp_path / "cache.jsonl"), pytest.raises(UserError, match="written by another run"):
        AnswerCache(tmp_path / "cache.jsonl").__enter__()


def test_a_full_disk_is_told_and_loses_nothing(tmp_path, monkeypatch):
    write, room = os.write, 3

    def filling(descriptor, data):
        nonlocal room
        if not data.startswith(b'{"request"'):  # sockets and pipes of the event loop
            return write(descriptor, data)
        room -= 1
        return write(descriptor, data if room >= 0 else data[:10])  # the last write is a short one

    with chat_server(echo) as server:
        monkeypatch.setattr(os, "write", filling)
        with pytest.raises(UserError, match=r"cache.jsonl: the disk is full"):
            client_of(server, concurrency=1).ask_all(questions(6), tmp_path / "cache.jsonl")
        monkeypatch.undo()
        monkeypatch.setenv(KEY_NAME, SECRET)
        run = client_of(server).ask_all(questions(6), tmp_path / "cache.jsonl")
    assert run.cached == 3 and len(run.answers) == 6


def test_inside_a_running_loop():
    async def notebook():
        with chat_server(echo) as server:
            return client_of(server).ask_all(questions(2))

    assert len(asyncio.run(notebook()).answers) == 2

    async def failing():
        raise UserError("told")

    async def outer():
        return run_async(failing())

    with pytest.raises(UserError, match="told"):
        asyncio.run(outer())


def test_replies_that_vary():
    assert parse_reply(reply("b", reasoning="a"), "q").text == "ab"
    assert parse_reply(reply("<think>a\n</think>\n\nb"), "q").text == "a\n\n\nb"
    assert parse_reply(reply("x", finish_reason="length"), "q").cut
    guessed = parse_reply(reply("x" * 40, tokens=None), "q" * 8)
    assert (guessed.tokens_in, guessed.tokens_out, guessed.estimated) == (2, 10, True)
    assert parse_reply(reply("x" * 40, tokens=(-1, True)), "").estimated
    assert parse_reply(b'{"choices": [{"message": {"content": "a\\ud800"}}]}', "").content == "a?"
    with pytest.raises(BadReply, match="not JSON"):
        parse_reply(b"", "q")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [(None, 0), ("", 0), ("3", 3), ("-5", 0), ("nan", 0), ("inf", 0), ("1e9", 120), ("soon", 0),
     ("Wed, 01 Jan 2020 00:00:00 GMT", 0), ("Fri, 01 Jan 2100 00:00:00 GMT", 120)],
)  # fmt: skip
def test_retry_after(header, seconds):
    assert retry_after_seconds(header) == seconds
