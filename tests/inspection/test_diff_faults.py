"""Each fault that is put into a real record is named: the first stage that differs, and its cause."""

from pathlib import Path

import pytest

import gmpo_mm
from tests.inspection.faults import FAULTS
from tests.inspection.recorded import Recorded


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_with_its_stage_and_cause(recorded: Recorded, tmp_path: Path, name: str) -> None:
    fault = FAULTS[name]
    first = recorded.write(tmp_path / "a", lambda record: fault.base(record, recorded, tmp_path / "a"))
    second = recorded.write(tmp_path / "b", lambda record: fault.change(record, recorded, tmp_path / "b"))
    for sides in ((first, second), (second, first)):  # whichever side has it
        found = gmpo_mm.diff(*sides)
        assert found.first is not None
        assert (found.first.name, [cause.code for cause in found.first.causes]) == (
            fault.stage,
            [fault.cause],
        )
        if fault.stage != "weights":
            assert found.first.example is not None
