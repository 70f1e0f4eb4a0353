r"""Names that two formulas may write differently: arbitrary constants, declared indices, subscripts,
derivatives.

Whether two formulas are the same after a renaming is the caller's to find out; here are only the renamings
that are allowed:

- an index that one side declares an integer: `n \pi` and `k \pi, k \in \mathbb{Z}`;
- an arbitrary constant: `C e^{-2t}` and `c e^{-2t}`, `c_1 e^x + c_2 e^{-x}` and the same with the two
  exchanged, `x^2 + C` and `x^2 + k`. Each pair of names must have one of `C`, `c`, `C_1`, `c_1` and the like.
  The constant must be added, or be the factor of an exponential, a sine or a cosine that has all other names
  of its term in it; numbered ones may be factors of any functions of one variable. It must be nothing else in
  the formula. So `m c^2` and `m C^2`, `ct` and `Ct`, `a + c` and `a + b` stay different;
- a subscript that one side writes as such: `X_d` and `Xd`, `k_B T` and `kB T`, where neither letter is
  anything else;
- a derivative: `x'` and `\dot x` or `\frac{dx}{dt}`, by whatever variable, where the formulas have no other
  derivative of it.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from functools import reduce

from gmpo_mm.verifiers.trees import ONE, Tree, contains, replaced, variables, with_children

MAX_RENAMINGS = 24
MAX_CONSTANTS = 4

_ARBITRARY = re.compile(r"[Cc](?:_\d)?|[ABKk](?:_\d)?")
# Of a pair of names, one has to be such a factor or such a term; the c of `x^2 + c` may be given.
_FACTOR = re.compile(r"[Cc](?:_\d)?")
_ADDED = re.compile(r"C(?:_\d)?|c_\d")
_NUMBERED = re.compile(r"[A-Za-z]_\d")
_INDEX = re.compile(r"[a-zN]")
_DERIVATIVE = re.compile(r"d(\d?)(.+)/d\\?[A-Za-z]+\d?")
_VARIABLES = frozenset("xyztursv") | {"\\theta", "\\phi"}  # of functions that an added constant goes with
_WAVES = frozenset({"sin", "cos", "sinh", "cosh", "exp"})


def renamings(first: Tree, second: Tree, indices: frozenset[str]) -> Iterator[Tree]:
    """At most MAX_RENAMINGS versions of `second`; `indices` are names that either side declares integers."""
    respelled = _respelled(first, second)
    if respelled != second:
        yield respelled
    here, there = variables(respelled) - variables(first), variables(first) - variables(respelled)
    of_indices = _bijections(
        filter(_INDEX.fullmatch, here),
        filter(_INDEX.fullmatch, there),
        lambda name, other: name in indices or other in indices,
    )
    allowed = itertools.chain(of_indices, _of_constants(first, respelled))
    for renaming in itertools.islice(allowed, MAX_RENAMINGS - 1):
        yield replaced(respelled, renaming)


def _bijections(
    here: Iterable[str], there: Iterable[str], fits: Callable[[str, str], bool]
) -> Iterator[dict[str, Tree]]:
    """Ways to give the names here those there, each pair a fit, some name a new one."""
    here, there = sorted(here), sorted(there)
    if len(here) == len(there) <= MAX_CONSTANTS:
        for order in itertools.permutations(there):
            if list(order) != here and all(map(fits, here, order)):
                yield {name: ("var", other) for name, other in zip(here, order, strict=True)}


def _parts(tree: Tree, kind: str) -> list[Tree]:
    """The terms of a sum ("add"), the factors of a product ("mul"), in their order."""
    return [part for child in tree[1:] for part in _parts(child, kind)] if tree[0] == kind else [tree]


def _factors(tree: Tree) -> list[Tree]:
    """Factors in their order, without signs; a divisor as a quotient of its own."""
    match tree:
        case ("mul", left, right):
            return _factors(left) + _factors(right)
        case ("div", top, bottom) if top != ONE:
            return [*_factors(top), ("div", ONE, bottom)]
        case ("neg", positive):
            return _factors(positive)
    return [] if tree == ONE else [tree]


def _product(factors: list[Tree]) -> Tree:
    return reduce(lambda left, right: ("mul", left, right), factors) if factors else ONE


# Arbitrary constants


def _of_constants(first: Tree, second: Tree) -> Iterator[dict[str, Tree]]:
    here, there = _constants(second), _constants(first)
    taken = (variables(first) - there.keys()) & here.keys() | (variables(second) - here.keys()) & there.keys()
    if taken or (here.keys() == there.keys() and not all(map(_NUMBERED.fullmatch, here))):
        return

    def fits(name: str, other: str) -> bool:
        pattern = _ADDED if here[name] or there[other] else _FACTOR
        return name == other or any(map(pattern.fullmatch, (name, other)))

    yield from _bijections(here, there, fits)


def _constants(tree: Tree) -> dict[str, bool]:
    """The names in a sum that may be arbitrary constants, each in one term, and whether it is all of it."""
    terms, known = _expanded(tree), {}
    for name in filter(_ARBITRARY.fullmatch, variables(tree)):
        around = [_factors(term) for term in terms if name in variables(term)]
        if len(around) == 1 and around[0].count(("var", name)) == 1:
            known[name] = _product([factor for factor in around[0] if factor != ("var", name)])
    names = {name: rest for name, rest in known.items() if not variables(rest) & known.keys()}
    others = variables(tree) - names.keys()
    shared = bool(names) and bool(frozenset.intersection(*map(variables, names.values())))
    return {name: rest == ONE for name, rest in names.items() if _is_arbitrary(name, rest, others, shared)}


def _is_arbitrary(name: str, rest: Tree, others: frozenset[str], shared: bool) -> bool:
    """Whether what a constant is a factor of is a general solution's, or it is added to a function."""
    if rest == ONE:
        return bool(others & _VARIABLES)
    if shared and _NUMBERED.fullmatch(name):
        return True
    waves = [factor for factor in _factors(rest) if _has_wave(factor)]
    return bool(waves) and variables(rest) <= frozenset().union(*map(variables, waves))


def _has_wave(tree: Tree) -> bool:
    match tree:
        case ("pow", base, exponent):
            return bool(variables(exponent)) and not variables(base)
        case ("fn", name, argument):
            return name in _WAVES and bool(variables(argument))
        case ("mul" | "neg" | "div", *below):
            return any(map(_has_wave, below))
    return False


def _expanded(tree: Tree) -> list[Tree]:
    """Terms of a sum, a factor that is a sum with constants multiplied out: `e^x (A \\cos x + B)`."""
    terms: list[Tree] = []
    for term in _parts(tree, "add"):
        factors = _factors(term)
        sums = [one for one in factors if one[0] == "add" and any(map(_ARBITRARY.fullmatch, variables(one)))]
        if len(sums) == 1:
            rest = _product([factor for factor in factors if factor is not sums[0]])
            terms += [one for part in _parts(sums[0], "add") for one in _expanded(("mul", rest, part))]
        else:
            terms.append(term)
    return terms


# Spellings


def _respelled(first: Tree, second: Tree) -> Tree:
    """`second` with the subscripts and derivatives as `first` writes them."""
    here, there = variables(second), variables(first)
    values: dict[str, Tree] = {}
    for name in sorted(there - here):
        second = _subscripted(second, name)
    for name in here - there:
        letters = _letters(name)
        if _subscripted(first, name) != first and not {letter[1] for letter in letters} & here:
            values[name] = _product(letters)
    pairs = [
        (name, other)
        for name in here - there
        for other in there - here
        if name.endswith("'") != other.endswith("'") and _derivative(name) == _derivative(other)
    ]
    for name, other in pairs:
        if sum(name in pair or other in pair for pair in pairs) == 1:
            values[name] = ("var", other)
    return replaced(second, values)


def _letters(name: str) -> list[Tree]:
    """The factors X, d that `X_d` might be; none where a name is no letter with letters below it."""
    if not re.fullmatch(r"[A-Za-z]_[A-Za-z]{1,3}", name):
        return []
    return [("const" if letter in "ei" else "var", letter) for letter in name.replace("_", "")]


def _subscripted(tree: Tree, name: str) -> Tree:
    """The tree with `X_d` for each `Xd`; as it is where it has none, or an X or a d besides."""
    letters = _letters(name)
    if not letters or name in variables(tree):
        return tree
    changed = _joined(tree, letters, ("var", name))
    names = frozenset(letter[1] for letter in letters)
    return tree if names & variables(changed) or contains(changed, names) else changed


def _joined(tree: Tree, letters: list[Tree], name: Tree) -> Tree:
    parts: list[Tree] = []
    for part in _parts(tree, "mul"):
        parts.append(with_children(part, _joined, letters, name))
        if parts[-len(letters) :] == letters:
            parts[-len(letters) :] = [name]
    return _product(parts)


def _derivative(name: str) -> tuple[str, int] | None:
    """The quantity and the order in `x''` or `d2x/dt2`; a dot and a prime are by whatever variable."""
    if name.endswith("'"):
        return name.rstrip("'"), len(name) - len(name.rstrip("'"))
    match = _DERIVATIVE.fullmatch(name)
    return (match.group(2), int(match.group(1) or 1)) if match else None
