"""The actor: log-probabilities of sampled responses, and the updates of the policy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from gmpo_mm.algorithms import (
    Metric,
    aggregate,
    compute_kl,
    compute_policy_loss,
    count_units,
    finalize_metrics,
    loss_unit,
    masked_max,
    masked_mean,
    merge_metrics,
    truncated_importance_weights,
)
from gmpo_mm.algorithms.config import PolicyLossConfig
from gmpo_mm.errors import ConfigError, TrainingError
from gmpo_mm.models.policy import PackedOutput, PolicyModel
from gmpo_mm.training.batch import Batch, CutLimits, cut_into_micro_batches
from gmpo_mm.training.router import ExpertCounts, balance_loss, count_experts

Progress = Callable[[int, str], None]
MAX_SKIPPED_IN_A_ROW = 3


@dataclass(frozen=True)
class UpdateConfig:
    """What an update needs to know; the keys it comes from are in `worker.actor` and `algorithm`."""

    loss: PolicyLossConfig
    temperature: float
    mini_batch_prompts: int
    update_limits: CutLimits
    forward_limits: CutLimits
    epochs: int = 1
    max_grad_norm: float = 1.0
    entropy_coef: float = 0.0
    kl_kind: str | None = None
    """KL estimator of the term in the loss; None without one."""
    drop_zero_advantage: bool = False
    correction_cap: float | None = None
    """Cap of the truncated importance weights between sampler and trainer; None without correction."""


class Actor:
    """A policy with its optimizer."""

    def __init__(self, policy: PolicyModel, optimizer: torch.optim.Optimizer, config: UpdateConfig) -> None:
        self.policy = policy
        self.optimizer = optimizer
        self.config = config
        self.skipped_in_a_row = 0
        coefficient = float(getattr(policy.config, "router_aux_loss_coef", 0.0) or 0.0)
        self.router_coef = coefficient if policy.is_mixture_of_experts else 0.0
        if self.router_coef and config.drop_zero_advantage:
            raise ConfigError(
                "algorithm.drop_zero_advantage=true: the router's balance loss of this mixture-of-experts model needs every "
                "group; set it to false"
            )

    def log_probs(
        self, batch: Batch, policy: PolicyModel | None = None, progress: Progress | None = None
    ) -> torch.Tensor:
        """Log-probabilities (B, T) of a batch's responses at the sampling temperature, 0 outside the mask, on the CPU."""
        policy = policy or self.policy
        was_training = policy.module.training
        policy.module.eval()
        result_BT = torch.zeros(batch.mask_BT.shape)
        with torch.no_grad():
            for rows in cut_into_micro_batches(batch, range(len(batch)), self.config.forward_limits):
                output = policy.response_log_probs(batch.group_of(rows), self.config.temperature)
                result_BT[rows, : output.log_probs_BT.shape[1]] = output.log_probs_BT.cpu()
                if progress is not None:
                    progress(rows[-1] + 1, "")
        policy.module.train(was_training)
        return result_BT

    def update(self, batch: Batch, kl_coef: float = 0.0, progress: Progress | None = None) -> dict[str, float]:
        """All epochs and mini-batches of one step; returns metrics. Raises TrainingError after repeated bad gradients."""
        self.policy.module.train()
        parts: list[dict[str, Metric]] = []
        size = batch.group_size
        prompts, mini = len(batch.groups), self.config.mini_batch_prompts
        updates, skipped, loss_seconds = 0, 0, 0.0
        for epoch in range(self.config.epochs):
            for start in range(0, prompts, mini):
                rows = range(start * size, min(start + mini, prompts) * size)
                # before the first optimizer step of a round the policy IS the old policy
                unchanged = updates == 0
                metrics, seconds = self._accumulate(batch, rows, kl_coef, unchanged)
                loss_seconds += seconds
                applied, grad_norm = self._optimizer_step()
                updates += 1
                skipped += not applied
                if applied:
                    metrics["actor/grad_norm"] = _scalar(grad_norm)
                parts.append(metrics)
                if progress is not None:
                    progress(updates, f"epoch {epoch + 1} of {self.config.epochs}")
        result = finalize_metrics(merge_metrics(parts))
        result |= {"actor/updates": updates - skipped, "actor/skipped_updates": skipped, "timing_s/loss": loss_seconds}
        if kl_coef and self.config.kl_kind:
            result["actor/kl_coef"] = kl_coef
        return result

    # ---- one mini-batch -----------------------------------------------------------------------------------------------

    def _accumulate(
        self, batch: Batch, rows: range, kl_coef: float, unchanged: bool
    ) -> tuple[dict[str, Metric], float]:
        """Gradients of one mini-batch: every term is a sum over micro-batches divided by the mini-batch's own units."""
        config = self.config
        mask_BT = batch.mask_BT[rows.start : rows.stop]
        units = int(count_units(mask_BT, config.loss))
        kept = self._kept_rows(batch, rows)
        micro_batches = cut_into_micro_batches(batch, kept, config.update_limits)
        counts = self._expert_counts(batch, micro_batches) if self.router_coef else None
        parts: list[dict[str, Metric]] = []
        seconds = 0.0
        for micro_rows in micro_batches:
            output = self.policy.response_log_probs(
                batch.group_of(micro_rows), config.temperature, with_router=counts is not None
            )
            started = time.perf_counter()
            loss, metrics = self._loss(batch, micro_rows, output, units, kl_coef, unchanged)
            if counts is not None:
                # one micro-batch is its own mini-batch: its counts come from the same forward pass
                counted = counts if len(micro_batches) > 1 else count_experts(output, self._experts_per_token())
                balance = balance_loss(output, counted)
                loss = loss + self.router_coef * balance
                metrics["actor/router_aux_loss"] = Metric(
                    "mean", balance.detach(), torch.tensor(1 / len(micro_batches))
                )
            seconds += time.perf_counter() - started
            loss.backward()
            parts.append(metrics)
        merged = merge_metrics(parts)
        if len(kept) < len(rows) and "actor/pg_loss" in merged:  # rows left out have a loss of 0, but count
            merged["actor/pg_loss"] = Metric("mean", merged["actor/pg_loss"].value, torch.tensor(units))
        return merged, seconds

    def _loss(
        self, batch: Batch, rows: Sequence[int], output: PackedOutput, units: int, kl_coef: float, unchanged: bool
    ) -> tuple[torch.Tensor, dict[str, Metric]]:
        config, mask_BT = self.config, output.mask_BT
        device, width = mask_BT.device, mask_BT.shape[1]

        def cut(values_BT: torch.Tensor) -> torch.Tensor:
            return values_BT[rows, :width].to(device)

        log_probs_BT = output.log_probs_BT
        sampler_BT = cut(batch.sampler_log_probs_BT)
        if unchanged:
            old_BT = log_probs_BT.detach()
        else:
            old_BT = sampler_BT if batch.old_log_probs_BT is None else cut(batch.old_log_probs_BT)
        weights_BT = None
        if config.correction_cap is not None:
            weights_BT = truncated_importance_weights(
                log_probs_BT if unchanged else old_BT, sampler_BT, mask_BT, config.correction_cap
            )
        policy_loss = compute_policy_loss(
            log_probs_BT, old_BT, cut(batch.advantages_BT), mask_BT, config.loss, weights_BT
        )
        metrics = dict(policy_loss.metrics)
        metrics["actor/entropy"] = masked_mean(output.entropy_BT, mask_BT)
        if unchanged and batch.old_log_probs_BT is None:
            metrics |= log_prob_gap(log_probs_BT, sampler_BT, mask_BT)
        total = policy_loss.sum
        unit = loss_unit(config.loss)
        if batch.ref_log_probs_BT is not None:
            ref_BT = cut(batch.ref_log_probs_BT)
            with torch.no_grad():
                metrics["actor/kl_ref"] = masked_mean(compute_kl(log_probs_BT, ref_BT, "low_var_kl"), mask_BT)
            if config.kl_kind is not None:
                kl_sum = aggregate(compute_kl(log_probs_BT, ref_BT, config.kl_kind), mask_BT, unit)
                total = total + kl_coef * kl_sum
                metrics["actor/kl_loss"] = Metric("mean", kl_sum.detach(), policy_loss.metrics["actor/pg_loss"].count)
        if config.entropy_coef:
            total = total - config.entropy_coef * aggregate(output.entropy_BT, mask_BT, unit)
        return total / units, metrics

    def _kept_rows(self, batch: Batch, rows: range) -> list[int]:
        """The mini-batch's rows, without groups that can't give a gradient when the configuration leaves them out."""
        if not self.config.drop_zero_advantage:
            return list(rows)
        size = batch.group_size
        useful = (batch.advantages_BT[rows.start : rows.stop] != 0).any(1).view(-1, size).any(1).tolist()
        return [row for row in rows if useful[(row - rows.start) // size]]

    def _experts_per_token(self) -> int:
        return int(self.policy.config.num_experts_per_tok)

    def _expert_counts(self, batch: Batch, micro_batches: Sequence[Sequence[int]]) -> ExpertCounts | None:
        """Expert counts of a mini-batch; an extra pass without gradients when it is cut into several micro-batches."""
        total = ExpertCounts(torch.zeros(1, device=self.policy.device), torch.zeros((), device=self.policy.device))
        if len(micro_batches) > 1:
            for rows in micro_batches:
                with torch.no_grad():
                    output = self.policy.response_log_probs(
                        batch.group_of(rows), self.config.temperature, with_router=True
                    )
                total = total + count_experts(output, self._experts_per_token())
        return total

    # ---- optimizer ----------------------------------------------------------------------------------------------------

    def _parameters(self) -> Iterator[torch.nn.Parameter]:
        return (p for group in self.optimizer.param_groups for p in group["params"])

    def _optimizer_step(self) -> tuple[bool, float]:
        """Clip and step; a gradient that is not finite skips the step. Returns (stepped, gradient norm before clipping)."""
        for parameter in self._parameters():
            # a mini-batch whose groups were all left out has a gradient of 0, and AdamW's moments still move
            if parameter.grad is None and parameter in self.optimizer.state:
                parameter.grad = torch.zeros_like(parameter)
        parameters = [p for p in self._parameters() if p.grad is not None]
        if not parameters:
            return True, 0.0
        grad_norm = float(torch.nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm))
        finite = math.isfinite(grad_norm)
        if finite:
            self.optimizer.step()
            self.skipped_in_a_row = 0
        else:
            self.skipped_in_a_row += 1
        self.optimizer.zero_grad(set_to_none=True)
        if self.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"{self.skipped_in_a_row} updates in a row had a gradient norm of {grad_norm}; the run ends before the "
                "weights are spoilt. Look at ratio/token_max, actor/grad_norm and rollout/log_prob_gap_max in metrics.jsonl, "
                "then lower worker.actor.optim.lr, tighten the loss's clip keys, or use trainer.dtype=float32"
            )
        return finite, grad_norm


def log_prob_gap(
    log_probs_BT: torch.Tensor, sampler_log_probs_BT: torch.Tensor, mask_BT: torch.Tensor
) -> dict[str, Metric]:
    """How far (nats) the sampler's log-probabilities are from those of the same weights in training: mean and maximum."""
    gap_BT = (log_probs_BT.detach() - sampler_log_probs_BT).abs()
    return {
        "rollout/log_prob_gap_mean": masked_mean(gap_BT, mask_BT),
        "rollout/log_prob_gap_max": masked_max(gap_BT, mask_BT),
    }


def _scalar(value: float) -> Metric:
    return Metric("mean", torch.tensor(value, dtype=torch.float64), torch.tensor(1))


def build_optimizer(policy: PolicyModel, optim: Any) -> torch.optim.Optimizer:
    """AdamW over all trained parameters, with the keys of `worker.actor.optim`."""
    parameters = [p for p in policy.module.parameters() if p.requires_grad]
    return torch.optim.AdamW(
        parameters, lr=optim.lr, betas=tuple(optim.betas), weight_decay=optim.weight_decay, fused=True
    )


def learning_rate(step: int, total_steps: int, optim: Any) -> float:
    """The rate of step `step` (the first is 1): linear warm-up, then constant or a cosine down to `min_lr_ratio`."""
    warmup = optim.lr_warmup_steps if optim.lr_warmup_steps is not None else int(optim.lr_warmup_ratio * total_steps)
    done = step - 1
    if done < warmup:
        return optim.lr * done / max(1, warmup)
    if optim.lr_scheduler_type == "constant":
        return optim.lr
    lowest = optim.min_lr_ratio or 0.0
    progress = (done - warmup) / max(1, total_steps - warmup)
    return optim.lr * (lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * progress)))
