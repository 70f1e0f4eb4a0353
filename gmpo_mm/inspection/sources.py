"""What `gmpo-mm diff` compares: one step, from our records or another project's dump, in one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

WITH_SPECIALS, DECODED, MESSAGES = "chat text", "text without special tokens", "messages"
"""A prompt's text: as the template made it, decoded without special tokens, or messages' contents."""
TOKEN_TENSORS = ("sampler_log_probs", "old_log_probs", "ref_log_probs", "log_probs")


@dataclass(frozen=True)
class Picture:
    """`name` is the hash of its pixels, `size` width and height, `grid` patches in time, height and width."""

    name: str
    size: tuple[int, int] | None = None
    grid: tuple[int, ...] | None = None
    file: Path | None = None


@dataclass(frozen=True, eq=False)
class Prompt:
    """A prompt; None is what the format does not hold."""

    text: str
    id: str = ""
    problem: str = ""
    answer: str | None = None
    ids: tuple[int, ...] | None = None
    pictures: tuple[Picture, ...] | None = None


@dataclass(eq=False)
class Sample:
    """A response with what was made of it; tensors have one value a response token, T in all."""

    row: int
    """Its number in the source, from 0."""
    prompt: Prompt
    text: str
    ids: tuple[int, ...] | None = None
    mask_T: torch.Tensor | None = None
    stop_reason: str | None = None
    left_out: bool | None = None
    reward: float | None = None
    parts: Mapping[str, float] = field(default_factory=dict)
    group: int | str | None = None
    advantages_T: torch.Tensor | None = None
    advantage: float | None = None
    """The one advantage of the response; None where its tokens differ, or there is none."""
    tokens: Mapping[str, torch.Tensor] = field(default_factory=dict)
    """Log-probabilities by name (`TOKEN_TENSORS`), float64, without those that the source lacks."""

    @property
    def behaviour_T(self) -> torch.Tensor | None:
        """Of the old policy: recomputed ones, else the sampler's."""
        return self.tokens.get("old_log_probs", self.tokens.get("sampler_log_probs"))


@dataclass(eq=False)
class Source:
    """One side of a comparison."""

    path: Path
    kind: str
    step: int | None
    samples: Sequence[Sample] = ()
    prompts: Sequence[Prompt] = ()
    text_kind: str = WITH_SPECIALS
    engine: str = ""
    temperature: float | None = None
    learning_rate: float | None = None
    updates: Sequence[Sequence[int]] | None = None
    weights_before: str = ""
    weights_after: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    """Flat: `worker.actor.optim.lr` -> value."""
    notes: Sequence[str] = ()
    run_metrics: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    """Of a run directory: step -> its metrics."""


class Reader:
    """Reads a path of one format."""

    folder = False
    """Whether the path may hold several steps, of which one is chosen."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def steps(self) -> list[int]:
        """The steps in it; none where the format has no steps."""
        raise NotImplementedError

    def read(self, step: int | None) -> Source:
        """A step; the only or first one for None."""
        raise NotImplementedError
