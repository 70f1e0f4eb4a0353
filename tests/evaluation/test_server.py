"""What a server is asked and how its replies are read, against a real HTTP server on 127.0.0.1."""

from __future__ import annotations

import base64
import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from gmpo_mm.data.images import ImageSource, load_image
from gmpo_mm.data.records import Record
from gmpo_mm.errors import ConfigError, DataError, GMPOError
from gmpo_mm.evaluation import server_replies
from gmpo_mm.evaluation.generators import Generated
from gmpo_mm.evaluation.server import ServerGenerator
from gmpo_mm.evaluation.server_requests import request_seed
from tests.evaluation.http_server import Answer, Request, completion, echo, text_completion
from tests.evaluation.serving import SEEDS, Serve, protocol, record, sample

TEMPLATES = Path(server_replies.__file__).parent / "prompt_templates.yaml"


# What is asked


def test_a_request_says_the_whole_protocol(serve: Serve) -> None:
    server = serve()
    done = sample(server, [record(0)], protocol(temperature=0.7, top_p=0.9))
    (request,) = server.requests
    assert request.path == "/v1/chat/completions"
    assert request.body == {
        "model": "tiny", "messages": [{"role": "user", "content": "question 0"}], "temperature": 0.7, "top_p": 0.9,
        "max_tokens": 64, "n": 1, "seed": request_seed(SEEDS[0], 0),
    }  # fmt: skip
    assert done == {0: [Generated(f"question 0|{request_seed(SEEDS[0], 0)}", 7, "stop")]}


def test_top_k_is_sent_when_it_is_set_and_greedy_has_no_seed(serve: Serve) -> None:
    server = serve()
    sample(server, [record(0)], protocol(top_k=20))
    sample(server, [record(0)], protocol(temperature=0.0))
    assert server.requests[0].body["top_k"] == 20
    assert "top_k" not in server.requests[1].body and "seed" not in server.requests[1].body
    assert server.requests[1].body["temperature"] == 0.0


@pytest.mark.parametrize(
    "kind, penalty", [("vllm", "repetition_penalty"), ("sglang", "repetition_penalty"), ("llamacpp", "repeat_penalty")]
)
def test_servers_with_sampling_defaults_of_their_own_are_told_the_neutral_values(serve: Serve, kind: str, penalty: str) -> None:
    server = serve()
    server.models["data"][0]["owned_by"] = kind
    sample(server, [record(0)], protocol())
    body = server.requests[0].body
    assert body["top_k"] <= 0 and body[penalty] == 1.0
    assert [body[key] for key in ("min_p", "presence_penalty", "frequency_penalty")] == [0.0, 0.0, 0.0]
    sample(server, [record(0)], protocol(top_k=20))
    assert server.requests[1].body["top_k"] == 20
    assert ServerGenerator(server.url, None).caveats == []


def test_a_server_of_unknown_kind_has_a_caveat(serve: Serve) -> None:
    (caveat,) = ServerGenerator(serve().url, None).caveats
    assert "server's own values" in caveat


def test_a_server_that_cuts_responses_off_before_the_protocol_does_is_told_of_once(serve: Serve) -> None:
    server = serve(lambda request: completion("x", tokens=64 if request.number == 0 else 40, finish="length"))
    server.models["data"][0]["owned_by"] = "vllm"
    generator = ServerGenerator(server.url, None, concurrency=1)
    generator.generate([record(0)], protocol(), SEEDS[:1], lambda i, responses: None)
    assert generator.caveats == []
    generator.generate([record(i) for i in range(3)], protocol(), SEEDS[:3], lambda i, responses: None)
    (caveat,) = generator.caveats
    assert "problem p0" in caveat and "after 40 tokens and not 64" in caveat


def test_each_sample_has_a_seed_of_its_own_that_only_problem_and_number_decide(serve: Serve) -> None:
    server = serve()
    records = [record(i) for i in range(6)]
    whole = sample(server, records, protocol(n=4))
    seeds = [request.body["seed"] for request in server.requests]
    assert len(set(seeds)) == 24 and all(0 <= seed < 2**31 for seed in seeds)
    again = sample(server, records, protocol(n=4), concurrency=1)
    assert again == whole
    backwards = sample(server, records[::-1], protocol(n=4), SEEDS[5::-1], concurrency=3)
    assert {5 - i: responses for i, responses in backwards.items()} == whole
    assert sample(server, records[4:5], protocol(n=2), SEEDS[4:5])[0] == whole[4][:2]


def test_samples_come_in_their_order_however_the_answers_do(serve: Serve) -> None:
    server = serve(lambda request: Answer(**(vars(echo(request)) | {"wait": 0.05 * (3 - request.number % 4)})))
    done = sample(server, [record(i) for i in range(3)], protocol(n=4))
    for i in range(3):
        assert [response.text for response in done[i]] == [f"question {i}|{request_seed(SEEDS[i], j)}" for j in range(4)]


def test_no_more_requests_are_open_than_allowed_and_that_many_are(serve: Serve) -> None:
    barrier = threading.Barrier(3, timeout=200)

    def respond(request: Request) -> Answer:
        if request.number < 9:
            barrier.wait()  # passes only when three requests are open together
        return Answer(**(vars(echo(request)) | {"wait": 0.3}))  # long enough for a fourth to come, if one could

    server = serve(respond)
    assert len(sample(server, [record(i) for i in range(6)], protocol(n=2), concurrency=3)) == 6
    assert server.most_open == 3


def test_the_format_prompt_is_rendered_around_the_problem(serve: Serve) -> None:
    server = serve()
    sample(server, [record(0)], protocol(), format_prompt="{{ content }}, boxed")
    assert server.requests[0].body["messages"][0]["content"] == "question 0, boxed"


@pytest.mark.parametrize("limits", [{}, {"max_pixels": 1200}, {"min_pixels": 9000}])
def test_pictures_arrive_as_they_do_in_training(serve: Serve, limits: dict[str, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 4), dtype=np.uint8)
    png = io.BytesIO()
    Image.fromarray(noise).save(png, "PNG")  # with transparency
    sources = [ImageSource(data=png.getvalue()), ImageSource(picture=Image.new("RGB", (30, 50), (9, 200, 30)))]
    text = "left <image> right <image> which?"
    server = serve()
    sample(server, [Record(text, tuple(sources), "1", ("1",), "p")], protocol(n=2), **limits)
    parts = server.requests[0].body["messages"][0]["content"]
    assert server.requests[1].body["messages"][0]["content"] == parts
    assert [part.get("text") for part in parts] == ["left ", None, " right ", None, " which?"]
    for part, source in zip(parts[1::2], sources, strict=True):
        assert part["type"] == "image_url"
        head, _, data = part["image_url"]["url"].partition(",")
        picture = Image.open(io.BytesIO(base64.b64decode(data)))
        assert head == "data:image/png;base64" and picture.format == "PNG" and picture.mode == "RGB"
        expected = load_image(source, limits.get("min_pixels"), limits.get("max_pixels"), "x")
        assert np.array_equal(np.asarray(picture), np.asarray(expected))


@pytest.mark.parametrize("name", ["qwen_math", "r1", "no"])
def test_raw_templates_are_completed_as_the_text_that_transformers_renders(serve: Serve, name: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    template = yaml.safe_load(TEMPLATES.read_text(encoding="utf-8"))[name]["chat_template"]
    server = serve(lambda request: text_completion(" so 3", stop_reason=None))
    done = sample(server, [record(0)], protocol(stop=("</answer>",)), chat_template=template)
    (request,) = server.requests
    messages = [{"role": "user", "content": "question 0"}]
    expected = render_jinja_template(conversations=[messages], chat_template=template, add_generation_prompt=True)[0][0]
    assert request.path == "/v1/completions"
    assert request.body["prompt"] == expected and request.body["stop"] == ["</answer>"]
    assert done[0] == [Generated(" so 3", 7, "stop")]


def test_raw_templates_refuse_pictures_before_anything_is_asked(serve: Serve) -> None:
    server = serve()
    picture = ImageSource(picture=Image.new("RGB", (8, 8)))
    with pytest.raises(ConfigError, match="row 1: has images"):
        sample(server, [record(0), record(1, [picture])], protocol(), chat_template="{{ messages[-1].content }}")
    assert server.requests == []


@pytest.mark.parametrize(
    "template, said",
    [("{% if %}", "broken"), ("{{ bos_token }}x", "bos_token"), ("{{ ''.__class__.mro() }}", "unsafe")],
)
def test_a_template_that_cannot_be_rendered_is_named(serve: Serve, template: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sample(serve(), [record(0)], protocol(), chat_template=template)


# How replies are read


@pytest.mark.parametrize(
    "answer, expected",
    [
        (completion("all", finish="length"), Generated("all", 7, "length")),
        (completion(None), Generated("", 7, "stop")),
        (completion(""), Generated("", 7, "stop")),
        (completion("4", reasoning_content="2+2"), Generated("<think>2+2</think>4", 7, "stop")),
        (completion("4", reasoning="2+2"), Generated("<think>2+2</think>4", 7, "stop")),
        (completion(None, reasoning="2+"), Generated("<think>2+</think>", 7, "stop")),
        (completion(None, reasoning="2+", finish="length"), Generated("<think>2+", 7, "length")),
        (completion("4", reasoning_content=None, reasoning=""), Generated("4", 7, "stop")),
        (completion("4", tokens=0), Generated("4", 0, "stop")),
    ],
)
def test_a_reply_becomes_text_length_and_end(serve: Serve, answer: Answer, expected: Generated) -> None:
    assert sample(serve(lambda request: answer), [record(0)], protocol())[0] == [expected]


@pytest.mark.parametrize(
    "choice, text",
    [
        ({"stop_reason": "</answer>"}, "<answer>4</answer>"),  # vLLM
        ({"matched_stop": "</answer>"}, "<answer>4</answer>"),  # SGLang
        ({"stop_reason": None}, "<answer>4"),
        ({"stop_reason": 151643}, "<answer>4"),
        ({"finish": "length"}, "<answer>4"),
    ],
)
def test_a_stop_text_that_the_server_cut_off_is_put_back(serve: Serve, choice: dict[str, Any], text: str) -> None:
    server = serve(lambda request: text_completion("<answer>4", **choice))
    done = sample(server, [record(0)], protocol(stop=("</answer>",)), chat_template="{{ messages[-1].content }}")
    assert done[0][0].text == text


def test_a_server_that_does_not_say_what_stopped_it_is_refused_where_that_matters(serve: Serve) -> None:
    server = serve(lambda request: text_completion("<answer>4"))
    raw = {"chat_template": "{{ messages[-1].content }}"}
    assert sample(server, [record(0)], protocol(), **raw)[0][0].text == "<answer>4"
    with pytest.raises(ConfigError, match="problem p0.*stop text"):
        sample(server, [record(0)], protocol(stop=("</answer>",)), **raw)


@pytest.mark.parametrize(
    "answer, kind, said",
    [
        (completion("x", finish="content_filter"), DataError, "content filter"),
        (completion("x", finish=None), DataError, "finish_reason=None"),
        (completion(None, finish="tool_calls"), DataError, "tool_calls"),
        (completion("x", tokens=None), ConfigError, "usage.completion_tokens"),
        (Answer(body={"choices": [], "usage": {"completion_tokens": 1}}), DataError, "no choice"),
        (completion(["x"]), DataError, "no text"),  # type: ignore[arg-type]
    ],
)
def test_a_reply_that_cannot_be_counted_is_an_error_that_names_the_problem(
    serve: Serve, answer: Answer, kind: type[GMPOError], said: str
) -> None:
    server = serve(lambda request: answer)
    with pytest.raises(kind, match=f"model tiny, problem p0 .*{said}"):
        sample(server, [record(0)], protocol())
    assert len(server.requests) == 1
