"""Metrics of an update, computed once over all of its micro-batches rather than once in each."""

from __future__ import annotations

import torch

from gmpo_mm.algorithms import (
    Metric,
    aggregate,
    compute_kl,
    compute_policy_loss,
    correction_metrics,
    correction_weights,
    count_units,
    log_prob_gap,
    loss_unit,
    masked_mean,
    merge_metrics,
)
from gmpo_mm.models.packed import PackedOutput
from gmpo_mm.training.batch import Batch
from gmpo_mm.training.update_config import UpdateConfig


class Observed:
    """What the forward passes of an epoch gave, (B, T): log-probabilities, entropies, and the old ones compared with.

    `mask_BT` is the batch's mask on the rows that were passed through the model, else False. `gaps` compares the sampler's
    log-probabilities with those of the very weights that it sampled from.
    """

    def __init__(self, batch: Batch) -> None:
        self.mask_BT = torch.zeros_like(batch.mask_BT)
        self.gaps: list[dict[str, Metric]] = []
        self._sampler_BT = batch.sampler_log_probs_BT if batch.old_log_probs_BT is None else None
        self.log_probs_BT, self.entropy_BT, self.old_BT = (torch.zeros_like(batch.sampler_log_probs_BT) for _ in range(3))

    def note(self, index: torch.Tensor | slice, output: PackedOutput, old_BT: torch.Tensor, unchanged: bool) -> None:
        """Keep the numbers of a micro-batch, without gradient."""
        width = output.mask_BT.shape[1]
        self.mask_BT[index, :width] = output.mask_BT
        self.log_probs_BT[index, :width] = output.log_probs_BT.detach()
        self.entropy_BT[index, :width] = output.entropy_BT.detach()
        self.old_BT[index, :width] = old_BT
        if unchanged and self._sampler_BT is not None:
            self.gaps.append(log_prob_gap(output.log_probs_BT.detach(), self._sampler_BT[index, :width], output.mask_BT))

    def sequence_log_ratios(self) -> torch.Tensor:
        """(B,), on the CPU: the log of a sequence's product of ratios; NaN for rows that were not passed through the model."""
        log_ratio_BT = torch.where(self.mask_BT, self.log_probs_BT - self.old_BT, 0.0)
        return torch.where(self.mask_BT.any(1), log_ratio_BT.double().sum(1), torch.nan).cpu()


@torch.no_grad()
def update_metrics(batch: Batch, advantages: torch.Tensor, seen: Observed, config: UpdateConfig) -> dict[str, Metric]:
    """Loss, ratios, clip shares, entropy, and KL to the reference, over all rows of an epoch.

    Rows that were left out are masked: they have no advantage, so no loss, and count in the mean of the loss alone.
    """
    mask_BT, log_probs_BT, old_BT = seen.mask_BT, seen.log_probs_BT, seen.old_BT
    weights_BT = None
    corrected: dict[str, Metric] = {}
    if config.correction is not None:
        corrects = (old_BT, batch.sampler_log_probs_BT, mask_BT, config.correction)
        weights_BT, corrected = correction_weights(*corrects), correction_metrics(*corrects)
    metrics = compute_policy_loss(log_probs_BT, old_BT, advantages, mask_BT, config.loss, weights_BT).metrics | corrected
    units = torch.as_tensor(count_units(batch.host_mask_BT, config.loss), device=mask_BT.device)
    metrics["actor/pg_loss"] = Metric("mean", metrics["actor/pg_loss"].value, units)
    metrics["actor/entropy"] = masked_mean(seen.entropy_BT, mask_BT)
    metrics |= merge_metrics(seen.gaps)
    if batch.ref_log_probs_BT is not None:
        ref_BT = batch.ref_log_probs_BT
        metrics["actor/kl_ref"] = masked_mean(compute_kl(log_probs_BT, ref_BT, "low_var_kl", mask_BT), mask_BT)
        if config.kl_kind is not None:
            kl_BT = compute_kl(log_probs_BT, ref_BT, config.kl_kind, mask_BT)
            metrics["actor/kl_loss"] = Metric("mean", aggregate(kl_BT, mask_BT, loss_unit(config.loss)), units)
    return metrics
