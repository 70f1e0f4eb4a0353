"""The data set of a run: which rows are in it, in which order, and the state that a resumed run starts from."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from PIL.Image import Image

from gmpo_mm.data.picture_loader import PictureLoader
from gmpo_mm.data.prompts import (
    EncodedPrompt,
    Pictures,
    PromptProcessor,
    build_prompt,
    load_format_prompt,
    load_images,
    load_pictures,
    prompt_length,
)
from gmpo_mm.data.records import (
    Fault,
    Progress,
    Record,
    Records,
    data_fingerprint,
    describe_faults,
    picture_fingerprint,
)
from gmpo_mm.errors import DataError

CACHED_PROMPTS = 32
"""Encoded prompts that are kept. Few, since a 512 x 512 picture is 1.6 MB: its colours and its patches."""


class DataSettings(Protocol):
    """The keys of EasyR1's `data` section that prompts depend on."""

    format_prompt: str | None
    min_pixels: int | None
    max_pixels: int | None
    max_prompt_length: int
    filter_overlong_prompts: bool


@dataclass(frozen=True)
class OverlongPrompt:
    """A row whose prompt has more than `data.max_prompt_length` tokens."""

    row: int
    where: str
    tokens: int


class PromptDataset(Sequence[EncodedPrompt]):
    """Records as encoded prompts, made when asked for; the last few are kept. `close` ends `batch`'s threads.

    With `data.filter_overlong_prompts` over-long prompts are left out of training and listed in `dropped`; without, they
    raise, all at once and up front. In validation they always do: an accuracy over fewer problems than the benchmark
    has would be a wrong number.
    """

    def __init__(
        self,
        records: Records,
        processor: PromptProcessor,
        data_config: DataSettings,
        training: bool,
        progress: Progress | None = None,
    ) -> None:
        """Count every prompt's tokens (about 1 ms a row), telling `progress`."""
        self.records = records
        self.dropped: tuple[OverlongPrompt, ...] = ()
        self._processor = processor
        self._limit = data_config.max_prompt_length
        self._format_prompt = load_format_prompt(data_config.format_prompt)
        self._pixels = {"min_pixels": data_config.min_pixels, "max_pixels": data_config.max_pixels}
        overlong = self._find_overlong(progress)
        if overlong and not (training and data_config.filter_overlong_prompts):
            raise DataError(self._overlong_error(overlong, training))
        self.dropped = tuple(overlong)
        left_out = {prompt.row for prompt in overlong}
        self._rows = [row for row in range(len(records)) if row not in left_out]
        if not self._rows:
            shortest = min(prompt.tokens for prompt in self.dropped)
            raise DataError(
                f"{records.name}: all {len(records)} prompts are longer than data.max_prompt_length={self._limit} (the "
                f"shortest has {shortest} tokens); raise data.max_prompt_length"
            )
        self._encoded = lru_cache(maxsize=CACHED_PROMPTS)(self._encode)
        self._pictures = PictureLoader(self._load_pictures)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> EncodedPrompt:  # type: ignore[override]
        """Encode one prompt. Raises DataError that names the row when it is broken or over-long."""
        return self._encoded(self._rows[index])

    def batch(self, indices: Sequence[int], upcoming: Sequence[int] = ()) -> list[EncodedPrompt]:
        """The prompts of `indices`, as one by one; large pictures in threads, which go on with `upcoming`.

        A fault in an upcoming row is raised when that row is asked for.
        """
        self._pictures.expect(self._rows[i] for i in [*indices, *upcoming])
        return [self[i] for i in indices]

    def images(self, index: int) -> tuple[Image, ...]:
        """A prompt's RGB pictures, without cutting patches. Raises DataError as encoding the prompt would."""
        return load_images(self.record(index), **self._pixels)

    def close(self) -> None:
        """End the threads that prepare pictures."""
        self._pictures.close()

    def record(self, index: int) -> Record:
        """The record behind a prompt, without encoding it."""
        return self.records[self._rows[index]]

    def fingerprint(self) -> str:
        """SHA-256 of the texts and of which rows were kept, and behind a dash, where there are pictures, of those."""
        kept = ",".join(map(str, self._rows))
        texts = hashlib.sha256(f"{data_fingerprint(self.records)} {kept}".encode()).hexdigest()
        pictures = picture_fingerprint(self.records)
        return f"{texts}-{pictures}" if pictures else texts

    def overlong_report(self) -> str:
        """One sentence on the dropped prompts for the log; empty when there are none."""
        if not self.dropped:
            return ""
        longest = max(prompt.tokens for prompt in self.dropped)
        return (
            f"{self.records.name}: dropped {len(self.dropped)} of {len(self.records)} training prompts that are longer "
            f"than data.max_prompt_length={self._limit} (longest {longest} tokens): {_listed(self.dropped)}"
        )

    def _encode(self, row: int) -> EncodedPrompt:
        record = self.records[row]
        pictures = (lambda: self._pictures.take(row)) if record.images else Pictures
        prompt = build_prompt(record, self._processor, format_prompt=self._format_prompt, pictures=pictures)
        tokens = len(prompt.input_ids_S)
        if tokens > self._limit:  # a row that has changed since it was measured
            raise DataError(
                f"{record.where}: the prompt has {tokens} tokens, more than data.max_prompt_length="
                f"{self._limit}; raise data.max_prompt_length or set data.filter_overlong_prompts=true"
            )
        return prompt

    def _load_pictures(self, row: int) -> Pictures:
        return load_pictures(self.records[row], self._processor, **self._pixels)

    def _length(self, record: Record) -> int:
        return prompt_length(record, self._processor, format_prompt=self._format_prompt, **self._pixels)

    def _find_overlong(self, progress: Progress | None) -> list[OverlongPrompt]:
        overlong: list[OverlongPrompt] = []
        faults: list[Fault] = []
        for row in range(len(self.records)):
            record = self.records[row]
            try:
                tokens = self._length(record)
            except DataError as error:
                faults.append(Fault(row, str(error)))
                continue
            if tokens > self._limit:
                overlong.append(OverlongPrompt(row, record.where, tokens))
            if progress is not None:
                progress(row + 1, len(self.records))
        if faults:
            raise DataError(describe_faults(self.records, faults))
        return overlong

    def _overlong_error(self, overlong: Sequence[OverlongPrompt], training: bool) -> str:
        longest = max(prompt.tokens for prompt in overlong)
        kind = "training" if training else "validation"
        why = "data.filter_overlong_prompts=false drops none" if training else "validation drops none"
        other = "set data.filter_overlong_prompts=true" if training else "lower data.max_pixels"
        return (
            f"{self.records.name}: {len(overlong)} of {len(self.records)} {kind} prompts are longer than "
            f"data.max_prompt_length={self._limit}: {_listed(overlong)}; {why}, so raise "
            f"data.max_prompt_length to {longest} (or {other})"
        )


def _listed(prompts: Sequence[OverlongPrompt], limit: int = 10) -> str:
    shown = ", ".join(f"{prompt.where}: {prompt.tokens} tokens" for prompt in prompts[:limit])
    return shown + (f" and {len(prompts) - limit} more" if len(prompts) > limit else "")


class PromptSampler:
    """The order of rows: each epoch is its own permutation of (seed, epoch), and a batch never spans two epochs.

    As with EasyR1's data loader (`drop_last`), the rows that are left when a batch no longer fits are not used in that
    epoch; with shuffling they differ from epoch to epoch.
    """

    def __init__(self, size: int, shuffle: bool, seed: int, fingerprint: str = "") -> None:
        """Order `size` rows. `fingerprint` (`PromptDataset.fingerprint()`) is saved and compared on resume."""
        if size < 1:
            raise DataError(f"can't sample from {size} rows; a data set needs at least one")
        self.size = size
        self.shuffle = shuffle
        self.seed = seed
        self.fingerprint = fingerprint
        self.epoch = 0
        self.position = 0
        self._order = self._permutation()

    def next_indices(self, count: int) -> list[int]:
        """The next `count` indices. Raises DataError when an epoch has fewer rows."""
        if not 1 <= count <= self.size:
            raise DataError(
                f"a batch of {count} prompts can't be drawn from {self.size} rows; set data.rollout_batch_size (or "
                f"data.mini_rollout_batch_size) to at most {self.size}"
            )
        if self.position + count > self.size:
            self.epoch += 1
            self.position = 0
            self._order = self._permutation()
        indices = self._order[self.position : self.position + count]
        self.position += count
        return indices

    def upcoming(self, count: int) -> list[int]:
        """What `next_indices(count)` will give, without moving on."""
        return copy(self).next_indices(count)

    def state_dict(self) -> dict[str, Any]:
        """All that `load_state_dict` needs; plain values for JSON."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "seed": self.seed,
            "size": self.size,
            "shuffle": self.shuffle,
            "fingerprint": self.fingerprint,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken. Raises DataError when data, order or seed are not those of the saved run."""
        fix = "restore it, or start a new run (trainer.resume=never with another trainer.run_dir)"
        if state["size"] != self.size:
            raise DataError(f"the checkpoint saw {state['size']} training rows, the data has {self.size} now; {fix}")
        for name in ("seed", "shuffle"):
            if state[name] != getattr(self, name):
                raise DataError(
                    f"data.{name} was {state[name]} when the checkpoint was made and is {getattr(self, name)} now; "
                    f"{fix}"
                )
        # a checkpoint of an earlier version does not know the pictures
        if state["fingerprint"] not in (self.fingerprint, self.fingerprint.partition("-")[0]):
            raise DataError(
                f"the training data changed since the checkpoint (same number of rows, other contents); {fix}"
            )
        self.epoch = int(state["epoch"])
        self.position = int(state["position"])
        self._order = self._permutation()

    def _permutation(self) -> list[int]:
        order = list(range(self.size))
        if self.shuffle:
            # Python's generator, seeded by text: the same order with every torch and numpy version.
            random.Random(f"{self.seed}/{self.epoch}").shuffle(order)
        return order
