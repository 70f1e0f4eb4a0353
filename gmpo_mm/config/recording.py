"""Which steps are written to `rollouts/` (`trainer.record_steps`)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gmpo_mm.config.load import LoadedConfig
from gmpo_mm.config.schema import Config

KEY = "trainer.record_steps"
_EVERY = re.compile(r"every ([1-9][0-9]{0,8})")


def records_steps(config: Config) -> bool:
    """Whether any step is asked for."""
    return config.trainer.record_steps not in ("none", [])


def is_recorded(config: Config, step: int) -> bool:
    """Whether a step is asked for; `every 5` are the steps 5, 10, 15, ..."""
    wanted = config.trainer.record_steps
    if isinstance(wanted, list):
        return step in wanted
    every = _EVERY.fullmatch(wanted)
    return every is not None and step % int(every[1]) == 0


def check_recording(loaded: LoadedConfig) -> Iterator[str]:
    """`record_steps` is a list of steps, `every N`, or `none`."""
    wanted = loaded.config.trainer.record_steps
    if isinstance(wanted, list):
        good = all(isinstance(step, int) and not isinstance(step, bool) and 0 < step < 10**9 for step in wanted)
    else:
        good = isinstance(wanted, str) and (wanted == "none" or _EVERY.fullmatch(wanted) is not None)
    if not good:
        yield f"{KEY} = {wanted!r}: give a list of steps, as [1, 37], or `every N`, or `none`."
