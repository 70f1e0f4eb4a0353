"""`benchmarks.roofline`: its table, and the bound that the update of the 3B vision-language model keeps."""

import json

import pytest

from benchmarks import roofline
from gmpo_mm.planning.report import CHECKED

VL_3B = next(case for case in roofline.CASES if case.name.startswith("VL-3B"))


def recorded() -> dict[str, dict[str, float]]:
    found = json.loads(roofline.BEFORE.read_text(encoding="utf-8"))
    assert found["measured"] is False, "a prediction, as long as no card has confirmed it"
    return found["cases"]


def test_what_was_recorded_before_is_what_the_prototype_found() -> None:
    cases = recorded()
    assert set(cases) == {case.name for case in roofline.CASES}
    assert cases[VL_3B.name]["tokens"] == 2 * (500 + 5 * 699)
    for case in cases.values():
        assert 0.1 < case["mfu"] < 0.2
        assert sum(case["ms"].values()) == pytest.approx(case["total_ms"], abs=0.5)
    assert not CHECKED, "gpu_check fills it; then the docs have to say so"


def test_table_puts_before_beside_now(capsys: pytest.CaptureFixture[str]) -> None:
    cases = recorded()
    now = {VL_3B.name: {**cases[VL_3B.name], "mfu": 0.5, "ms": {"attention": 1.0}}}
    roofline.print_table(now, cases)
    text = " ".join(capsys.readouterr().out.split())
    assert "predicted MFU 18.4% 50.0%" in text
    assert "attention, ms 89.3 1.0" in text
    assert "vision, ms 94.7 0.0" in text


def test_update_of_the_3b_vision_language_model_keeps_forty_percent() -> None:
    found = roofline.numbers(roofline.measure(VL_3B))
    assert found["mfu"] >= 0.40, found
