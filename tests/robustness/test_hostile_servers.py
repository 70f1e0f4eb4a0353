"""`evaluate --server` on servers that mean harm: every reply is an answer or a clear error, in bounded time and memory."""

from __future__ import annotations

import json
import random
import resource
import time
from collections.abc import Iterable, Iterator

import pytest

from gmpo_mm.errors import GMPOError
from gmpo_mm.evaluation import server as server_module
from gmpo_mm.evaluation.generators import Generated
from gmpo_mm.evaluation.server import ServerGenerator
from tests.evaluation.serving import protocol, record
from tests.robustness.hostile_replies import GOOD, GOOD_MODELS, RawServer, attacks, mutated, redirect, reply

pytest.importorskip("openai", reason="the openai package is not installed; pip install 'gmpo-mm[server]'")
QUICK = {
    "endless", "endless refusal", "endless headers", "compressed bomb", "deep lists", "escapes in an error", "no HTTP",
    "redirect elsewhere", "redirect to a broken address",
}  # fmt: skip
NAMES = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in sorted(attacks(GOOD, "http://x"))
]


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[RawServer, RawServer]]:
    """The server that is asked, and another one."""
    monkeypatch.setenv("NO_PROXY", "*")
    pair = RawServer(), RawServer()
    yield pair
    for server in pair:
        server.close()


def ask(server: RawServer, seconds: float = 20.0) -> Generated | str:
    """What a completion gave, or the error's text, which has to be fit for a terminal."""
    done: list[Generated] = []
    try:
        generator = ServerGenerator(server.url, None, retries=0, concurrency=1, timeout=seconds)
        generator.generate([record(0)], protocol(), [1], lambda i, responses: done.extend(responses))
    except GMPOError as error:
        return fit_for_a_terminal(str(error))
    (response,) = done
    assert isinstance(response.text, str) and type(response.tokens) is int and response.tokens >= 0
    return response


def fit_for_a_terminal(text: str) -> str:
    assert text.isprintable() and len(text) < 1500, text
    return text


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@pytest.mark.parametrize("name", NAMES)
def test_a_completion_that_means_harm_is_a_clear_error_within_bounds(servers: tuple[RawServer, RawServer], name: str) -> None:
    server, other = servers
    server.completion = attacks(GOOD, other.url)[name]
    before = peak_memory()
    found = ask(server)
    assert isinstance(found, str) and "problem p0" in found
    assert not other.asked  # no prompt went anywhere else
    assert peak_memory() - before < 400 << 20


@pytest.mark.parametrize("name", NAMES)
def test_a_list_of_models_that_means_harm_is_a_clear_error_within_bounds(
    servers: tuple[RawServer, RawServer], name: str
) -> None:
    server, other = servers
    server.models = attacks(GOOD_MODELS, other.url)[name]
    before = peak_memory()
    assert isinstance(ask(server), str)
    assert not other.asked and not any(line.startswith("POST") for line in server.asked)
    assert peak_memory() - before < 400 << 20


def test_what_trickles_ends_when_its_time_is_over(
    servers: tuple[RawServer, RawServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    def trickle(beginning: bytes) -> Iterable[bytes]:
        yield beginning
        while True:
            time.sleep(0.05)
            yield b" "

    server, _ = servers
    for beginning in (b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "):
        server.completion = lambda beginning=beginning: trickle(beginning)
        assert "no answer within 0.5 s" in str(ask(server, 0.5))
    monkeypatch.setattr(server_module, "PREFLIGHT_SECONDS", 0.5)
    server.models = lambda: trickle(b"HTTP/1.1 200 OK\r\nX: ")
    assert "no answer within 0.5 s" in str(ask(server))


def test_a_redirect_within_the_same_server_is_followed(servers: tuple[RawServer, RawServer]) -> None:
    server, _ = servers
    first = iter([True])
    good = json.dumps(GOOD).encode()
    server.completion = lambda: redirect("/v1/there") if next(first, False) else reply(good)
    assert ask(server) == Generated("4", 7, "stop")
    assert server.asked[-1].startswith("POST /v1/there ")


def test_a_model_whose_name_moves_the_cursor_is_refused(servers: tuple[RawServer, RawServer]) -> None:
    server, _ = servers
    server.models = lambda: reply(json.dumps({"data": [{"id": "a\x1b[31m"}]}).encode())
    assert "not an OpenAI list of models" in str(ask(server))


def try_changed_replies(servers: tuple[RawServer, RawServer], seed: int, count: int) -> None:
    server, _ = servers
    chance = random.Random(seed)
    for _ in range(count):
        good, changed = mutated(GOOD, chance), mutated(GOOD_MODELS, chance)
        server.completion = lambda good=good: reply(good)
        ask(server)
        server.models, honest = (lambda changed=changed: reply(changed)), server.models
        ask(server)
        server.models = honest


def test_replies_with_something_else_in_a_place_are_answers_or_clear_errors(servers: tuple[RawServer, RawServer]) -> None:
    try_changed_replies(servers, seed=1, count=12)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 7))
def test_a_thousand_replies_with_something_else_in_a_place(servers: tuple[RawServer, RawServer], seed: int) -> None:
    try_changed_replies(servers, seed, count=100)
