"""What the page of an evaluation holds as data: problems and samples as short JSON, responses as compressed chunks."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gmpo_mm.errors import DataError
from gmpo_mm.evaluation.answer_forms import answer_form
from gmpo_mm.evaluation.latex import Formula, matching_brace, split_answer, split_math, to_mathml
from gmpo_mm.evaluation.results import Problem, Result, Sample

STATES = ("right", "wrong", "no_answer", "timeout", "error", "not_evaluated")
"""What a sample can be, exactly one of them; truncated is another question."""

MAX_TYPESET = 60_000
"""Different formulas that are converted for one page (20 s on a slow core); those after them are shown as source."""

SAMPLES_PER_CHUNK = 256
HEAD, TAIL = 14_000, 6_000
"""Characters that are kept of a longer response; what is left out is counted in its place."""

MAX_ANSWER = 300

Piece = Any
"""str | int (a formula's number) | list of both (the answer that was extracted) | {"cut": characters left out}."""


class Typesetter:
    """MathML of formulas, each converted once."""

    def __init__(self, limit: int = MAX_TYPESET) -> None:
        self._limit = limit
        self._known: dict[tuple[str, bool], str | None] = {}

    def __call__(self, formula: Formula) -> str | None:
        """The formula's markup; None where it can't be converted or the limit is reached."""
        key = (formula.latex, formula.display)
        if key not in self._known:
            if len(self._known) >= self._limit:
                return None
            self._known[key] = to_mathml(*key)
        return self._known[key]


class FormulaTable:
    """Formulas of several texts, numbered: (source with delimiters, markup or 0)."""

    def __init__(self, typeset: Typesetter) -> None:
        self.rows: list[tuple[str, str | int]] = []
        self._typeset = typeset
        self._numbers: dict[str, int] = {}

    def number(self, formula: Formula) -> int:
        """The formula's number in this table."""
        number = self._numbers.setdefault(formula.source, len(self.rows))
        if number == len(self.rows):
            self.rows.append((formula.source, self._typeset(formula) or 0))
        return number

    def pieces(self, pieces: Sequence[str | Formula]) -> list[Piece]:
        """Pieces with numbers for their formulas."""
        return [piece if isinstance(piece, str) else self.number(piece) for piece in pieces]


class Numbering:
    """Values numbered in the order of their first appearance."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._numbers: dict[Any, int] = {}

    def __call__(self, value: Any) -> int:
        """The value's number."""
        if value not in self._numbers:
            self._numbers[value] = len(self.values)
            self.values.append(value)
        return self._numbers[value]


def state_of(sample: Sample) -> str:
    """The one of STATES that a sample is in; `wrong` was graded, the others were not."""
    if sample.correct:
        return "right"
    return sample.status if sample.status in STATES else "wrong"


def page_data(result: Result) -> tuple[dict[str, Any], list[str]]:
    """The page's data and its chunks of responses."""
    typeset = Typesetter()
    table = FormulaTable(typeset)
    pictures, types, forms, whys, answers = (Numbering() for _ in range(5))
    problems = []
    pairs = list(zip(result.problems, result.by_problem, strict=True))
    if result.spec.stop_when_decided is not None:
        pairs = [(problem, samples) for problem, samples in pairs if samples]
    for problem, samples in pairs:
        same = Numbering()
        problems.append(
            {
                "id": problem.id,
                "text": table.pieces(split_math(problem_text(problem))),
                "golds": [table.pieces(split_answer(clip(gold.strip(), MAX_ANSWER))) for gold in problem.golds],
                "type": types(problem.type) if problem.type is not None else -1,
                "form": forms(answer_form(problem.golds[0])) if problem.golds else -1,
                "pictures": [pictures(picture_url(result.path, name)) for name in problem.pictures],
                "samples": [
                    (
                        sample.sample,
                        STATES.index(state_of(sample)),
                        int(sample.stop_reason == "length"),
                        -1 if sample.extracted is None else answers(clip(sample.extracted.strip(), MAX_ANSWER)),
                        whys(sample.why[:MAX_ANSWER]),
                        sample.tokens,
                        same((sample.response, sample.extracted)),
                    )
                    for sample in samples
                ],
            }
        )
    shown_answers = [table.pieces(split_answer(answer)) for answer in answers.values]
    per_chunk = max(1, SAMPLES_PER_CHUNK // max(1, result.spec.protocol.n))
    chunks = [
        _chunk([samples for _, samples in pairs[start : start + per_chunk]], typeset)
        for start in range(0, len(pairs), per_chunk)
    ]
    data = {
        "n": result.spec.protocol.n,
        "maxTokens": result.spec.protocol.max_tokens,
        "states": STATES,
        "types": types.values,
        "forms": forms.values,
        "whys": whys.values,
        "pictures": pictures.values,
        "answers": shown_answers,
        "perChunk": per_chunk,
        "problems": problems,
        "math": table.rows,
    }
    return data, chunks


def problem_text(problem: Problem) -> str:
    """The question; where it has several pictures, their places in it keep a number."""
    text = problem.text
    if len(problem.pictures) <= 1:
        text = text.replace("<image>", "", 1)
    for number in range(1, len(problem.pictures) + 1):
        text = text.replace("<image>", f"[picture {number}] ", 1)
    return clip(re.sub(r"\n\s*\n", "\n\n", text.strip()), HEAD + TAIL)


def clip(text: str, limit: int) -> str:
    """A text of at most `limit` characters, and an ellipsis where it was longer."""
    return text if len(text) <= limit else text[:limit] + "…"


def different(samples: Sequence[Sample]) -> list[Sample]:
    """The first sample with each response: the page holds equal ones once. A sample's row has its response's number."""
    first: dict[tuple[str, str | None], Sample] = {}
    for sample in samples:
        first.setdefault((sample.response, sample.extracted), sample)
    return list(first.values())


def _chunk(groups: Sequence[Sequence[Sample]], typeset: Typesetter) -> str:
    table = FormulaTable(typeset)
    responses = [[response_pieces(sample, table) for sample in different(samples)] for samples in groups]
    text = json.dumps({"math": table.rows, "responses": responses}, separators=(",", ":"))
    return base64.b64encode(gzip.compress(text.encode(), compresslevel=6, mtime=0)).decode()


def response_pieces(sample: Sample, table: FormulaTable) -> list[Piece]:
    """A response as pieces, the place that the answer was taken from in a list of its own, an overlong middle left out."""
    text = sample.response
    span = answer_span(text, sample.extracted)
    if len(text) <= HEAD + TAIL:
        return _marked(text, span, table)
    tail = len(text) - TAIL
    early = span if span and span[1] <= HEAD else None
    late = (span[0] - tail, span[1] - tail) if span and span[0] >= tail else None
    return [*_marked(text[:HEAD], early, table), {"cut": tail - HEAD}, *_marked(text[tail:], late, table)]


def answer_span(text: str, extracted: str | None) -> tuple[int, int] | None:
    """Where in a response its extracted answer stands, with the box or tags around it; None where that isn't known."""
    wanted = (extracted or "").strip()
    if not wanted:
        return None
    for opener in (r"\boxed", r"\fbox"):
        start = text.rfind(opener)
        brace = text.find("{", start, start + len(opener) + 4) if start >= 0 else -1
        end = matching_brace(text, brace, len(text)) if brace >= 0 else None
        if end is not None and text[brace + 1 : end - 1].strip() == wanted:
            return start, end
    start = text.rfind("<answer>")
    if start >= 0 and wanted in text[start:]:
        end = text.find("</answer>", start)
        return start, len(text) if end < 0 else end + len("</answer>")
    start = text.rfind(wanted)
    while start >= 0 and _inside_word(text, start, start + len(wanted)):
        start = text.rfind(wanted, 0, start + len(wanted) - 1)
    return None if start < 0 else (start, start + len(wanted))


def _inside_word(text: str, start: int, end: int) -> bool:
    """Whether a piece of text is a part of a longer word or number."""
    before, after = text[start - 1 : start], text[end : end + 1]
    return (before.isalnum() and text[start].isalnum()) or (after.isalnum() and text[end - 1].isalnum())


def _marked(text: str, span: tuple[int, int] | None, table: FormulaTable) -> list[Piece]:
    start, end = span or (-1, -1)
    pieces: list[Piece] = []
    position = 0
    for piece in split_math(text):
        length = len(piece if isinstance(piece, str) else piece.source)
        if position + length <= start or position >= end:
            pieces += table.pieces([piece])
        elif isinstance(piece, Formula):
            pieces.append(table.pieces([piece]))
        else:
            a, b = max(start - position, 0), min(end - position, length)
            pieces += [piece[:a], [piece[a:b]], piece[b:]]
        position += length
    return [piece for piece in pieces if piece != ""]


_SIGNATURES = ((b"\x89PNG", "png"), (b"RIFF", "webp"), (b"\xff\xd8\xff", "jpeg"))


def picture_url(folder: Path, name: str) -> str:
    """A picture of a result as a data URL. Raises DataError for one that is missing, elsewhere, or no picture."""
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
        raise DataError(f"{folder / 'problems.jsonl'}: picture {name} is not there; restore it, or evaluate again")
    content = path.read_bytes()
    for signature, kind in _SIGNATURES:
        if content.startswith(signature):
            return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    raise DataError(f"{path}: neither PNG, WebP nor JPEG; restore it, or evaluate again")
