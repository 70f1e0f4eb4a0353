"""The graders by name, which benchmarks, rewards and `gmpo-mm grade` choose from, and a grade's stamp."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from gmpo_mm.verifiers.copied import without_copies
from gmpo_mm.verifiers.countdown import grade_countdown, read_problems
from gmpo_mm.verifiers.drgrpo import grade_drgrpo
from gmpo_mm.verifiers.golds import gold_answer
from gmpo_mm.verifiers.grading import DEFAULT_TIMEOUT, KINDS, Gold, Grade, check_arguments, grade_batch
from gmpo_mm.verifiers.olympiadbench import grade_olympiadbench

__all__ = ["GRADERS", "KINDS", "Grader", "check_grader", "grade_responses", "grader_info"]

ENGINE_VERSION = 4
"""Raised when the equivalence engine's grades can change; with rules 2 of its own a grader is version 402."""


@dataclass(frozen=True)
class Grader:
    """`version` is raised when a grade can change, and other versions of `packages` can change one."""

    description: str
    version: int
    packages: tuple[str, ...]
    grade: Callable[..., list[Grade]]  # (responses, golds, kind, *, extraction, timeout)
    check_gold: Callable[[Any], object] | None = None
    """Raises ValueError for a gold that no answer could match; None where every text is a gold."""
    reads_problem: bool = False
    """Whether an expression that is copied out of the problem can be told from an answer."""


def _with_engine(description: str, grade: Callable[..., list[Grade]], rules_version: int = 0) -> Grader:
    number = ENGINE_VERSION * 100 + rules_version if rules_version else ENGINE_VERSION
    return Grader(description, number, ("sympy", "mpmath"), grade, reads_problem=True)


_FAST_PACKAGES = ("sympy", "pylatexenc")
_SLOW_PACKAGES = (*_FAST_PACKAGES, "math-verify", "latex2sympy2-extended")
_minerva = partial(grade_batch, rules="minerva")
GRADERS: dict[str, Grader] = {
    "math": _with_engine("boxed or tagged mathematics, by equivalence", grade_batch),
    "geometry3k": _with_engine("as math, which knows geometry's forms", grade_batch),
    "minerva": _with_engine("Minerva's rule: any of several golds, numbers within 1 %", _minerva, 2),
    "olympiadbench": _with_engine("OlympiadBench's: parts in any order, to 1e-8", grade_olympiadbench, 2),
    "countdown": Grader("every number once, exactly the target", 1, (), grade_countdown, read_problems),
    "drgrpo_fast": Grader("Dr. GRPO's grader, fast", 1, _FAST_PACKAGES, partial(grade_drgrpo, fast=True)),
    "drgrpo_slow": Grader("Dr. GRPO's grader, slow", 1, _SLOW_PACKAGES, partial(grade_drgrpo, fast=False)),
}


def check_grader(name: object) -> str:
    """The name, if it is one of GRADERS; ValueError with the known ones otherwise."""
    if isinstance(name, str) and name in GRADERS:
        return name
    close = difflib.get_close_matches(str(name), GRADERS, n=1)
    nearest = f" (did you mean {close[0]!r}?)" if close else ""
    raise ValueError(f"grader={name!r} is not known{nearest}; use one of {', '.join(GRADERS)}")


def grade_responses(
    grader: str, responses: Sequence[str | None], golds: Sequence[Gold], *, extraction: str = "auto",
    timeout: float = DEFAULT_TIMEOUT, kind: str = "response",
    problems: Sequence[str | None] | None = None, unevaluated: str = "reject",
) -> list[Grade]:
    """Grade each response against its gold (or any of its golds); ValueError for an unknown argument.

    `timeout` bounds each comparison in seconds of CPU time. Where `problems` are given, a right expression
    that is only copied out of its problem is `not_evaluated` with `unevaluated="reject"` (see `copied`).
    """
    chosen = GRADERS[check_grader(grader)]
    check_arguments(responses, golds, kind, extraction, timeout)
    if grader != "countdown":
        rows = ([gold] if isinstance(gold, str) else gold for gold in golds)
        golds = [[gold_answer(str(text)) for text in row] for row in rows]
    grades = chosen.grade(responses, golds, kind, extraction=extraction, timeout=timeout)
    return without_copies(grades, golds, problems if chosen.reads_problem else None, unevaluated)


def grader_info(grader: str, extraction: str, timeout: float, unevaluated: str = "accept") -> dict[str, Any]:
    """What is written beside every result: all that can change a grade, with the versions of packages."""
    chosen = GRADERS[check_grader(grader)]
    return {
        "name": grader,
        "extraction": extraction,
        "version": chosen.version,
        "timeout": float(timeout),
        "unevaluated": unevaluated,
        "packages": {name: _package_version(name) for name in chosen.packages},
    }


def _package_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
