"""What a server may do to its reader: bounds on a reply's size, and on where a redirect may lead.

The openai package reads every reply whole and follows redirects anywhere. A hook on each response, which the HTTP client
calls before it reads the body or follows anything, refuses what no honest server does.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urljoin, urlsplit

from gmpo_mm.errors import ConfigError, GMPOError

MAX_BYTES = 16 << 20
"""Of one reply: 32,768 tokens with their reasoning are below 1 MB."""

PLAIN = {"Accept-Encoding": "identity"}
"""Headers that ask for replies without compression: what comes is then as large as what is read."""

_PORTS = {"http": 80, "https": 443}


async def check_response(response: Any) -> None:
    """Refuse a redirect to another server and a compressed body, and bound the body (`MAX_BYTES`). Raises ConfigError."""
    asked = str(response.request.url)
    if response.has_redirect_location:
        target = _joined(asked, response.headers["location"])
        if not _same_server(asked, target):
            raise ConfigError(
                f"the server sends requests on to {_origin(target)!r}, which is not where they were sent ({_origin(asked)!r}), "
                "so the prompts are not sent there; give that address as the server if it is the right one"
            )
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise ConfigError(f"the reply is compressed ({encoding!r:.40}), and none was asked for; switch compression off there")
    response.stream = _bounded(response.stream)


def refusal_in(error: BaseException) -> GMPOError | None:
    """What `check_response` raised, which the openai package wraps into an error of its own."""
    cause = error.__cause__
    return cause if isinstance(cause, GMPOError) else None


def _bounded(stream: Any) -> Any:
    # openai brings httpx, in newer versions under another name; its stream type is what the client accepts
    library = sys.modules[type(stream).__module__.partition(".")[0]]

    class Bounded(library.AsyncByteStream):  # type: ignore[misc, name-defined]
        async def __aiter__(self) -> AsyncIterator[bytes]:
            left = MAX_BYTES
            beginning = b""
            async for block in stream:
                beginning = beginning or block[:80]
                left -= len(block)
                if left < 0:
                    raise ConfigError(
                        f"the reply is longer than {MAX_BYTES:,} bytes, which no completion is; ask another server. It begins "
                        f"with {beginning.decode('utf-8', 'replace')!r}"
                    )
                yield block

        async def aclose(self) -> None:
            await stream.aclose()

    return Bounded()


def _joined(asked: str, location: str) -> str:
    try:
        return urljoin(asked, location)
    except ValueError:  # as it is, which is no server's address
        return location


def _same_server(asked: str, target: str) -> bool:
    """The same scheme, host and port; or the same host's https where http was asked."""
    try:
        (a, b) = (urlsplit(asked), urlsplit(target))
        ports = [each.port or _PORTS.get(each.scheme) for each in (a, b)]
    except ValueError:
        return False
    upgrade = (a.scheme, b.scheme, *ports) == ("http", "https", 80, 443)
    return a.hostname == b.hostname and (upgrade or (a.scheme == b.scheme and ports[0] == ports[1]))


def _origin(url: str) -> str:
    try:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"[:200]
    except ValueError:
        return "an unreadable address"
