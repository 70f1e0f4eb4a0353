"""Curves over seeds and the ratio axis, against naive loops."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from gmpo_mm.reports.curves import band_over_seeds, missing_notes, thin, variant_band
from gmpo_mm.reports.ratio_axis import log10_of, ratio_ticks
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
