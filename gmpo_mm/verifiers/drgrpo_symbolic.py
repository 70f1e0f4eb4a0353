"""Dr. GRPO's grader, the part that computes. Runs in the verifier's worker processes only.

Fast: equal in the MATH form, or the difference of the two texts is 0 for sympy. Slow: also equal for math-verify, with
its default options. The original has Python evaluate the model's text. Here sympy's own transformations turn the text
into the same program (`2x` into `Integer(2)*Symbol('x')`), and a walk over that program's syntax tree carries out the
arithmetic of `OPERATORS` and the calls of `FUNCTIONS`; anything else makes the two texts different.
"""

import ast
import builtins
import logging
import operator
import re
import types
from collections.abc import Callable
from typing import Any

from gmpo_mm.verifiers.drgrpo_text import (
    is_integral,
    is_repetitive,
    math_form,
    sympy_form,
    without_thousands_commas,
)
from gmpo_mm.verifiers.methods import Compare

OPERATORS: dict[type[ast.operator] | type[ast.unaryop], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
# What can be written in lower case with two different letters, the most that the grader lets through.
FUNCTIONS = str.split("sqrt factorial factorial2 ln csc re im li ff rf jn yn")
CONSTANTS = str.split("pi oo zoo nan I")
LITERALS = str.split(
    "Symbol Integer Float Rational Number"
)  # called with Python's literals, which stand nowhere else

LONGEST_UNCHECKED = 128  # characters; longer texts are searched for repetition before math-verify sees them
_SYMBOLS = (("√", "sqrt"), ("π", "pi"), ("∞", "inf"), ("∪", "U"), ("·", "*"), ("×", "*"))
_BRACKETS = "()[]"
_RATIO = re.compile(r"^-?[0-9]+.?/0*[1-9][0-9]*.?$")
_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
_COSTLY_POWER = re.compile(r"\^[{(]|\^[0-9]+\^|\^[0-9][0-9]")


class _UnsupportedError(Exception):
    """The program does more than arithmetic."""


class _Arithmetic:
    """Values of the programs that sympy's transformations make of texts, without Python evaluating them."""

    def __init__(self) -> None:
        import sympy
        from sympy.parsing import sympy_parser as parser

        self.sympy = sympy
        self.stringify = parser.stringify_expr
        self.transformations = (*parser.standard_transformations, parser.implicit_multiplication_application)
        # The transformations ask which names are known and callable; these are the names that the original offers.
        builtin = {
            name: it for name, it in vars(builtins).items() if isinstance(it, types.BuiltinFunctionType)
        }
        self.names = {**{name: getattr(sympy, name) for name in sympy.__all__}, **builtin}

    def is_zero(self, text: str) -> bool:
        """Whether sympy simplifies the expression to 0; raises where the text is none."""
        program = self.stringify(text.replace("^", "**"), {}, self.names, self.transformations)
        try:
            tree = ast.parse(program.strip(), mode="eval")
        except MemoryError as error:  # what Python's parser calls too deep a nesting
            raise _UnsupportedError from error
        return bool(self.sympy.simplify(self._value(tree.body)) == 0)

    def _value(self, node: ast.expr) -> Any:
        spine = []
        while isinstance(node, ast.BinOp):  # sums of a thousand terms lean to the left: no recursion for them
            spine.append(node)
            node = node.left
        match node:
            case ast.UnaryOp(op, operand) if type(op) in OPERATORS:
                value = OPERATORS[type(op)](self._value(operand))
            case ast.Name(name) if name in CONSTANTS:
                value = getattr(self.sympy, name)
            case ast.Call(ast.Name(name), arguments, []) if name in LITERALS:
                literals = (
                    one.value if isinstance(one, ast.Constant) else self._value(one) for one in arguments
                )
                value = getattr(self.sympy, name)(*literals)
            case ast.Call(ast.Name(name), arguments, []) if name in FUNCTIONS:
                value = getattr(self.sympy, name)(*map(self._value, arguments))
            case ast.Call(ast.Call(ast.Name("Function"), [ast.Constant(name)]), arguments, []):
                value = self.sympy.Function(str(name))(*map(self._value, arguments))  # x(y + 1), no product
            case _:
                raise _UnsupportedError
        for parent in reversed(spine):
            if type(parent.op) not in OPERATORS:
                raise _UnsupportedError
            value = OPERATORS[type(parent.op)](value, self._value(parent.right))
        return value


def load_fast() -> Compare:
    """The grader's fast mode as a comparison of two texts."""
    from pylatexenc import latex2text

    logging.disable(logging.CRITICAL)
    arithmetic = _Arithmetic()

    def plain(latex: str) -> str:
        latex = re.sub(r"\\[td]frac", r"\\frac", latex).replace("\\frac", " \\frac")  # a mixed number's space
        text: str = latex2text.LatexNodes2Text().latex_to_text(latex)
        for symbol, name in _SYMBOLS:
            text = text.replace(symbol, name)
        return text.strip()

    def compare(prediction: str, gold: str) -> bool:
        if math_form(prediction) == math_form(gold):
            return True
        return _equal_for_sympy(sympy_form(prediction, plain), sympy_form(gold, plain), arithmetic)

    # sympy imports most of itself on demand: here, not in each worker
    for prediction, gold in (
        ("x^2+2x", "x(x+2)"),
        (r"\frac{\sqrt{8}}{2}", r"\sqrt{2}"),
        ("7!", "pi"),
        ("0.25", "1/4"),
    ):
        compare(prediction, gold)
    return compare


def load_slow() -> Compare:
    """The grader's slow mode: what fast mode finds different is put to math-verify, as the latter is by default."""
    import math_verify

    fast = load_fast()
    targets = (math_verify.LatexExtractionConfig(boxed_match_priority=0), math_verify.ExprExtractionConfig())

    def parse(text: str) -> list[Any]:
        text = text if "$" in text else f"${text}$"
        options = {
            "fallback_mode": "no_fallback",
            "extraction_mode": ["first_match"],
            "parsing_timeout": None,
        }
        return math_verify.parse(text, targets, **options)

    def compare(prediction: str, gold: str) -> bool:
        if fast(prediction, gold):
            return True
        if any(len(text) > LONGEST_UNCHECKED and is_repetitive(text) for text in (prediction, gold)):
            return False
        try:
            return bool(math_verify.verify(parse(gold), parse(prediction), timeout_seconds=None))
        except Exception:  # as the original has it: what math-verify stumbles over is different
            return False

    compare(r"\frac{x + 1}{2}", "(1 + x) / 2")
    compare("(1, 2)", r"\{1, 2\}")
    compare(r"[1, 2) \cup (3, \infty)", "x < 60")
    return compare


def _equal_for_sympy(prediction: str, gold: str, arithmetic: _Arithmetic) -> bool:
    """Equal part by part, where both are tuples or intervals with the same brackets; else as one expression."""
    if prediction == gold or not prediction:
        return prediction == gold
    gold_parts, parts = _parts(gold), _parts(prediction)
    if len(gold_parts) != len(parts):
        return False
    if len(gold_parts) > 1 and (gold[0] != prediction[0] or gold[-1] != prediction[-1]):
        return False
    return all(_equal_parts(*pair, arithmetic) for pair in zip(parts, gold_parts, strict=True))


def _parts(text: str) -> list[str]:
    text = without_thousands_commas(text)
    inner = text[1:-1]
    if inner and text[0] in _BRACKETS and text[-1] in _BRACKETS and not set(inner) & set(_BRACKETS):
        return [part.strip() for part in inner.split(",")]
    return [text] if text else []


def _equal_parts(part: str, gold: str, arithmetic: _Arithmetic) -> bool:
    if _RATIO.search(gold) and _RATIO.search(part):
        return part == gold  # an unreduced fraction is not the reduced one
    if is_integral(gold) != is_integral(part):
        return False  # no simplification to a whole number
    if _INTEGER.fullmatch(gold) and _INTEGER.fullmatch(part):
        return part == gold
    difference = f"({gold})-({part})"
    unknown = set(filter(str.isalpha, difference.replace("sqrt", "").replace("frac", "")))
    if len(unknown) > 2 or _COSTLY_POWER.search(difference):
        return False
    try:
        return arithmetic.is_zero(difference)
    except MemoryError:
        raise
    except Exception:
        return False
