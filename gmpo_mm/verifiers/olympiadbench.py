r"""OlympiadBench's answers: `$..$` golds, several parts in any order, sets, intervals, tuples, numbers to 1e-8.

The rules are those of OlympiadBench's own judge (OpenBMB/OlympiadBench, `eval/auto_scoring_judge.py` and
`inference/code/math_judger.py`; He et al., arXiv 2402.14008): `$` is dropped, an answer is cut at the commas outside brackets,
`a \pm b` counts as two parts, there must be as many parts as in the gold, and each must pair with one of the gold's in any
order. Two numbers are equal within 1e-8 (times 1.01), intervals and tuples are ordered and keep their brackets, and a part with
a name before it, `x = 2`, equals the bare `2`. Its `error` column, a wider tolerance for some problems, is not in the
evaluation suite that we grade, so none is used.

Where the judge is wrong by its own design this differs:

- The judge takes 100 times or a hundredth of any number for right; here only where a `%` is written.
- Its tolerance is absolute and for all numbers; here it is relative for numbers below 1, so that 1/2^98 is not 1/2^99, and
  holds only where one side is a decimal.
- It reads all boxes of a response; here as many boxes of the last line with a box as the gold has parts, else the last one.
- `and`, `or` and `;` separate parts like a comma, `\{1, 3\}` is `1, 3`, and a tuple `(1, 3)` equals a gold `1, 3` in its order.
- `t(0,4]`, as one gold has it, is the interval.

All else is read and compared as the grader `math` does it.
"""

import re
from collections.abc import Sequence
from typing import Literal

from gmpo_mm.verifiers.extraction import Extraction, all_boxes, remove_invisible
from gmpo_mm.verifiers.grading import DEFAULT_TIMEOUT, Gold, Grade, answer_of, grade_batch
from gmpo_mm.verifiers.normalize import canonical
from gmpo_mm.verifiers.reading import read
from gmpo_mm.verifiers.structure import Node, assigned_name, parse

VERSION = 2
MAX_LENGTH = 2000  # characters; a longer answer is compared as a whole

_NAMED_INTERVAL = re.compile(r"^[A-Za-z] ?(\(.*\]|\[.*\)|\[.*\])$", re.DOTALL)
_WHERE = re.compile(r"\bwhere\b")


def grade_olympiadbench(
    predictions: Sequence[str | None],
    golds: Sequence[Gold],
    kind: Literal["answer", "response"] = "response",
    *,
    extraction: Extraction = "auto",
    timeout: float = DEFAULT_TIMEOUT,
) -> list[Grade]:
    """Grades of a batch by the rules above; a gold that is a sequence is right when any of its texts is."""
    texts = [[_interval(text) for text in ([gold] if isinstance(gold, str) else gold)] for gold in golds]
    answers = [
        _answer(prediction, text[0] if text else "", kind, extraction)
        for prediction, text in zip(predictions, texts, strict=True)
    ]
    possible = [
        [text for text in row if answer is not None and not _is_list_for_interval(answer, text)]
        for answer, row in zip(answers, texts, strict=True)
    ]
    return grade_batch(answers, possible, timeout=timeout, rules="olympiadbench")


def _interval(text: object) -> str:
    """`(0,4]` where the text is `t(0,4]`; any other text as it is."""
    named = _NAMED_INTERVAL.match(read(str(text)).text) if len(str(text)) <= MAX_LENGTH else None
    return named.group(1) if named else str(text)


def _answer(prediction: object, gold: str, kind: str, extraction: Extraction) -> str | None:
    """The answer's text; several boxes of the last line that has one, where the gold has as many parts."""
    answer = answer_of(prediction, gold, kind, extraction)
    answer = None if answer is None else _interval(answer)
    if not isinstance(prediction, str) or kind != "response":
        return answer
    last = max(prediction.rfind("\\boxed"), prediction.rfind("\\fbox"))
    if answer is None or extraction == "answer_tags" or len(answer) > MAX_LENGTH or last < 0:
        return answer
    count = number_of_parts(gold)
    if count > 1 and number_of_parts(answer) == 1:
        start = prediction.rfind("\n", 0, last) + 1
        line = prediction[start : start + 2 * MAX_LENGTH]
        spans = all_boxes(line)
        if len(spans) == count:
            return remove_invisible(", ".join(line[a:b].strip() for a, b in spans))
    return answer


def number_of_parts(text: str) -> int:
    """Parts of an answer in this benchmark's sense; one where it is no list: what `where` defines is no part."""
    node = _node(text)
    return len(node.items) if node.kind in ("list", "set") and not _WHERE.search(text) else 1


def _node(text: str) -> Node:
    return parse(read(text).text) if len(text) <= MAX_LENGTH else Node("scalar", text)


def _is_list_for_interval(answer: str, gold: str) -> bool:
    """Whether `a, b` is given for a gold `(a, b)`, which may be an interval; the other way round it is accepted."""
    node = _node(answer)
    bare = node.kind == "list" and any(assigned_name(item) is None for item in node.items)
    return bare and _node(gold).kind == "sequence" and canonical(answer) != canonical(gold)
