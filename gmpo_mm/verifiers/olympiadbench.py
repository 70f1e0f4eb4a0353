"""OlympiadBench's answers: several parts in any order, sets, intervals, tuples, numbers to 1e-8.

The rules are those of its own judge (arXiv 2402.14008), but for what docs/reference/graders.md lists.
"""

import re
from collections.abc import Sequence

from gmpo_mm.verifiers.equivalence import MAX_LENGTH
from gmpo_mm.verifiers.extraction import Extraction, all_boxes, remove_invisible
from gmpo_mm.verifiers.grading import DEFAULT_TIMEOUT, Gold, Grade, Kind, answer_of, grade_batch
from gmpo_mm.verifiers.normalize import canonical
from gmpo_mm.verifiers.reading import read
from gmpo_mm.verifiers.structure import Node, assigned_name, parse

_NAMED_INTERVAL = re.compile(r"^[A-Za-z] ?(\(.*\]|\[.*\)|\[.*\])$", re.DOTALL)


def grade_olympiadbench(
    predictions: Sequence[str | None], golds: Sequence[Gold], kind: Kind = "response", *,
    extraction: Extraction = "auto", timeout: float = DEFAULT_TIMEOUT,
) -> list[Grade]:
    """Grades of a batch by the rules above; a gold that is a sequence is right when any of its texts is."""
    answers: list[str | None] = []
    possible: list[list[str]] = []
    for prediction, gold in zip(predictions, golds, strict=True):
        texts = [_interval(str(text)) for text in ([gold] if isinstance(gold, str) else gold)]
        answers.append(answer := _answer(prediction, texts[0] if texts else "", kind, extraction))
        possible.append([text for text in texts if answer and not _is_list_for_interval(answer, text)])
    return grade_batch(answers, possible, timeout=timeout, rules="olympiadbench")


def _interval(text: str) -> str:
    """`(0,4]` where the text is `t(0,4]`; any other text as it is."""
    named = _NAMED_INTERVAL.match(read(text).text) if len(text) <= MAX_LENGTH else None
    return named.group(1) if named else text


def _answer(prediction: str | None, gold: str, kind: str, extraction: Extraction) -> str | None:
    """The answer's text; several boxes of the last line that has one, where the gold has as many parts."""
    answer = answer_of(prediction, gold, kind, extraction)
    if prediction is None or answer is None:
        return None
    answer, count = _interval(answer), number_of_parts(gold)
    in_boxes = kind == "response" and extraction != "answer_tags" and len(answer) <= MAX_LENGTH
    if in_boxes and count > 1 and number_of_parts(answer) == 1:
        last = max(prediction.rfind("\\boxed"), prediction.rfind("\\fbox"))
        line = prediction[prediction.rfind("\n", 0, last) + 1 :][: 2 * MAX_LENGTH]
        spans = all_boxes(line)
        if len(spans) == count:
            return remove_invisible(", ".join(line[a:b].strip() for a, b in spans))
    return answer


def number_of_parts(text: str) -> int:
    """Parts of an answer, one where it is no list: what `where` defines is no part."""
    node = _node(text)
    return len(node.items) if node.kind in ("list", "set") and not re.search(r"\bwhere\b", text) else 1


def _node(text: str) -> Node:
    return parse(read(text).text) if len(text) <= MAX_LENGTH else Node("scalar", text)


def _is_list_for_interval(answer: str, gold: str) -> bool:
    """Whether `a, b` is given for a gold `(a, b)`, which may be an interval; the reverse is accepted."""
    node = _node(answer)
    bare = node.kind == "list" and any(assigned_name(item) is None for item in node.items)
    return bare and _node(gold).kind == "sequence" and canonical(answer) != canonical(gold)
