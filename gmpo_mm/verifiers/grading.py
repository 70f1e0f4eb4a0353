"""Grade answers against golds: cheap stages here, computer algebra in killable processes for the rest."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from gmpo_mm.verifiers.budget import budget
from gmpo_mm.verifiers.equivalence import RULES, Decision, decide
from gmpo_mm.verifiers.extraction import EXTRACTIONS, Extraction, extract_answer, remove_invisible
from gmpo_mm.verifiers.normalize import canonical, text_key
from gmpo_mm.verifiers.pool import Verdict, shared_pool

Status = Literal["graded", "no_answer", "timeout", "error", "not_evaluated"]
Kind = Literal["response", "answer"]
KINDS: tuple[str, ...] = ("response", "answer")
Gold = str | Sequence[str]
DEFAULT_TIMEOUT = 3.0
# Steps (see `budget`) that the pairs of one call may take here, some 10 microseconds each: what is left open
# beyond them is for the workers, whose verdict is the same.
BATCH_STEPS, BATCH_STEPS_PER_PAIR = 400_000, 2_000
MAX_UNBOXED = 200  # characters of a response without a box that may be the answer itself

# What the workers' verdicts are to an answer. The number orders them: of several golds the lowest counts.
_OUTCOMES: dict[Verdict, tuple[int, Status, str]] = {
    "equal": (0, "graded", "equal"),
    "timeout": (1, "timeout", "no verdict within {:g} s of processor time"),
    "batch_limit": (1, "timeout", "no verdict within the batch's limit"),
    "stalled": (2, "error", "the machine did not let it run"),
    "error": (2, "error", "the comparison failed"),
    "different": (3, "graded", "different"),
}


@dataclass(frozen=True)
class Grade:
    """One answer's grade; `extracted` is the text that was compared, None where there was none."""

    correct: bool
    status: Status
    extracted: str | None
    why: str = field(default="", compare=False)  # `equal as text`, `algebra: equal`, `different`


def check_arguments(
    responses: Sequence[object], golds: Sequence[object], kind: str, extraction: str, timeout: float
) -> None:
    """ValueError for an argument that no grader knows."""
    if len(responses) != len(golds):
        raise ValueError(f"{len(responses)} responses for {len(golds)} golds; give one gold for each")
    for name, value, known in (("extraction", extraction, EXTRACTIONS), ("kind", kind, KINDS)):
        if value not in known:
            raise ValueError(f"{name}={value!r} is not known; use one of {', '.join(known)}")
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout={timeout!r} must be a positive number of seconds")


def grade_batch(
    predictions: Sequence[str | None], golds: Sequence[Gold], kind: Kind = "answer", *,
    timeout: float = DEFAULT_TIMEOUT, extraction: Extraction = "auto", rules: str = "math",
) -> list[Grade]:
    """Grade each prediction against its gold; a gold that is a sequence is right when any of its texts is.

    `kind="response"` extracts the answer first (see `extract_answer`). `timeout` bounds the computer algebra
    of one pair, in seconds of processor time; all pairs of a call have a bound too, stated in `pool`. No text
    can make this raise or hang; VerifierUnavailableError means that computer algebra can't run here at all.
    """
    check_arguments(predictions, golds, kind, extraction, timeout)
    rows = zip(predictions, golds, strict=True)
    answers = [answer_of(prediction, gold, kind, extraction) for prediction, gold in rows]
    decide_here = partial(decide, rules=RULES[rules])
    return grade_answers(answers, map(_gold_texts, golds), timeout, rules, decide_here)


def answer_of(prediction: object, gold: Gold, kind: str, extraction: Extraction) -> str | None:
    """What is compared: the answer extracted from a response; all of it only if it is the gold's text."""
    if not isinstance(prediction, str):
        return None
    if kind != "response":
        return remove_invisible(prediction).strip() or None
    answer = extract_answer(prediction, extraction)
    said = prediction.rpartition("</think>")[2].strip()
    if answer is None and extraction == "auto" and 0 < len(said) <= MAX_UNBOXED:
        key = text_key(canonical(said))
        return said if any(key == text_key(canonical(text)) for text in _gold_texts(gold)) else None
    return answer


def _gold_texts(gold: Gold) -> list[str]:
    return [str(text).strip() for text in ([gold] if isinstance(gold, str) else gold)]


def grade_answers(
    answers: Sequence[str | None], golds: Iterable[Sequence[str]], timeout: float, method: str,
    decide_here: Callable[[str, str], Decision],
) -> list[Grade]:
    """Grade each answer against its golds; what `decide_here` leaves open the workers compare by `method`.

    A pair is compared once, and not by the workers where another gold of its row was found equal here.
    """
    rows = [
        [(answer, gold) for gold in texts if answer is not None]
        for answer, texts in zip(answers, golds, strict=True)
    ]
    distinct = dict.fromkeys(itertools.chain(*rows))
    with budget(BATCH_STEPS + BATCH_STEPS_PER_PAIR * len(distinct)):
        decisions = {pair: decide_here(*pair) for pair in distinct}
    outcomes: dict[tuple[str, str], tuple[int, Status, str]] = {
        pair: (0 if decision.equal else 3, "graded", decision.why)
        for pair, decision in decisions.items()
        if decision.equal is not None
    }
    undecided = (row for row in rows if not any(decisions[pair].equal for pair in row))
    needed = list(dict.fromkeys(pair for row in undecided for pair in row if pair not in outcomes))
    verdicts = shared_pool().check(needed, timeout, method=method) if needed else []
    for pair, verdict in zip(needed, verdicts, strict=True):
        order, status, why = _OUTCOMES[verdict]
        outcomes[pair] = order, status, "algebra: " + why.format(timeout)
    grades = []
    for answer, row in zip(answers, rows, strict=True):
        none: tuple[int, Status, str] = (3, "graded", "no gold to compare with")
        order, status, why = min((outcomes[pair] for pair in row if pair in outcomes), default=none)
        found = Grade(order == 0, status, answer, why)
        grades.append(Grade(False, "no_answer", None, "no answer found") if answer is None else found)
    return grades
