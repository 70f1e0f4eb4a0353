"""Our checks of the data before EasyR1 reads it, and of what it has read. Imports no `verl`."""

from __future__ import annotations

from collections.abc import Sequence

from gmpo_mm.config.schema import Config
from gmpo_mm.data.records import Records
from gmpo_mm.errors import DataError


def check_answer_column(config: Config, spec: str, records: Records) -> None:
    """DataError where the data has no `data.answer_key`: EasyR1 hands only that column to the reward."""
    if config.data.answer_key not in records.rows.columns:
        raise DataError(
            f"{spec}: no column {config.data.answer_key!r} (data.answer_key), and EasyR1 hands only that one to the "
            f"reward; its columns are {', '.join(records.rows.columns)}"
        )


def check_nothing_dropped(spec: str, records: Sequence[object], kept: int, max_prompt_length: int) -> None:
    """DataError when EasyR1 left validation problems out, which would make its accuracy one over other problems."""
    if kept != len(records):
        raise DataError(
            f"data.val_files = {spec}: EasyR1 keeps {kept} of {len(records)} problems, those whose prompt fits into "
            f"data.max_prompt_length = {max_prompt_length} tokens, and the accuracy would be over these alone; raise "
            "max_prompt_length, or lower data.max_pixels"
        )


def dropped_report(records: Sequence[object], kept: int) -> str:
    """One line: how many training prompts are left out for their length."""
    dropped = len(records) - kept
    return f"{kept} training prompts" + (f", {dropped} over-long ones left out" if dropped else ", none over-long")
