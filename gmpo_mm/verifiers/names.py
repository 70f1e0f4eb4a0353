r"""Names that two formulas may write differently; whether they are the same then is the caller's to find out.

Arbitrary constants, declared integers, subscripts and derivatives, as docs/reference/graders.md lists them.
"""

import contextlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from gmpo_mm.verifiers.expressions import NotExpression, parse_expression
from gmpo_mm.verifiers.trees import ONE, Tree, contains, replaced, variables

MAX_RENAMINGS = 24
MAX_CONSTANTS = 4

_ARBITRARY = re.compile(r"[Cc](?:_\d)?|[ABKk](?:_\d)?")
# Of a pair of names, one has to be such a factor or such a term; the c of `x^2 + c` may be given.
_FACTOR = re.compile(r"[Cc](?:_\d)?")
_ADDED = re.compile(r"C(?:_\d)?|c_\d")
_NUMBERED = re.compile(r"[A-Za-z]_\d")
_INDEX = re.compile(r"[a-zN]")
_DERIVATIVE = re.compile(r"d(?P<order>\d?)(?P<of>.+)/d\\?[A-Za-z]+\d?|(?P<primed>.+?)(?P<primes>'+)")
_VARIABLES = frozenset("xyztursv") | {"\\theta", "\\phi"}  # of functions that an added constant goes with
_WAVES = frozenset({"sin", "cos", "sinh", "cosh", "exp"})


def renamings(first: Tree, second: Tree, indices: frozenset[str]) -> Iterator[Tree]:
    """At most MAX_RENAMINGS versions of `second`; `indices` are names that either side declares integers."""
    respelled = replaced(second, _same_derivatives(first, second))
    if respelled != second:
        yield respelled
    here, there = variables(respelled) - variables(first), variables(first) - variables(respelled)
    left, right = (filter(_INDEX.fullmatch, names) for names in (here, there))
    of_indices = _bijections(left, right, lambda name, other: name in indices or other in indices)
    allowed = itertools.chain(of_indices, _of_constants(first, respelled))
    for renaming in itertools.islice(allowed, MAX_RENAMINGS - 1):
        yield replaced(respelled, renaming)


def _bijections(
    here: Iterable[str], there: Iterable[str], fits: Callable[[str, str], bool]
) -> Iterator[dict[str, Tree]]:
    here, there = sorted(here), sorted(there)
    if len(here) == len(there) <= MAX_CONSTANTS:
        for order in itertools.permutations(there):
            if list(order) != here and all(map(fits, here, order)):
                yield {name: ("var", other) for name, other in zip(here, order, strict=True)}


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
    uses = [(name, around) for name, around in _uses(tree, ONE) if _ARBITRARY.fullmatch(name)]
    times = Counter(name for name, _ in uses)
    once = {name: around for name, around in uses if around is not None and times[name] == 1}
    beside = {name: names for name, one in once.items() if (names := variables(one)).isdisjoint(once)}
    shared = bool(beside) and bool(frozenset.intersection(*beside.values()))
    others = variables(tree) - beside.keys()
    return {
        name: once[name] == ONE
        for name, names in beside.items()
        if (shared and _NUMBERED.fullmatch(name))
        or (others & _VARIABLES if once[name] == ONE else names and names == _of_waves(once[name]))
    }


def _uses(tree: Tree, around: Tree) -> Iterator[tuple[str, Tree | None]]:
    """The names in a tree, each time with the product of its factors; with None where it is no factor."""
    match tree:
        case ("var", name):
            yield name, around
        case ("add" | "neg", *terms):
            for term in terms:
                yield from _uses(term, around)
        case ("mul", left, right):
            yield from _uses(left, ("mul", around, right))
            yield from _uses(right, ("mul", around, left))
        case ("div", top, bottom) if top != ONE:
            yield from _uses(("mul", top, ("div", ONE, bottom)), around)
        case _:
            yield from ((name, None) for name in variables(tree))


def _of_waves(product: Tree) -> frozenset[str]:
    """Names in the exponentials, sines and cosines of a product."""
    match product:
        case ("mul" | "neg" | "div", *factors):
            return frozenset().union(*map(_of_waves, factors))
        case ("pow", base, exponent) if not variables(base):
            return variables(exponent)
        case ("fn", name, argument) if name in _WAVES:
            return variables(argument)
    return frozenset()


def with_subscripts(text: str, tree: Tree, other: Tree) -> Tree:
    """The tree of a text with `X_d` for `Xd` where the other has it, and the text no X or d besides."""
    for name in sorted(variables(other) - variables(tree)):
        if re.fullmatch(r"[A-Za-z]_[A-Za-z]{1,3}", name):
            letters = name.replace("_", "")
            spelled = f"{name[:2]}{{{name[2:]}}}"
            pieces = re.split(r"(\\[A-Za-z]+)", text)
            pieces[::2] = [re.sub(" ?".join(letters), spelled, piece) for piece in pieces[::2]]
            with contextlib.suppress(NotExpression):
                again = parse_expression("".join(pieces))
                if variables(again).isdisjoint(letters) and not contains(again, frozenset(letters)):
                    text, tree = "".join(pieces), again
    return tree


def _same_derivatives(first: Tree, second: Tree) -> dict[str, Tree]:
    """What the names of derivatives in `second` are in `first`, where each has one partner."""
    here, there = variables(second), variables(first)
    pairs = [
        (name, other)
        for name, other in itertools.product(here - there, there - here)
        if name.endswith("'") != other.endswith("'") and _derivative(name) == _derivative(other)
    ]
    counts = Counter(itertools.chain.from_iterable(pairs))
    return {name: ("var", other) for name, other in pairs if counts[name] == counts[other] == 1}


def _derivative(name: str) -> tuple[str, int] | None:
    """The quantity and the order in `x''` or `d2x/dt2`; a dot and a prime are by whatever variable."""
    match = _DERIVATIVE.fullmatch(name)
    return match and (match["of"] or match["primed"], len(match["primes"] or "") or int(match["order"] or 1))
