"""A bound of work, in steps and not in time: a grade must not depend on how busy the machine is."""

import contextlib
import math
import threading
from collections.abc import Iterator

_local = threading.local()


class OverBudget(Exception):
    """More work than one pair is given."""


@contextlib.contextmanager
def budget(steps: float | None) -> Iterator[None]:
    """Within it, `spend` raises OverBudget once `steps` (or what an outer budget has left) are used up."""
    outer = getattr(_local, "left", math.inf)
    given = _local.left = outer if steps is None else min(steps, outer)
    try:
        yield
    finally:
        _local.left = outer if given == math.inf else outer - given + max(_local.left, 0)


def spend(steps: int) -> None:
    """Take steps from this thread's budget."""
    _local.left = getattr(_local, "left", math.inf) - steps
    if _local.left < 0:
        raise OverBudget
