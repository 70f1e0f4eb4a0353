"""Is an answer only an expression that stands in the problem, copied and not worked out? (docs/reference/graders.md)"""

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache, partial, reduce
from math import gcd

from gmpo_mm.verifiers.budget import OverBudget, budget
from gmpo_mm.verifiers.equivalence import MAX_LENGTH, MAX_STEPS
from gmpo_mm.verifiers.expressions import NotExpression, parse_expression
from gmpo_mm.verifiers.grading import Gold, Grade
from gmpo_mm.verifiers.identity import same_trees
from gmpo_mm.verifiers.normalize import canonical, text_key
from gmpo_mm.verifiers.reading import read
from gmpo_mm.verifiers.structure import Node, asks_for, parse, split
from gmpo_mm.verifiers.trees import MINUS_ONE, ONE, Tree, canonical_tree, parts, subtrees, variables
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

_Done = Callable[[Tree], bool]


def without_copies(
    grades: Sequence[Grade], golds: Sequence[Gold], problems: Sequence[str | None] | None, unevaluated: str
) -> list[Grade]:
    """The grades, with `not_evaluated` for what is right only as a copy; all as they are with `accept`."""
    if unevaluated not in ("accept", "reject"):
        raise ValueError(f"unevaluated={unevaluated!r} is not known; use 'accept' or 'reject'")
    if problems is None or unevaluated == "accept":
        return list(grades)
    if len(problems) != len(grades):
        raise ValueError(f"{len(problems)} problems for {len(grades)} predictions; give one for each")
    result = list(grades)
    for place, (grade, gold, problem) in enumerate(zip(grades, golds, problems, strict=True)):
        texts, answer = [gold] if isinstance(gold, str) else gold, grade.extracted or ""
        if grade.correct and problem and all(stands_unevaluated(answer, str(one), problem) for one in texts):
            why = "stands in the problem and is not worked out"
            result[place] = replace(grade, correct=False, status="not_evaluated", why=why)
    return result


def stands_unevaluated(prediction: str, gold: str, problem: str) -> bool:
    """Whether a right prediction is such a copy; False for the gold itself and for what is no formula."""
    if len(prediction) > MAX_LENGTH:
        return False
    problem = problem[:MAX_PROBLEM]
    if _is_repeating_decimal(prediction, gold, problem):
        return True
    if text_key(canonical(prediction)) == text_key(canonical(gold)):
        return False
    done = partial(_is_worked_out, as_decimal="decimal" in problem and bool(re.search(r"\.\d", gold)))
    gold_node = parse(read(gold).text)
    asked = list(_groups(gold_node, _is_worked_out))
    nodes = [gold_node, *gold_node.items, *(part for item in gold_node.items for part in item.items)]
    solved = not any(map(_has_work, filter(None, map(_formula, nodes))))
    with budget(MAX_STEPS):
        groups = _groups(parse(read(prediction).text), done)
        return any(_is_copied(group, asked, solved, problem, done) for group in groups)


def _is_repeating_decimal(prediction: str, gold: str, problem: str) -> bool:
    """Whether an answer is made of the problem's `0.\\overline{73}` where another form is asked for."""
    said, given = (re.sub(r"[\s$]+", "", text) for text in (prediction, problem))
    repeats = [_REPEATS.findall(piece) for piece in re.split(r"=|\\approx", said) if re.search(r"\d", piece)]
    copied = all(text in given for texts in repeats for text in texts)
    return bool(repeats) and all(repeats) and copied and not _REPEATS.search(gold)


def _groups(node: Node, done: _Done) -> Iterator[tuple[Tree, ...]]:
    """Canonical trees of an answer's formulas, and of the sides of its equations and inequalities.

    A chain of numbers is the value in it that is worked out, else the last. What is no formula is left out.
    """
    items = node.items if node.kind == "relation" else (node,)
    equality = set(node.operators) <= {"=", "\\approx"}
    while equality and len(items) > 1 and asks_for(items[0].text):  # `N = ...`
        items = items[1:]
    sides = tuple(side for item in items if (side := _formula(item)))
    if len(sides) == len(items) and (not equality or any(map(variables, sides))):
        yield sides
    elif sides:
        yield (next(filter(done, sides), sides[-1]),)
    for item in node.items if node.kind != "relation" else ():
        yield from _groups(item, done)


def _formula(node: Node) -> Tree | None:
    """The canonical tree of a scalar, its unit aside."""
    return (_canonical(split_unit(node.text)[0]) or _canonical(node.text)) if node.kind == "scalar" else None


def _canonical(text: str) -> Tree | None:
    try:
        return canonical_tree(parse_expression(text.strip()))
    except NotExpression:
        return None


def _is_copied(
    sides: tuple[Tree, ...], asked: Sequence[tuple[Tree, ...]], solved: bool, problem: str, done: _Done
) -> bool:
    values = [group[0] for group in asked if len(group) == 1]
    left = [side for side in sides if not done(side)]
    if not left or any({*sides} == {*group} for group in asked) or not set(values).isdisjoint(sides):
        return False
    if solved and len(sides) > 1 and any(map(_has_work, sides)):
        return True
    forms, _ = _forms_of(problem)
    return all(side in forms or _holds_copy(side, values, problem, done) for side in left)


def _holds_copy(side: Tree, values: Sequence[Tree], problem: str, done: _Done) -> bool:
    """Whether a part stands in the problem, is not worked out, and has one of the values but for its sign."""
    copies = [part for part in dict.fromkeys(_copied_parts(side, problem)) if not done(part)]
    wanted = [tree for value in values[:MAX_PARTS] for tree in (_plain(value), ("neg", _plain(value)))]
    pairs = itertools.product(map(_plain, copies[:MAX_PARTS]), wanted)
    try:
        return any(same_trees(part, tree) is not False for part, tree in pairs)
    except OverBudget:
        return True


def _has_work(tree: Tree) -> bool:
    """Whether a side of an equation computes with a name, as in `2x + 1`; `x` and `|x|` do not."""
    side = tree[2] if tree[:2] == ("fn", "abs") else tree
    return bool(variables(tree)) and side[0] not in ("var", "call")


def _is_worked_out(form: Tree, as_decimal: bool = False) -> bool:
    """A name, a rational in lowest terms, that times a root or pi or e or i; sums, also over an integer.

    A fraction is not worked out where a decimal is asked for.
    """
    if form[0] == "var" or (as_decimal and any(part[0] == "inverse" for part in subtrees(form))):
        return form[0] == "var"
    below = Fraction(1)
    for total, divisor in (form[1:], form[:0:-1]) if form[0] == "mul" and len(form) == 3 else ():
        if total[0] == "add" and divisor[0] == "inverse" and divisor[1][0] == "num":
            form, below = total, divisor[1][1]
    terms = parts(form, "add")
    numbers = dict(filter(None, map(_read_term, terms)))  # what is multiplied, and its factor
    whole = all(number.denominator == 1 for number in (below, *numbers.values()))
    lowest = below == 1 or (whole and gcd(*map(int, (below, *numbers.values()))) == 1)
    return lowest and len(numbers) == len(terms)


def _read_term(term: Tree) -> tuple[tuple[Tree, ...], Fraction] | None:
    """What a number's rational factor is multiplied by, and that factor; None where it is not worked out."""
    factors = [factor for factor in parts(term, "mul") if factor != MINUS_ONE]
    kinds = {_kind(factor): factor for factor in factors}
    if None in kinds or len(kinds) < len(factors):
        return None
    above, below = kinds.pop("above", ONE)[1], kinds.pop("below", ("inverse", ONE))[1][1]
    if below != 1 and (below.denominator != 1 or not below or (above / below).denominator != abs(below)):
        return None
    return tuple(kinds.values()), above / below


def _kind(factor: Tree) -> str | None:
    """A number above or below, a root, or the constant whose power it is: a term has one of each."""
    inside = factor[1] if factor[0] == "inverse" else factor
    if inside[0] == "num":
        return "above" if inside is factor else "below"
    base, exponent = inside[1:] if inside[0] == "pow" else (inside, ONE)
    if base[0] == "const" and exponent[0] == "num" and (base is factor or base[1] != "i"):
        return str(base[1])
    match (base, exponent):  # the root of an integer that no integer's power of its degree divides
        case (("num", value), ("inverse", ("num", degree))) if inside is factor and 1 < value <= 10**8:
            divisors = range(2, round(value ** (1 / degree)) + 1) if degree > 1 else ()
            whole = value.denominator == degree.denominator == 1 < degree
            return "root" if whole and all(value % divisor**degree for divisor in divisors) else None
    return None


def _copied_parts(form: Tree, problem: str) -> Iterator[Tree]:
    """Parts that stand in the problem, with what a sum or product has in common with one of the problem."""
    forms, wholes = _forms_of(problem)
    for part in subtrees(form):
        if part in forms:
            yield part
        for whole in wholes:
            common = Counter(part[1:]) & Counter(whole[1:]) if part[0] == whole[0] else Counter[Tree]()
            if common.total() > 1:
                yield (part[0], *sorted(common.elements(), key=repr))


def _plain(tree: Tree) -> Tree:
    """A canonical tree as the grammar reads formulas: sums and products of two parts, quotients."""
    kind, *inside = (_plain(part) if isinstance(part, tuple) else part for part in tree)
    if kind in ("add", "mul"):
        return reduce(lambda a, b: (kind, a, b), inside)
    return ("div", ONE, *inside) if kind == "inverse" else (kind, *inside)


@lru_cache(maxsize=1024)
def _forms_of(problem: str) -> tuple[frozenset[Tree], tuple[Tree, ...]]:
    """Canonical trees of the problem's formulas and of their parts, and its sums and products."""
    found: dict[Tree, None] = {}
    for text in map(canonical, _formulas(problem)):
        outside = [piece for side in split(text, "relation")[0] for piece in split(side, "comma")[0]]
        for piece in dict.fromkeys((*outside, *_PARTS.split(text))):
            tree = _canonical(piece.strip(" ,;:?")) or _canonical(piece.strip(" ().,;:?"))
            found |= dict.fromkeys(subtrees(tree) if tree else ())
    return frozenset(found), tuple(tree for tree in found if tree[0] in ("add", "mul"))


def _formulas(problem: str) -> Iterator[str]:
    """What stands between dollars or in displays, and what looks like a formula outside."""
    for match in _MATHEMATICS.finditer(problem):
        yield from filter(str.strip, _ENVIRONMENT.split(match.group(match.lastindex or 0)))
    for text in _PLAIN.findall(_ENVIRONMENT.sub(" ; ", _MATHEMATICS.sub(" ; ", problem))):
        yield from (piece for piece in _WORDS.split(text) if re.search(r"\d", piece))
