r"""What an answer is made of: a list, a set, a tuple or interval, a matrix, a relation, or a scalar; split at the top level.

Works on normalised text (see `normalize`), where each bracket is one character. Depth and numbers of parts are bounded.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from gmpo_mm.verifiers.expressions import NotExpression, parse_expression
from gmpo_mm.verifiers.trees import Tree, variables
from gmpo_mm.verifiers.words import AROUND, has_words

MAX_PARTS = 200
MAX_DEPTH = 5

_OPENING, _CLOSING = "([{⟬⟨⌊⌈", ")]}⟭⟩⌋⌉"
_PAIRS = dict(zip("({⟬⟨⌊⌈", ")}⟭⟩⌋⌉", strict=True))
_BRACKET = r"\\begin ?\{ ?(?:[bpvV]?matrix|smallmatrix|array|cases|aligned)\*? ?\}|\\end ?\{ ?\w+\*? ?\}|[(\[{⟬⟨⌊⌈)\]}⟭⟩⌋⌉]"
_CONNECTOR = (
    r"(?<![A-Za-z\\])(?:or|and)(?![A-Za-z])|(?<=\d)or(?=[A-Z]\()|\\(?:lor|vee|land|wedge)(?![A-Za-z])|;"
)
_RELATION = r"<=|>=|!=|<|>|=|\\approx(?![A-Za-z])|\\in(?![A-Za-z])"
_SPLITTERS = {
    "connector": re.compile(f"({_BRACKET})|({_CONNECTOR})", re.IGNORECASE),
    "comma": re.compile(f"({_BRACKET})|(,)"),
    "relation": re.compile(f"({_BRACKET})|({_RELATION})"),
    "union": re.compile(rf"({_BRACKET})|(\\cup(?![A-Za-z]))"),
    "intersection": re.compile(rf"({_BRACKET})|(\\cap(?![A-Za-z]))"),
    "without": re.compile(rf"({_BRACKET})|(\\setminus(?![A-Za-z]))"),
    "such that": re.compile(f"({_BRACKET})|([|:])"),
    "row": re.compile(f"({_BRACKET})|(␞)"),
    "cell": re.compile(f"({_BRACKET})|(&)"),
}
_THOUSANDS = re.compile(r"-?\d{1,3}(?:, ?\d{3})+(?:\.\d+)?|\D?\d{1,3}(?:,\d{3})+\D*")
_MATRIX = re.compile(
    r"\\begin ?\{ ?([bp]?matrix|smallmatrix|array)\*? ?\}(?: ?\{[lcr| ]*\})?(.*)\\end ?\{ ?\1\*? ?\}", re.S
)
_CASES = re.compile(r"\\begin ?\{ ?(?:cases|aligned) ?\}(.*)\\end ?\{ ?(?:cases|aligned) ?\}", re.DOTALL)
_PLUS_MINUS = re.compile(r"\\(pm|mp)(?![A-Za-z])")
_NAME = re.compile(
    r"(?:\\?[A-Za-z]+'?(?: ?_ ?\{? ?\\?\w{1,6} ?\}?)?'? ?){1,3}"
    r"(?:\( ?[A-Za-z\\]+(?: ?, ?[A-Za-z]+)* ?\))?"
)
_VARIABLE = re.compile(r"(?:\\[a-z]+|[A-Za-z])'?(?: ?_ ?\{? ?\w{1,6} ?\}?)?(?: ?\( ?[a-z] ?\))?")
_FUNCTION_VALUE = re.compile(
    r"(?:\\?Pr|P|E|Var|Cov|[fghFGH]'?) ?[(\[].{1,40}[)\]]|[A-Za-z]'? ?\( ?[\w\\]+(?: ?, ?[\w\\]+)* ?\)"
)
_PHRASE = re.compile(r"[A-Za-z' ]+")
_WORDS = re.compile(r"(?<!\\)[A-Za-z]{3,}")
_NOT_IN_NAMES = re.compile(
    r"\\(?:pi|infty|emptyset|reals|integers|naturals|sin|cos|tan|ln|log|sqrt|pm|exp)(?![A-Za-z])"
)
_SPECIAL_SETS = {
    "all real numbers": "reals", "all reals": "reals", "all real x": "reals", "real numbers": "reals", "reals": "reals",
    "\\reals": "reals", "no solution": "empty", "no solutions": "empty", "no real solution": "empty", "⟬⟭": "empty",
    "no real solutions": "empty", "empty set": "empty", "the empty set": "empty", "\\emptyset": "empty", "⟬ ⟭": "empty",
    "none": "empty",
    "dne": "undefined", "does not exist": "undefined", "undefined": "undefined", "not defined": "undefined",
    "\\infty": "infinity", "+\\infty": "infinity", "+ \\infty": "infinity", "-\\infty": "-infinity", "- \\infty": "-infinity",
}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """A part of an answer.

    `kind`: scalar (its `text`), list and set (`items` in any order), sequence (`items` in order between `brackets`),
    matrix (`items` are sequences, the rows), relation (`items` with `operators` between them), member (`items[0]` lies in
    `items[1]`), builder (a set of expressions under a condition), union and intersection (`items`), without (`items[0]` less
    `items[1]`), special (`connector` says which: reals, empty, undefined, infinity, -infinity), broken (says nothing that
    could be compared). A list's `connector` is what stood between its items.
    """

    kind: str
    text: str
    items: "tuple[Node, ...]" = ()
    brackets: str = ""
    operators: tuple[str, ...] = ()
    connector: str = ""


def split(text: str, at: str) -> tuple[list[str], list[str]]:
    """Pieces of a text at a separator outside all brackets, and the separators between them."""
    pieces, separators, depth, last = [], [], 0, 0
    for token in _SPLITTERS[at].finditer(text):
        symbol = token.group()
        if token.group(1) is not None:
            depth += 1 if symbol in _OPENING or symbol.startswith("\\begin") else -1
            if depth < 0:
                return [text], []
        elif depth == 0:
            pieces.append(text[last : token.start()])
            separators.append(symbol)
            last = token.end()
    return [*pieces, text[last:]], separators


def balanced(text: str) -> bool:
    """Whether every bracket has its partner, of any kind, as in `[1, 2)`."""
    depth = 0
    for symbol in text:
        depth += (symbol in _OPENING) - (symbol in _CLOSING)
        if depth < 0:
            return False
    return depth == 0


def enclosed(text: str) -> tuple[str, str, str] | None:
    """`(inside)`, `[inside)` and so on as opening, inside, closing; None unless one pair encloses the whole text."""
    if len(text) < 2 or text[0] not in _OPENING or text[-1] not in _CLOSING:
        return None
    depth = 0
    for i, symbol in enumerate(text):
        if symbol in _OPENING:
            depth += 1
        elif symbol in _CLOSING:
            depth -= 1
            if depth == 0 and i < len(text) - 1:
                return None
    return (text[0], text[1:-1].strip(), text[-1]) if depth == 0 else None


def enclosed_by_environment(text: str) -> bool:
    r"""Whether a text is one `\begin{...} ... \end{...}` and nothing else."""
    return text.startswith("\\begin") and _MATRIX.fullmatch(text) is not None


@lru_cache(maxsize=2048)
def parse(text: str, depth: int = 0) -> Node:
    """The structure of a normalised text; a scalar where nothing else is seen."""
    text = text.strip()
    scalar = Node("scalar", text)
    if depth > MAX_DEPTH or not text:
        return scalar
    special = _SPECIAL_SETS.get(text.lower())
    if special:
        return Node("special", text, connector=special)
    for attempt in (_connected, _comma_list, _relation, _set_algebra, _bracketed, _matrix, _plus_minus):
        node = attempt(text, depth)
        if node is not None:
            return node
    return scalar


def _parts(texts: list[str], depth: int) -> "tuple[Node, ...] | None":
    texts = [piece.strip() for piece in texts]
    texts = [piece for piece in texts if piece]
    if len(texts) > MAX_PARTS:
        return None
    return tuple(parse(piece, depth + 1) for piece in texts)


def _flattened(items: "tuple[Node, ...]") -> "tuple[Node, ...]":
    """Bare lists within a bare list, as in `1, 2 and 3`, are one list."""
    return tuple(part for item in items for part in (item.items if item.kind == "list" else (item,)))


def _connected(text: str, depth: int) -> Node | None:
    pieces, separators = split(text, "connector")
    if not separators:
        return None
    items = _parts(pieces, depth)
    if items is None:
        return None
    connectors = {separator.lower() for separator in separators}
    return _list(text, _flattened(items), "or" if connectors <= {"or", "\\lor", "\\vee"} else "and")


def _comma_list(text: str, depth: int) -> Node | None:
    pieces, separators = split(text, "comma")
    if not separators or (_THOUSANDS.fullmatch(text) and ", " not in text):
        return None
    items = _parts(pieces, depth)
    if items is None or len(items) < 2:
        return None
    return _list(text, _flattened(items), ",")


def _list(text: str, items: "tuple[Node, ...]", connector: str) -> Node:
    """A bare list; `p = 5, q = 2, p = 7, q = 2` are two pairs."""
    if len(items) < 2:
        return items[0] if items else Node("broken", text)
    names = [assigned_name(item) for item in items]
    period = len(dict.fromkeys(names))
    if None not in names and 1 < period < len(items) and names == names[:period] * (len(items) // period):
        groups = [items[i : i + period] for i in range(0, len(items), period)]
        items = tuple(_group(group) for group in groups)
    return Node("list", text, items, connector=connector)


def _group(items: "tuple[Node, ...]") -> Node:
    values = tuple(item.items[-1] for item in items)
    return Node("sequence", f"({', '.join(value.text for value in values)})", values, "()")


def _relation(text: str, depth: int) -> Node | None:
    pieces, operators = split(text, "relation")
    if not operators or len(pieces) > 8:
        return None
    pieces = [piece.strip() for piece in pieces]
    if not pieces[0] and operators in (["="], ["\\approx"]) and pieces[1]:
        return parse(pieces[1], depth + 1)
    if "\\in" in operators:
        if len(operators) == 1 and pieces[1] and is_variable(pieces[0]):
            return Node("member", text, (parse(pieces[0], depth + 1), parse(pieces[1], depth + 1)))
        return Node("broken", text)
    if not all(pieces):  # `\\neq 5` and `5 =` say nothing that could be compared
        return Node("broken", text)
    return Node(
        "relation", text, tuple(parse(piece, depth + 1) for piece in pieces), operators=tuple(operators)
    )


def _set_algebra(text: str, depth: int) -> Node | None:
    for kind in ("union", "intersection", "without"):
        pieces, separators = split(text, kind)
        if separators and all(piece.strip() for piece in pieces) and (kind != "without" or len(pieces) == 2):
            items = _parts(pieces, depth)
            if items is not None:
                return Node(kind, text, items)
    return None


def _bracketed(text: str, depth: int) -> Node | None:
    found = enclosed(text)
    if found is None:
        return None
    opening, inside, closing = found
    if opening in "⌊⌈":
        return None
    matched = _PAIRS.get(opening) == closing
    parted = split(inside, "comma")[1] or ";" in split(inside, "connector")[1]
    if (opening in "{(" and matched and not parted) or (
        inside.startswith("\\begin") and enclosed_by_environment(inside)
    ):
        return parse(inside, depth + 1) if inside else None
    if opening == "⟬" and closing == "⟭":
        condition, bars = split(inside, "such that")
        if len(bars) == 1 and split(condition[1], "relation")[1]:
            return _builder(text, condition[0].strip(), parse(condition[1], depth + 1))
        items = _parts(split(inside, "comma")[0], depth)
        return None if items is None else Node("set", text, _flattened(items))
    pieces, commas = split(inside, "connector" if ";" in inside else "comma")
    if not commas:
        return None
    items = _parts(pieces, depth)
    if items is None:
        return None
    if opening == "{":
        return Node("list", text, _flattened(items), connector=",")
    if _PLUS_MINUS.search(text) and opening == "(":
        return _plus_minus(text, depth)
    return Node("sequence", text, items, "()" if opening == "⟨" else opening + closing)


def _builder(text: str, element: str, condition: Node) -> Node:
    r"""`\\{x : x > 3\\}` is the inequality; `\\{2x : x > 3\\}` is another set, compared part by part."""
    name = re.sub(r" ?\\in ?\\reals$", "", element).strip()
    if condition.kind == "relation" and is_variable(name):
        return Node("member", text, (Node("scalar", name), condition))
    return Node("builder", text, (Node("scalar", element), condition))


def _matrix(text: str, depth: int) -> Node | None:
    begin = text.find("\\begin")
    if begin < 0:
        return None
    system = _CASES.fullmatch(text)
    if system is not None and "&" not in text:
        parts = _parts(split(system.group(1), "row")[0], depth)
        return None if parts is None else Node("list", text, parts, connector="and")
    match = _MATRIX.fullmatch(text[begin:])
    if match is None or "\\begin" in match.group(2):
        return None
    factor = text[:begin].strip().removesuffix("*").strip()
    if factor.endswith(("+", "-")):  # a sum, which `matrices` reads
        return None
    rows = [row for row in split(match.group(2), "row")[0] if row.strip() and row.strip() != "\\hline"]
    if len(rows) > MAX_PARTS:
        return None
    nodes = []
    for row in rows:
        cells = split(row, "cell")[0]
        if len(cells) > MAX_PARTS:
            return None
        texts = [f"({factor}) * ({cell.strip()})" if factor else cell for cell in cells]
        nodes.append(Node("sequence", row, tuple(parse(cell, depth + 1) for cell in texts), "[]"))
    return Node("matrix", text, tuple(nodes))


def _plus_minus(text: str, depth: int) -> Node | None:
    if not _PLUS_MINUS.search(text):
        return None
    upper = _PLUS_MINUS.sub(lambda sign: "+" if sign.group(1) == "pm" else "-", text)
    lower = _PLUS_MINUS.sub(lambda sign: "-" if sign.group(1) == "pm" else "+", text)
    return Node("list", text, (parse(upper, depth + 1), parse(lower, depth + 1)), connector=",")


def is_variable(text: str) -> bool:
    """`x`, `x_1`, `\\theta`, `f(x)`: what may be said to lie in a set, or to be any of its numbers."""
    return bool(_VARIABLE.fullmatch(text.strip())) and not _NOT_IN_NAMES.search(text)


def is_name(text: str) -> bool:
    r"""Whether a text only names something: `x`, `AB`, `f(x)`, `a_3`, `\angle ABC`, `|AB|`, `(p, q)`, `NO/BO`, `A:B`."""
    text = text.strip()
    if len(text) > 60:
        return False
    found = enclosed(text)
    if found is not None and found[0] in "({":
        pieces = split(found[1], "comma")[0]
        return all(is_name(piece) for piece in pieces)
    if len(text) > 2 and text[0] == text[-1] == "|":
        return is_name(text[1:-1])
    fraction = re.fullmatch(r"\\frac ?\{([^{}]*)\} ?\{([^{}]*)\}", text)
    if fraction:
        return is_name(fraction.group(1)) and is_name(fraction.group(2))
    parts = re.split(r" ?[:/] ?", text)
    if len(parts) in (2, 3):
        return all(is_name(part) for part in parts)
    if (
        _FUNCTION_VALUE.fullmatch(text)
        and balanced(text)
        and enclosed(text[min(i for i in (text.find("("), text.find("[")) if i >= 0) :])
    ):
        return True
    if _PHRASE.fullmatch(text) and has_words(text):  # `Area of triangle ABC`
        return all(len(word) == 1 or word.isupper() or word.lower() in AROUND for word in text.split())
    if not _NAME.fullmatch(text) or _NOT_IN_NAMES.search(text) or text in ("e", "i"):
        return False
    return all(
        word.lower() in AROUND or not has_words(f"{word}+1") or word.isupper()
        for word in _WORDS.findall(text)
    )


def asks_for(text: str) -> bool:
    r"""Whether the left side of `m + n = 77`, `BC^2 = 19`, `\\sin A = 0.6` says what the value is of: names without numbers.

    `2x + z = 1` is an equation and no value.
    """
    if is_name(text):
        return True
    if has_words(text):
        return False
    try:
        tree = parse_expression(text)
    except NotExpression:
        return False
    return bool(variables(tree)) and _is_asked(tree)


def _is_asked(tree: Tree, in_sum: bool = False) -> bool:
    if tree[0] in ("var", "call", "derivative"):
        return True
    if tree[0] in ("add", "neg"):
        return all(_is_asked(part, True) for part in tree[1:])
    if tree[0] in ("fn", "log", "root"):
        return bool(variables(tree))
    if tree[0] == "pow":
        return not in_sum and _is_asked(tree[1]) and not variables(tree[2])
    return not in_sum and tree[0] in ("mul", "div") and all(_is_asked(part) for part in tree[1:])


def assigned_name(node: Node) -> str | None:
    """The name in `name = value`; None for anything else."""
    if node.kind == "relation" and set(node.operators) == {"="} and is_name(node.items[0].text):
        return node.items[0].text.strip()
    return None


def scalars(node: Node) -> Iterator[str]:
    """Texts of all scalars in a structure."""
    if node.kind == "scalar":
        yield node.text
    for item in node.items:
        yield from scalars(item)
