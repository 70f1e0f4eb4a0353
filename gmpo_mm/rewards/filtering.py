"""When online filtering has to give up; the same on the engines that filter with our own loop."""

from __future__ import annotations

from dataclasses import dataclass

from gmpo_mm.config.schema import AlgorithmConfig
from gmpo_mm.errors import TrainingError


@dataclass(frozen=True)
class FilterLimits:
    """`algorithm.filter_*` and `trainer.max_try_make_batch`; `rows` are those of an epoch."""

    key: str
    low: float
    high: float
    max_tries: int
    rows: int

    @classmethod
    def of(cls, algorithm: AlgorithmConfig, max_tries: int, rows: int) -> FilterLimits:
        """Those of a configuration."""
        return cls(algorithm.filter_key, algorithm.filter_low, algorithm.filter_high, max_tries, rows)

    def check(self, step: int, tries: int, kept: int, wanted: int, dropped_in_a_row: int) -> None:
        """TrainingError when the tries are over or, where their number is not limited, when an epoch gave no group to keep.

        `kept` of `wanted` groups were found in so many `tries`; the last `dropped_in_a_row` prompts gave none.
        """
        if self.max_tries <= 0 and dropped_in_a_row >= self.rows:
            raise TrainingError(
                f"step {step}: online filtering dropped every group of {dropped_in_a_row} prompts, a whole epoch: in none "
                f"did the mean {self.key} lie between {self.low} and {self.high}, so more tries "
                "(trainer.max_try_make_batch=-1) would not end. Look at the answers and grades of a few responses (the "
                "reward function, data.answer_key, data.format_prompt), take easier or harder data, widen "
                "algorithm.filter_low/filter_high, or set algorithm.online_filtering=false"
            )
        if 0 < self.max_tries <= tries:
            raise TrainingError(
                f"step {step}: {tries} tries gave {kept} of {wanted} groups with a mean {self.key} "
                f"between {self.low} and {self.high}; the data is too easy or too hard for the model. Widen "
                "algorithm.filter_low/filter_high, raise trainer.max_try_make_batch, or change the data"
            )
