"""What an answer is made of: a list, a set, a tuple, a matrix, a relation, or a scalar.

Works on canonical text, where each bracket is one character. Depth and numbers of parts are bounded.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

from gmpo_mm.verifiers.expressions import NotExpression, parse_expression
from gmpo_mm.verifiers.trees import Tree, variables
from gmpo_mm.verifiers.words import AROUND, has_words

MAX_PARTS = 200
MAX_DEPTH = 5
MAX_MATRICES, MAX_ROWS = 4, 6

_OPENING, _CLOSING = "([{⟬⟨⌊⌈", ")]}⟭⟩⌋⌉"
_BRACKET = (
    r"(\\begin ?\{ ?(?:[bpvV]?matrix|smallmatrix|array|cases|aligned)\*? ?\}|\\end ?\{ ?\w+\*? ?\}"
    r"|[(\[{⟬⟨⌊⌈)\]}⟭⟩⌋⌉])"
)
_SEPARATORS = {
    "comma": ",", "row": "␞", "cell": "&", "such that": "[|:]", "union": r"\\cup(?![A-Za-z])",
    "intersection": r"\\cap(?![A-Za-z])", "without": r"\\setminus(?![A-Za-z])",
    "relation": r"<=|>=|!=|<|>|=|\\approx(?![A-Za-z])|\\in(?![A-Za-z])",
    "connector": r"(?<![A-Za-z\\])(?:or|and)(?![A-Za-z])|(?<=\d)or(?=[A-Z]\()"
    r"|\\(?:lor|vee|land|wedge)(?![A-Za-z])|;",
}  # fmt: skip
_SPLITTERS = {at: re.compile(f"{_BRACKET}|{pattern}", re.IGNORECASE) for at, pattern in _SEPARATORS.items()}
_THOUSANDS = re.compile(r"-?\d{1,3}(?:, ?\d{3})+(?:\.\d+)?|\D?\d{1,3}(?:,\d{3})+\D*")
_MATRIX = re.compile(
    r"\\begin ?\{ ?([bp]?matrix|smallmatrix|array)\*? ?\}(?: ?\{[lcr| ]*\})?(.*)\\end ?\{ ?\1\*? ?\}", re.S
)
_WRITTEN_MATRIX = re.compile(
    r"(\\begin ?\{ ?[bp]?(?:small)?matrix\*? ?\}.*?\\end ?\{ ?[bp]?(?:small)?matrix\*? ?\})", re.DOTALL
)
_JOINT = re.compile(r"(?:([+-])|\*)? ?([^+\-&^_=<>]*?) ?\*?")
_CASES = re.compile(r"\\begin ?\{ ?(?:cases|aligned) ?\}(.*)\\end ?\{ ?(?:cases|aligned) ?\}", re.DOTALL)
_PLUS, _MINUS = (re.compile(rf"\\{sign}(?![A-Za-z])") for sign in ("pm", "mp"))
_NAME = re.compile(
    r"(?:\\?[A-Za-z]+'?(?: ?_ ?\{? ?\\?\w{1,6} ?\}?)?'? ?){1,3}(?:\( ?[A-Za-z\\]+(?: ?, ?[A-Za-z]+)* ?\))?"
)
_VARIABLE = re.compile(r"(?:\\[a-z]+|[A-Za-z])'?(?: ?_ ?\{? ?\w{1,6} ?\}?)?(?: ?\( ?[a-z] ?\))?")
_FUNCTION_VALUE = re.compile(
    r"(?:\\?Pr|P|E|Var|Cov|[fghFGH]'?) ?[(\[].{1,40}[)\]]|[A-Za-z]'? ?\( ?[\w\\]+(?: ?, ?[\w\\]+)* ?\)"
)
_NOT_IN_NAMES = re.compile(
    r"\\(?:pi|infty|emptyset|reals|integers|naturals|sin|cos|tan|ln|log|sqrt|pm|exp)(?![A-Za-z])"
)
_SPECIAL_SETS = (
    dict.fromkeys(("all real numbers", "all reals", "all real x", "real numbers", "reals"), "reals")
    | dict.fromkeys(("no solution", "no solutions", "no real solution", "no real solutions"), "empty")
    | dict.fromkeys(("empty set", "the empty set", "none", "⟬⟭", "⟬ ⟭", "\\emptyset"), "empty")
    | dict.fromkeys(("dne", "does not exist", "undefined", "not defined"), "undefined")
    | dict.fromkeys(("\\infty", "+\\infty", "+ \\infty"), "infinity")
    | {"\\reals": "reals", "-\\infty": "-infinity", "- \\infty": "-infinity"}
)


@dataclass(frozen=True)
class Node:
    """A part of an answer.

    `kind`: scalar (its `text`), list and set (`items` in any order), sequence (`items` in order between
    `brackets`), matrix (`items` are its rows, sequences), relation (`items` with `operators` between them),
    member (`items[0]` lies in `items[1]`), union, intersection, without (`items[0]` less `items[1]`), special
    (`connector` says which), broken (says nothing to compare). A list's `connector` stood between its items.
    """

    kind: str
    text: str
    items: "tuple[Node, ...]" = ()
    brackets: str = ""
    operators: tuple[str, ...] = ()
    connector: str = ""


def split(text: str, at: str) -> tuple[list[str], list[str]]:
    """Pieces of a text at a separator outside all brackets, at most MAX_PARTS, and the separators."""
    pieces, separators, depth, last = [], [], 0, 0
    for token in _SPLITTERS[at].finditer(text):
        symbol = token.group()
        if token.group(1) is not None:
            depth += 1 if symbol in _OPENING or symbol.startswith("\\begin") else -1
        elif depth == 0:
            pieces.append(text[last : token.start()])
            separators.append(symbol)
            last = token.end()
        if depth < 0 or len(separators) >= MAX_PARTS:
            return [text], []
    return [*pieces, text[last:]], separators


def balanced(text: str) -> bool:
    """Whether every bracket has its partner, of any kind, as in `[1, 2)`."""
    depths = [0, *accumulate((symbol in _OPENING) - (symbol in _CLOSING) for symbol in text)]
    return min(depths) == depths[-1] == 0


def enclosed(text: str) -> tuple[str, str, str] | None:
    """`(inside)`, `[inside)` as opening, inside, closing; None unless one pair encloses the whole text."""
    if len(text) < 2 or text[0] not in _OPENING or text[-1] not in _CLOSING or not balanced(text[1:-1]):
        return None
    return text[0], text[1:-1].strip(), text[-1]


@lru_cache(maxsize=2048)
def parse(text: str, depth: int = 0) -> Node:
    """The structure of a canonical text; a scalar where nothing else is seen."""
    text = text.strip()
    if special := _SPECIAL_SETS.get(text.lower()):
        return Node("special", text, connector=special)
    attempts = (_list, _relation, _set_algebra, _bracketed, _matrix, _plus_minus)
    found = (attempt(text, depth + 1) for attempt in (attempts if depth <= MAX_DEPTH else ()))
    return next(filter(None, found), Node("scalar", text))


def _parts(pieces: Iterable[str], depth: int) -> tuple[Node, ...]:
    return tuple(parse(piece, depth) for piece in pieces if piece.strip())


def _flat(pieces: Iterable[str], depth: int) -> tuple[Node, ...]:
    """Bare lists within a bare list, as in `1, 2 and 3`, are one list."""
    items = _parts(pieces, depth)
    return tuple(part for item in items for part in (item.items if item.kind == "list" else (item,)))


def _list(text: str, depth: int) -> Node | None:
    """A bare list; `p = 5, q = 2, p = 7, q = 2` are two pairs."""
    pieces, separators = split(text, "connector")
    connector = "or" if {one.lower() for one in separators} <= {"or", "\\lor", "\\vee"} else "and"
    if not separators:
        pieces, separators = split(text, "comma")
        connector = ","
        if not separators or (_THOUSANDS.fullmatch(text) and ", " not in text):
            return None
    items = _flat(pieces, depth)
    if len(items) < 2:
        return None if connector == "," else items[0] if items else Node("broken", text)
    names = [assigned_name(item) for item in items]
    period = len(set(names))
    if None not in names and 1 < period < len(items) and names == names[:period] * (len(items) // period):
        values = [item.items[-1].text for item in items]
        rows = (values[i : i + period] for i in range(0, len(items), period))
        items = _parts((f"({', '.join(row)})" for row in rows), depth)
    return Node("list", text, items, connector=connector)


def _relation(text: str, depth: int) -> Node | None:
    pieces, operators = split(text, "relation")
    if not operators or len(pieces) > 8:
        return None
    pieces = [piece.strip() for piece in pieces]
    if not pieces[0] and operators in (["="], ["\\approx"]) and pieces[1]:
        return parse(pieces[1], depth)
    if "\\in" in operators:
        is_member = len(operators) == 1 and pieces[1] and is_variable(pieces[0])
        return Node("member", text, _parts(pieces, depth)) if is_member else Node("broken", text)
    if not all(pieces):  # `\\neq 5` and `5 =` say nothing that could be compared
        return Node("broken", text)
    return Node("relation", text, _parts(pieces, depth), operators=tuple(operators))


def _set_algebra(text: str, depth: int) -> Node | None:
    for kind in ("union", "intersection", "without"):
        pieces, separators = split(text, kind)
        if separators and all(map(str.strip, pieces)) and (kind != "without" or len(pieces) == 2):
            return Node(kind, text, _parts(pieces, depth))
    return None


def _bracketed(text: str, depth: int) -> Node | None:
    opening, inside, closing = enclosed(text) or ("", "", "")
    if not inside or opening in "⌊⌈":
        return None
    brackets = opening + closing
    pieces, separators = split(inside, "connector")
    if ";" not in separators:
        pieces, separators = split(inside, "comma")
    if (brackets in ("{}", "()") and not separators) or _MATRIX.fullmatch(inside):
        return parse(inside, depth)
    if brackets == "⟬⟭":
        parts, bars = split(inside, "such that")
        if len(bars) == 1 and split(parts[1], "relation")[1]:
            condition = parse(parts[1], depth)
            element = re.sub(r" ?\\in ?\\reals$", "", parts[0].strip())
            if condition.kind == "relation" and is_variable(element):
                return Node("member", text, (Node("scalar", element), condition))
            return Node("broken", text)  # `\\{2x : x > 3\\}` is another set than `x > 3`
        return Node("set", text, _flat(split(inside, "comma")[0], depth))
    if not separators:
        return None
    if opening == "{":
        return Node("list", text, _flat(pieces, depth), connector=",")
    if opening == "(" and (both := _plus_minus(text, depth)):
        return both
    return Node("sequence", text, _parts(pieces, depth), "()" if opening == "⟨" else brackets)


def _matrix(text: str, depth: int) -> Node | None:
    """A matrix, or a system of equations; sums and products are for `matrix_sum`."""
    if (system := _CASES.fullmatch(text)) and ("aligned" in text or "&" not in text):
        # `x &= 2 + 3 \\\\ &= 5` is one chain
        joined = re.sub(r"␞ *(?=<=|>=|!=|[<>=])", "", system[1].replace("&", " "))
        lines = _parts(split(joined, "row")[0], depth)
        return lines[0] if len(lines) == 1 else Node("list", text, lines, connector="and")
    match = _MATRIX.fullmatch(text)
    if match is None or "\\begin" in match[2]:
        return None
    rows = [row for row in split(match[2], "row")[0] if row.strip() not in ("", "\\hline")]
    cells = [tuple(parse(cell, depth) for cell in split(row, "cell")[0]) for row in rows]
    return Node("matrix", text, tuple(Node("sequence", *row, "[]") for row in zip(rows, cells, strict=True)))


def matrix_sum(node: Node) -> Node | None:
    """The matrix that `A + 2 B`, `A B` or `-A` stands for, its entries as formulas; or None."""
    *pieces, end = _WRITTEN_MATRIX.split(node.text)
    matrices = [parse(text).items for text in pieces[1::2]]
    sizes = {len(rows) for matrix in matrices for rows in (matrix, *(row.items for row in matrix))}
    fit = 1 <= min(sizes, default=0) <= max(sizes, default=0) <= MAX_ROWS
    if len(matrices) > MAX_MATRICES or end.strip() or not fit:
        return None
    terms: list[list[list[str]]] = []
    try:
        for between, matrix in zip(pieces[::2], matrices, strict=True):
            sign, factor = _JOINT.fullmatch(between.strip()).groups("")  # type: ignore[union-attr]
            rows = [[f"{sign}({factor or 1}) * ({cell.text})" for cell in row.items] for row in matrix]
            columns = list(zip(*rows, strict=True))
            if sign or not terms:
                terms.append(rows)
                continue
            terms[-1] = [
                [" + ".join(f"({x}) * ({y})" for x, y in zip(row, column, strict=True)) for column in columns]
                for row in terms[-1]
            ]
        sums = [zip(*rows_at_once, strict=True) for rows_at_once in zip(*terms, strict=True)]
        lines = [[" + ".join(map("({})".format, entries)) for entries in row] for row in sums]
    except (AttributeError, ValueError):  # what stands between is no sign or factor; sizes don't fit
        return None
    rows_of_nodes = (Node("sequence", " & ".join(row), tuple(map(parse, row)), "[]") for row in lines)
    return Node("matrix", node.text, tuple(rows_of_nodes))


def _plus_minus(text: str, depth: int) -> Node | None:
    versions = [_MINUS.sub(minus, _PLUS.sub(plus, text)) for plus, minus in ("+-", "-+")]
    return Node("list", text, _parts(versions, depth), connector=",") if versions[0] != text else None


def is_variable(text: str) -> bool:
    r"""`x`, `x_1`, `\theta`, `f(x)`: what may be said to lie in a set, or to be any of its numbers."""
    return bool(_VARIABLE.fullmatch(text.strip())) and not _NOT_IN_NAMES.search(text)


def is_name(text: str) -> bool:
    r"""Whether a text only names something: `x`, `f(x)`, `a_3`, `\angle ABC`, `|AB|`, `(p, q)`, `NO/BO`."""
    text = text.strip()
    if len(text) > 60:
        return False
    if text[:1] in ("(", "{") and (found := enclosed(text)):
        return all(map(is_name, split(found[1], "comma")[0]))
    parts = re.split(r" ?[:/] ?", re.sub(r"^\\frac ?\{([^{}]*)\} ?\{([^{}]*)\}$", r"\1/\2", text))
    if len(parts) in (2, 3):
        return all(map(is_name, parts))
    if _FUNCTION_VALUE.fullmatch(text) and enclosed(re.sub(r"^[^(\[]*", "", text)):
        return True
    if re.fullmatch("[A-Za-z' ]+", text) and has_words(text):  # `Area of triangle ABC`
        return all(len(word) == 1 or word.isupper() or word.lower() in AROUND for word in text.split())
    fits = _NAME.fullmatch(text) and not _NOT_IN_NAMES.search(text) and text not in ("e", "i")
    words = re.findall(r"(?<!\\)[A-Za-z]{3,}", text) if fits else []
    known = (word.isupper() or word.lower() in AROUND or not has_words(f"{word}+1") for word in words)
    return bool(fits) and all(known)


def asks_for(text: str) -> bool:
    r"""Whether the left side of `m + n = 77`, `BC^2 = 19`, `\sin A = 0.6` says what the value is of.

    That are names without numbers: `2x + z = 1` is an equation and no value.
    """
    if is_name(text) or has_words(text):
        return is_name(text)
    try:
        return _is_asked(parse_expression(text))
    except NotExpression:
        return False


def _is_asked(tree: Tree, in_sum: bool = False) -> bool:
    match tree:
        case ("add" | "neg", *terms):
            return all(_is_asked(term, True) for term in terms)
        case ("mul" | "div", *factors) if not in_sum:
            return all(map(_is_asked, factors))
        case ("pow", base, exponent) if not in_sum:
            return _is_asked(base) and not variables(exponent)
    return tree[0] in ("var", "call") or (tree[0] in ("fn", "log", "root") and bool(variables(tree)))


def assigned_name(node: Node) -> str | None:
    """The name in `name = value`; None for anything else."""
    is_equation = node.kind == "relation" and set(node.operators) == {"="}
    return node.items[0].text.strip() if is_equation and is_name(node.items[0].text) else None
