r"""Is an answer only an expression that stands in the problem, copied and not worked out?

`99^2 + 99 + 1` equals 9901, but it is no answer to "What is $99^2+99+1$?". A prediction that is equal to the gold is such
a copy where it has another form than the gold, something in it could still be computed, and it stands in the problem
as a formula or a part of one (up to order, brackets and spelling, see `trees.canonical_tree`); or where it holds such a
part that is the whole value: `|99^2 + 99 + 1| + 5 - 5`. With names in it, it is a copy where the gold has another
form, such as the factors of a sum that the problem asks to factor.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache, reduce
from math import gcd

from gmpo_mm.verifiers.budget import OverBudget, budget
from gmpo_mm.verifiers.equivalence import MAX_LENGTH, MAX_STEPS
from gmpo_mm.verifiers.expressions import NotExpression, parse_expression
from gmpo_mm.verifiers.grading import Gold, Grade
from gmpo_mm.verifiers.identity import same_trees
from gmpo_mm.verifiers.normalize import canonical, text_key
from gmpo_mm.verifiers.reading import read
from gmpo_mm.verifiers.structure import Node, asks_for, parse, scalars, split
from gmpo_mm.verifiers.trees import BINDERS, MINUS_ONE, ONE, Tree, canonical_tree, subtrees, variables
from gmpo_mm.verifiers.units import split_unit

MAX_PROBLEM = 20_000  # characters of a problem that are searched
MAX_PARTS = 24  # parts of a prediction whose values are compared with the gold's

_MATHEMATICS = re.compile(
    r"\$\$(.{1,2000}?)\$\$|\$([^$]{1,2000})\$|\\\((.{1,2000}?)\\\)|\\\[(.{1,2000}?)\\\]", re.DOTALL
)
_ENVIRONMENT = re.compile(r"\\(?:begin|end) ?\{[a-z*]+\}|\\(?:text|mbox) ?\{[^{}]*\}|\\\\|&")
_PLAIN = re.compile(r"[\w(][\w\s+\-*/^(){}.!\\]{0,200}[\w)!}]")
_WORDS = re.compile(r"(?<![A-Za-z\\])[A-Za-z]{2,}(?![A-Za-z])")
_PARTS = re.compile(r"<=|>=|!=|[=<>,;:?]|\\approx|\\equiv|\\pmod|\\to(?![a-z])|\.(?!\d)")
_REPEATS = re.compile(
    r"[\d.]+ ?\\(?:overline|bar|dot) ?\{?\d+\}?|\d+\.\d+ ?(?:\.\.\.|\\[lc]?dots)|\d?\.\d*\(\d+\)"
)
_LINKS = re.compile(r"=|\\approx")
_DECIMAL = re.compile(r"\.\d")
_SPACES = re.compile(r"[\s$]+")
_MAX_RADICAND = 10**8


def without_copies(
    grades: Sequence[Grade],
    golds: Sequence[Gold],
    problems: Sequence[str | None] | None,
    unevaluated: str,
) -> list[Grade]:
    """The grades, with `not_evaluated` for what is right only as a copy out of its problem; all as they are with `accept`."""
    if unevaluated not in ("accept", "reject"):
        raise ValueError(f"unevaluated={unevaluated!r} is not known; use 'accept' or 'reject'")
    if problems is None or unevaluated == "accept":
        return list(grades)
    if len(problems) != len(grades):
        raise ValueError(
            f"{len(problems)} problems for {len(grades)} predictions; give one problem for each prediction"
        )
    return [
        replace(
            grade, correct=False, status="not_evaluated", why="stands in the problem and is not worked out"
        )
        if grade.correct and problem and _is_copy(grade.extracted or "", gold, problem)
        else grade
        for grade, gold, problem in zip(grades, golds, problems, strict=True)
    ]


def _is_copy(prediction: str, gold: Gold, problem: str) -> bool:
    texts = [gold] if isinstance(gold, str) else [str(text) for text in gold]
    return all(stands_unevaluated(prediction, text, problem) for text in texts)


def stands_unevaluated(prediction: str, gold: str, problem: str) -> bool:
    """Whether a right prediction is such a copy; False for the gold itself and for what is no formula.

    A list, set, tuple or matrix is one where a part of it is. An equation or inequality in names is one where all its
    sides stand in the problem, or where the gold is solved (`x = -10`, `x < 6`, an interval) and it is not.
    """
    if len(prediction) > MAX_LENGTH:
        return False
    problem = problem[:MAX_PROBLEM]
    if _is_repeating_decimal(prediction, gold, problem):
        return True
    if text_key(canonical(prediction)) == text_key(canonical(gold)):
        return False
    decimal_asked = bool(_DECIMAL.search(gold)) and "decimal" in problem
    asked_node = parse(read(gold).text)
    asked = list(_groups(asked_node))
    solved = not any(_has_work(tree) for text in scalars(asked_node) if (tree := _parsed(text)))
    with budget(MAX_STEPS):
        return any(
            _is_copied(group, asked, solved, problem, decimal_asked)
            for group in _groups(parse(read(prediction).text), decimal_asked)
        )


def _is_repeating_decimal(prediction: str, gold: str, problem: str) -> bool:
    """Whether an answer is made of the problem's `0.\\overline{73}` where another form is asked for."""
    values = [piece for piece in _LINKS.split(prediction) if any(map(str.isdigit, piece))]
    if _REPEATS.search(gold) or not all(map(_REPEATS.search, values)):
        return False
    given = _SPACES.sub("", problem)
    repeats = [_SPACES.sub("", found) for piece in values for found in _REPEATS.findall(piece)]
    return bool(repeats) and all(found in given for found in repeats)


def _groups(node: Node, decimal_asked: bool = False) -> Iterator[tuple[Tree, ...]]:
    """Canonical trees of an answer's parts: one for a formula, and the sides together for an equation or inequality.

    A chain of numbers is the value in it that is worked out, else the last. What is no formula is left out.
    """
    tree = _formula(node)
    if tree is not None:
        yield (tree,)
    if node.kind != "relation":
        for item in node.items:
            yield from _groups(item, decimal_asked)
        return
    items = node.items
    if set(node.operators) <= {"=", "\\approx"}:
        while len(items) > 1 and asks_for(items[0].text):  # `N = ...`
            items = items[1:]
    sides = [side for item in items if (side := _formula(item))]
    if len(sides) == len(items) and (set(node.operators) - {"=", "\\approx"} or any(map(variables, sides))):
        yield tuple(sides)
    elif sides:
        yield (next((side for side in sides if _is_worked_out(side, decimal_asked)), sides[-1]),)


def _formula(node: Node) -> Tree | None:
    """The canonical tree of a scalar, its unit aside."""
    if node.kind != "scalar":
        return None
    return _parsed(split_unit(node.text)[0]) or _parsed(node.text)


def _parsed(text: str) -> Tree | None:
    tree = _read(text)
    return None if tree is None else canonical_tree(tree)


def _read(text: str) -> Tree | None:
    try:
        return parse_expression(text.strip())
    except NotExpression:
        return None


def _is_copied(
    sides: tuple[Tree, ...],
    asked: Sequence[tuple[Tree, ...]],
    solved: bool,
    problem: str,
    decimal_asked: bool,
) -> bool:
    if any({*sides} == {*group} or (len(group) == 1 and group[0] in sides) for group in asked):
        return False
    worked_out = [_is_worked_out(side, decimal_asked) for side in sides]
    if all(worked_out):
        return False
    if solved and len(sides) > 1 and any(map(_has_work, sides)):
        return True
    values = [group[0] for group in asked if len(group) == 1]
    return all(
        done or side in _forms_of(problem)[0] or _holds_copy(side, values, problem, decimal_asked)
        for side, done in zip(sides, worked_out, strict=True)
    )


def _holds_copy(side: Tree, values: Sequence[Tree], problem: str, decimal_asked: bool) -> bool:
    """Whether a part of a formula stands in the problem, is not worked out, and has one of the values but for its sign."""
    parts = dict.fromkeys(_copied_parts(side, problem))
    parts_left = [part for part in parts if not _is_worked_out(part, decimal_asked)][:MAX_PARTS]
    try:
        return any(
            same_trees(_plain(part), signed) is not False
            for part in parts_left
            for value in values[:MAX_PARTS]
            for signed in (_plain(value), ("neg", _plain(value)))
        )
    except OverBudget:
        return True


def _has_work(tree: Tree) -> bool:
    """Whether a side of an equation or inequality computes with a name, as in `2x + 1`; `x` and `|x|` do not."""
    inside = tree[2] if tree[:2] == ("fn", "abs") else tree
    return bool(variables(tree)) and inside[0] not in ("var", "call")


# Is it worked out?


def _is_worked_out(form: Tree, decimal_asked: bool = False) -> bool:
    """A name, a rational in lowest terms, one times a root or pi or e or i; sums of such, and these over an integer.

    A fraction is not worked out where a decimal is asked for.
    """
    if form[0] == "var":
        return True
    if decimal_asked and any(part[0] == "inverse" for part in subtrees(form)):
        return False
    whole, below = form, Fraction(1)
    if form[0] == "mul" and len(form) == 3:  # a sum over an integer
        factors = sorted(form[1:], key=lambda factor: factor[0] == "inverse")
        if factors[0][0] == "add" and factors[1][0] == "inverse" and factors[1][1][0] == "num":
            whole, below = factors[0], factors[1][1][1]
    terms = [_read_term(term) for term in (whole[1:] if whole[0] == "add" else (whole,))]
    read_terms = [term for term in terms if term is not None]
    if len(read_terms) < len(terms) or len({rest for _, rest in read_terms}) < len(terms):
        return False
    numbers = [number for number, _ in read_terms]
    return below == 1 or (
        all(number.denominator == 1 for number in (below, *numbers))
        and gcd(int(below), *(number.numerator for number in numbers)) == 1
    )


def _read_term(term: Tree) -> tuple[Fraction, tuple[Tree, ...]] | None:
    """A number's rational factor, and what it is multiplied by; None where it is not worked out."""
    factors = [factor for factor in (term[1:] if term[0] == "mul" else (term,)) if factor != MINUS_ONE]
    above = [factor[1] for factor in factors if factor[0] == "num"]
    below = [factor[1][1] for factor in factors if factor[0] == "inverse" and factor[1][0] == "num"]
    others = [
        factor
        for factor in factors
        if factor[0] != "num" and not (factor[0] == "inverse" and factor[1][0] == "num")
    ]
    if len(above) > 1 or len(below) > 1:
        return None
    number = Fraction(above[0] if above else 1)
    if below:
        if below[0] == 0 or below[0].denominator != 1 or (number / below[0]).denominator != abs(below[0]):
            return None
        number /= below[0]
    roots = [factor for factor in others if factor[0] == "pow" and factor[1][0] != "const"]
    if len(roots) > 1 or not all(map(_is_free_root, roots)):
        return None
    others = [factor for factor in others if factor not in roots]
    kinds = [_constant(factor) for factor in others]
    return (number, (*roots, *others)) if None not in kinds and len(set(kinds)) == len(kinds) else None


def _constant(factor: Tree) -> str | None:
    """Which constant a factor is a power of: pi, e, or i itself."""
    inside = factor[1] if factor[0] == "inverse" else factor
    if inside[0] == "pow" and inside[1] != ("const", "i") and inside[2][0] == "num":
        inside = inside[1]
    return str(inside[1]) if inside[0] == "const" and (inside is factor or inside[1] != "i") else None


def _is_free_root(tree: Tree) -> bool:
    """The root of an integer that no integer's power of its degree divides."""
    if tree[1][0] != "num" or tree[2][0] != "inverse" or tree[2][1][0] != "num":
        return False
    value, degree = tree[1][1], tree[2][1][1]
    if value.denominator != 1 or degree.denominator != 1 or degree < 2 or not 1 < value <= _MAX_RADICAND:
        return False
    factor = 2
    while factor**degree <= value:
        if value % factor**degree == 0:
            return False
        factor += 1
    return True


# Does it stand in the problem?


def _copied_parts(form: Tree, problem: str) -> Iterator[Tree]:
    """Parts of a formula that stand in the problem, with what a sum or product has in common with one of the problem."""
    forms, wholes = _forms_of(problem)
    for part in subtrees(form):
        if part[0] in BINDERS:  # its bound name is named for its place
            part = canonical_tree(_plain(part))
        if part in forms:
            yield part
        for whole in wholes:
            if part[0] == whole[0]:
                common = Counter(part[1:]) & Counter(whole[1:])
                if common.total() > 1:
                    yield (part[0], *sorted(common.elements(), key=repr))


def _plain(tree: Tree) -> Tree:
    """A canonical tree as the grammar reads formulas: sums and products of two parts, quotients."""
    parts = [_plain(part) if isinstance(part, tuple) else part for part in tree[1:]]
    if tree[0] in ("add", "mul"):
        return reduce(lambda a, b: (tree[0], a, b), parts)
    return ("div", ONE, *parts) if tree[0] == "inverse" else (tree[0], *parts)


@lru_cache(maxsize=1024)
def _forms_of(problem: str) -> tuple[frozenset[Tree], tuple[Tree, ...]]:
    """Canonical trees of the problem's formulas and of their parts, and its sums and products."""
    found: dict[Tree, None] = {}
    for text in _formulas(problem):
        text = canonical(text)
        outside_brackets = [piece for side in split(text, "relation")[0] for piece in split(side, "comma")[0]]
        for piece in dict.fromkeys((*outside_brackets, *_PARTS.split(text))):
            tree = _read(piece.strip(" ,;:?")) or _read(piece.strip(" ().,;:?"))
            if tree is not None:
                found |= dict.fromkeys(canonical_tree(part) for part in subtrees(tree))
    return frozenset(found), tuple(tree for tree in found if tree[0] in ("add", "mul"))


def _formulas(problem: str) -> list[str]:
    """What stands between dollars or in displays, and what looks like a formula outside."""
    inside = [next(group for group in match.groups() if group) for match in _MATHEMATICS.finditer(problem)]
    outside = _PLAIN.findall(_ENVIRONMENT.sub(" ; ", _MATHEMATICS.sub(" ; ", problem)))
    pieces = [piece for text in outside for piece in _WORDS.split(text)]
    plain = [piece for piece in pieces if re.search(r"\d", piece)]
    return [piece for text in inside for piece in _ENVIRONMENT.split(text) if piece.strip()] + plain
