"""The graders by name: what a benchmark, a reward and `gmpo-mm grade` choose from, and what is written beside a grade."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, cast

from gmpo_mm.verifiers import countdown, minerva, olympiadbench
from gmpo_mm.verifiers.copied import without_copies
from gmpo_mm.verifiers.extraction import EXTRACTIONS, Extraction
from gmpo_mm.verifiers.golds import gold_answer
from gmpo_mm.verifiers.grading import DEFAULT_TIMEOUT, Gold, Grade, grade_batch

Kind = Literal["response", "answer"]
KINDS: tuple[str, ...] = ("response", "answer")
GradeBatch = Callable[[Sequence[str | None], Sequence[Gold], Kind, Extraction, float], list[Grade]]

ENGINE_VERSION = 4
"""Version of the equivalence engine behind math, geometry3k, minerva and olympiadbench: raised when its grades can change.

The graders that add rules of their own count both: engine 4 with rules 2 is version 402.
"""

_ENGINE_PACKAGES = ("sympy", "mpmath")


@dataclass(frozen=True)
class Grader:
    """A way to grade. `version` is raised when a grade can change; `packages` are those whose version can change one."""

    description: str
    version: int
    packages: tuple[str, ...]
    grade: GradeBatch
    check_gold: Callable[[Any], object] | None = None
    """Raises ValueError for a gold that no answer could match; None where every text is a gold."""
    reads_problem: bool = False
    """Whether an expression that is copied out of the problem can be told from an answer."""


def _math(
    responses: Sequence[str | None], golds: Sequence[Gold], kind: Kind, where: Extraction, limit: float
) -> list[Grade]:
    return grade_batch(responses, golds, kind, timeout=limit, extraction=where)


def _minerva(
    responses: Sequence[str | None], golds: Sequence[Gold], kind: Kind, where: Extraction, limit: float
) -> list[Grade]:
    return minerva.grade_minerva(responses, golds, kind, extraction=where, timeout=limit)


def _olympiad(
    responses: Sequence[str | None], golds: Sequence[Gold], kind: Kind, where: Extraction, limit: float
) -> list[Grade]:
    return olympiadbench.grade_olympiadbench(responses, golds, kind, extraction=where, timeout=limit)


def _countdown(
    responses: Sequence[str | None], golds: Sequence[Gold], kind: Kind, where: Extraction, limit: float
) -> list[Grade]:
    return countdown.grade_countdown(responses, golds, kind, extraction=where)


def _drgrpo(fast: bool) -> GradeBatch:
    def grade(
        responses: Sequence[str | None], golds: Sequence[Gold], kind: Kind, where: Extraction, limit: float
    ) -> list[Grade]:
        from gmpo_mm.verifiers.drgrpo import grade_drgrpo

        place: Literal["boxed", "answer_tags"] = (
            "answer_tags" if where == "answer_tags" and kind == "response" else "boxed"
        )
        if kind == "answer":
            responses = [
                f"\\boxed{{{text}}}" if isinstance(text, str) and text.strip() else None for text in responses
            ]
        texts = [response if isinstance(response, str) else "" for response in responses]
        graded: list[Grade] = grade_drgrpo(texts, golds, fast=fast, extraction=place, timeout=limit)
        return graded

    return grade


GRADERS: dict[str, Grader] = {
    "math": Grader(
        "boxed or tagged mathematics, by equivalence",
        ENGINE_VERSION,
        _ENGINE_PACKAGES,
        _math,
        reads_problem=True,
    ),
    "geometry3k": Grader(
        "as math, which knows geometry's forms", ENGINE_VERSION, _ENGINE_PACKAGES, _math, reads_problem=True
    ),
    "minerva": Grader(
        "Minerva's rule: any of several golds, numbers within 1 %",
        ENGINE_VERSION * 100 + minerva.VERSION,
        _ENGINE_PACKAGES,
        _minerva,
        reads_problem=True,
    ),
    "olympiadbench": Grader(
        "OlympiadBench's rules: parts in any order, numbers to 1e-8",
        ENGINE_VERSION * 100 + olympiadbench.VERSION,
        _ENGINE_PACKAGES,
        _olympiad,
        reads_problem=True,
    ),
    "countdown": Grader(
        "every number once, exactly the target",
        countdown.VERSION,
        (),
        _countdown,
        check_gold=countdown.read_problems,
    ),
    "drgrpo_fast": Grader("Dr. GRPO's grader, fast", 1, ("sympy", "pylatexenc"), _drgrpo(fast=True)),
    "drgrpo_slow": Grader(
        "Dr. GRPO's grader, slow",
        1,
        ("sympy", "pylatexenc", "math-verify", "latex2sympy2-extended"),
        _drgrpo(fast=False),
    ),
}


def check_grader(name: object) -> str:
    """The name, if it is one of GRADERS; ValueError with the known ones otherwise."""
    if isinstance(name, str) and name in GRADERS:
        return name
    close = difflib.get_close_matches(str(name), GRADERS, n=1)
    nearest = f" (did you mean {close[0]!r}?)" if close else ""
    raise ValueError(f"grader={name!r} is not known{nearest}; use one of {', '.join(GRADERS)}")


def grade_responses(
    grader: str,
    responses: Sequence[str | None],
    golds: Sequence[Gold],
    *,
    extraction: str = "auto",
    timeout: float = DEFAULT_TIMEOUT,
    kind: str = "response",
    problems: Sequence[str | None] | None = None,
    unevaluated: str = "reject",
) -> list[Grade]:
    """Grade each response against its gold (or any of its golds) with the grader of that name.

    `extraction` says where a response's answer stands (see `extract_answer`; Dr. GRPO's graders take `auto` for `boxed`);
    `kind="answer"` takes the texts as the answers themselves. `timeout` bounds each comparison, in seconds of CPU time.
    Where `problems` are given, a right expression that is only copied out of its problem has status `not_evaluated` with
    `unevaluated="reject"` (see `copied`); Dr. GRPO's graders and CountDown's know no such status. No response can make
    this raise or hang; ValueError for an argument that is not known.
    """
    check_grader(grader)
    if extraction not in EXTRACTIONS:
        raise ValueError(f"extraction={extraction!r} is not known; use one of {', '.join(EXTRACTIONS)}")
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is not known; use 'response' or 'answer'")
    if not timeout > 0 or timeout == float("inf"):
        raise ValueError(f"timeout={timeout!r} must be a positive number of seconds")
    if len(responses) != len(golds):
        raise ValueError(
            f"{len(responses)} responses for {len(golds)} golds; give one gold for each response"
        )
    if grader != "countdown":
        golds = [_read_gold(gold) for gold in golds]
    grades = GRADERS[grader].grade(responses, golds, cast(Kind, kind), cast(Extraction, extraction), timeout)
    return without_copies(grades, golds, problems if GRADERS[grader].reads_problem else None, unevaluated)


def _read_gold(gold: Gold) -> Gold:
    return gold_answer(gold) if isinstance(gold, str) else [gold_answer(str(text)) for text in gold]


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
