"""DAPO's soft punishment of long responses: a reward below 0 in the last tokens before `data.max_response_length`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from gmpo_mm.config.schema import Config
from gmpo_mm.errors import RewardError

PART = "overlong_reward"
"""The punishment's name among a response's rewards, as in verl."""


@dataclass(frozen=True)
class OverlongBuffer:
    """`worker.reward.overlong_buffer`; lengths in tokens."""

    tokens: int
    max_response_length: int
    penalty_factor: float = 1.0

    def punishment(self, length: int) -> float:
        """Equation (13) of DAPO (arXiv 2503.14476) times the factor, for a response of `length` tokens.

        0 up to the buffer, from there falling in a straight line to -1 at `max_response_length`, and -1 beyond it.
        """
        over = length - (self.max_response_length - self.tokens)
        return -self.penalty_factor * min(max(over / self.tokens, 0.0), 1.0)

    def shaped(self, score: Mapping[str, float], length: int) -> dict[str, float]:
        """A response's rewards with the punishment in `overall` and by itself. RewardError where its name is taken."""
        if PART in score:
            raise RewardError(
                f"the reward function returns a number {PART!r} itself; rename it, or set "
                "worker.reward.overlong_buffer.enable=false"
            )
        punishment = self.punishment(length)
        return {**score, "overall": score["overall"] + punishment, PART: punishment}


def overlong_buffer(config: Config) -> OverlongBuffer | None:
    """What a configuration asks for; None without."""
    section = config.worker.reward.overlong_buffer
    if not section.enable:
        return None
    return OverlongBuffer(section.len, config.data.max_response_length, section.penalty_factor)
