"""A sweep file's map: its cells become variants, its directory keeps their meaning, its mistakes name key and fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from gmpo_mm.errors import ConfigError
from gmpo_mm.reports.study import StudyMap
from gmpo_mm.runs.progress import Progress
from gmpo_mm.sweeps.directory import SweepDirectory, sweep_differences
from gmpo_mm.sweeps.planning import plan_sweep
from gmpo_mm.sweeps.sweep_file import Sweep, load_sweep
from tests.sweeps.sweeps import NO_CLIP, write_sweep

VALID: dict[str, Any] = {
    "base": "base.yaml",
    "variants": {
        "grpo": {"label": "GRPO", "overrides": ["worker.actor.loss_type=default"]},
        "gmpo": {"label": "GMPO", "base": "own.yaml"},
    },
    "seeds": [1],
    "map": {
        "axis": {
            "label": "rate",
            "values": {
                "slow": {"label": "slow, 1e-4", "overrides": ["worker.actor.optim.lr=1e-4"]},
                "fast": {"label": 0.001, "overrides": ["worker.actor.optim.lr=1e-3"]},
            },
        },
        "panels": {
            "text": {"label": "Text"},
            "vision": {"label": "Vision", "base": "vision.yaml", "overrides": ["a=1"]},
        },
        "collapse_kl": 2.0,
        "exponents": {"grpo": 1.0, "gmpo": 0.0},
    },
}


def load(folder: Path, changes: dict[str, Any] | None = None, *overrides: str) -> Sweep:
    """The valid file with `changes` of keys of its map; None removes one."""
    grid = {key: value for key, value in {**VALID["map"], **(changes or {})}.items() if value is not None}
    (folder / "mine.yaml").write_text(yaml.safe_dump({**VALID, "map": grid}, sort_keys=False))
    return load_sweep(folder / "mine.yaml", overrides)


def test_every_row_is_trained_in_every_column_of_every_panel(tmp_path: Path) -> None:
    sweep = load(tmp_path)
    found = {(v.name, v.base, v.overrides) for v in sweep.variants}
    loss, rates = "worker.actor.loss_type=default", {"slow": "1e-4", "fast": "1e-3"}
    expected = set()
    for column, rate in rates.items():
        lr = f"worker.actor.optim.lr={rate}"
        expected |= {
            (f"text_grpo_{column}", None, (loss, lr)), (f"text_gmpo_{column}", "own.yaml", (lr,)),
            (f"vision_grpo_{column}", "vision.yaml", ("a=1", loss, lr)), (f"vision_gmpo_{column}", "own.yaml", ("a=1", lr)),
        }  # fmt: skip
    assert found == expected and len(sweep.variants) == 8
    assert [v.label for v in sweep.variants[:2]] == ["Text: GRPO, slow, 1e-4", "Text: GMPO, slow, 1e-4"]


def test_without_panels_a_cell_is_called_by_row_and_column(tmp_path: Path) -> None:
    sweep = load(tmp_path, {"panels": None})
    assert [v.name for v in sweep.variants] == ["grpo_slow", "gmpo_slow", "grpo_fast", "gmpo_fast"]


def test_a_panel_may_have_some_of_the_columns(tmp_path: Path) -> None:
    sweep = load(tmp_path, {"panels": {"a": {"columns": ["fast"]}, "b": {}}})
    assert [v.name for v in sweep.variants if "grpo" in v.name] == [
        "a_grpo_fast",
        "b_grpo_slow",
        "b_grpo_fast",
    ]
    again = load_sweep(write_resolved(tmp_path, sweep))
    assert again.variants == sweep.variants


def write_resolved(folder: Path, sweep: Sweep) -> Path:
    (folder / "resolved.yaml").write_text(yaml.safe_dump(sweep.to_dict(), sort_keys=False))
    return folder / "resolved.yaml"


def test_what_is_written_reads_back_to_the_same_sweep(tmp_path: Path) -> None:
    sweep = load(tmp_path)
    assert load_sweep(write_resolved(tmp_path, sweep)) == sweep


def test_the_report_reads_the_map_that_a_sweep_writes(tmp_path: Path) -> None:
    sweep = load(tmp_path)
    assert sweep.map is not None
    grid = StudyMap.from_json(json.loads(json.dumps(sweep.map.to_json(sweep.saved))))
    assert set(grid.cells) == {v.name for v in sweep.variants}
    assert grid.cells["vision_gmpo_fast"] == ("vision", "gmpo", "fast")
    assert (grid.axis, grid.collapse_kl, grid.exponents) == ("rate", 2.0, {"grpo": 1.0, "gmpo": 0.0})
    assert [one.label for one in (*grid.panels, *grid.rows, *grid.columns)] == [
        "Text", "Vision", "GRPO", "GMPO", "slow, 1e-4", "0.001",
    ]  # fmt: skip


def test_columns_may_be_added_and_the_bound_changed_but_no_cell(tmp_path: Path) -> None:
    old = load(tmp_path).to_dict()
    more = {"faster": {"overrides": ["worker.actor.optim.lr=1e-2"]}}
    axis = {"label": "rate", "values": {**VALID["map"]["axis"]["values"], **more}}
    assert not sweep_differences(
        old, load(tmp_path, {"axis": axis, "collapse_kl": 5.0, "exponents": None}).to_dict()
    )
    axis = {
        "label": "rate",
        "values": {**VALID["map"]["axis"]["values"], "slow": {"overrides": ["worker.actor.optim.lr=1e-5"]}},
    }
    changed = {key for key, _, _ in sweep_differences(old, load(tmp_path, {"axis": axis}).to_dict())}
    assert changed == {
        f"variants.{panel}_{row}_slow.overrides" for panel in ("text", "vision") for row in ("grpo", "gmpo")
    }
    without = {**VALID, "map": None}
    (tmp_path / "plain.yaml").write_text(yaml.safe_dump(without))
    assert "variants.text_grpo_slow" in {
        key for key, _, _ in sweep_differences(old, load_sweep(tmp_path / "plain.yaml").to_dict())
    }


def test_a_directory_keeps_its_cells_and_takes_a_new_bound(tmp_path: Path, data: Path) -> None:
    grid = {"axis": {"label": "rate", "values": VALID["map"]["axis"]["values"]}, "collapse_kl": 2.0}
    file = write_sweep(tmp_path, data, {"gmpo": {}, **NO_CLIP}, map=grid)

    def look(*overrides: str) -> SweepDirectory:
        sweep = load_sweep(file, overrides)
        with Progress(live=False) as progress:
            planned = plan_sweep(sweep, tmp_path / "out", progress)
        return SweepDirectory.look(tmp_path / "out", sweep, planned, [], ["gmpo-mm", "sweep"])

    (tmp_path / "out").mkdir()
    look().begin()
    look("map.collapse_kl=3", "map.exponents={gmpo: 0}").begin()
    written = json.loads((tmp_path / "out/sweep.json").read_text())
    assert written["map"]["collapse_kl"] == 3.0 and written["map"]["exponents"] == {"gmpo": 0.0}
    assert set(written["map"]["cells"]) == {run["variant"] for run in written["runs"]}
    with pytest.raises(ConfigError, match=r"variants\.gmpo_slow\.overrides"):
        look("map.axis.values.slow.overrides=[worker.actor.optim.lr=1e-5]")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"axis": None}, ["map.axis.values is not set"]),
        ({"axis": {"values": {}}}, ["map.axis.values is not set"]),
        ({"axis": {"values": ["a"]}}, ["map.axis.values = ['a']", "mapping"]),
        ({"axis": {"value": {}}}, ["map.axis.value", "Did you mean map.axis.values?"]),
        ({"axis": {"values": {0: {}}}}, ["map.axis.values.0", "int", "begin it with a letter"]),
        ({"axis": {"values": {"a": ["x=1"]}}}, ["map.axis.values.a = ['x=1']", "{overrides: [key=value, ...]}"]),
        ({"axis": {"values": {"a": {"base": "b.yaml"}}}}, ["map.axis.values.a.base", "no such key"]),
        ({"axis": {"values": {"a": {"overrides": ["data.seed=1"]}}}}, ["map.axis.values.a.overrides", "its seeds"]),
        ({"axes": {}}, ["map.axes", "Did you mean map.axis?"]),
        ({"panels": ["a"]}, ["map.panels = ['a']", "mapping"]),
        ({"panels": {"a": {"columns": ["slow", "no"]}}}, ["map.panels.a.columns", "no column no", "slow, fast"]),
        ({"panels": {"a b": {}}}, ["'a b'", "names folders"]),
        ({"collapse_kl": 0}, ["map.collapse_kl = 0", "above 0"]),
        ({"exponents": {"gspo": 1}}, ["map.exponents.gspo = 1", "grpo, gmpo"]),
        ({"exponents": {"grpo": "one"}}, ["map.exponents.grpo = 'one'", "a number"]),
        ({"panels": {"a": {}, "a_grpo": {}}, "axis": {"values": {"x": {}, "grpo_x": {}}}}, ["both be called a_grpo_grpo_x"]),
    ],
)  # fmt: skip
def test_a_mistake_in_a_map_names_key_value_and_fix(
    tmp_path: Path, changes: dict[str, Any], named: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, changes)
    for text in named:
        assert text in str(caught.value)


def test_a_map_is_not_stopped_by_the_difference_of_two_variants(tmp_path: Path) -> None:
    budget = {"stop_when": "decided", "between": ["grpo", "gmpo"]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**VALID, "budget": budget}, sort_keys=False))
    with pytest.raises(ConfigError, match=r"budget\.stop_when = 'decided'.*leave out budget\.stop_when, or map"):
        load_sweep(tmp_path / "mine.yaml")
