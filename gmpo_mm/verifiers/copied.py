r"""Is an answer only an expression that stands in the problem, copied and not worked out?

`99^2 + 99 + 1` equals 9901, but it is no answer to "What is $99^2+99+1$?". A prediction is such a copy where it is equal to the
gold in another form, stands in the problem as a formula or a part of one (up to order, brackets and spelling, see
`trees.canonical_tree`), and is not worked out: something in it could still be computed. With names in it, it is a copy
where the gold has another form, such as the factors of a sum that the problem asks to factor.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

from gmpo_mm.verifiers.comparison import settle
from gmpo_mm.verifiers.equivalence import MAX_LENGTH
from gmpo_mm.verifiers.expressions import NotExpression, parse_expression
from gmpo_mm.verifiers.grading import Gold, Grade
from gmpo_mm.verifiers.normalize import canonical, text_key
from gmpo_mm.verifiers.reading import read
from gmpo_mm.verifiers.scalars import EXACT
from gmpo_mm.verifiers.structure import Node, parse
from gmpo_mm.verifiers.trees import Tree, canonical_tree, subtrees
from gmpo_mm.verifiers.units import split_unit

MAX_PROBLEM = 20_000  # characters of a problem that are searched

_MATHEMATICS = re.compile(
    r"\$\$(.{1,2000}?)\$\$|\$([^$]{1,2000})\$|\\\((.{1,2000}?)\\\)|\\\[(.{1,2000}?)\\\]", re.DOTALL
)
_ENVIRONMENT = re.compile(r"\\(?:begin|end) ?\{[a-z*]+\}|\\(?:text|mbox) ?\{[^{}]*\}|\\\\|&")
_PLAIN = re.compile(r"[\w(][\w\s+\-*/^(){}.!\\]{0,200}[\w)!}]")
_PARTS = re.compile(r"<=|>=|!=|[=<>,;:?]|\\approx|\\equiv|\\pmod|\\to(?![a-z])|\.(?!\d)")
_REPEATS = re.compile(r"[\d.] *\\(?:overline|bar|dot)|\d *(?:\.\.\.|\\[lc]?dots)|\.\d*\(\d+\)$")
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
    """Whether the prediction is such a copy; False for the gold itself and for what is neither a formula nor a relation."""
    if _REPEATS.search(prediction) and not _REPEATS.search(gold):  # a fraction is asked for
        return _SPACES.sub("", prediction) in _SPACES.sub("", problem)
    if text_key(canonical(prediction)) == text_key(canonical(gold)) or len(prediction) > MAX_LENGTH:
        return False
    settled = settle(parse(read(prediction).text), EXACT)
    sides = settled.node.items if settled.kind == "equation" and settled.node else settled.forms
    if len(sides) == 1 and sides[0].kind == "relation":  # an inequality
        sides = sides[0].items
    trees = [_formula(side) for side in sides]
    if None in trees or not trees:
        return False
    asked = _formula(*settle(parse(read(gold).text), EXACT).forms[:1])
    if len(trees) == 1 and asked is not None and canonical_tree(asked) == canonical_tree(trees[0]):  # type: ignore[arg-type]
        return False
    decimal_asked = bool(_DECIMAL.search(gold)) and "decimal" in problem
    worked_out = [tree is not None and _is_worked_out(tree, decimal_asked) for tree in trees]
    return not all(worked_out) and all(
        _stands_in(canonical_tree(tree), problem[:MAX_PROBLEM]) for tree in trees if tree
    )


def _formula(node: Node | None = None) -> Tree | None:
    """The formula of a scalar, its unit aside."""
    if node is None or node.kind != "scalar":
        return None
    return _parsed(split_unit(node.text)[0]) or _parsed(node.text)


def _parsed(text: str) -> Tree | None:
    try:
        return parse_expression(text.strip())
    except NotExpression:
        return None


# Is it worked out?


def _is_worked_out(tree: Tree, decimal_asked: bool) -> bool:
    """An integer, a decimal, a reduced fraction, a rational times the root of a square-free integer or pi or e, sums of such.

    A fraction is not worked out where the gold is a decimal.
    """
    if tree[0] == "var":
        return True
    if decimal_asked and any(part[0] == "div" for part in subtrees(tree)):
        return False
    terms = _parts(tree, "add")
    radicals = [_radical(term) for term in terms]
    return None not in radicals and len(set(radicals)) == len(terms)


def _parts(tree: Tree, kind: str) -> list[Tree]:
    if tree[0] == "neg":
        return _parts(tree[1], kind)
    return [*_parts(tree[1], kind), *_parts(tree[2], kind)] if tree[0] == kind else [tree]


def _radical(term: Tree) -> str | None:
    """What a number's term has beside its rational factor, as a text: "" for a rational; None where it is not worked out."""
    top, bottom = (
        (_parts(term[1], "mul"), term[2]) if term[0] == "div" else (_parts(term, "mul"), ("num", Fraction(1)))
    )
    rationals = [factor for factor in top if factor[0] in ("num", "div")]
    others = [factor for factor in top if factor not in rationals]
    if bottom[0] != "num" or bottom[1].denominator != 1 or len(rationals) > 1:
        return None
    if rationals and rationals[0][0] == "div":
        if bottom[1] != 1 or _radical(rationals[0]) != "":
            return None
    elif bottom[1] != 1 and rationals and Fraction(rationals[0][1], bottom[1]).denominator != bottom[1]:
        return None
    if not all(factor[0] == "const" or _is_free_root(factor) for factor in others):
        return None
    kinds = sorted(map(repr, others))
    return (
        "".join(kinds) if len(set(kinds)) == len(kinds) and sum(f[0] == "root" for f in others) <= 1 else None
    )


def _is_free_root(tree: Tree) -> bool:
    """The root of an integer that no integer's power of its degree divides."""
    if tree[0] != "root" or tree[1][0] != "num" or tree[2][0] != "num" or tree[1][1].denominator != 1:
        return False
    value, degree = int(tree[1][1]), int(tree[2][1])
    if not 1 < value <= _MAX_RADICAND:
        return False
    factor = 2
    while factor**degree <= value:
        if value % factor**degree == 0:
            return False
        factor += 1
    return True


# Does it stand in the problem?


@lru_cache(maxsize=4096)
def _stands_in(form: Tree, problem: str) -> bool:
    forms, wholes = _forms_of(problem)
    if form in forms:
        return True
    if form[0] not in ("add", "mul"):
        return False
    wanted = Counter(form[1:])  # some terms of a longer sum
    return any(whole[0] == form[0] and not wanted - Counter(whole[1:]) for whole in wholes)


@lru_cache(maxsize=1024)
def _forms_of(problem: str) -> tuple[frozenset[Tree], tuple[Tree, ...]]:
    """Canonical trees of the problem's formulas and of their parts, and its sums and products."""
    found: dict[Tree, None] = {}
    for text in _formulas(problem):
        for piece in _PARTS.split(canonical(text)):
            tree = _parsed(piece.strip(" ()")) or _parsed(piece)
            if tree is not None:
                found |= dict.fromkeys(canonical_tree(part) for part in subtrees(tree))
    return frozenset(found), tuple(tree for tree in found if tree[0] in ("add", "mul"))


def _formulas(problem: str) -> list[str]:
    """What stands between dollars or in displays, and what looks like a formula outside."""
    inside = [next(group for group in match.groups() if group) for match in _MATHEMATICS.finditer(problem)]
    outside = _PLAIN.findall(_ENVIRONMENT.sub(" ; ", _MATHEMATICS.sub(" ; ", problem)))
    pieces = [
        piece for text in outside for piece in re.split(r"(?<![A-Za-z\\])[A-Za-z]{2,}(?![A-Za-z])", text)
    ]
    plain = [piece for piece in pieces if re.search(r"\d", piece)]
    return [piece for text in inside for piece in _ENVIRONMENT.split(text) if piece.strip()] + plain
