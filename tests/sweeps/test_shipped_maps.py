"""The stability maps of configs/sweeps: one list of losses, and cells that pass the checks of a run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gmpo_mm.config import config_differences, load_config
from gmpo_mm.engines.checks import validate_for_training
from gmpo_mm.runs.progress import Progress
from gmpo_mm.sweeps.planning import NAMES_OF_A_RUN, plan_sweep
from gmpo_mm.sweeps.sweep_file import Sweep, load_sweep
from gmpo_mm.sweeps.sweep_map import Variant
from tests.engine.runs import ROOT
from tests.sweeps.test_shipped_sweeps import MAPS, workplace

__all__ = ["workplace"]  # the fixture
LOSS = re.compile(
    r"worker\.actor\.(loss_type|loss_avg_mode|clip_ratio_\w+|(gmpo|power_mean)\.\w+)|algorithm\.adv_estimator"
)
LOSSES = {
    "grpo", "dr_grpo", "gmpo_0_2", "gmpo_0_4", "gmpo_none", "gspo", "cispo", "power_25", "power_50", "power_75", "power_100",
}  # fmt: skip


def cells(sweep: Sweep) -> dict[tuple[str, str, str], Variant]:
    """(panel, row, column) -> variant."""
    assert sweep.map is not None
    places = sweep.map.to_json(sweep.saved)["cells"]
    return {tuple(places[variant.name]): variant for variant in sweep.variants}  # type: ignore[misc]


def test_all_maps_have_the_same_losses_and_three_seeds() -> None:
    maps = [load_sweep(ROOT / name) for name in MAPS]
    assert {sweep.name for sweep in maps} == {
        f"stability_{what}" for what in ("staleness", "epochs", "rate", "sampler", "small")
    }
    for sweep in maps:
        assert sweep.map is not None and maps[0].map is not None
        assert {row.name for row in sweep.map.rows} == LOSSES and sweep.map.rows == maps[0].map.rows
        assert sweep.map.exponents == maps[0].map.exponents and len(sweep.seeds) == 3


def test_rows_differ_in_the_loss_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    sweep = load_sweep("configs/sweeps/stability_small.yaml")
    column = [variant for (_, _, name), variant in cells(sweep).items() if name == "k4"]
    first, *others = [load_config(sweep.base, [*sweep.overrides, *v.overrides]).config for v in column]
    for other in others:
        keys = [key for key, _, _ in config_differences(first, other) if key not in NAMES_OF_A_RUN]
        assert keys and all(LOSS.fullmatch(key) for key in keys), keys


@pytest.mark.parametrize("name", MAPS)
def test_a_loss_passes_the_checks_of_a_run_in_every_column_and_panel(
    monkeypatch: pytest.MonkeyPatch, workplace: Path, name: str
) -> None:
    """Every column of the first panel, and the last column of every other one; the whole maps are a slow test."""
    monkeypatch.chdir(workplace)
    sweep = load_sweep(name)
    assert sweep.map is not None
    first, last = (sweep.map.panels or (None,))[0], sweep.map.columns[-1].name
    chosen = [
        variant for (panel, row, column), variant in cells(sweep).items()
        if row == "gmpo_0_4" and (first is None or panel == first.name or column == last)
    ]  # fmt: skip
    assert len(chosen) == len(sweep.map.columns) + max(len(sweep.map.panels) - 1, 0)
    for variant in chosen:
        validate_for_training(load_config(variant.base or sweep.base, [*sweep.overrides, *variant.overrides]))


@pytest.mark.slow
@pytest.mark.parametrize("name", MAPS)
def test_every_cell_can_be_planned(
    monkeypatch: pytest.MonkeyPatch, workplace: Path, tmp_path: Path, name: str
) -> None:
    monkeypatch.chdir(workplace)
    with Progress(live=False) as progress:
        sweep = load_sweep(name, ["seeds=[1]"])
        assert len(plan_sweep(sweep, tmp_path, progress)) == len(sweep.variants)
