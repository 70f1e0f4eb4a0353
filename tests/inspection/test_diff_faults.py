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


SIDES = {
    "a_doubled_first_token": "the first token is doubled in {}",
    "no_generation_prompt": "is missing in {}",
    "prompts_cut_on_the_left": "long prompts are cut on the left in {}",
    "the_end_token_is_cut_off": "the end token is missing from {}'s responses",
    "the_end_token_masked": "the end token is left out of the loss in {}",
    "the_mask_shifted_by_one": "shifted by one to the right in {}",
    "truncated_responses_left_out": "left out of the loss in {}",
    "advantages_without_std": "{} does not divide by the standard deviation",
    "log_probs_not_divided_by_the_temperature": "{}'s log-probs are not divided by the temperature 0.8",
    "old_log_probs_are_the_samplers": "{}'s old log-probs are the sampler's",
    "log_probs_rounded_to_bfloat16": "{}'s log-probs are rounded to bfloat16",
    "image_placeholders_counted_in_the_softmax": "{}'s softmax counts tokens",
    "a_gradient_summed_over_micro_batches": "the gradient of {} is 8 times",
    "the_norm_after_clipping": "{}'s norm is that after clipping",
}


@pytest.mark.parametrize("name", SIDES)
def test_the_side_that_has_the_fault_is_named(recorded: Recorded, tmp_path: Path, name: str) -> None:
    first = recorded.write(tmp_path / "a")
    second = recorded.write(
        tmp_path / "b", lambda record: FAULTS[name].change(record, recorded, tmp_path / "b")
    )
    for sides, at_fault in (((first, second), "B"), ((second, first), "A")):
        found = gmpo_mm.diff(*sides).first
        assert found is not None
        assert SIDES[name].format(at_fault) in found.causes[0].words
