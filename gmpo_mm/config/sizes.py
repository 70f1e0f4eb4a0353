"""Sizes that fit: what an error about one that does not divide suggests."""

from __future__ import annotations


def divisor(of: int, at_most: int) -> int:
    """The largest divisor of `of` that is not above `at_most`."""
    return max(size for size in range(1, min(of, at_most) + 1) if of % size == 0)


def nearest_multiple(value: int, unit: int) -> int:
    """The multiple of `unit` nearest to `value`, at least one unit."""
    return max(1, round(value / unit)) * unit


def prompts_that_divide(ranks: int, n: int) -> int:
    """The smallest number of prompts whose n samples each divide over the ranks."""
    return next(prompts for prompts in range(1, ranks + 1) if prompts * n % ranks == 0)
