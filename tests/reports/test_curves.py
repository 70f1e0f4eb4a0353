"""Curves over seeds and the ratio axis, against naive loops."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure as Canvas

from gmpo_mm.reports.curves import band_over_seeds, missing_notes, thin, variant_band
from gmpo_mm.reports.drawing import panel_rows, panels
from gmpo_mm.reports.page import in_pairs
from gmpo_mm.reports.ratio_axis import SymmetricAxis, log10_of, ratio_ticks
from gmpo_mm.reports.report_figure import ReportFigure
from gmpo_mm.reports.study import Run, Series, Study, Variant


def run(seed: str, **series: list[tuple[int, float]]) -> Run:
    return Run(Path(f"runs/{seed}"), seed, {name: Series.of(pairs) for name, pairs in series.items()}, "gmpo-mm", "finished")


def test_a_band_is_mean_minimum_and_maximum_of_the_seeds_that_have_the_step() -> None:
    found = [{1: 0.5, 2: 0.7, 4: 1.0}, {1: 0.1, 2: 0.9}, {2: 0.2, 3: 0.4}]
    band = band_over_seeds([Series.of(pairs.items()) for pairs in found])
    for i, step in enumerate([1, 2, 3, 4]):
        values = [pairs[step] for pairs in found if step in pairs]
        assert band.steps[i] == step
        assert (band.mean[i], band.low[i], band.high[i]) == pytest.approx((np.mean(values), min(values), max(values)))
        assert band.counts[i] == len(values)
    assert band.seeds == 3


def test_seeds_are_averaged_after_the_transform() -> None:
    """On a logarithmic axis a mean of ratios would lie at the largest one."""
    variant = Variant("a", "A", (run("1", ratio=[(1, 1e-4)]), run("2", ratio=[(1, 1.0)])))
    band = variant_band(variant, "ratio", log10_of)
    assert band is not None
    assert (band.low[0], band.mean[0], band.high[0]) == pytest.approx((-4.0, -2.0, 0.0))
    assert variant_band(variant, "other") is None


def test_thinning_keeps_extremes_and_the_mean_of_all() -> None:
    generator = np.random.default_rng(0)
    values = generator.normal(size=(2, 1000))
    values[1, 777] = 50.0
    band = band_over_seeds([Series.of(enumerate(row.tolist())) for row in values])
    few = thin(band, 100)
    assert len(few.steps) == 100
    assert (few.low.min(), few.high.max()) == (values.min(), 50.0)
    assert few.mean.mean() == pytest.approx(band.mean.mean())
    assert few.steps.tolist() == sorted(few.steps.tolist())
    assert thin(few, 100) is few


def test_values_that_are_not_finite_are_left_out_and_counted() -> None:
    series = Series.of([(1, 1.0), (2, math.nan), (3, math.inf), (4, 2.0), (4, 3.0)])
    assert series.steps.tolist() == [1, 4]
    assert series.values.tolist() == [1.0, 3.0]
    assert series.dropped == 2


def test_what_is_missing_is_named_by_variant_and_seed() -> None:
    study = Study(
        "t",
        (
            Variant("a", "A", (run("1", kl=[(1, 0.1)]), run("2", other=[(1, 0.1)]))),
            Variant("b", "B", (run("1", other=[(1, 0.1)]),)),
            Variant("c", "C", (run("1", kl=[(1, 0.1)]), run("2"))),  # one that has not begun lacks nothing
        ),
        ("x",),
    )
    (note,) = missing_notes(study, ("kl",), "Because.")
    assert note == "Not drawn: A (seed 2); B. No kl is logged there. Because."
    assert missing_notes(study, ("kl", "other")) == []


def test_values_that_can_t_be_drawn_are_counted() -> None:
    study = Study("t", (Variant("a", "A", (run("1", norm=[(1, 0.1), (2, math.inf), (3, math.nan)]),)),), ("x",))
    assert missing_notes(study, ("norm",)) == ["A: 2 values of norm not finite, left out."]


@pytest.mark.parametrize(
    ("low", "high"),
    [(-0.05, 0.05), (-0.2, 0.18), (-0.4, 0.7), (-1.2, 0.9), (-2.4, 1.1), (-6.3, 2.5), (-400.0, 12.0), (-3, 900)],
)
def test_a_ratio_axis_has_a_few_round_labels_at_their_places(low: float, high: float) -> None:
    ticks = ratio_ticks(low, high)
    assert 2 <= len(ticks) <= 9
    plain = str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789")
    for position, label in ticks:
        assert low <= position <= high
        is_power = label.startswith("10") and len(label) > 2 and not label[2:].isascii()
        assert position == pytest.approx(int(label[2:].translate(plain)) if is_power else math.log10(float(label)), abs=1e-9)


def test_a_ratio_that_underflowed_is_drawn_at_the_edge() -> None:
    assert np.isfinite(log10_of(np.array([0.0, 1.0]))).all()


@pytest.mark.parametrize(
    ("near", "far"),
    [(0.0, 0.0), (1e-4, 1e-3), (0.004, 0.3), (0.02, 0.9), (0.1, 3.2), (0.3, 12.0), (2.0, 500.0), (30.0, 4e5), (0.01, 3e7)],
)
def test_the_sequences_axis_is_symmetric_holds_every_ratio_and_states_its_limits(near: float, far: float) -> None:
    axis = SymmetricAxis.around([near, -near / 2], [near, -far])
    assert axis.limit >= max(near, far) and 0 < axis.linear <= max(axis.limit / 2, math.log10(1.001))
    ax = Canvas().subplots()
    axis.apply(ax)
    assert ax.get_ylim() == (-axis.limit, axis.limit) and ax.get_yscale() == "symlog"
    places, labels = ax.get_yticks(), [label.get_text() for label in ax.get_yticklabels()]
    assert list(places) == [-place for place in reversed(places)] and 3 <= len(places) <= 17
    assert (places[0], places[-1]) == (-axis.limit, axis.limit)  # the limits are written on the axis too
    assert len(set(labels)) == len(labels) and labels[len(labels) // 2] == "1"
    for place, label in zip(places, labels):
        assert place == pytest.approx(log10_of_label(label), abs=1e-3)
    low, high = axis.describe().split(" goes from ")[1].split(": ")[0].split(" to ")
    assert (log10_of_label(low), log10_of_label(high)) == pytest.approx((-axis.limit, axis.limit), rel=1e-2)


def log10_of_label(label: str) -> float:
    """Of `1/1.05`, `0.01`, `2`, `10\N{SUPERSCRIPT THREE}`."""
    plain = label.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))
    if plain != label:
        return float(plain.removeprefix("10"))
    return -math.log10(float(label[2:])) if label.startswith("1/") else math.log10(float(label))


def test_ratios_near_1_can_be_told_apart_beside_ones_of_ten_to_the_hundred() -> None:
    """A percent's difference takes a twentieth of the axis at least; on a logarithmic one it would take a ten-thousandth."""
    axis = SymmetricAxis.around([math.log10(1.03)], [-100.0])
    ax = Canvas().subplots()
    axis.apply(ax)
    heights = ax.transData.transform([(0, math.log10(1.02)), (0, math.log10(1.01)), (0, axis.limit), (0, -axis.limit)])[:, 1]
    assert (heights[0] - heights[1]) / (heights[2] - heights[3]) > 0.02


@pytest.mark.parametrize("count", range(1, 14))
def test_rows_of_panels_fill_the_whole_figure(count: int) -> None:
    rows = panel_rows(count, 3)
    assert sum(rows) == count and max(rows) <= 3 and max(rows) - min(rows) <= 1
    canvas = Canvas(figsize=(9, 3 * len(rows)))
    axes = panels(canvas, count, 3)
    cells = [ax.get_subplotspec() for ax in axes]
    assert len(axes) == count
    covered = sum(len(cell.rowspan) * len(cell.colspan) for cell in cells)
    assert covered == cells[0].get_gridspec().nrows * cells[0].get_gridspec().ncols


@pytest.mark.parametrize("wide", ["", "w", "nw", "nnw", "nwn", "nwnw", "wnn", "nnnwwn", "n", "nwwnnn"])
def test_the_page_s_grid_of_figures_has_no_hole(wide: str) -> None:
    sizes = {"n": (4.6, 3.0), "w": (9.2, 3.0)}
    figures = [ReportFigure(f"{i}", "", "", (), lambda *_: None, sizes[kind]) for i, kind in enumerate(wide)]
    placed = in_pairs(figures)
    assert {one.name for one in placed} == {one.name for one in figures}
    open_row = False
    for one in placed:
        assert not (one.wide and open_row)
        open_row = not one.wide and not open_row
    assert not open_row


def test_two_figures_of_a_row_are_drawn_equally_high() -> None:
    low = ReportFigure("low", "", "", (), lambda *_: None, (4.6, 3.0), legend=0.3)
    high = ReportFigure("high", "", "", (), lambda *_: None, (4.6, 4.0), legend=0.5)
    assert [one.size[1] - one.legend for one in in_pairs([low, high])] == [3.5, 3.5]
