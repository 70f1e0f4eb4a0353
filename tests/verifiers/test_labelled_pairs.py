"""Agreement with labelled pairs: our own by category, and those of public suites (see labelled/README.md)."""

import json
from pathlib import Path
from typing import Any

import pytest

from gmpo_mm.verifiers import grade_batch
from gmpo_mm.verifiers.equivalence import decide

LABELLED = Path(__file__).with_name("labelled")
FILES = ("own", "public_suites", "held_out")
AGREEMENT = 0.975
FALSE_POSITIVES = 0.0
SENT_ON = 0.05
"""Share of pairs that may need computer algebra: it is a hundred times slower than all else."""


def pairs(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (LABELLED / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def verdicts(rows: list[dict[str, Any]], mirrored: bool = False) -> list[bool]:
    predictions, golds = [row["prediction"] for row in rows], [row["gold"] for row in rows]
    if mirrored:
        predictions, golds = golds, predictions
    return [grade.correct for grade in grade_batch(predictions, golds, timeout=3.0)]


def test_the_labelled_pairs_are_many_distinct_and_balanced() -> None:
    own, public = pairs("own"), pairs("public_suites")
    assert len(own) >= 450 and len(public) >= 300
    assert len({(row["prediction"], row["gold"]) for row in own + public}) >= len(own) + len(public) - 20
    assert sum(not row["equal"] for row in own) >= 0.4 * len(own)
    categories = {row["category"] for row in own}
    assert len(categories) >= 25
    for category in categories:
        assert {row["equal"] for row in own if row["category"] == category} == {True, False}, category


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("mirrored", [False, True])
def test_agreement_reaches_the_quality_bar_whichever_side_is_the_gold(name: str, mirrored: bool) -> None:
    rows = pairs(name)
    found = verdicts(rows, mirrored)
    wrong = [(row, verdict) for row, verdict in zip(rows, found, strict=True) if verdict != row["equal"]]
    false_positives = [row for row, verdict in wrong if verdict]
    report = "\n".join(f"{row['prediction']!r} {row['gold']!r} {row['category']}: {verdict}" for row, verdict in wrong)
    assert len(wrong) <= (1 - AGREEMENT) * len(rows), report
    assert len(false_positives) <= FALSE_POSITIVES * len(rows), report


@pytest.mark.parametrize("name", FILES)
def test_the_stages_without_computer_algebra_are_symmetric_and_decide_nearly_all(name: str) -> None:
    rows = pairs(name)
    first = [decide(row["prediction"], row["gold"]).equal for row in rows]
    second = [decide(row["gold"], row["prediction"]).equal for row in rows]
    assert [row for row, a, b in zip(rows, first, second, strict=True) if a != b] == []
    assert first.count(None) <= SENT_ON * len(rows)


@pytest.mark.parametrize("name", FILES)
def test_every_answer_equals_itself_boxed_spaced_and_in_mathematics(name: str) -> None:
    sides = {text for row in pairs(name) for text in (row["prediction"], row["gold"])}
    texts = sorted(text for text in sides if text.strip() and "boxed" not in text)
    assert [text for text in texts if decide(f" {text} ", text).equal is not True] == []
    closed = [text for text in texts if text.count("{") == text.count("}") and not text.endswith("\\")]
    plain = [text for text in closed if "$" not in text and "\\[" not in text and "\\(" not in text]
    assert [text for text in plain if decide(f"${text}$", text).equal is not True] == []
    assert [text for text in plain if decide(rf"\boxed{{{text}}}", text).equal is not True] == []
