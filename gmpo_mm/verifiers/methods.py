"""The comparisons that a verifier process can make, by name. The supervisor loads each at first need."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

Compare = Callable[[str, str], bool]  # (prediction, gold)


class Method(NamedTuple):
    """How a comparison is loaded, with all that its first uses import, and what pip installs for it."""

    load: Callable[[], Compare]
    package: str


def _load_engine(name: str) -> Compare:
    """The whole comparison that the caller's process made, once more and with computer algebra."""
    from gmpo_mm.verifiers.equivalence import RULES, decide
    from gmpo_mm.verifiers.symbolic import load_compare

    rules = replace(RULES[name], algebra=load_compare())
    return lambda prediction, gold: decide(prediction, gold, rules).equal is True


def _load_drgrpo(fast: bool) -> Compare:
    from gmpo_mm.verifiers.drgrpo_symbolic import load_fast, load_slow

    return load_fast() if fast else load_slow()


FIRST = "math"  # loaded at the supervisor's start
METHODS = {
    name: Method(partial(_load_engine, name), "gmpo-mm") for name in (FIRST, "minerva", "olympiadbench")
}
METHODS["drgrpo_fast"] = Method(partial(_load_drgrpo, fast=True), "gmpo-mm[drgrpo]")
METHODS["drgrpo_slow"] = Method(partial(_load_drgrpo, fast=False), "gmpo-mm[drgrpo]")
