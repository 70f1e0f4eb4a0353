"""Finding the server and its model, and keeping keys to oneself, over real HTTP on 127.0.0.1."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from gmpo_mm.errors import ConfigError
from gmpo_mm.evaluation.server import ServerGenerator, without_credentials
from tests.evaluation.http_server import Answer, HTTPServer, Request, echo
from tests.evaluation.serving import SEEDS, Serve, protocol, record, sample

# The server and its models


def test_the_only_model_is_taken_and_named(serve: Serve) -> None:
    server = serve()
    generator = ServerGenerator(server.url + "/", None)
    assert generator.name == f"server {server.url} tiny"
    assert ServerGenerator(server.url.removesuffix("/v1"), "tiny").name == generator.name
    assert len(server.model_requests) == 2


def test_a_model_that_is_not_served_is_refused_with_those_that_are(serve: Serve) -> None:
    server = serve()
    server.models = {"data": [{"id": "qwen-7b"}, {"id": "llama-8b"}]}
    assert ServerGenerator(server.url, "llama-8b").model == "llama-8b"
    with pytest.raises(ConfigError, match=r"model=qwen-7B: .*did you mean qwen-7b\?.*qwen-7b, llama-8b"):
        ServerGenerator(server.url, "qwen-7B")
    with pytest.raises(ConfigError, match="serves 2 models; name one as model=NAME: qwen-7b, llama-8b"):
        ServerGenerator(server.url, None)
    server.models = {"data": []}
    with pytest.raises(ConfigError, match="serves 0 models"):
        ServerGenerator(server.url, None)


def test_an_unreachable_server_is_named_with_the_fix(serve: Serve) -> None:
    server = HTTPServer()
    server.stop()
    with pytest.raises(ConfigError, match=rf"server={server.url}: can't be reached .*start it, or correct the URL"):
        ServerGenerator(server.url, "tiny")


@pytest.mark.parametrize(
    "status, body, said",
    [
        (404, {"detail": "Not Found"}, "404: Not Found.*/v1"),
        (401, {}, "OPENAI_API_KEY"),
        (200, b"<html>", "not an OpenAI list"),
        (200, {"data": ["tiny"]}, "not an OpenAI list"),
    ],
)
def test_what_is_no_such_server_is_said(serve: Serve, status: int, body: Any, said: str) -> None:
    server = serve()
    server.models_status, server.models = status, body
    with pytest.raises(ConfigError, match=said):
        ServerGenerator(server.url, "tiny")


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host/v1", "http:///v1", "http://host:port/v1", ""])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="http://127.0.0.1:8000/v1"):
        ServerGenerator(url, None)


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"retries": -1}, {"timeout": 0.0}, {"timeout": float("nan")}])
def test_numbers_that_cannot_work_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ServerGenerator("http://127.0.0.1:9/v1", None, **options)


def test_without_the_openai_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ConfigError, match=r"pip install 'gmpo-mm\[server\]'"):
        ServerGenerator("http://127.0.0.1:9/v1", None)


# Keys


def test_the_key_is_sent_and_shown_nowhere(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-secret-0123456789"
    monkeypatch.setenv("OPENAI_API_KEY", key)

    def respond(request: Request) -> Answer:
        if request.headers["authorization"] != f"Bearer {key}":
            return echo(request)
        return Answer(400 + 29 * (request.repeat == 0), {"error": {"message": f"bad key {key}"}})

    server = serve(respond)
    notes: list[str] = []
    generator = ServerGenerator(server.url, None)
    with pytest.raises(ConfigError) as caught:
        generator.generate([record(0)], protocol(), SEEDS[:1], lambda i, responses: None, notes.append)
    assert server.model_requests[0]["authorization"] == f"Bearer {key}"
    assert any("bad key [key]" in note for note in notes) and "bad key [key]" in str(caught.value)
    assert key not in json.dumps([str(caught.value), generator.name, *generator.caveats, *notes])
    assert sample(server, [record(0)], protocol(), api_key="another")


def test_without_a_key_none_is_sent(serve: Serve) -> None:
    server = serve()
    sample(server, [record(0)], protocol())
    assert "authorization" not in server.model_requests[0] and "authorization" not in server.requests[0].headers


def test_user_and_query_of_the_url_are_sent_and_shown_nowhere(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-for-another-server")
    server = serve()
    url = server.url.replace("http://", "http://me:pass%20word@") + "?token=t0ken"
    generator = ServerGenerator(url, None)
    generator.generate([record(0)], protocol(), SEEDS[:1], lambda i, responses: None)
    basic = "Basic " + base64.b64encode(b"me:pass word").decode()
    assert server.model_requests[0]["authorization"] == server.requests[0].headers["authorization"] == basic
    assert server.requests[0].path == "/v1/chat/completions?token=t0ken"
    assert generator.name == f"server {server.url} tiny" and without_credentials(url) == server.url
    server.respond = lambda request: Answer(400, {"error": f"pass word {basic} {request.path}"})
    with pytest.raises(ConfigError) as caught:
        generator.generate([record(0)], protocol(), SEEDS[:1], lambda i, responses: None)
    assert "pass word" not in str(caught.value) and basic not in str(caught.value) and "t0ken" not in str(caught.value)
    with pytest.raises(ConfigError, match="give one of the two"):
        ServerGenerator(url, None, api_key="k")


def test_a_run_directory_is_the_model_that_the_server_was_started_with(serve: Serve, tmp_path: Path) -> None:
    model = tmp_path / "run/checkpoints/step_3/huggingface"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    server = serve()
    server.models = {"data": [{"id": str(model / "merged")}, {"id": "other"}]}
    assert ServerGenerator(server.url, str(tmp_path / "run")).model == str(model / "merged")
