"""A bound of the work on one pair, in steps and not in time: a grade must not depend on how busy the machine is."""

import contextlib
import threading
from collections.abc import Iterator

_local = threading.local()


class OverBudget(Exception):
    """More work than one pair is given."""


@contextlib.contextmanager
def budget(steps: int | None) -> Iterator[None]:
    """Within it, `spend` raises OverBudget once `steps` are used up; without one, work is not bounded."""
    outer = getattr(_local, "left", None)
    _local.left = steps
    try:
        yield
    finally:
        _local.left = outer


def spend(steps: int) -> None:
    """Take steps from this thread's budget."""
    left = getattr(_local, "left", None)
    if left is not None:
        _local.left = left - steps
        if left < steps:
            raise OverBudget
