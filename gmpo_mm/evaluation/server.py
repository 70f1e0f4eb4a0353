"""Answers from any OpenAI-compatible server: vLLM, SGLang, llama.cpp, a hosted model.

Every sample is a request of its own with a seed of its own, made from its problem's seed and its number, so that neither the
number of problems asked for nor an interruption changes what is asked. Whether equal requests get equal answers is up to the
server. What a reasoning server returns apart from its answer is put back in front of it as `<think>...</think>`, because
graders read the text that the model wrote.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
import threading
import urllib.parse
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from gmpo_mm.config.keys import nearest
from gmpo_mm.config.paths import resolve_model_path
from gmpo_mm.data import templates
from gmpo_mm.data.images import load_image
from gmpo_mm.data.prompts import build_messages
from gmpo_mm.data.records import Record
from gmpo_mm.errors import ConfigError
from gmpo_mm.evaluation.generators import Generated
from gmpo_mm.evaluation.results import Protocol
from gmpo_mm.evaluation.server_guard import PLAIN, check_response, refusal_in
from gmpo_mm.evaluation.server_replies import BrokenReply, read_error, read_models, shorten
from gmpo_mm.evaluation.server_requests import Run
from gmpo_mm.runs.usable_model import MERGED_FOLDER

T = TypeVar("T")

PREFLIGHT_SECONDS = 30.0
"""How long the list of models may take, and a connection."""

_NO_PENALTIES = {"min_p": 0.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
OWN_DEFAULTS: dict[str, dict[str, float]] = {
    "vllm": {"top_k": -1, "repetition_penalty": 1.0, **_NO_PENALTIES},
    "sglang": {"top_k": -1, "repetition_penalty": 1.0, **_NO_PENALTIES},
    "llamacpp": {"top_k": 0, "repeat_penalty": 1.0, **_NO_PENALTIES},
}
"""Servers (by `owned_by` of their models) that fill in what a request leaves out from the model's generation_config.json or
from defaults of their own, and what switches that off: a protocol says all there is to its sampling."""

_HINTS = {
    401: "set OPENAI_API_KEY to a key that the server takes",
    403: "set OPENAI_API_KEY to a key that may use this model",
    404: "check the URL, which ends in /v1 as a rule, and that the server offers this kind of completion",
    413: "set the benchmark's max_pixels lower, so that pictures are smaller",
}


def without_credentials(url: str) -> str:
    """The URL without user, password and query, as results and messages show it."""
    return _parse_url(url).base


@dataclass(frozen=True)
class _Address:
    base: str
    headers: dict[str, str]
    query: dict[str, str]
    secrets: tuple[str, ...]


def _import_openai() -> Any:
    try:
        import openai
    except ImportError as error:
        raise ConfigError(f"server: needs the openai package ({error}): pip install 'gmpo-mm[server]'") from error
    return openai


def _parse_url(url: str) -> _Address:
    """Take a URL apart; without a path it means /v1. User and password go into a header, so that no message shows them."""
    fix = "give the server's address, as http://127.0.0.1:8000/v1"
    try:
        parts = urllib.parse.urlsplit(url.strip())
        port = f":{parts.port}" if parts.port is not None else ""
    except ValueError:
        raise ConfigError(f"server: not a readable URL; {fix}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        shown = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="").geturl()
        raise ConfigError(f"server={shorten(shown)}: {fix}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    base = f"{parts.scheme}://{host}{port}{parts.path.rstrip('/') or '/v1'}"
    user, password = (urllib.parse.unquote(part or "") for part in (parts.username, parts.password))
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    headers = {"Authorization": f"Basic {token}"} if user or password else {}
    query = dict(urllib.parse.parse_qsl(parts.query))
    secrets = (password, token if headers else "", *query.values())
    return _Address(base, headers, query, tuple(secret for secret in secrets if len(secret) > 3))


def _checked(template: str) -> str:
    """A chat template that compiles, with the whitespace rules that transformers applies to a model's own."""
    try:
        templates.variables("prompt", template)
    except templates.TemplateError as error:
        raise ConfigError(f"chat_template: {error}") from None
    return template


def _names_of(model: str) -> list[str]:
    """What a server may call a model: by its name, or by the folder it was started with, which a run directory means."""
    try:
        folder = resolve_model_path(model)
    except ConfigError:
        return [model]
    folders = [folder, str(Path(folder) / MERGED_FOLDER)] if Path(folder).is_dir() else []
    return [model, *folders, *(str(Path(each).resolve()) for each in folders)]


def _finished(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, from an event loop of its own; in a thread, since a notebook has a loop in this one."""
    result: Future[T] = Future()

    def follow() -> None:
        try:
            result.set_result(asyncio.run(work))
        except BaseException as error:  # raised in the calling thread
            result.set_exception(error)

    threading.Thread(target=follow, name="server's models", daemon=True).start()
    return result.result()


class ServerGenerator:
    """Samples from a server; see `gmpo_mm.evaluation.generators.Generator`."""

    def __init__(
        self,
        url: str,
        model: str | None,
        *,
        api_key: str | None = None,
        concurrency: int = 16,
        retries: int = 5,
        timeout: float = 600.0,
        format_prompt: str | None = None,
        chat_template: str | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
    ) -> None:
        """Ask the server at `url` for its models and take `model`, or its only one. Raises ConfigError.

        `api_key` comes from OPENAI_API_KEY when it is None. `concurrency` requests are open at once; one that meets 429, 5xx,
        a time-out after `timeout` seconds, a dropped connection or a broken reply is asked again up to `retries` times. With
        `chat_template` the prompt is rendered here and completed as raw text; else the server's own chat template applies.
        """
        for key, value, least in (("concurrency", concurrency, 1), ("retries", retries, 0)):
            if value < least:
                raise ConfigError(f"{key}={value}: give at least {least}")
        if not 0 < timeout < float("inf"):
            raise ConfigError(f"request_timeout={timeout}: give a number of seconds above 0")
        self.openai = _import_openai()
        self.concurrency, self.retries, self.timeout = concurrency, retries, timeout
        self.format_prompt, self.min_pixels, self.max_pixels = format_prompt, min_pixels, max_pixels
        self.template = None if chat_template is None else _checked(chat_template)
        self.address = _parse_url(url)
        self.url = self.address.base
        self.api_key = self._choose_key(api_key)
        self.headers: dict[str, Any] = dict(self.address.headers)
        if self.api_key is None and not self.headers:
            self.headers["Authorization"] = self.openai.Omit()  # the client would not do without a key otherwise
        self.model, kind = self._find_model(model)
        self.own_defaults = OWN_DEFAULTS.get(kind, {})
        self.caveats: list[str] = []
        """What a reader of the numbers should know about the server; `generate` may add to it."""
        if not self.own_defaults:
            self.caveats.append(
                f"{self.url} is of no kind whose defaults are known: what the protocol does not set (min_p, penalties, top_k "
                "unless given) stays at the server's own values, which this program can't see"
            )
        self.name = f"server {self.url} {self.model}"

    def generate(
        self,
        records: Sequence[Record],
        protocol: Protocol,
        seeds: Sequence[int],
        on_done: Callable[[int, list[Generated]], None],
        note: Callable[[str], None] | None = None,
    ) -> None:
        """See Generator.generate. Raises ConfigError for what the server refuses, TrainingError when it stays unreachable."""
        if self.template is not None:
            for record in records:
                if record.images:
                    raise ConfigError(
                        f"{record.where}: has images, and a prompt template of raw text (qwen_math, r1, no) takes none on a "
                        "server; choose a template without chat_template, as template=model"
                    )
        Run(self, records, protocol, seeds).follow(on_done, note or (lambda text: None))

    def close(self) -> None:
        """Nothing stays open between calls of `generate`."""

    def prompt(self, record: Record) -> dict[str, Any]:
        """The part of a request that holds the problem: `messages`, or `prompt` where a template is rendered here."""
        messages = build_messages(record, self.format_prompt)
        if self.template is not None:
            try:
                values = {"messages": messages, "add_generation_prompt": True, "tools": None}
                return {"prompt": templates.render("prompt", self.template, values)}
            except templates.TemplateError as error:
                raise ConfigError(f"{record.where}: chat_template can't be rendered: {error}; it is given messages") from None
        if record.images:
            urls = iter(self._data_url(record, i) for i in range(len(record.images)))
            for part in messages[0]["content"]:
                if part["type"] == "image":
                    part |= {"type": "image_url", "image_url": {"url": next(urls)}}
        return {"messages": messages}

    def sampling(self, protocol: Protocol, seed: int) -> dict[str, Any]:
        """The part of a request that says how to sample."""
        extra = dict(self.own_defaults)
        if protocol.top_k > 0:
            extra["top_k"] = protocol.top_k
        request: dict[str, Any] = {
            "model": self.model, "n": 1, "temperature": protocol.temperature, "top_p": protocol.top_p,
            "max_tokens": protocol.max_tokens, "extra_body": extra, "extra_headers": self.headers,
        }  # fmt: skip
        if protocol.temperature > 0:
            request["seed"] = seed
        if protocol.stop:
            request["stop"] = list(protocol.stop)
        return request

    def open_client(self) -> Any:
        """An asynchronous client of the openai package that does not retry by itself and bounds every reply."""
        limit = self.openai.Timeout(self.timeout, connect=PREFLIGHT_SECONDS)
        guarded = self.openai.DefaultAsyncHttpxClient(
            base_url=self.url, timeout=limit, event_hooks={"response": [check_response]}
        )
        return self.openai.AsyncOpenAI(
            api_key=self.api_key or "none", base_url=self.url, max_retries=0, default_query=self.address.query,
            timeout=limit, default_headers=PLAIN, http_client=guarded,
        )  # fmt: skip

    def clean(self, text: str) -> str:
        """A server's text for a message: short, printable, and without the key should the server repeat it."""
        for secret in (self.api_key, *self.address.secrets):
            if secret:
                text = text.replace(secret, "[key]")
        return shorten(text)

    def refusal(self, where: str, status: int, body: bytes) -> ConfigError:
        """The error for an answer of the server that asking again would not change."""
        hint = _HINTS.get(status, "change what it names, or ask another server")
        return ConfigError(f"{where}: the server refuses with {status}: {self.clean(read_error(body))}; {hint}")

    def _choose_key(self, api_key: str | None) -> str | None:
        if self.address.headers:
            if api_key:
                raise ConfigError(f"server={self.url}: has a user in its URL and an API key was given; give one of the two")
            return None
        return api_key or os.environ.get("OPENAI_API_KEY") or None

    def _find_model(self, model: str | None) -> tuple[str, str]:
        """The model to ask for and the kind of server, from the server's list of models."""
        try:
            raw = _finished(self._list_models())
        except self.openai.APIStatusError as error:
            raise self.refusal(f"server={self.url}: /models", error.status_code, error.response.content) from None
        except (self.openai.APIConnectionError, asyncio.TimeoutError) as error:
            if refused := refusal_in(error):
                raise ConfigError(f"server={self.url}: /models: {self.clean(str(refused))}") from None
            reason = self.clean(str(error.__cause__ or error)) or f"no answer within {PREFLIGHT_SECONDS:g} s"
            raise ConfigError(
                f"server={self.url}: can't be reached ({reason}); start it, or correct the URL, as http://127.0.0.1:8000/v1"
            ) from None
        try:
            models = read_models(raw)
        except BrokenReply:
            raise ConfigError(
                f"server={self.url}: {self.url}/models is not an OpenAI list of models: {self.clean(read_error(raw))}; check "
                "the URL, which ends in /v1 as a rule"
            ) from None
        served = ", ".join(list(models)[:20]) + (", ..." if len(models) > 20 else "") if models else "none"
        if model is None:
            if len(models) != 1:
                raise ConfigError(f"server={self.url}: serves {len(models)} models; name one as model=NAME: {served}")
            model = next(iter(models))
        elif (served_as := next((name for name in _names_of(model) if name in models), None)) is not None:
            model = served_as
        else:
            close = nearest(model, list(models)) if models else None
            hint = f" (did you mean {close}?)" if close else ""
            raise ConfigError(f"model={model}: {self.url} does not serve it{hint}; its models: {served}")
        return model, models[model]

    async def _list_models(self) -> bytes:
        async with self.open_client() as client:
            call = client.models.with_raw_response.list(timeout=PREFLIGHT_SECONDS, extra_headers=self.headers)
            listing = await asyncio.wait_for(call, PREFLIGHT_SECONDS)
            content: bytes = listing.content
            return content

    def _data_url(self, record: Record, index: int) -> str:
        picture = load_image(record.images[index], self.min_pixels, self.max_pixels, f"{record.where}, image {index}")
        file = io.BytesIO()
        picture.save(file, "PNG")
        return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
