"""Every metric that a run writes, and every name that the code can write, stands on the page of metrics."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import gmpo_mm
from gmpo_mm.runs.metrics_file import read_metrics
from tests.docs.generator import REFERENCE

PAGE = (REFERENCE / "metrics.md").read_text(encoding="utf-8")
PACKAGE = Path(gmpo_mm.__file__).parent
NAMES = re.findall(r"^\| `([^`]+/[^`]+)` \|", PAGE, re.MULTILINE)
PATTERNS = [re.compile(re.escape(name).replace("NAME", "[a-z0-9_]+").replace("LOSS", "[a-z0-9_]+")) for name in NAMES]
FAMILIES = "actor|clip|compare|correction|critic|filter|group|moe|perf|ratio|response|reward|rollout|timing_s|val|verifier"


def described(name: str) -> bool:
    """Whether a row of the page is about the name."""
    return any(pattern.fullmatch(name) for pattern in PATTERNS)


def names_in_the_code() -> Iterator[str]:
    """Names that stand whole in a string of the code."""
    for folder in ("algorithms", "training", "runs", "rollout", "engines"):
        for file in (PACKAGE / folder).rglob("*.py"):
            yield from re.findall(rf'"((?:{FAMILIES})/[a-z0-9_/]+)"', file.read_text(encoding="utf-8"))


def test_every_name_in_the_code_is_described() -> None:
    found = set(names_in_the_code())
    assert len(found) > 50
    ranges = {"critic/score", "critic/advantages"}  # mean, max and min are appended
    other_programs = {"timing_s/save_checkpoint"}  # removed from what EasyR1 and verl log
    summed = {"correction/weight_square"}  # becomes correction/ess when all is summed
    assert sorted(name for name in found - ranges - other_programs - summed if not described(name)) == []


def test_no_name_is_described_twice() -> None:
    assert len(set(NAMES)) == len(NAMES)


def test_each_row_of_a_metric_is_whole() -> None:
    for line in PAGE.splitlines():
        if re.match(r"\| `[^`]+/[^`]+` \|", line):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            assert cells[1].endswith((".", ".)")), line
            assert len(cells) == 2 or cells[4], line


@pytest.mark.parametrize("model", ["dense", "experts"])
def test_every_metric_of_a_real_run_is_described(model: str, request: pytest.FixtureRequest) -> None:
    lines = read_metrics(request.getfixturevalue(f"{model}_run"))
    kinds = {line["kind"] for line in lines}
    assert kinds == {"train", "validation", "compare", *(["experts"] if model == "experts" else [])}
    written = {name for line in lines for name in line} - {"step", "kind"}
    assert len(written) > 40
    assert sorted(name for name in written if not described(name)) == []
