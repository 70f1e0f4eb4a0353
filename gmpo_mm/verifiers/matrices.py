r"""Sums and products of matrices that are written out, as one matrix: `A + 2 B`, `A B`, `-A`."""

import re

from gmpo_mm.verifiers.structure import Node, parse

_ENVIRONMENT = re.compile(
    r"\\begin ?\{ ?[bp]?(?:small)?matrix\*? ?\}.*?\\end ?\{ ?[bp]?(?:small)?matrix\*? ?\}", re.DOTALL
)
_JOINT = re.compile(r"(?:(?P<sign>[+-])|\*)? ?(?P<factor>[^+\-&^_=<>]*?) ?\*?")
MAX_MATRICES, MAX_ROWS = 4, 6

_Rows = list[list[str]]


def matrix_sum(node: Node) -> Node | None:
    """The matrix that a text such as `A + B` stands for, its entries as formulas; None where it is anything else."""
    text = node.text
    found = list(_ENVIRONMENT.finditer(text))
    if not 1 <= len(found) <= MAX_MATRICES or text[found[-1].end() :].strip():
        return None
    total: _Rows | None = None
    term: _Rows | None = None
    position = 0
    for match in found:
        joint = _JOINT.fullmatch(text[position : match.start()].strip())
        rows = _rows(match.group())
        position = match.end()
        if joint is None or rows is None:
            return None
        sign, factor = joint.group("sign"), joint.group("factor").strip()
        if sign == "-" or factor:
            rows = [
                [f"{sign if sign == '-' else ''}({factor or 1}) * ({cell})" for cell in row] for row in rows
            ]
        if term is not None and sign is None:
            term = _product(term, rows)
        else:
            total = term if total is None else _sum(total, term)
            term = rows
        if term is None or (total is None and term is not rows and sign is not None):
            return None
    whole = term if total is None else _sum(total, term)
    if whole is None:
        return None
    lines = tuple(
        Node("sequence", " & ".join(row), tuple(parse(cell) for cell in row), "[]") for row in whole
    )
    return Node("matrix", text, lines)


def _rows(text: str) -> _Rows | None:
    node = parse(text)
    if (
        node.kind != "matrix"
        or len(node.items) > MAX_ROWS
        or any(len(row.items) > MAX_ROWS for row in node.items)
    ):
        return None
    return [[cell.text for cell in row.items] for row in node.items]


def _sum(a: _Rows, b: _Rows | None) -> _Rows | None:
    if b is None or [len(row) for row in a] != [len(row) for row in b]:
        return None
    return [[f"({x}) + ({y})" for x, y in zip(*rows, strict=True)] for rows in zip(a, b, strict=True)]


def _product(a: _Rows, b: _Rows) -> _Rows | None:
    if any(len(row) != len(b) for row in a):
        return None
    columns = list(zip(*b, strict=True))
    return [
        [" + ".join(f"({x}) * ({y})" for x, y in zip(row, column, strict=True)) for column in columns]
        for row in a
    ]
