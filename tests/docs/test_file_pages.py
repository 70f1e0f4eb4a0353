"""The pages about evaluation and sweep files name every key that the code reads, with its type, default and range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, get_type_hints

import pytest

from gmpo_mm.config.ranges import Range
from gmpo_mm.evaluation.benchmark import Benchmark, Template, shipped_benchmarks
from gmpo_mm.evaluation.results import Protocol
from gmpo_mm.evaluation.settings import BACKENDS, RANGES, EvaluateSettings
from gmpo_mm.sweeps.seed_budget import BUDGET_KEYS
from gmpo_mm.sweeps.sweep_file import KEYS, SET_BY_THE_SWEEP, VARIANT_KEYS
from gmpo_mm.verifiers.extraction import EXTRACTIONS
from tests.docs.generator import REFERENCE, load_generator, rows_below

generate = load_generator()
EVALUATION = (REFERENCE / "evaluation_files.md").read_text(encoding="utf-8")
SWEEP = (REFERENCE / "sweep_files.md").read_text(encoding="utf-8")
WORDS: dict[tuple[type, str], tuple[str, ...]] = {
    (EvaluateSettings, "backend"): BACKENDS,
    (EvaluateSettings, "unevaluated"): ("accept", "reject"),
    (Template, "extraction"): tuple(EXTRACTIONS),
}


def _default(item: Field[Any]) -> str:
    if item.default is not MISSING:
        return generate.shown(list(item.default) if isinstance(item.default, tuple) else item.default)
    return "required" if item.default_factory is MISSING else generate.shown(item.default_factory())


@pytest.mark.parametrize(
    ("heading", "kind", "left_out", "ranges"),
    [
        ("## Keys of an evaluation", EvaluateSettings, (), RANGES),
        ("## Keys of a benchmark", Benchmark, ("where",), {}),
        ("## Protocol", Protocol, ("template", "stop"), RANGES),
        ("## Prompt templates", Template, ("name",), {}),
    ],
)
def test_each_table_has_every_key(
    heading: str, kind: type, left_out: tuple[str, ...], ranges: Mapping[str, Range]
) -> None:
    hints = get_type_hints(kind)
    rows = rows_below(EVALUATION, heading)
    wanted = []
    for item in fields(kind):
        if item.name not in left_out:
            words = {item.name: WORDS[kind, item.name]} if (kind, item.name) in WORDS else {}
            values = generate.values_of(item.name, ranges.get(item.name), words)
            wanted.append([f"`{item.name}`", generate.type_words(hints[item.name]), _default(item), values])
    assert [row[:4] for row in rows] == wanted
    assert all(row[4].endswith(".") for row in rows)


def test_shipped_benchmarks_and_templates_are_named() -> None:
    from gmpo_mm.evaluation.benchmark import TEMPLATES_FILE, _load_yaml

    for name in [*shipped_benchmarks(), *_load_yaml(TEMPLATES_FILE)]:
        assert f"`{name}`" in EVALUATION, name


@pytest.mark.parametrize(
    ("heading", "keys"),
    [("## Keys of a sweep", KEYS), ("## Keys of the budget", BUDGET_KEYS), ("## Keys of a variant", VARIANT_KEYS)],
)
def test_the_sweep_tables_have_every_key(heading: str, keys: tuple[str, ...]) -> None:
    rows = rows_below(SWEEP, heading)
    assert [row[0].strip("`") for row in rows] == list(keys)
    assert all(row[3].endswith(".") for row in rows)


def test_keys_that_a_sweep_sets_itself_are_named() -> None:
    rows = rows_below(SWEEP, "## Keys that overrides may not set")
    assert {key.strip("` ") for row in rows for key in row[0].split(",")} == SET_BY_THE_SWEEP.keys()
