"""Grade answers against golds: cheap stages here, computer algebra in killable processes for the rest."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from gmpo_mm.verifiers.budget import budget
from gmpo_mm.verifiers.equivalence import RULES, decide
from gmpo_mm.verifiers.extraction import Extraction, extract_answer, remove_invisible
from gmpo_mm.verifiers.normalize import canonical, text_key
from gmpo_mm.verifiers.pool import STATUS, shared_pool

Status = Literal["graded", "no_answer", "timeout", "error", "not_evaluated"]
Gold = str | Sequence[str]
DEFAULT_TIMEOUT = 3.0
# Steps (see `budget`) that the pairs of one call may take here, some 10 microseconds each: what is left open
# beyond them is for the workers, whose verdict is the same.
BATCH_STEPS, BATCH_STEPS_PER_PAIR = 400_000, 2_000
MAX_UNBOXED = 200  # characters of a response without a box that may be the answer itself


@dataclass(frozen=True)
class Grade:
    """One answer's grade; `extracted` is the text that was compared, None where there was none."""

    correct: bool
    status: Status
    extracted: str | None
    why: str = field(default="", compare=False)
    """How it was decided, in a few words: `equal as text`, `algebra: equal`, `different`."""


def grade_batch(
    predictions: Sequence[str | None],
    golds: Sequence[Gold],
    kind: Literal["answer", "response"] = "answer",
    *,
    timeout: float = DEFAULT_TIMEOUT,
    extraction: Extraction = "auto",
    rules: str = "math",
) -> list[Grade]:
    """Grade each prediction against its gold; a gold that is a sequence is right when any of its texts is.

    `kind="response"` extracts the answer first (see `extract_answer`). `timeout` bounds the computer algebra
    of one pair, in seconds of processor time and not on the wall, so that a grade does not depend on how busy
    the machine is; a pair beyond it is not correct and has status `timeout`. All pairs of a call have a bound
    too, stated in `pool`: hostile answers beyond it have status `timeout` after a shorter try. A comparison
    that the machine did not let run has status `error`, and `why` says so. No text can make this raise or
    hang; VerifierUnavailableError means that computer algebra can't run here at all.
    """
    if len(predictions) != len(golds):
        raise ValueError(
            f"{len(predictions)} predictions for {len(golds)} golds; give one gold for each prediction"
        )
    if kind not in ("answer", "response"):
        raise ValueError(f"kind={kind!r} is not known; use 'answer' or 'response'")
    if not timeout > 0 or timeout == float("inf"):
        raise ValueError(f"timeout={timeout!r} must be a positive number of seconds")
    answers = [
        answer_of(prediction, gold, kind, extraction)
        for prediction, gold in zip(predictions, golds, strict=True)
    ]
    pairs = [
        [(answer, text) for text in _gold_texts(gold)] if answer is not None else []
        for answer, gold in zip(answers, golds, strict=True)
    ]
    outcomes = _compare_unique(pairs, timeout, rules)
    return [
        _grade(answer, [outcomes[pair] for pair in row_pairs if pair in outcomes])
        for answer, row_pairs in zip(answers, pairs, strict=True)
    ]


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
    texts: Iterable[object] = [gold] if isinstance(gold, str) else gold
    return [str(text).strip() for text in texts]


@dataclass(frozen=True)
class _Outcome:
    verdict: str  # equal, different, timeout, error
    why: str


def _compare_unique(
    pairs: list[list[tuple[str, str]]], timeout: float, rules: str
) -> dict[tuple[str, str], _Outcome]:
    """Outcome of each distinct pair. Undecided pairs beside one that was found equal here are left out."""
    distinct = dict.fromkeys(pair for row_pairs in pairs for pair in row_pairs)
    with budget(BATCH_STEPS + BATCH_STEPS_PER_PAIR * len(distinct)):
        decisions = {pair: decide(*pair, RULES[rules]) for pair in distinct}
    outcomes = {
        pair: _Outcome("equal" if decision.equal else "different", decision.why)
        for pair, decision in decisions.items()
        if decision.equal is not None
    }
    needed = {
        pair: None
        for row_pairs in pairs
        if not any(pair in outcomes and outcomes[pair].verdict == "equal" for pair in row_pairs)
        for pair in row_pairs
        if pair not in outcomes
    }
    if needed:
        verdicts = shared_pool().check(list(needed), timeout, method=rules)
        explained = {
            "timeout": f"no verdict within {timeout:g} s of processor time",
            "batch_limit": "no verdict within the batch's limit",
            "stalled": "the machine did not let it run",
            "error": "the comparison failed",
        }
        for pair, verdict in zip(needed, verdicts, strict=True):
            outcomes[pair] = _Outcome(
                STATUS.get(verdict, verdict), "algebra: " + explained.get(verdict, verdict)
            )
    return outcomes


def _grade(answer: str | None, outcomes: list[_Outcome]) -> Grade:
    if answer is None:
        return Grade(False, "no_answer", None, "no answer found")
    by_verdict = {outcome.verdict: outcome.why for outcome in reversed(outcomes)}
    if "equal" in by_verdict:
        return Grade(True, "graded", answer, by_verdict["equal"])
    for status in ("timeout", "error"):
        if status in by_verdict:
            return Grade(False, status, answer, by_verdict[status])  # type: ignore[arg-type]
    return Grade(False, "graded", answer, by_verdict.get("different", "no gold to compare with"))
