import pytest

from gmpo_mm.runs.step_table import COLUMNS, TableLayout, number, step_line

METRICS = {
    "reward/overall": 0.5, "reward/accuracy": 0.25, "response_length/mean": 812.4, "response/truncated_frac": 0.125,
    "group/zero_advantage_frac": 0.5, "ratio/token_min": 0.0123, "ratio/token_max": 1234.5, "clip/high_frac": 0.01,
    "clip/low_frac": 0.02, "actor/entropy": 1.5, "actor/kl_ref": -0.0004, "actor/grad_norm": 12345.6, "actor/lr": 1.5e-6,
    "perf/time_per_step": 61.25,
}  # fmt: skip


@pytest.mark.parametrize("width", [80, 100, 140])
def test_header_and_rows_line_up_and_all_columns_fit_a_terminal_of_80(width):
    layout = TableLayout(width, 9999, "to reference")
    top, bottom = layout.header()
    row, empty = layout.row(9999, METRICS), layout.row(1, {})
    assert not layout.left_out and len({len(top), len(bottom), len(row), len(empty)}) == 1 and len(row) <= width
    words = ("acc.", "ref.") if width < 120 else ("accuracy", "to reference")
    assert bottom.split()[:3] == ["step", "reward", words[0]] and words[1] in bottom
    assert empty.split() == ["1", *"-" * len(COLUMNS)]


def test_a_narrow_terminal_says_which_columns_it_has_no_room_for():
    layout = TableLayout(60, 10, None)
    assert layout.left_out and len(layout.row(1, METRICS)) <= 60
    assert {"reward", "accuracy", "ratio"}.isdisjoint(layout.left_out)


@pytest.mark.parametrize(
    ("value", "width", "decimals", "text"),
    [(0.5, 5, 3, "0.500"), (0.0, 5, 3, "0.000"), (0.00004, 6, 4, "4e-05"), (1234.5, 4, 3, "1234"), (99999.0, 4, 1, "1e+05"),
     (-0.00004, 6, 4, "-4e-05"), (float("nan"), 5, 3, "nan"), (float("inf"), 5, 3, "inf"), (1.5e-6, 7, 3, "1.5e-06")],
)  # fmt: skip
def test_a_number_keeps_what_fits_and_a_small_one_is_never_a_0(value, width, decimals, text):
    assert number(value, width, decimals) == text


def test_clip_shares_are_summed_and_those_of_ratio_losses_stand_in():
    assert "clipped 3.0%" in step_line(METRICS)
    assert "clipped 5.0%" in step_line({"actor/pg_clipfrac_higher": 0.04, "actor/pg_clipfrac_lower": 0.01})


def test_a_rewards_own_share_of_right_answers_goes_before_an_accuracy_of_minus_1_or_1():
    assert "accuracy 0.250" in step_line({"reward/accuracy": -0.5, "reward/accuracy_normalized": 0.25})
