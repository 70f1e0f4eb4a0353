r"""Sums and products of matrices that are written out, as one matrix: `A + 2 B`, `A B`, `-A`."""

import re

from gmpo_mm.verifiers.structure import Node, parse

_KIND = r" ?\{ ?[bp]?(?:small)?matrix\*? ?\}"
_MATRIX = re.compile(rf"(\\begin{_KIND}.*?\\end{_KIND})", re.DOTALL)
_JOINT = re.compile(r"(?:([+-])|\*)? ?([^+\-&^_=<>]*?) ?\*?")
MAX_MATRICES, MAX_ROWS = 4, 6


def matrix_sum(node: Node) -> Node | None:
    """The matrix that a text such as `A + B` stands for, its entries as formulas; None for anything else."""
    *pieces, end = _MATRIX.split(node.text)
    if not 1 <= len(pieces) // 2 <= MAX_MATRICES or end.strip():
        return None
    terms: list[list[list[str]]] = []
    for between, text in zip(pieces[::2], pieces[1::2], strict=True):
        joint, matrix = _JOINT.fullmatch(between.strip()), parse(text)
        widths = {len(row.items) for row in matrix.items}
        if joint is None or matrix.kind != "matrix" or len(widths) != 1:
            return None
        if max(len(matrix.items), *widths) > MAX_ROWS:
            return None
        sign, factor = joint.group(1), joint.group(2).strip()
        rows = [[cell.text for cell in row.items] for row in matrix.items]
        if sign == "-" or factor:
            scale = f"{'-' if sign == '-' else ''}({factor or 1})"
            rows = [[f"{scale} * ({cell})" for cell in row] for row in rows]
        if sign or not terms:
            terms.append(rows)
            continue
        if len(terms[-1][0]) != len(rows):
            return None
        columns = list(zip(*rows, strict=True))
        terms[-1] = [
            [" + ".join(f"({x}) * ({y})" for x, y in zip(row, column, strict=True)) for column in columns]
            for row in terms[-1]
        ]
    if len({(len(term), len(term[0])) for term in terms}) != 1:
        return None
    lines = []
    for rows_at_once in zip(*terms, strict=True):
        cells = [" + ".join(map("({})".format, entries)) for entries in zip(*rows_at_once, strict=True)]
        lines.append(Node("sequence", " & ".join(cells), tuple(map(parse, cells)), "[]"))
    return Node("matrix", node.text, tuple(lines))
