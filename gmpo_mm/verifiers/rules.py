"""The rules by which other projects score Geometry3K, beside ours: `gmpo-mm regrade`.

Each is written from its public definition, in three parts that can be exchanged: where the answer stands
(`extract`), when it equals the gold (`compare`), and what format is paid (`form`). Where a rule differs from
the original, docs/guides/regrade.md says so. No text is evaluated.
"""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from gmpo_mm.verifiers import rule_texts as texts
from gmpo_mm.verifiers.drgrpo import grade_drgrpo
from gmpo_mm.verifiers.drgrpo_text import boxed_answer
from gmpo_mm.verifiers.equivalence import Decision
from gmpo_mm.verifiers.graders import grade_responses
from gmpo_mm.verifiers.grading import DEFAULT_TIMEOUT, Grade, answer_of, grade_answers
from gmpo_mm.verifiers.pool import shared_pool

Golds = Sequence[str]
Answers = Sequence[str | None]


@dataclass(frozen=True)
class Choice:
    """The options of one problem and the right one's letter, for rules that ask for a letter."""

    letter: str
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Score:
    """One response under one rule. `overall` is what the rule reports; `format` is 0 where it pays for none."""

    accuracy: float
    format: float
    overall: float
    extracted: str | None
    status: str
    """graded | no_answer | timeout | error | skipped (the rule gives no verdict on such a gold; counted as wrong)"""
    why: str = ""


@dataclass(frozen=True)
class Rule:
    """One project's rule; `overall` is (1 - `format_weight`) x accuracy + `format_weight` x format."""

    name: str
    title: str
    source: str
    """Repository and file of the definition."""
    version: str
    """Release or commit that was read, and its date."""
    extract: Callable[[str], str | None]
    compare: Callable[[Answers, Sequence[Golds], float], list[Grade]]
    extract_with_gold: Callable[[str, Golds], str | None] | None = None
    form: Callable[[str], float] | None = None
    format_weight: float = 0.0
    reads_response: bool = False
    """Whether `compare` takes the whole response and finds the answer itself."""
    wants_letter: bool = False
    prepare: Callable[[str], str] = str
    """What is done to every response first."""

    def answer(self, response: str | None, golds: Golds, choice: Choice | None = None) -> str | None:
        """What the rule compares; None where it finds nothing."""
        if response is None:
            return None
        if self.wants_letter:
            return texts.chosen_letter(response, choice.options if choice else ())
        if self.extract_with_gold:
            return self.extract_with_gold(response, golds)
        return self.extract(self.prepare(response))

    def format_score(self, response: str | None) -> float:
        """Between 0 and 1."""
        return 0.0 if self.form is None or response is None else self.form(self.prepare(response))

    def score(
        self,
        responses: Answers,
        golds: Sequence[Golds],
        choices: Sequence[Choice | None] | None = None,
        timeout: float = DEFAULT_TIMEOUT,
    ) -> list[Score]:
        """Score each response. `timeout` bounds each comparison in seconds of processor time."""
        chosen: Sequence[Choice | None] = choices or [None] * len(responses)
        rows = list(zip(responses, golds, chosen, strict=True))
        answers = [self.answer(*row) for row in rows]
        if self.wants_letter:
            missing = next((i for i, choice in enumerate(chosen) if choice is None), None)
            if missing is not None:
                raise ValueError(f"{self.name}: response {missing} has no choices")
            grades = [_letter_grade(answer, choice) for answer, choice in zip(answers, chosen, strict=True)]
        else:
            grades = self.compare(answers, golds, timeout)
        return [
            self._scored(grade, answer, self.format_score(response))
            for grade, answer, response in zip(grades, answers, responses, strict=True)
        ]

    def _scored(self, grade: Grade, answer: str | None, form: float) -> Score:
        accuracy = float(grade.correct)
        overall = (1 - self.format_weight) * accuracy + self.format_weight * form
        return Score(accuracy, form, overall, answer, grade.status, grade.why)


def _letter_grade(answer: str | None, choice: Choice | None) -> Grade:
    right = answer is not None and choice is not None and answer == choice.letter.strip().upper()
    return Grade(
        right, "no_answer" if answer is None else "graded", answer, "letter" if answer else "no answer found"
    )


def _open(answer: str, gold: str) -> Decision:
    return Decision(None, "")  # all of it is for the workers


def _in_worker(method: str, answers: Answers, golds: Sequence[Golds], timeout: float) -> list[Grade]:
    return grade_answers(answers, golds, timeout, method, _open)


def _trl(answers: Answers, golds: Sequence[Golds], timeout: float) -> list[Grade]:
    """TRL gives no reward at all where it can't read the gold."""
    grades = _in_worker("math_verify_trl", answers, golds, timeout)
    wrong = sorted(
        {gold for grade, row in zip(grades, golds, strict=True) if not grade.correct for gold in row}
    )
    pool = shared_pool()
    verdicts = (
        pool.check([("", gold) for gold in wrong], timeout, method="math_verify_trl_gold") if wrong else []
    )
    readable = {gold: verdict != "different" for gold, verdict in zip(wrong, verdicts, strict=True)}
    skipped = Grade(False, "skipped", None, "the gold can't be read")  # type: ignore[arg-type]
    return [
        grade if grade.correct or any(readable[gold] for gold in row) else skipped
        for grade, row in zip(grades, golds, strict=True)
    ]


def _ours(answers: Answers, golds: Sequence[Golds], timeout: float) -> list[Grade]:
    return grade_responses("geometry3k", answers, golds, kind="answer", timeout=timeout)


def _drgrpo(fast: bool, answers: Answers, golds: Sequence[Golds], timeout: float) -> list[Grade]:
    return grade_drgrpo(answers, golds, "answer", fast=fast, timeout=timeout)


def _our_answer(response: str, golds: Golds) -> str | None:
    return answer_of(response, golds, "response", "auto")


def _whole(response: str) -> str | None:
    return response


_EASYR1 = "commit b44b311, 2026-07-30; mathruler 0.1.0"
_NEMO_RL = "commit 7ea279a, 2026-08-22 (file of 2026-06-17); math-verify"
_DRGRPO = "commit dfca49d, 2025-08-27"
_mathruler = partial(_in_worker, "mathruler")
_nemo_rl = partial(_in_worker, "math_verify_nemo_rl")
_ALL = (
    Rule(
        "ours", "this package: the last box or answer tag, by equivalence", "gmpo_mm/verifiers, grader geometry3k",
        "this version", str, _ours, extract_with_gold=_our_answer,
    ),
    Rule(
        "easyr1", "EasyR1: the last box, by mathruler; 0.1 for <think> and a box",
        "github.com/hiyouga/EasyR1, examples/reward_function/math.py", _EASYR1, texts.mathruler_answer, _mathruler,
        form=texts.think_and_box, format_weight=0.1, prepare=texts.tight,
    ),
    Rule(
        "easyr1_r1v", "EasyR1's R1-V: the first answer tag or all of the response, by mathruler; 0.5 for the tags",
        "github.com/hiyouga/EasyR1, examples/reward_function/r1v.py", _EASYR1, texts.r1v_answer, _mathruler,
        form=texts.think_and_answer, format_weight=0.5,
    ),
    Rule(
        "verl", "verl: the last box, by mathruler; 0.1 for <think> and a box",
        "github.com/volcengine/verl, verl/utils/reward_score/geo3k.py", "release 0.9.1 (file of 2025-07-01); mathruler 0.1.0",
        texts.mathruler_answer, _mathruler, form=texts.think_and_box, format_weight=0.1,
    ),
    Rule(
        "areal", "AReaL: the last bracket or number, of the gold too, by math-verify",
        "github.com/inclusionAI/AReaL, areal/reward/geometry3k.py",
        "commit 4aef98d, 2026-05-21 (file of 2026-04-13); math-verify",
        texts.areal_answer, partial(_in_worker, "math_verify_areal"),
    ),
    Rule(
        "nemo_rl", "NeMo-RL's geometry3k: the answer tags, by math-verify; 0.1 for tags",
        "github.com/NVIDIA-NeMo/RL, nemo_rl/environments/rewards.py (format, math_expr),"
        " examples/configs/vlm_grpo_3B.yaml",
        _NEMO_RL, texts.outer_answer, _nemo_rl, form=texts.think_or_answer, format_weight=0.1,
    ),
    Rule(
        "nemo_rl_geo3k", "NeMo-RL's geo3k: the last box, by math-verify; 0.1 for </think> and a box",
        "github.com/NVIDIA-NeMo/RL, nemo_rl/environments/rewards.py (geo3k)", _NEMO_RL, texts.mathruler_answer, _nemo_rl,
        form=texts.think_end_and_box, format_weight=0.1,
    ),
    Rule(
        "lmms_eval", "lmms-eval: a letter from A to D",
        "github.com/EvolvingLMMs-Lab/lmms-eval, lmms_eval/tasks/geometry3k/utils.py",
        "commit 75571cf, 2026-08-06 (file of 2026-01-29)", str, _ours, wants_letter=True,
    ),
    Rule(
        "trl", "TRL: a box or an anchored formula, by math-verify",
        "github.com/huggingface/trl, trl/rewards/accuracy_rewards.py (accuracy_reward)",
        "release 1.16.0 (file of 2026-06-22); math-verify",
        _whole, _trl, reads_response=True,
    ),
    Rule(
        "drgrpo_fast", "Dr. GRPO, fast: the last box, by PRM800K's rules with MATH's units",
        "github.com/sail-sg/understand-r1-zero, understand_r1_zero/math_grader.py", _DRGRPO, boxed_answer,
        partial(_drgrpo, True),
    ),
    Rule(
        "drgrpo_slow", "Dr. GRPO, slow: as fast, then math-verify",
        "github.com/sail-sg/understand-r1-zero, understand_r1_zero/math_grader.py", _DRGRPO + "; math-verify", boxed_answer,
        partial(_drgrpo, False),
    ),
)  # fmt: skip
RULES: dict[str, Rule] = {rule.name: rule for rule in _ALL}


def find_rules(names: Sequence[str]) -> list[Rule]:
    """The rules of these names, each once; ValueError for an unknown one."""
    for name in names:
        if name not in RULES:
            close = difflib.get_close_matches(name, RULES, n=1)
            nearest = f" (did you mean {close[0]!r}?)" if close else ""
            raise ValueError(f"rule {name!r} is not known{nearest}; use some of {', '.join(RULES)}")
    return [RULES[name] for name in dict.fromkeys(names)]
