r"""What a formula's tree is, which names it has, and its canonical form.

Trees are nested tuples, the kind first:

- `("num", Fraction)`, `("var", name)`, `("const", "pi" | "e" | "i")`, `("infinity",)`;
- `("neg", a)`, `("factorial", a)`, `("degrees", a)`, `("add" | "mul" | "div" | "pow" | "binom" | "mod" |
  "residue", a, b)`, `("root", a, n)`, `("log", a, base)`, `("max" | "min" | "gcd" | "lcm", a, b, ...)`;
- `("fn", name, a)` for a known function, `("call", name, a, ...)` for an unknown one such as `f(x)`;
- with a bound name: `("sum" | "product", body, name, first, last)`, `("integral", body, name, from, to)`
  (both None where it is indefinite), `("limit", body, name, point, side)`; `("index", name, a, ...)` is
  `F_{n-k}` where k is bound;
- `("derivative", body, name, order)`. A derivative of a name alone is a name: `\dot x` and `\frac{dx}{dt}`
  are the variable `dx/dt`, and `x'` is the variable `x'`.
"""

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Any

Tree = tuple[Any, ...]

BINDERS = frozenset({"sum", "product", "integral", "limit"})
ZERO: Tree = ("num", Fraction(0))
ONE: Tree = ("num", Fraction(1))
MINUS_ONE: Tree = ("num", Fraction(-1))
TWO: Tree = ("num", Fraction(2))
OF_SEVERAL = frozenset({"max", "min", "gcd", "lcm"})  # in any order


def children(tree: Tree) -> list[Tree]:
    """The trees right below a tree."""
    return [child for child in tree[1:] if isinstance(child, tuple)]


def with_children(tree: Tree, change: Callable[..., Tree], *how: Any) -> Tree:
    """The tree with each of its children changed; one frame of the stack a level, for trees are deep."""
    changed = list(tree)
    for place, child in enumerate(tree):
        if isinstance(child, tuple):
            changed[place] = change(child, *how)
    return tuple(changed)


def variables(tree: Tree) -> frozenset[str]:
    """Names of the variables and unknown functions in a tree; a bound name is none of its formula's."""
    names = frozenset({tree[1]} if tree[0] in ("var", "call", "index") else ())
    below = children(tree)
    if tree[0] in BINDERS:
        names = variables(below.pop(0)) - {tree[2]}
    return names.union(*map(variables, below))


def depth(tree: Tree) -> int:
    """How many nodes are within each other."""
    return 1 + max(map(depth, children(tree)), default=0)


def subtrees(tree: Tree) -> Iterator[Tree]:
    """The tree and all trees in it."""
    stack = [tree]
    while stack:
        yield (node := stack.pop())
        stack += children(node)


def contains(tree: Tree, kinds: frozenset[str]) -> bool:
    """Whether a node of one of these kinds, functions or constants is in the tree."""
    return any(
        node[0] in kinds or (node[0] in ("fn", "const") and node[1] in kinds) for node in subtrees(tree)
    )


def replaced(tree: Tree, values: dict[str, Tree]) -> Tree:
    """The tree with other trees for free variables; names of functions and indices go along."""
    kind = tree[0]
    if kind == "var":
        return values.get(tree[1], tree)
    if kind in BINDERS:
        values = {name: value for name, value in values.items() if name != tree[2]}
    elif kind in ("call", "index") and values.get(tree[1], ("",))[0] == "var":
        tree = (kind, values[tree[1]][1], *tree[2:])
    return with_children(tree, replaced, values)


@lru_cache(maxsize=4096)
def canonical_tree(tree: Tree) -> Tree:
    r"""One tree for the spellings of one formula; nothing is evaluated.

    The same for every order of terms and factors, every bracket that changes nothing, `\frac{a}{b}`, `a/b`
    and `a b^{-1}`, `\sqrt{a}` and `a^{1/2}`, `-(a - b)` and `b - a`, every name of a bound variable, and with
    or without `+ 0`, `* 1`, `^1`. Sums and products have two or more parts; a quotient has a factor
    `("inverse", b)`, a minus is a factor -1. `99^2 + 99 + 1` and `1 + 99 * 1 + 99^2` are one tree, not 9901.
    """
    return _canonical(tree, 0)


def _canonical(tree: Tree, level: int) -> Tree:
    kind = tree[0]
    if kind in ("add", "neg"):
        return _sum(tree, level)
    if kind in ("mul", "div"):
        return _product(*_factors(tree, level))
    if kind in BINDERS:
        name = f"#{level}"
        body = _canonical(replaced(tree[1], {tree[2]: ("var", name)}), level + 1)
        outside = with_children((kind, *tree[3:]), _canonical, level)
        return (kind, body, name, *outside[1:])
    tree = with_children(tree, _canonical, level)
    if kind == "pow":
        return _power(tree[1], tree[2])
    if kind == "root":
        return _power(tree[1], ("inverse", tree[2]))
    if kind == "fn" and tree[1] == "exp":
        return _power(("const", "e"), tree[2])
    return (kind, *sorted(tree[1:], key=repr)) if kind in OF_SEVERAL else tree


def _sum(tree: Tree, level: int) -> Tree:
    """Terms with their signs; the signs of a sum in brackets go to its terms."""
    terms: list[Tree] = []
    stack = [(tree, False)]
    while stack:
        node, negative = stack.pop()
        if node[0] == "add":
            stack += [(node[1], negative), (node[2], negative)]
        elif node[0] == "neg":
            stack.append((node[1], not negative))
        else:
            sign, factors = _factors(node, level)
            terms.append(_product(sign != negative, factors))
    terms = sorted((term for term in terms if term not in (ZERO, ("mul", MINUS_ONE, ZERO))), key=repr)
    return ZERO if not terms else terms[0] if len(terms) == 1 else ("add", *terms)


def _factors(tree: Tree, level: int) -> tuple[bool, list[Tree]]:
    """Whether a product is negative, and its factors but for the sign; a factor is no product."""
    negative, factors = False, []
    stack = [(tree, False)]
    while stack:
        node, below = stack.pop()
        if node[0] == "div" and node[2] == ZERO:  # `1/(1/0)` is not 0
            factors.append(_inverse(_inverse(ZERO)) if below else _inverse(ZERO))
            stack.append((node[1], below))
        elif node[0] in ("mul", "div"):
            stack += [(node[1], below), (node[2], below != (node[0] == "div"))]
        elif node[0] == "neg":
            negative = not negative
            stack.append((node[1], below))
        else:
            one = _canonical(node, level)
            for factor in one[1:] if one[0] == "mul" else (one,):
                if factor == MINUS_ONE:
                    negative = not negative
                elif factor != ONE:
                    factors.append(_inverse(factor) if below else factor)
    return negative, factors


def _inverse(factor: Tree) -> Tree:
    return tuple(factor[1]) if factor[0] == "inverse" and factor[1] != ZERO else ("inverse", factor)


def _product(negative: bool, factors: Sequence[Tree]) -> Tree:
    parts = ([MINUS_ONE] if negative else []) + sorted(factors, key=repr)
    return ONE if not parts else parts[0] if len(parts) == 1 else ("mul", *parts)


def _power(base: Tree, exponent: Tree) -> Tree:
    if exponent == ONE:
        return base
    if exponent == MINUS_ONE:
        return _product(False, [_inverse(factor) for factor in (base[1:] if base[0] == "mul" else (base,))])
    if exponent[0] == "mul" and exponent[1] == MINUS_ONE:
        return ("inverse", ("pow", base, _product(False, exponent[2:])))
    return ("pow", base, exponent)
