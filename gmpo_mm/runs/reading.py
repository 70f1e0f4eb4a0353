"""The one way in which files of ours are read back: text, JSON, JSON Lines and YAML, checked against a type.

Whatever is wrong with a file (not there, a folder in its place, a pipe, too large, no UTF-8, no JSON, nested too deep,
a list for a mapping, a missing key, text for a number) is an error of one line: the file, what is wrong, what to do.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from gmpo_mm.errors import DataError, GMPOError

MAX_BYTES = 1 << 30
"""Of a file that is read whole; what we write is far smaller."""

T = TypeVar("T")


def read_bytes(path: Path, advice: str, error: type[GMPOError] = DataError) -> bytes:
    """The content of a regular file. `advice` ends the message: "restore it, or ..."; `error` is what is raised."""
    try:
        # opened without waiting: a pipe in a file's place must not stop the program
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise error(f"{path} is a device or a pipe, and a file is expected there; {advice}")
            if state.st_size > MAX_BYTES:
                raise error(f"{path} has {state.st_size:,} bytes, and at most {MAX_BYTES:,} are read; {advice}")
            return file.read()
    except (OSError, ValueError) as failure:  # ValueError: a path with a zero character
        if isinstance(failure, GMPOError):
            raise
        reason = failure.strerror if isinstance(failure, OSError) else str(failure)
        if isinstance(failure, OSError) and failure.errno == errno.ENOENT:
            reason = "it is not there"
        raise error(f"{path} can't be read ({reason}); {advice}") from None


def read_text(path: Path, advice: str, error: type[GMPOError] = DataError) -> str:
    """The content as UTF-8."""
    content = read_bytes(path, advice, error)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as failure:
        raise error(f"{path} is no UTF-8 text (byte {failure.start}); {advice}") from None


def read_json(path: Path, kind: type[T] | TypeAdapter[T], advice: str, error: type[GMPOError] = DataError) -> T:
    """The content as JSON of the type `kind`: a dataclass, a TypedDict, `dict[str, Any]`. Nothing is converted."""
    adapter = kind if isinstance(kind, TypeAdapter) else TypeAdapter(kind)
    return _checked(adapter, read_bytes(path, advice, error), str(path), advice, error)


def read_rows(path: Path, kind: type[T], advice: str, error: type[GMPOError] = DataError) -> list[T]:
    """The rows of a file of JSON Lines; none where it is not there, and a last line without its end is left out.

    (A kill can cut the last line, and nothing else.)
    """
    if not os.path.lexists(path):
        return []
    adapter = TypeAdapter(kind)
    *lines, _cut = read_bytes(path, advice, error).split(b"\n")
    return [_checked(adapter, line, f"{path}: line {n}", advice, error) for n, line in enumerate(lines, start=1)]


def read_yaml(
    path: Path, advice: str, error: type[GMPOError] = DataError, kind: type | None = None
) -> dict[str, Any]:
    """The content as a YAML mapping, of the TypedDict `kind` where one is given; {} for an empty file."""
    text = read_text(path, advice, error)
    try:
        content = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as failure:
        raise error(f"{path} can't be read ({_one_line(failure)}); {advice}") from None
    if not isinstance(content, dict) and content is not None:
        raise error(f"{path} holds {_kind(content)}, and a mapping is expected; {advice}")
    if kind is not None:
        try:
            TypeAdapter(kind).validate_python(content or {}, strict=True)
        except ValidationError as failure:
            raise error(f"{path}: {_first_error(failure)}; {advice}") from None
    return content or {}


def _checked(adapter: TypeAdapter[T], content: bytes, where: str, advice: str, error: type[GMPOError]) -> T:
    try:
        return adapter.validate_json(_whole_characters(content), strict=True)
    except ValidationError as failure:
        raise error(f"{where}: {_first_error(failure)}; {advice}") from None


def _first_error(failure: ValidationError) -> str:
    first = failure.errors(include_url=False, include_context=False)[0]
    key = ".".join(map(str, first["loc"]))
    found = "" if first["type"] in ("json_invalid", "missing") else f", found {_kind(first['input'])}"
    return f"{key + ': ' if key else ''}{first['msg']}{found}"


def _whole_characters(content: bytes) -> bytes:
    """Half a surrogate pair, which JSON can write and UTF-8 can't, becomes U+FFFD."""
    if b"\\ud" not in content and b"\\uD" not in content:
        return content
    try:
        text = json.dumps(json.loads(content), ensure_ascii=False)
    except (ValueError, RecursionError):
        return content
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _kind(value: Any) -> str:
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", type(None): "nothing"}
    shown = "" if isinstance(value, (dict, list)) or value is None else f" {value!r:.60}"
    return names.get(type(value), "a number") + shown


def _one_line(error: Exception) -> str:
    return "nested too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())[:200]
