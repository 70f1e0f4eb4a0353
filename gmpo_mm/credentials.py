"""What nobody may read who reads our files or our terminal: passwords, tokens, keys. Which values those are, and their mask.

A value is hidden by the name of its key (`token`, `api_key`, ...), as the user, password or query of a URL, and behind
`Bearer`; in messages also where it equals the value of an environment variable of such a name.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml

HIDDEN = "<hidden>"

_WORDS = frozenset({
    "auth", "authorization", "bearer", "credential", "credentials", "passphrase", "passwd", "password", "passwords", "pwd",
    "secret", "secrets",
})  # fmt: skip
_ANYWHERE = re.compile(
    "password|passwd|passphrase|credential|secret|api_?keys?|(access|private|signing|encryption|account|auth)_?keys?"
    "|(access|auth|api|refresh|session|bearer|hf|github|wandb)_?tokens?"
)
_OF_A_TEXT = frozenset({
    "answer", "begin", "bos", "box", "chat", "cls", "end", "eos", "image", "img", "mask", "pad", "per", "prompt", "response",
    "sep", "special", "start", "stop", "think", "unk", "video", "vision",
})  # fmt: skip
"""`pad_token` is a word of a vocabulary."""
_CAPITALS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_USER = re.compile(r"(?P<scheme>\b[a-z][a-z0-9+.-]*://)[^\s/?#'\"<>]+@", re.IGNORECASE)
_QUERY = re.compile(r"(?P<name>[?&;][\w.-]+)=(?P<value>[^\s&;#'\"<>]+)")
_BEARER = re.compile(r"\b(?P<kind>Bearer|Authorization:\s*\w+)\s+[\w.+/=~-]{8,}")
_REFERENCE = re.compile(r"\$\{(?:oc\.env:\s*[A-Za-z_]\w*\s*(?:,\s*(?:null|''|\"\")?\s*)?|\.*[A-Za-z_][\w.\[\]]*)\}")
"""`${oc.env:NAME}` or `${another.key}`, without a value of its own in it."""
_VARIABLE = re.compile(r"oc\.env:\s*['\"]?([A-Za-z_]\w*)")
_PLACES = ("dir", "directory", "file", "folder", "method", "path", "sock", "socket", "store", "type")
_SHORTEST = 6
"""A shorter value would be found in half of all messages."""

_known: set[str] = set()


@functools.lru_cache(maxsize=4096)
def is_credential(key: str) -> bool:
    """Whether the last part of a dotted key is a name of something secret: `kwargs.api_key`, `--hf-token`, `DB_PASSWORD`."""
    name = _CAPITALS.sub("_", key.rpartition(".")[2].strip())
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
    while words and words[-1].isdigit():
        words.pop()
    if not words or words[-1] in _PLACES:
        return False
    if _WORDS & set(words) or _ANYWHERE.search("_".join(words)):
        return True
    return words[-1] in ("token", "apitoken") and not _OF_A_TEXT & set(words)


def hide(key: str, value: Any) -> Any:
    """The value of a key as it may be shown and saved; lists and mappings are gone through. Nothing secret: as it is."""
    if isinstance(value, Mapping):
        if value and is_credential(key):
            return HIDDEN
        return {name: hide(f"{key}.{name}", inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return HIDDEN if value and is_credential(key) else [hide(key, inner) for inner in value]
    if value is None or isinstance(value, bool) or value == "":
        return value
    if is_credential(key):
        return HIDDEN
    return hide_in_text(value) if isinstance(value, str) else value


def hide_in_text(text: str) -> str:
    """A text without users, passwords and secret queries of the URLs in it, and without what stands behind Bearer."""
    if "://" in text:
        text = _USER.sub(lambda match: f"{match['scheme']}{HIDDEN}@", text)
        text = _QUERY.sub(
            lambda match: f"{match['name']}={HIDDEN if _in_query(match['name'][1:]) else match['value']}", text
        )
    return _BEARER.sub(lambda match: f"{match['kind']} {HIDDEN}", text)


def _in_query(name: str) -> bool:
    return is_credential(name) or name.lower() in ("key", "sig", "signature", "code", "x-amz-signature")


def hide_written(key: str, text: Any) -> Any:
    """A value with `${...}` in it, as it is saved: as written, unless a secret stands in it beside or within the `${...}`."""
    if not isinstance(text, str):
        return text if all(hide_written(key, part) == part for part in texts_of(text)) else HIDDEN
    rest = _REFERENCE.sub("", text)
    secret = is_credential(key) or any(is_credential(name) for name in _VARIABLE.findall(rest))
    if secret and rest.strip() not in ("", "Bearer", "Basic", "token"):
        return HIDDEN
    return hide_in_text(text)


def is_hidden(value: Any) -> bool:
    """Whether a value, or something in it, was hidden when it was saved."""
    return any(HIDDEN in text for text in texts_of(value))


def texts_of(value: Any) -> Iterator[str]:
    """Every text in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from texts_of(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from texts_of(inner)


def hide_argument(text: str) -> str:
    """`key=value` or another word of a command line, as it may be shown."""
    key, separator, value = text.partition("=")
    if separator and re.fullmatch(r"[+~-]*[\w.\[\]-]+", key.strip()):
        if is_credential(key):
            shown = value if hide_written(key, value) == value and "${" in value else HIDDEN
            return f"{key}={shown}" if value else text
        if value.lstrip()[:1] in ("{", "["):
            return f"{key}={_hide_flow(key, value)}"
    return hide_in_text(text)


def _hide_flow(key: str, value: str) -> str:
    try:
        read = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError):
        return HIDDEN if any(is_credential(word) for word in re.findall(r"[\w-]+", value)) else hide_in_text(value)
    if isinstance(read, list) and all(isinstance(item, str) for item in read):  # a sweep's overrides
        shown: Any = [hide_argument(item) for item in read]
    else:
        shown = hide(key, read)
    if shown == read:
        return value
    return yaml.safe_dump(shown, default_flow_style=True, sort_keys=False, width=10**9, allow_unicode=True).strip()


def hide_command(command: Iterable[str]) -> list[str]:
    """The words of a command line as they may be saved."""
    shown: list[str] = []
    before = ""
    for word in command:
        if before.startswith("--") and "=" not in before and is_credential(before) and not word.startswith("--"):
            shown.append(HIDDEN)
        else:
            shown.append(clean(hide_argument(word)))
        before = word
    return shown


def remember(key: str, value: Any) -> None:
    """From now on `clean` takes this value out of messages, where its key says that it is secret. Lists and mappings too."""
    if isinstance(value, Mapping) and not is_credential(key):
        for name, inner in value.items():
            remember(f"{key}.{name}", inner)
    elif isinstance(value, (list, tuple)) and not is_credential(key):
        for inner in value:
            remember(key, inner)
    elif is_credential(key):
        numbers = [str(value)] if isinstance(value, (int, float)) and not isinstance(value, bool) else []
        _known.update(text for text in (*texts_of(value), *numbers) if len(text) >= _SHORTEST and text != HIDDEN)


def clean(text: str) -> str:
    """A message without secrets: those remembered, those of the environment, and those of URLs."""
    found = _known | {value for name, value in os.environ.items() if is_credential(name) and _may_be_secret(name, value)}
    for value in sorted(found, key=len, reverse=True):
        if value in text:
            text = text.replace(value, HIDDEN)
    return hide_in_text(text)


def _may_be_secret(name: str, value: str) -> bool:
    """PWD is the working directory, and a path that is there is where a secret lies, not the secret."""
    return len(value) >= _SHORTEST and name not in ("PWD", "OLDPWD") and not os.path.exists(value)


def fingerprint(value: Any, salt: str) -> str:
    """A hash by which a value is known again, and from which it can't be read."""
    content = json.dumps(value, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(f"{salt}:{content}".encode()).hexdigest()
