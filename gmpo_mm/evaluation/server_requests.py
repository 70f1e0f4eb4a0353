"""How samples are asked for: many requests at once, each tried again after what passes, all ended when anything raises."""

from __future__ import annotations

import asyncio
import hashlib
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from gmpo_mm.data.records import Record
from gmpo_mm.errors import ConfigError, GMPOError, TrainingError
from gmpo_mm.evaluation.generators import Generated
from gmpo_mm.evaluation.results import Protocol as SamplingProtocol
from gmpo_mm.evaluation.server_guard import refusal_in
from gmpo_mm.evaluation.server_replies import BrokenReply, read_error, read_response, wait_before, wanted_wait


class Asker(Protocol):
    """Whom the requests are made for: what a server's generator knows of the server, and how it words things."""

    openai: Any
    url: str
    model: str
    concurrency: int
    retries: int
    timeout: float
    caveats: list[str]

    def prompt(self, record: Record) -> dict[str, Any]:
        """The part of a request that holds the problem."""

    def sampling(self, protocol: SamplingProtocol, seed: int) -> dict[str, Any]:
        """The part of a request that says how to sample."""

    def open_client(self) -> Any:
        """An asynchronous client."""

    def clean(self, text: str) -> str:
        """A server's text for a message."""

    def refusal(self, where: str, status: int, body: bytes) -> ConfigError:
        """The error for an answer that asking again would not change."""


def request_seed(problem_seed: int, sample: int) -> int:
    """31 bits from a problem's seed and a sample's number: servers take seeds as large as a C int, not 63 bits."""
    digest = hashlib.blake2b(f"{problem_seed} {sample}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") & 0x7FFFFFFF


class Run:
    """One call of `generate`: an event loop in a thread of its own, whose events the calling thread follows."""

    def __init__(self, asker: Asker, records: Sequence[Record], protocol: SamplingProtocol, seeds: Sequence[int]) -> None:
        """Nothing is asked for before `follow`."""
        self.asker, self.records, self.protocol, self.seeds = asker, records, protocol, seeds
        self.openai = asker.openai
        self.events: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.samples: list[dict[int, Generated]] = [{} for _ in records]
        self.requests = self._requests()
        self.prompts: dict[int, asyncio.Task[dict[str, Any]]] = {}
        self.done = 0
        self.cut_off_early = False
        self.quiet_until = 0.0

    def follow(self, on_done: Callable[[int, list[Generated]], None], note: Callable[[str], None]) -> None:
        """Run to the end; whatever raises, here or there, ends all open requests first."""
        loop = asyncio.new_event_loop()
        task = loop.create_task(self._serve())
        thread = threading.Thread(target=self._drive, args=(loop, task), name="server requests", daemon=True)
        thread.start()
        try:
            while True:
                kind, value = self.events.get()
                if kind == "end":
                    if value is not None:
                        raise value
                    return
                if kind == "note":
                    note(value)
                else:
                    on_done(value, [self.samples[value][j] for j in range(self.protocol.n)])
        finally:
            loop.call_soon_threadsafe(task.cancel)
            thread.join()
            loop.close()

    def _drive(self, loop: asyncio.AbstractEventLoop, task: asyncio.Task[None]) -> None:
        error: BaseException | None = None
        try:
            loop.run_until_complete(task)
        except BaseException as caught:  # handed to the calling thread, which raises it
            error = caught
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        self.events.put(("end", error))

    def _requests(self) -> Iterator[tuple[int, int]]:
        for i in range(len(self.records)):
            for j in range(self.protocol.n):
                yield i, j

    async def _serve(self) -> None:
        """As many workers as requests may be open; each takes the next request when its last is answered."""
        async with self.asker.open_client() as client:
            count = min(self.asker.concurrency, len(self.records) * self.protocol.n)
            workers = [asyncio.ensure_future(self._work(client)) for _ in range(count)]
            try:
                await asyncio.gather(*workers)
            finally:
                open_tasks = [*workers, *self.prompts.values()]
                for task in open_tasks:
                    task.cancel()
                await asyncio.gather(*open_tasks, return_exceptions=True)

    async def _work(self, client: Any) -> None:
        total = len(self.records) * self.protocol.n
        for i, j in self.requests:
            if i not in self.prompts:  # made once for a problem's samples, off the loop: decoding pictures takes time
                make = asyncio.to_thread(self.asker.prompt, self.records[i])
                self.prompts[i] = asyncio.ensure_future(make)
            prompt = await self.prompts[i]
            self.samples[i][j] = await self._ask(client, i, j, prompt)
            self.done += 1
            self.events.put(("note", f"{self.done} of {total} responses"))
            if len(self.samples[i]) == self.protocol.n:
                del self.prompts[i]
                self.events.put(("done", i))

    async def _ask(self, client: Any, i: int, j: int, prompt: dict[str, Any]) -> Generated:
        """One sample, asked for until it is there."""
        request = prompt | self.asker.sampling(self.protocol, request_seed(self.seeds[i], j))
        endpoint = client.completions if "prompt" in prompt else client.chat.completions
        for attempt in range(self.asker.retries + 1):
            await self._quiet()
            wait = None
            try:
                # The client's own limit is for each read; a server that trickles blanks would never meet it.
                call = endpoint.with_raw_response.create(**request)
                reply = await asyncio.wait_for(call, self.asker.timeout)
                return self._accept(i, Generated(*read_response(reply.content, self.protocol.stop)))
            except self.openai.APIStatusError as error:
                status, body = error.status_code, error.response.content
                if status not in (408, 409, 425, 429) and status < 500:
                    raise self.asker.refusal(self._where(i), status, body) from None
                wait = wanted_wait(error.response.headers)
                reason = f"{status}: {self.asker.clean(read_error(body))}"
            except (self.openai.APITimeoutError, asyncio.TimeoutError):
                reason = f"no answer within {self.asker.timeout:g} s (request_timeout)"
            except self.openai.APIConnectionError as error:
                if refused := refusal_in(error):
                    raise type(refused)(f"{self._where(i)}: {self.asker.clean(str(refused))}") from None
                reason = f"connection lost: {self.asker.clean(str(error.__cause__ or error))}"
            except BrokenReply as error:
                reason = f"broken reply: {self.asker.clean(str(error))}"
            except GMPOError as error:
                raise type(error)(f"{self._where(i)}: {self.asker.clean(str(error))}") from None
            if attempt == self.asker.retries or (wait or 0) > self.asker.timeout:
                raise self._given_up(i, attempt + 1, reason, wait)
            await self._pause(reason, wait, attempt)
        raise AssertionError("unreachable")

    def _accept(self, i: int, response: Generated) -> Generated:
        """Say it once when the server cuts responses off before the protocol does."""
        if response.stop_reason == "length" and response.tokens < self.protocol.max_tokens and not self.cut_off_early:
            self.cut_off_early = True
            self.asker.caveats.append(
                f"{self._where(i)}: cut off after {response.tokens} tokens and not {self.protocol.max_tokens}: the server has "
                "a limit of its own, on its context or on its responses; raise it there"
            )
            self.events.put(("note", self.asker.caveats[-1]))
        return response

    async def _pause(self, reason: str, wait: float | None, attempt: int) -> None:
        """Wait before the next try; as long as the server asked for (then everyone waits), else longer each time."""
        seconds = wait_before(attempt) if wait is None else wait
        count = f"{attempt + 1} of {self.asker.retries} times"
        self.events.put(("note", f"{reason}; asking again in {seconds:.0f} s ({count})"))
        if wait is None:
            await asyncio.sleep(seconds)
        else:
            self.quiet_until = max(self.quiet_until, asyncio.get_running_loop().time() + wait)

    async def _quiet(self) -> None:
        """Wait while the server has asked for no requests."""
        while (left := self.quiet_until - asyncio.get_running_loop().time()) > 0:
            await asyncio.sleep(left)

    def _where(self, i: int) -> str:
        record = self.records[i]
        return f"{self.asker.url}, model {self.asker.model}, problem {record.id} ({record.where})"

    def _given_up(self, i: int, tries: int, reason: str, wait: float | None) -> GMPOError:
        finished = sum(len(samples) == self.protocol.n for samples in self.samples)
        asked = f"{tries} tries" if tries > 1 else "one try"
        later = f" and asks to wait {wait:.0f} s" if wait else ""
        return TrainingError(
            f"{self._where(i)}: no answer after {asked}; the last: {reason}{later}. {finished} of the {len(self.records)} "
            "problems asked for are done and kept: the same command goes on from there once the server answers"
        )
