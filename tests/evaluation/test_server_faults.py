"""Servers that fail, refuse or hang, and evaluations that are interrupted, over real HTTP on 127.0.0.1."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from gmpo_mm.data.images import ImageSource
from gmpo_mm.errors import ConfigError, DataError, TrainingError
from gmpo_mm.evaluation.generators import Generated
from gmpo_mm.evaluation.server import ServerGenerator
from tests.evaluation.http_server import Answer, Request, completion, echo
from tests.evaluation.serving import SEEDS, Serve, protocol, record, sample

# Faults


def first_time(fault: Answer) -> Callable[[Request], Answer]:
    return lambda request: fault if request.repeat == 0 else echo(request)


WHOLE = completion("never seen whole").body
FAULTS = {
    "rate limit": Answer(429, {"error": {"message": "slow down"}}, {"Retry-After": "0"}),
    "rate limit until a date": Answer(429, {}, {"Retry-After": formatdate(0, usegmt=True)}),
    "rate limit, unreadable": Answer(429, {}, {"Retry-After": "soon"}),
    "internal error": Answer(500, {"error": {"message": "oops"}}),
    "gateway": Answer(502, b"<html>bad gateway</html>"),
    "overloaded": Answer(503, b""),
    "timed out there": Answer(408, {}),
    "dropped": Answer(200, WHOLE, drop=True),
    "closed at once": Answer(200, b"", {"Content-Length": "50"}, drop=True),
    "malformed": Answer(200, b'{"choices": [{"fin'),
    "a page": Answer(200, b"<html>log in</html>", {"Content-Type": "text/html"}),
    "a list": Answer(200, []),
    "an error with 200": Answer(200, {"error": {"message": "busy", "code": 503}}),
    "not UTF-8": Answer(200, b'{"\xff'),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_passes_is_asked_again_and_changes_nothing(serve: Serve, fault: str) -> None:
    records = [record(i) for i in range(4)]
    server = serve(first_time(FAULTS[fault]))
    assert sample(server, records, protocol(n=2), concurrency=4) == sample(serve(), records, protocol(n=2))
    assert len(server.requests) == 16


def test_a_slow_answer_is_asked_for_again(serve: Serve) -> None:
    server = serve(first_time(Answer(200, completion("late").body, wait=60)))
    assert sample(server, [record(0)], protocol(), timeout=1.0)[0][0].text.startswith("question 0")
    assert server.hung_up.wait(30)


def test_retry_after_holds_every_request_back(serve: Serve) -> None:
    came: list[float] = []

    def respond(request: Request) -> Answer:
        came.append(time.monotonic())
        return Answer(429, {"error": "full"}, {"Retry-After": "1"}) if request.number == 0 else echo(request)

    notes: list[str] = []
    generator = ServerGenerator(serve(respond).url, None, concurrency=1)
    generator.generate([record(0)], protocol(), SEEDS[:1], lambda i, responses: None, notes.append)
    assert came[1] - came[0] >= 0.95  # the wait is what is tested
    assert any("429: full" in note and "again in 1 s" in note for note in notes)


def test_after_the_last_try_the_error_says_how_far_it_is(serve: Serve) -> None:
    server = serve(lambda request: Answer(500, {"error": {"message": "GPU on fire"}}) if request.number >= 3 else echo(request))
    done: list[int] = []
    generator = ServerGenerator(server.url, None, concurrency=1, retries=2)
    with pytest.raises(TrainingError) as caught:
        generator.generate([record(i) for i in range(5)], protocol(), SEEDS[:5], lambda i, responses: done.append(i))
    said = str(caught.value)
    assert "problem p3" in said and "3 tries" in said and "500: GPU on fire" in said
    assert "3 of the 5 problems" in said and "same command" in said
    assert done == [0, 1, 2]
    assert len(server.requests) == 6


def test_a_server_that_asks_to_wait_longer_than_a_request_may_take_ends_the_evaluation(serve: Serve) -> None:
    server = serve(lambda request: Answer(429, {"error": {"message": "quota"}}, {"Retry-After": "86400"}))
    with pytest.raises(TrainingError, match="quota and asks to wait 86400 s"):
        sample(server, [record(0)], protocol())
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 422])
def test_what_the_server_refuses_ends_at_once_in_its_own_words(serve: Serve, status: int) -> None:
    message = "This model's maximum context length is 32 tokens.\x1b[31m"
    server = serve(lambda request: Answer(status, {"error": {"message": message}}))
    with pytest.raises(ConfigError) as caught:
        sample(server, [record(0)], protocol(), concurrency=1)
    said = str(caught.value)
    assert server.url in said and "model tiny" in said and "problem p0" in said and "\x1b" not in said
    assert f"{status}: This model's maximum context length is 32 tokens." in said
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body, said",
    [({"detail": "d1"}, "d1"), ({"message": "m1"}, "m1"), (b"plain words", "plain words"), ({"x": 1}, '"x": 1')],
)
def test_the_servers_words_are_found_in_any_form_of_error(serve: Serve, body: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sample(serve(lambda request: Answer(400, body)), [record(0)], protocol())


def test_one_refusal_ends_the_others_without_waiting_for_them(serve: Serve) -> None:
    server = serve(lambda request: Answer(400, {}) if "question 3" in str(request.body) else Answer(200, WHOLE, wait=250))
    with pytest.raises(ConfigError, match="problem p3"):
        sample(server, [record(i) for i in range(8)], protocol(), concurrency=8)
    assert server.hung_up.wait(30)


def test_a_broken_picture_ends_with_its_own_error(serve: Serve) -> None:
    broken = ImageSource(data=b"\x89PNG no more")
    with pytest.raises(DataError, match="row 2, image 0"):
        sample(serve(), [record(0), record(1), record(2, [broken])], protocol(n=3))


# Interruption


def test_on_done_runs_in_the_calling_thread_and_what_it_raises_ends_the_requests(serve: Serve) -> None:
    server = serve(lambda request: echo(request) if request.number < 2 else Answer(200, WHOLE, wait=250))
    generator = ServerGenerator(server.url, None, concurrency=4)
    threads: list[int] = []

    def on_done(i: int, responses: list[Generated]) -> None:
        threads.append(threading.get_ident())
        if len(threads) == 2:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        generator.generate([record(i) for i in range(9)], protocol(), SEEDS[:9], on_done)
    assert threads == [threading.get_ident()] * 2
    assert server.hung_up.wait(30)
    assert not [thread for thread in threading.enumerate() if thread.name == "server requests"]


def test_an_interrupted_evaluation_goes_on_with_the_same_samples(serve: Serve) -> None:
    records = [record(i) for i in range(6)]
    whole = sample(serve(), records, protocol(n=3))
    generator = ServerGenerator(serve().url, None, concurrency=2)
    kept: dict[int, list[Generated]] = {}

    def stop_after_three(i: int, responses: list[Generated]) -> None:
        if len(kept) == 3:
            raise KeyboardInterrupt
        kept[i] = responses

    with pytest.raises(KeyboardInterrupt):
        generator.generate(records, protocol(n=3), SEEDS[:6], stop_after_three)
    left = [i for i in range(6) if i not in kept]
    rest = sample(serve(), [records[i] for i in left], protocol(n=3), [SEEDS[i] for i in left])
    assert kept | {left[i]: responses for i, responses in rest.items()} == whole


def test_ctrl_c_ends_a_process_whose_server_never_answers(serve: Serve, tmp_path: Path) -> None:
    asked = threading.Event()

    def respond(request: Request) -> Answer:
        asked.set()
        return Answer(200, WHOLE, wait=250)

    server = serve(respond)
    script = f"""
        from gmpo_mm.data.records import Record
        from gmpo_mm.evaluation.results import Protocol
        from gmpo_mm.evaluation.server import ServerGenerator
        generator = ServerGenerator({server.url!r}, None)
        try:
            generator.generate([Record("q", (), "1", ("1",), "p")] * 4, Protocol("t", 0.5, 4, 9), [1, 2, 3, 4], print)
        except KeyboardInterrupt:
            print("interrupted")
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True)
    try:
        assert asked.wait(120)
        child.send_signal(signal.SIGINT)
        output, _ = child.communicate(timeout=200)
    finally:
        child.kill()
    assert output == "interrupted\n" and child.returncode == 0
