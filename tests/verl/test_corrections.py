"""Our corrections beside verl's own functions: the same weights, the same rejections, the same effective sample size."""

from __future__ import annotations

import pytest
import torch
from verl.trainer.ppo.rollout_corr_helper import (
    compute_rollout_correction_weights,
    compute_rollout_rejection_mask,
)

from gmpo_mm.algorithms import correction_metrics, correction_weights, finalize_metrics, make_correction

VERLS = {  # rollout_is, rollout_is_threshold
    "truncated": ("token", 1.4), "masked": ("token", "0.6_1.6"), "sequence_truncated": ("sequence", 1.3),
    "sequence_masked": ("sequence", "0.2_3.0"),
}  # fmt: skip


def sampled() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    old = -3 * torch.rand(40, 9)
    mask = torch.arange(9) < torch.randint(1, 10, (40, 1))
    return old, old - 0.5 * torch.randn(40, 9), mask


@pytest.mark.parametrize("kind", VERLS)
def test_weights_are_those_that_verl_makes_of_rollout_is(kind: str) -> None:
    old, sampler, mask = sampled()
    level, threshold = VERLS[kind]
    lower, _, upper = str(threshold).rpartition("_")
    correction = make_correction(kind, float(upper), float(lower) if lower else None)
    assert correction is not None
    theirs, numbers = compute_rollout_correction_weights(old - sampler, mask.float(), level, threshold)
    torch.testing.assert_close(
        correction_weights(old, sampler, mask, correction)[mask], theirs[mask], rtol=1e-5, atol=0.0
    )
    found = finalize_metrics(correction_metrics(old, sampler, mask, correction))
    if level == "token":  # verl weighs a sequence by its tokens here as well
        assert found["correction/ess"] == pytest.approx(numbers["rollout_is_eff_sample_size"], rel=1e-5)
    if kind == "masked":
        assert found["correction/masked_frac"] == pytest.approx(numbers["rollout_is_oob_ratio"], rel=1e-5)
        assert theirs[mask].min() == 0


def test_the_geometric_mask_keeps_what_verl_does_not_reject_by_the_mean_of_k1() -> None:
    """verl bounds sampler over trainer, so its bounds are ours turned over."""
    old, sampler, mask = sampled()
    correction = make_correction("geometric_masked", 1.2, 0.9)
    assert correction is not None
    theirs, numbers = compute_rollout_rejection_mask(
        old - sampler, mask.float(), "seq_mean_k1", f"{1 / 1.2}_{1 / 0.9}"
    )
    ours = correction_weights(old, sampler, mask, correction)
    assert torch.equal(ours[mask], theirs[mask]) and 0 < theirs[mask].mean() < 1
    found = finalize_metrics(correction_metrics(old, sampler, mask, correction))
    assert found["correction/masked_frac"] == pytest.approx(
        numbers["rollout_rs_seq_masked_fraction"], rel=1e-5
    )
