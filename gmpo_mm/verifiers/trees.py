r"""What a formula's tree is, which names it has, and its canonical form.

Trees are nested tuples, the kind first:

- `("num", Fraction)`, `("var", name)`, `("const", "pi" | "e" | "i")`, `("infinity",)`;
- `("neg", a)`, `("factorial", a)`, `("degrees", a)`, `("add" | "mul" | "div" | "pow" | "binom", a, b)`,
  `("root", a, n)`, `("log", a, base)`, `("max" | "min", a, b, ...)`;
- `("fn", name, a)` for a known function, `("call", name, a, ...)` for an unknown one such as `f(x)`;
- with a bound name: `("sum" | "product", body, name, first, last)`; `("index", name, a, ...)` is `F_{n-k}`
  where k is bound. A derivative is a name: `\dot x` and `\frac{dx}{dt}` are `dx/dt`, and `x'` is `x'`.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import repeat
from typing import Any

Tree = tuple[Any, ...]

BINDERS = frozenset({"sum", "product"})
ZERO: Tree = ("num", Fraction(0))
ONE: Tree = ("num", Fraction(1))
MINUS_ONE: Tree = ("num", Fraction(-1))
TWO: Tree = ("num", Fraction(2))
OF_SEVERAL = frozenset({"max", "min"})  # in any order


def children(tree: Tree) -> list[Tree]:
    """The trees right below a tree."""
    return [child for child in tree[1:] if isinstance(child, tuple)]


def with_children(tree: Tree, change: Callable[..., Tree], *how: Any) -> Tree:
    """The tree with each of its children changed."""
    return tuple([change(child, *how) if isinstance(child, tuple) else child for child in tree])


def variables(tree: Tree) -> frozenset[str]:
    """Names of the variables and unknown functions in a tree; a bound name is none of its formula's."""
    names: set[str] = set()
    stack = [tree]
    while stack:
        node = stack.pop()
        if node[0] in BINDERS:
            names |= variables(node[1]) - {node[2]}
            node = node[2:]
        elif node[0] in ("var", "call", "index"):
            names.add(node[1])
        stack += children(node)
    return frozenset(names)


def depth(tree: Tree, kinds: frozenset[str] = frozenset()) -> int:
    """How many nodes, of these kinds or of all, are within each other."""
    return (not kinds or tree[0] in kinds) + max(map(depth, children(tree), repeat(kinds)), default=0)


def subtrees(tree: Tree) -> Iterator[Tree]:
    """The tree and all trees in it."""
    stack = [tree]
    while stack:
        yield (node := stack.pop())
        stack += children(node)


def contains(tree: Tree, kinds: frozenset[str]) -> bool:
    """Whether a node of one of these kinds, functions or constants is in the tree."""
    return any((node[1] if node[0] in ("fn", "const") else node[0]) in kinds for node in subtrees(tree))


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
    r"""One tree for all orders, brackets and spellings of one formula; `99 + 1` is not 100.

    Sums and products have two or more parts; a quotient has a factor `("inverse", b)`, a minus a factor -1.
    """
    kind = tree[0]
    if kind in ("add", "mul"):
        return _joined(kind, [canonical_tree(part) for part in parts(tree, kind)])
    if kind in BINDERS:
        name = f"#{depth(tree, BINDERS)}"
        tree = (kind, replaced(tree[1], {tree[2]: ("var", name)}), name, *tree[3:])
    tree = with_children(tree, canonical_tree)
    if kind == "neg":
        return _joined("add", [_joined("mul", [MINUS_ONE, term]) for term in parts(tree[1], "add")])
    if kind == "div":
        return _joined("mul", [tree[1], *_inverted(tree[2])])
    if kind == "root":
        return _power(tree[1], ("inverse", tree[2]))
    if kind == "pow":
        return _power(tree[1], tree[2])
    if kind == "fn" and tree[1] == "exp":
        return _power(("const", "e"), tree[2])
    return (kind, *sorted(tree[1:], key=repr)) if kind in OF_SEVERAL else tree


def parts(tree: Tree, kind: str) -> list[Tree]:
    """The terms of a sum ("add"), the factors of a product ("mul"), in their order."""
    return [part for child in tree[1:] for part in parts(child, kind)] if tree[0] == kind else [tree]


def _joined(kind: str, operands: list[Tree]) -> Tree:
    """The sum or product of canonical trees."""
    every = [part for operand in operands for part in parts(operand, kind)]
    neutral = (ONE, MINUS_ONE) if kind == "mul" else (ZERO, ("mul", MINUS_ONE, ZERO))
    sign = [MINUS_ONE] * (kind == "mul" and every.count(MINUS_ONE) % 2)
    joined = sign + sorted((part for part in every if part not in neutral), key=repr)
    return (kind, *joined) if len(joined) > 1 else joined[0] if joined else neutral[0]


def _inverted(tree: Tree) -> list[Tree]:
    """The factors of 1 over a canonical tree; `1/(1/0)` is not 0."""
    return [
        factor[1] if factor[0] == "inverse" and factor[1] != ZERO
        else factor if factor in (ONE, MINUS_ONE) else ("inverse", factor)
        for factor in parts(tree, "mul")
    ]  # fmt: skip


def _power(base: Tree, exponent: Tree) -> Tree:
    if exponent == ONE:
        return base
    if exponent == MINUS_ONE:
        return _joined("mul", _inverted(base))
    if exponent[:2] == ("mul", MINUS_ONE):
        return ("inverse", ("pow", base, _joined("mul", list(exponent[2:]))))
    return ("pow", base, exponent)
