"""A bound of work, in steps and not in time: a grade must not depend on how busy the machine is."""

import contextlib
import threading
from collections.abc import Iterator

_local = threading.local()


class OverBudget(Exception):
    """More work than one pair is given."""


@contextlib.contextmanager
def budget(steps: int | None) -> Iterator[None]:
    """Within it, `spend` raises OverBudget once `steps` are used up; None sets no bound.

    A budget within a budget has no more than the outer one has left, and what it spends is taken from both.
    """
    outer = getattr(_local, "left", None)
    given = min((one for one in (steps, outer) if one is not None), default=None)
    _local.left = given
    try:
        yield
    finally:
        _local.left = outer if outer is None or given is None else outer - (given - max(_local.left, 0))


def spend(steps: int) -> None:
    """Take steps from this thread's budget."""
    left = getattr(_local, "left", None)
    if left is not None:
        _local.left = left - steps
        if left < steps:
            raise OverBudget
