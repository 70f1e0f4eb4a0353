"""What an OpenAI-compatible server answers, read with distrust: responses, errors, and how long it wants to be left alone."""

from __future__ import annotations

import email.utils
import json
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

from gmpo_mm.errors import ConfigError, DataError, GMPOError

FIRST_WAIT = 1.0
"""Seconds before the second try; each further wait is twice as long, up to LONGEST_WAIT."""
LONGEST_WAIT = 60.0
MAX_NAME = 1000
"""Characters of a model's name."""
_JITTER = random.Random()


class BrokenReply(Exception):
    """A reply that another try may give whole: cut off, or a proxy's page in place of the server's."""


def parse_reply(raw: bytes) -> dict[str, Any]:
    """A reply's JSON object. Raises BrokenReply when it is none."""
    try:
        reply = json.loads(raw)
    except (ValueError, RecursionError):  # RecursionError: nested too deep
        reply = None
    if not isinstance(reply, dict):
        raise BrokenReply(f"not a JSON object: {_beginning(raw)}")
    return reply


def _beginning(raw: bytes) -> str:
    """How a reply begins, for a message."""
    return repr(raw[:200].decode("utf-8", "replace"))


def read_models(raw: bytes) -> dict[str, str]:
    """Name -> `owned_by` of each model in a server's list. Raises BrokenReply for anything else than such a list."""
    entries = parse_reply(raw).get("data")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise BrokenReply(f"not a list of models: {_beginning(raw)}")
    names = [entry.get("id") for entry in entries]
    if not all(isinstance(name, str) and 0 < len(name) <= MAX_NAME and name.isprintable() for name in names):
        raise BrokenReply(f"not a list of models: {_beginning(raw)}")
    return {name: _string(entry.get("owned_by")) for name, entry in zip(names, entries, strict=True)}


def _string(value: Any) -> str:
    """A text as it is, and of anything else, which may be nested deep, only the kind."""
    return value if isinstance(value, str) else "" if value is None else f"({type(value).__name__})"


def read_response(raw: bytes, stops: Sequence[str]) -> tuple[str, int, str]:
    """(text, tokens, "stop" or "length") of a completion with one choice.

    Reasoning that came apart from the answer is put in front of it as `<think>reasoning</think>`, and is left open when the
    response was cut off in it. A stop text, which servers cut off, is put back. Raises BrokenReply, or a GMPOError for what
    another try would not fix.
    """
    reply = parse_reply(raw)
    if "choices" not in reply and "error" in reply:  # some proxies send errors with status 200
        raise BrokenReply(read_error(raw))
    choices = reply.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise DataError(f"the reply has no choice: {_beginning(raw)}; ask another server")
    choice = choices[0]
    finish = choice.get("finish_reason")
    if finish not in ("stop", "length"):
        raise _refuse_finish(finish)
    usage = reply.get("usage") or {}
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else usage
    if not isinstance(tokens, int) or isinstance(tokens, bool) or not 0 <= tokens < 2**31:
        raise ConfigError(
            "the server reports no usage.completion_tokens, or no number of tokens there, so lengths are unknown; switch usage "
            f"on there. The reply: {_beginning(raw)}"
        )
    text = _text(choice, finish)
    if finish == "stop" and stops:
        text += _stop_text(choice, stops, text)
    return text, tokens, finish


def _text(choice: Mapping[str, Any], finish: str) -> str:
    message = choice.get("message")
    if not isinstance(message, dict):
        message = {"content": choice.get("text")}
    content = message.get("content") or ""
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    if not isinstance(content, str) or not isinstance(reasoning, str):
        raise DataError(f"the response is no text: {_string(content or reasoning)[:200]!r}; ask another server")
    if not reasoning:
        return content
    cut_off_in_it = finish == "length" and not content
    return f"<think>{reasoning}" if cut_off_in_it else f"<think>{reasoning}</think>{content}"


def _stop_text(choice: Mapping[str, Any], stops: Sequence[str], text: str) -> str:
    """The stop text to put back: vLLM names it in stop_reason, SGLang in matched_stop; anything else is the model's end."""
    for key in ("stop_reason", "matched_stop"):
        if key in choice:
            stop = choice[key]
            return stop if stop in stops and not text.endswith(stop) else ""
    if text.endswith(tuple(stops)):
        return ""
    raise ConfigError(
        f"the server doesn't say whether a stop text ended the response, and graders need {', '.join(stops)} there; serve with "
        "vLLM or SGLang, or choose a template without stop"
    )


def _refuse_finish(finish: Any) -> GMPOError:
    if finish == "content_filter":
        return DataError("the server's content filter withheld the response (finish_reason=content_filter); ask another server")
    shown = None if finish is None else _string(finish)[:100]
    return DataError(f"the response ended with finish_reason={shown!r}, which is neither stop nor length; ask another server")


def read_error(raw: bytes) -> str:
    """The server's own words in an error's body, whatever its form."""
    try:
        body = parse_reply(raw)
    except BrokenReply:
        return raw.decode("utf-8", "replace")
    for key in ("error", "message", "detail"):
        value = body.get(key)
        if isinstance(value, dict):
            value = value.get("message")
        if value:
            return value if isinstance(value, str) else raw.decode("utf-8", "replace")
    return raw.decode("utf-8", "replace")


def shorten(text: str, limit: int = 400) -> str:
    """One printable line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= limit else line[:limit] + "..."


def wanted_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or as a date; None without a readable one."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError, OverflowError):
            return None
    return max(0.0, seconds) if seconds < float("inf") else None


def wait_before(attempt: int) -> float:
    """Seconds to wait after try number `attempt` (from 0) failed; spread, so that clients don't come back together."""
    return min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * _JITTER.uniform(0.5, 1.0)
