"""Dr. GRPO's grader, the part that computes. Runs in the verifier's worker processes only.

The original has Python evaluate the model's text. Of the same program, as sympy's transformations make it,
only the arithmetic of `OPERATORS` and the calls of `FUNCTIONS` are carried out here.
"""

import ast
import builtins
import logging
import operator
import re
import types
from collections.abc import Callable
from typing import Any

import sympy
from sympy.parsing import sympy_parser as parser

from gmpo_mm.verifiers import drgrpo_text as texts

OPERATORS: dict[type[ast.operator] | type[ast.unaryop], Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Pow: operator.pow, ast.UAdd: operator.pos, ast.USub: operator.neg,
}  # fmt: skip
# What can be written in lower case with two different letters, the most that the grader lets through.
FUNCTIONS = str.split("sqrt factorial factorial2 ln csc re im li ff rf jn yn")
CONSTANTS = str.split("pi oo zoo nan I")
# Called with Python's literals, which stand nowhere else.
LITERALS = str.split("Symbol Integer Float Rational Number")

LONGEST_UNCHECKED = 128  # characters; longer texts are searched for repetition before math-verify sees them
_SYMBOLS = str.maketrans({"√": "sqrt", "π": "pi", "∞": "inf", "∪": "U", "·": "*", "×": "*"})
_BRACKETS = "()[]"
_RATIO = re.compile(r"^-?[0-9]+.?/0*[1-9][0-9]*.?$")
_INTEGER = re.compile(r"\A(?:0|-?[1-9][0-9]*)\Z")
_COSTLY_POWER = re.compile(r"\^[{(]|\^[0-9]+\^|\^[0-9][0-9]")


# sympy's transformations ask which names are known and callable; the original offers these.
_NAMES = {name: getattr(sympy, name) for name in sympy.__all__}
_NAMES |= {name: it for name, it in vars(builtins).items() if isinstance(it, types.BuiltinFunctionType)}


def is_zero(text: str) -> bool:
    """Whether sympy simplifies the expression to 0, without evaluating text; raises where it is none."""
    transformations = (*parser.standard_transformations, parser.implicit_multiplication_application)
    program = parser.stringify_expr(text.replace("^", "**"), {}, _NAMES, transformations)
    try:
        tree = ast.parse(program.strip(), mode="eval")
    except MemoryError as error:  # what Python's parser calls too deep a nesting
        raise NotImplementedError from error
    return bool(sympy.simplify(_value(tree.body)) == 0)


def _value(node: ast.expr) -> Any:
    spine = []
    while isinstance(node, ast.BinOp):  # sums of a thousand terms lean to the left: no recursion for them
        spine.append(node)
        node = node.left
    match node:
        case ast.UnaryOp(op, operand) if type(op) in OPERATORS:
            value = OPERATORS[type(op)](_value(operand))
        case ast.Name(name) if name in CONSTANTS:
            value = getattr(sympy, name)
        case ast.Call(ast.Name(name), arguments, []) if name in LITERALS:
            literals = (one.value if isinstance(one, ast.Constant) else _value(one) for one in arguments)
            value = getattr(sympy, name)(*literals)
        case ast.Call(ast.Name(name), arguments, []) if name in FUNCTIONS:
            value = getattr(sympy, name)(*map(_value, arguments))
        case ast.Call(ast.Call(ast.Name("Function"), [ast.Constant(name)]), arguments, []):
            value = sympy.Function(str(name))(*map(_value, arguments))  # x(y + 1), no product
        case _:
            raise NotImplementedError("more than arithmetic")
    for parent in reversed(spine):
        if type(parent.op) not in OPERATORS:
            raise NotImplementedError("more than arithmetic")
        value = OPERATORS[type(parent.op)](value, _value(parent.right))
    return value


def load_fast(form: Callable[[str], str] = texts.math_form) -> Callable[[str, str], bool]:
    """The grader's fast mode as a comparison of two texts; what `form` finds equal is equal."""
    from pylatexenc import latex2text

    logging.disable(logging.CRITICAL)

    def plain(latex: str) -> str:
        latex = re.sub(r"\\[td]frac", r"\\frac", latex).replace("\\frac", " \\frac")  # a mixed number's space
        text: str = latex2text.LatexNodes2Text().latex_to_text(latex)
        return text.translate(_SYMBOLS).strip()

    def compare(prediction: str, gold: str) -> bool:
        if form(prediction) == form(gold):
            return True
        return _equal_for_sympy(texts.sympy_form(prediction, plain), texts.sympy_form(gold, plain))

    # sympy imports most of itself on demand: here, not in each worker
    for pair in (("x^2+2x", "x(x+2)"), (r"\frac{\sqrt{8}}{2}", r"\sqrt{2}"), ("7!", "0.25")):
        compare(*pair)
    return compare


def load_slow() -> Callable[[str, str], bool]:
    """The grader's slow mode: what fast mode finds different is put to math-verify with its defaults."""
    import math_verify

    fast = load_fast()
    targets = (math_verify.LatexExtractionConfig(boxed_match_priority=0), math_verify.ExprExtractionConfig())

    def parse(text: str) -> list[Any]:
        text = text if "$" in text else f"${text}$"
        return math_verify.parse(text, targets, "no_fallback", ["first_match"], parsing_timeout=None)

    def compare(prediction: str, gold: str) -> bool:
        if fast(prediction, gold):
            return True
        if any(len(text) > LONGEST_UNCHECKED and texts.is_repetitive(text) for text in (prediction, gold)):
            return False
        try:
            return bool(math_verify.verify(parse(gold), parse(prediction), timeout_seconds=None))
        except Exception:  # as the original has it: what math-verify stumbles over is different
            return False

    compare(r"\frac{x + 1}{2}", "(1 + x) / 2")
    compare("(1, 2)", r"\{1, 2\}")
    compare(r"[1, 2) \cup (3, \infty)", "x < 60")
    return compare


def _equal_for_sympy(prediction: str, gold: str) -> bool:
    """Equal part by part, where both are tuples or intervals in the same brackets; else as one expression."""
    if prediction == gold or not prediction:
        return prediction == gold
    gold_parts, parts = _parts(gold), _parts(prediction)
    same_brackets = gold[:1] + gold[-1:] == prediction[0] + prediction[-1]
    if len(gold_parts) != len(parts) or (len(parts) > 1 and not same_brackets):
        return False
    return all(_equal_parts(*pair) for pair in zip(parts, gold_parts, strict=True))


def _parts(text: str) -> list[str]:
    text = texts.without_thousands_commas(text)
    inner = text[1:-1]
    if inner and text[0] in _BRACKETS and text[-1] in _BRACKETS and not set(inner) & set(_BRACKETS):
        return [part.strip() for part in inner.split(",")]
    return [text] if text else []


def _equal_parts(part: str, gold: str) -> bool:
    # An unreduced fraction is not the reduced one, and nothing is simplified to a whole number.
    if any(all(map(pattern.search, (gold, part))) for pattern in (_RATIO, _INTEGER)):
        return part == gold
    difference = f"({gold})-({part})"
    unknown = set(filter(str.isalpha, difference.replace("sqrt", "").replace("frac", "")))
    costly = len(unknown) > 2 or _COSTLY_POWER.search(difference)
    if costly or texts.is_integral(gold) != texts.is_integral(part):
        return False
    try:
        return is_zero(difference)
    except MemoryError:
        raise
    except Exception:
        return False
