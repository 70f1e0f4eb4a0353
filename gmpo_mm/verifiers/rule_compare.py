"""How other projects' rules compare an answer with a gold. Runs in the verifier's worker processes only.

mathruler (0.1.0) is PRM800K's grader: the texts in the form of the MATH data set's evaluation, then sympy.
Its text form is made here, and the rest is shared with Dr. GRPO's grader, which evaluates no text. The rules
on math-verify call that library with the settings of the project, without its timeouts: the worker's own
limit holds.
"""

import re
from collections.abc import Callable
from typing import Any

from gmpo_mm.verifiers import rule_texts
from gmpo_mm.verifiers.drgrpo_symbolic import load_fast
from gmpo_mm.verifiers.drgrpo_text import standard_form

Compare = Callable[[str, str], bool]  # (prediction, gold)
PRECISION = 6  # significant digits that math-verify compares
_WHOLE_TEXT = re.compile(r"^\\text\{(.+?)\}$")
# What mathruler's form drops or respells, in this order.
_RESPELLED = (
    ("\n", ""), ("\\!", ""), ("\\\\", "\\"), ("tfrac", "frac"), ("dfrac", "frac"), ("\\left", ""), ("\\right", ""),
    ("^{\\circ}", ""), ("^\\circ", ""), ("\\$", ""),
)  # fmt: skip


def mathruler_form(text: str) -> str:
    """The text as mathruler's first comparison sees it: without degrees, spaces and what follows `\\text{ `."""
    text = text.strip()
    if whole := _WHOLE_TEXT.search(text):
        text = whole[1].strip()
    form = text
    for old, new in _RESPELLED:
        form = form.replace(old, new)
    form, *units = form.split("\\text{ ")
    return text if len(units) > 1 else standard_form(form.replace("\\%", "").replace("%", ""), text)


def load_mathruler() -> Compare:
    """mathruler's `grade_answer` as a comparison of two texts."""
    return load_fast(mathruler_form)


def load_math_verify(how: str) -> Compare:
    """The comparison of one project that uses math-verify: areal, nemo_rl, trl; trl_gold asks if a gold is readable."""
    load: dict[str, Callable[[], Compare]] = {
        "areal": _load_areal, "nemo_rl": _load_nemo_rl, "trl": _load_trl, "trl_gold": _load_trl_gold
    }  # fmt: skip
    compare = load[how]()
    compare(r"\boxed{\frac{1}{2}}", r"\frac{2}{4}")
    compare("0.5", "1/2")
    return compare


def _load_areal() -> Compare:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    targets = (ExprExtractionConfig(try_extract_without_anchor=True), LatexExtractionConfig())

    def read(text: str) -> list[Any]:
        return parse(text, targets, parsing_timeout=None)

    def compare(prediction: str, gold: str) -> bool:
        gold = rule_texts.areal_answer(gold) or gold
        known, said = read(gold), read(prediction)
        return bool(known and said and verify(known, said, float_rounding=PRECISION, timeout_seconds=None))

    return _lenient(compare)


def _load_nemo_rl() -> Compare:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    def read(text: str, *targets: Any) -> list[Any]:
        boxed = text if text.startswith("\\boxed{") else f"\\boxed{{{text}}}"
        return parse(boxed, targets, parsing_timeout=None)

    def compare(prediction: str, gold: str) -> bool:
        known = read(gold, LatexExtractionConfig())
        said = read(prediction, ExprExtractionConfig(), LatexExtractionConfig())
        return bool(known and verify(known, said, float_rounding=PRECISION, timeout_seconds=None))

    return _lenient(compare)


def _load_trl() -> Compare:
    from latex2sympy2_extended import NormalizationConfig
    from math_verify import LatexExtractionConfig, parse, verify

    target = LatexExtractionConfig(
        normalization_config=NormalizationConfig(units=True),
        boxed_match_priority=0,
        try_extract_without_anchor=False,
    )

    def compare(prediction: str, gold: str) -> bool:
        known = parse(gold, parsing_timeout=None)
        said = parse(prediction, [target], extraction_mode="first_match", parsing_timeout=None)
        return bool(known and verify(known, said, timeout_seconds=None))

    return _lenient(compare)


def _load_trl_gold() -> Compare:
    from math_verify import parse

    return _lenient(lambda prediction, gold: bool(parse(gold, parsing_timeout=None)))


def _lenient(compare: Compare) -> Compare:
    """What the library stumbles over is different, as in the originals; memory is the worker's affair."""

    def compared(prediction: str, gold: str) -> bool:
        try:
            return compare(prediction, gold)
        except MemoryError:
            raise
        except Exception:
            return False

    return compared
