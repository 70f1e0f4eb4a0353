"""What a worker process does with a pair: the whole comparison once more, with computer algebra for the formulas."""

from collections.abc import Callable
from dataclasses import replace

from gmpo_mm.verifiers.equivalence import RULES, decide
from gmpo_mm.verifiers.symbolic import load_compare


def _load(rules_name: str) -> Callable[[str, str], bool]:
    rules = replace(RULES[rules_name], algebra=load_compare())
    return lambda prediction, gold: decide(prediction, gold, rules).equal is True


def load_math() -> Callable[[str, str], bool]:
    """The comparison of the graders `math` and `geometry3k`."""
    return _load("math")


def load_minerva() -> Callable[[str, str], bool]:
    """The comparison of the grader `minerva`."""
    return _load("minerva")


def load_olympiadbench() -> Callable[[str, str], bool]:
    """The comparison of the grader `olympiadbench`."""
    return _load("olympiadbench")
