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
from collections.abc import Iterator

from gmpo_mm.verifiers.trees import ONE, Tree, contains, replaced, variables

MAX_RENAMINGS = 24
MAX_CONSTANTS = 4

_ARBITRARY = re.compile(r"[Cc](?:_\d)?|[ABKk](?:_\d)?")
_FACTOR = re.compile(r"[Cc](?:_\d)?")
_ADDED = re.compile(r"C(?:_\d)?|c_\d")
_NUMBERED = re.compile(r"[A-Za-z]_\d")
_INDEX = re.compile(r"[a-zN]")
_DERIVATIVE = re.compile(r"d(\d?)(.+)/d(\\?[A-Za-z]+)(\d?)")
_VARIABLES = frozenset("xyztursv") | {"\\theta", "\\phi"}  # of functions that an added constant goes with
_WAVES = frozenset({"sin", "cos", "sinh", "cosh", "exp"})


def renamings(first: Tree, second: Tree, indices: frozenset[str]) -> Iterator[Tree]:
    """At most MAX_RENAMINGS versions of `second`; `indices` are names that either side declares integers."""
    return itertools.islice(_renamings(first, second, indices), MAX_RENAMINGS)


def _renamings(first: Tree, second: Tree, indices: frozenset[str]) -> Iterator[Tree]:
    for respelled in (_respelled(first, second), second):
        if respelled is None:
            continue
        if respelled is not second:
            yield respelled
        for renaming in itertools.chain(
            _of_indices(first, respelled, indices), _of_constants(first, respelled)
        ):
            yield replaced(respelled, {name: ("var", other) for name, other in renaming.items()})


def _bijections(here: list[str], there: list[str]) -> Iterator[dict[str, str]]:
    if len(here) == len(there) <= MAX_CONSTANTS:
        for order in itertools.permutations(there):
            if list(order) != here:
                yield dict(zip(here, order, strict=True))


def _of_indices(first: Tree, second: Tree, indices: frozenset[str]) -> Iterator[dict[str, str]]:
    names, others = variables(second) - variables(first), variables(first) - variables(second)
    here, there = (sorted(name for name in some if _INDEX.fullmatch(name)) for some in (names, others))
    for renaming in _bijections(here, there) if indices else ():
        if all(name in indices or other in indices for name, other in renaming.items()):
            yield renaming


# Arbitrary constants


def _of_constants(first: Tree, second: Tree) -> Iterator[dict[str, str]]:
    here, there = _constants(second), _constants(first)
    taken = (variables(first) - there.keys()) & here.keys() | (variables(second) - here.keys()) & there.keys()
    if taken or (here.keys() == there.keys() and not all(_NUMBERED.fullmatch(name) for name in here)):
        return
    for renaming in _bijections(sorted(here), sorted(there)):
        if all(
            name == other or _may_be(name, other, here[name] or there[other])
            for name, other in renaming.items()
        ):
            yield renaming


def _may_be(name: str, other: str, added: bool) -> bool:
    """Whether one of two names can only be an arbitrary constant; the c of `x^2 + c` may be given."""
    pattern = _ADDED if added else _FACTOR
    return bool(pattern.fullmatch(name) or pattern.fullmatch(other))


def _constants(tree: Tree) -> dict[str, bool]:
    """The names in a sum that may be arbitrary constants, each in one term, and whether it is all of it."""
    candidates = {name for name in variables(tree) if _ARBITRARY.fullmatch(name)}
    if not candidates:
        return {}
    coefficients: dict[str, Tree | None] = {}
    for term in _expanded(tree):
        factors = _factors(term)
        for name in candidates & variables(term):
            rest = [factor for factor in factors if factor != ("var", name)]
            alone = len(factors) == len(rest) + 1
            coefficients[name] = _product(rest) if alone and name not in coefficients else None
    known = {name: rest for name, rest in coefficients.items() if rest is not None}
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
    if tree[0] == "pow" and not variables(tree[1]) and variables(tree[2]):
        return True
    if tree[0] == "fn" and tree[1] in _WAVES and variables(tree[2]):
        return True
    return tree[0] in ("mul", "neg", "div") and any(_has_wave(child) for child in tree[1:])


def _expanded(tree: Tree) -> list[Tree]:
    """Terms of a sum, a factor that is a sum with constants multiplied out: `e^x (A \\cos x + B)`."""
    terms, stack = [], [tree]
    while stack:
        node = stack.pop()
        if node[0] == "add":
            stack += node[1:]
            continue
        factors = _factors(node)
        sums = [
            factor
            for factor in factors
            if factor[0] == "add" and any(map(_ARBITRARY.fullmatch, variables(factor)))
        ]
        if len(sums) == 1:
            rest = _product([factor for factor in factors if factor is not sums[0]])
            stack += [("mul", rest, term) for term in sums[0][1:]]
        else:
            terms.append(node)
    return terms


def _factors(tree: Tree) -> list[Tree]:
    """Factors in their order, without signs; a divisor as a quotient of its own."""
    factors: list[Tree] = []
    stack = [tree]
    while stack:
        node = stack.pop()
        if node[0] == "mul":
            stack += [node[2], node[1]]
        elif node[0] == "div" and node[1] != ONE:
            stack += [("div", ONE, node[2]), node[1]]
        elif node[0] == "neg":
            stack.append(node[1])
        elif node != ONE:
            factors.append(node)
    return factors


def _product(factors: list[Tree]) -> Tree:
    product = ONE
    for factor in factors:
        product = factor if product == ONE else ("mul", product, factor)
    return product


# Spellings


def _respelled(first: Tree, second: Tree) -> Tree | None:
    """`second` with the subscripts and derivatives as `first` writes them; None where they are so already."""
    here, there = variables(second), variables(first)
    changed = second
    for name in sorted(there - here):
        changed = _subscripted(changed, name) or changed
    values: dict[str, Tree] = {}
    for name in sorted(here - there):
        letters = _letters(name)
        if letters and _subscripted(first, name) and not set(letters) & here:
            values[name] = _product([_letter(letter) for letter in letters])
    pairs = [
        (name, other) for name in here - there for other in there - here if _same_derivative(name, other)
    ]
    for name, other in pairs:
        if sum(name in pair or other in pair for pair in pairs) == 1:
            values[name] = ("var", other)
    changed = replaced(changed, values)
    return None if changed == second else changed


def _letters(name: str) -> list[str]:
    """`X_d` as X, d; nothing where a name is no letter with letters below it."""
    match = re.fullmatch(r"([A-Za-z])_([A-Za-z]{1,3})", name)
    return [match.group(1), *match.group(2)] if match else []


def _letter(letter: str) -> Tree:
    return ("const", letter) if letter in ("e", "i") else ("var", letter)


def _subscripted(tree: Tree, name: str) -> Tree | None:
    """The tree with `X_d` for each `Xd`; None where it has none, or an X or a d besides."""
    letters = [_letter(letter) for letter in _letters(name)]
    if not letters or name in variables(tree):
        return None
    changed = _joined(tree, letters, ("var", name))
    besides = any(
        letter[1] in variables(changed) or contains(changed, frozenset({letter[1]})) for letter in letters
    )
    return None if changed == tree or besides else changed


def _joined(tree: Tree, letters: list[Tree], name: Tree) -> Tree:
    if tree[0] != "mul":
        return (
            tree[0],
            *(_joined(child, letters, name) if isinstance(child, tuple) else child for child in tree[1:]),
        )
    parts: list[Tree] = []
    stack = [tree]
    while stack:
        node = stack.pop()
        if node[0] == "mul":
            stack += [node[2], node[1]]
        else:
            parts.append(_joined(node, letters, name) if node[0] != "var" else node)
            if parts[-len(letters) :] == letters:
                parts[-len(letters) :] = [name]
    return _product(parts)


def _same_derivative(name: str, other: str) -> bool:
    """`x'` and `dx/dt`, in either order; a dot and a prime of one quantity, whatever the variable."""
    prime, named = (name, other) if name.endswith("'") else (other, name)
    match = _DERIVATIVE.fullmatch(named)
    if not match or not prime.endswith("'"):
        return False
    order = len(prime) - len(prime.rstrip("'"))
    return prime.rstrip("'") == match.group(2) and order == int(match.group(1) or 1)
