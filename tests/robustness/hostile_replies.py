"""Replies of servers that mean harm, or are broken, to a request for models or a completion: raw bytes over HTTP."""

from __future__ import annotations

import gzip
import json
import random
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x1b[31m\u202e\u0007"
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 10**30, "", "x", ESCAPES, "\ud83d", [], {}, [[]], [None], {"a": 1}, ["stop"], "stop",
    {ESCAPES: ESCAPES},
)  # fmt: skip
GOOD_MODELS = {"object": "list", "data": [{"id": "tiny", "object": "model", "owned_by": "vllm"}]}
GOOD = {
    "id": "x", "object": "chat.completion", "model": "tiny",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "4"}}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10},
}  # fmt: skip


def reply(body: bytes, status: str = "200 OK", **headers: str) -> Iterator[bytes]:
    """A whole reply; header names with _ for -."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    # The connection is closed after each reply, and says so: a client must not send its next request on it.
    yield f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n".encode()
    yield "".join(f"{line}\r\n" for line in [*lines, f"Content-Length: {len(body)}"]).encode() + b"\r\n" + body


def endless(block: bytes, status: str = "200 OK", header: bytes = b"") -> Iterator[bytes]:
    """A reply without an end."""
    yield f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n".encode() + header + b"\r\n"
    while True:
        yield block


def redirect(to: str, status: str = "307 Temporary Redirect") -> Iterator[bytes]:
    """To another address."""
    return reply(b"", status, Location=to)


def attacks(good: dict[str, Any], elsewhere: str) -> dict[str, Callable[[], Iterable[bytes]]]:
    """Attacks by name; `good` is the reply that an honest server gives, `elsewhere` the address of another server."""
    whole = json.dumps(good).encode()
    bomb = gzip.compress(b" " * (64 << 20))
    found: dict[str, Callable[[], Iterable[bytes]]] = {
        "endless": lambda: endless(b" " * 65536),
        "endless text": lambda: endless(b'{"a": "' + b"x" * 65536),
        "endless error": lambda: endless(b"x" * 65536, "500 Internal Server Error"),
        "endless refusal": lambda: endless(b"x" * 65536, "400 Bad Request"),
        "endless in chunks": lambda: endless(b"10000\r\n" + b" " * 65536 + b"\r\n", header=b"Transfer-Encoding: chunked\r\n"),
        "huge length": lambda: [b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n", *[b" " * 65536] * 300],
        "endless headers": lambda: [b"HTTP/1.1 200 OK\r\n", *(b"X-%d: %s\r\n" % (i, b"a" * 1000) for i in range(10_000))],
        "a header line without end": lambda: [b"HTTP/1.1 200 OK\r\nX: ", *[b"a" * 65536] * 100],
        "compressed bomb": lambda: reply(bomb, Content_Encoding="gzip"),
        "compressed twice": lambda: reply(gzip.compress(bomb), Content_Encoding="gzip, gzip"),
        "compressed error": lambda: reply(bomb, "400 Bad Request", Content_Encoding="gzip"),
        "unknown compression": lambda: reply(whole, Content_Encoding="br"),
        "deep lists": lambda: reply(b"[" * 1_000_000),
        "deep mappings": lambda: reply(b'{"a":' * 1_000_000),
        "deep in a good one": lambda: reply(whole[:-1] + b', "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        "a number of a million digits": lambda: reply(b'{"data": ' + b"9" * 1_000_000 + b"}"),
        "no HTTP": lambda: [b"SSH-2.0-OpenSSH\r\n" + ESCAPES.encode()],
        "nothing": list,
        "a status line of escapes": lambda: [b"HTTP/1.1 400 " + ESCAPES.encode() + b"\r\nContent-Length: 0\r\n\r\n"],
        "escapes": lambda: reply(ESCAPES.encode() * 50),
        "escapes in an error": lambda: reply(json.dumps({"error": {"message": ESCAPES}}).encode(), "400 Bad Request"),
        "an error of lists": lambda: reply(json.dumps({"error": [[[ESCAPES]]]}).encode(), "400 Bad Request"),
        "null": lambda: reply(b"null"),
        "redirect elsewhere": lambda: redirect(elsewhere),
        "redirect elsewhere, 301": lambda: redirect(elsewhere, "301 Moved Permanently"),
        "redirect elsewhere, 302": lambda: redirect(elsewhere, "302 Found"),
        "redirect elsewhere, 308": lambda: redirect(elsewhere, "308 Permanent Redirect"),
        "redirect with a user": lambda: redirect(elsewhere.replace("//", "//127.0.0.1@")),
        "redirect without a scheme": lambda: redirect(elsewhere.removeprefix("http:")),
        "redirect to a file": lambda: redirect("file:///etc/passwd"),
        "redirect to nothing": lambda: redirect(""),
        "redirect of escapes": lambda: redirect("http://x/%1b[31m"),
        "redirect to a broken address": lambda: redirect("http://[::1"),
    }  # fmt: skip
    return found


def mutated(good: dict[str, Any], random_: random.Random) -> bytes:
    """An honest reply with one to three of its places holding something else, or cut, or with bytes changed."""
    kind = random_.random()
    tree = json.loads(json.dumps(good))
    for _ in range(random_.randint(1, 3)):
        places = list(_places(tree))
        holder, key = random_.choice(places)
        holder[key] = json.loads(json.dumps(random_.choice(VALUES)))
    raw = json.dumps(tree).encode()
    if kind < 0.15:
        return raw[: random_.randrange(len(raw))]
    if kind < 0.3:
        place = random_.randrange(len(raw))
        return raw[:place] + random_.randbytes(random_.randint(1, 8)) + raw[place + 1 :]
    return raw


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    items: Iterable[tuple[Any, Any]] = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(items):
        yield tree, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


class RawServer:
    """Answers each request on 127.0.0.1 with what `models` or `completion` give, byte by byte; `asked` counts them."""

    def __init__(self) -> None:
        self.models: Callable[[], Iterable[bytes]] = lambda: reply(json.dumps(GOOD_MODELS).encode())
        self.completion: Callable[[], Iterable[bytes]] = lambda: reply(json.dumps(GOOD).encode())
        self.asked: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """No more connections."""
        self._socket.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                request = b""
                while b"\r\n\r\n" not in request:
                    block = connection.recv(65536)
                    if not block:
                        return
                    request += block
                head, _, body = request.partition(b"\r\n\r\n")
                lines = head.lower().split(b"\r\n")
                length = next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length")), 0)
                while len(body) < length:
                    body += connection.recv(65536)
                self.asked.append(head.split(b"\r\n")[0].decode())
                for block in self.models() if head.startswith(b"GET") else self.completion():
                    connection.sendall(block)
            except OSError:  # the client has gone
                return
