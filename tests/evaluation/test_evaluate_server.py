"""An evaluation whose answers come over HTTP: the same files, no secret in them, and it goes on where the server failed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from gmpo_mm.errors import ConfigError, TrainingError
from gmpo_mm.evaluation.evaluate import evaluate
from gmpo_mm.evaluation.results import Result, read_result
from tests.evaluation.evaluations import settings
from tests.evaluation.http_server import Answer, HTTPServer, Request, completion


def solve(request: Request) -> Answer:
    """Right or wrong as the seed has it."""
    return completion(f"<think>?</think>\\boxed{{{request.body['seed'] % 40}}}")


def evaluate_on(url: str, out: Path, **changes: object) -> Result:
    (result,) = evaluate(settings(out, model="", server=url, **changes), command=["gmpo-mm", "evaluate", "--server", url])
    return result


def test_answers_of_a_server_are_graded_and_kept_like_any_others(serve: Callable[..., HTTPServer], tmp_path: Path) -> None:
    server = serve(solve)
    result = evaluate_on(server.url, tmp_path / "out")
    assert result.complete and result.spec.model == "tiny" and result.spec.backend == f"server {server.url} tiny"
    for sample in result.samples:
        box = re.search(r"\d+", sample.response)
        assert box is not None and sample.correct == (box.group() == result.problems[sample.index].golds[0])
    assert len({request.body["seed"] for request in server.requests}) == len(server.requests) == 48


def test_the_password_in_the_address_reaches_no_file(serve: Callable[..., HTTPServer], tmp_path: Path) -> None:
    url = serve(solve).url.replace("//", "//reader:hunter2@") + "?token=hunter3"
    result = evaluate_on(url, tmp_path / "out", limit=2)
    for file in result.path.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert b"hunter2" not in content and b"hunter3" not in content, file.name


def test_a_failing_server_costs_nothing_that_was_answered(serve: Callable[..., HTTPServer], tmp_path: Path) -> None:
    whole = evaluate_on(serve(solve).url, tmp_path / "whole")
    failing = serve(lambda request: solve(request) if request.number < 20 else Answer(503))
    with pytest.raises(TrainingError, match="done"):
        evaluate_on(failing.url, tmp_path / "cut", retries=1, concurrency=1)
    folder = tmp_path / "cut" / whole.path.name
    assert len(read_result(folder).samples) == 20  # 5 problems of 4 samples
    failing.respond = solve
    evaluate_on(failing.url, tmp_path / "cut")
    assert (folder / "samples.jsonl").read_bytes() == (whole.path / "samples.jsonl").read_bytes()
    assert len([request for request in failing.requests if request.repeat == 0]) == 48  # nothing was asked for twice


def test_a_server_is_asked_for_no_problem_after_the_decision(serve: Callable[..., HTTPServer], tmp_path: Path) -> None:
    server = serve(solve)
    result = evaluate_on(server.url, tmp_path / "out", limit=40, stop_when_decided=0.3, batch=12)  # 3 problems of 4 samples
    used = result.summary["stopped_early"]["problems"]
    assert 5 < used < 35 and len(result.samples) == 4 * used <= len(server.requests) <= 4 * (used + 2)


def test_going_on_with_another_server_is_refused(serve: Callable[..., HTTPServer], tmp_path: Path) -> None:
    result = evaluate_on(serve(solve).url, tmp_path / "out", limit=2)
    (result.path / "summary.json").unlink()
    with pytest.raises(ConfigError, match="backend was 'server http"):
        evaluate_on(serve(solve).url, tmp_path / "out", limit=2)


def test_half_a_surrogate_pair_and_odd_characters_survive(serve: Callable[..., HTTPServer], tmp_path: Path) -> None:
    text = "\ud83d half, \x00 \u2028 \\boxed{1}"
    server = serve(lambda request: completion(text))
    result = evaluate_on(server.url, tmp_path / "out", limit=2)
    # UTF-8 has no form for it, so nothing could be written or shown of it
    assert {sample.response for sample in read_result(result.path).samples} == {text.replace("\ud83d", "\ufffd")}
    assert (result.path / "page.html").stat().st_size > 0
