"""The actor: log-probabilities of sampled responses, and the updates of the policy."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from gmpo_mm.algorithms import (
    Metric,
    PolicyLossConfig,
    aggregate,
    compute_kl,
    compute_policy_loss,
    correction_weights,
    count_units,
    finalize_metrics,
    get_policy_loss,
    loss_unit,
    merge_metrics,
    sequence_advantages,
)
from gmpo_mm.errors import ConfigError, TrainingError
from gmpo_mm.models.packed import PackedOutput
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.runs.learning_watch import MAX_SKIPPED_IN_A_ROW
from gmpo_mm.training.batch import Batch, cut_into_micro_batches, row_index
from gmpo_mm.training.router import ExpertCounts, RoutingStats, balance_loss, count_experts
from gmpo_mm.training.update_config import UpdateConfig
from gmpo_mm.training.update_metrics import Observed, update_metrics

Progress = Callable[[int, str], None]


@dataclass(frozen=True, eq=False)
class MiniBatch:
    """What one optimizer step is made of."""

    batch: Batch
    rows: Sequence[int]
    kl_coef: float
    unchanged: bool
    """Whether the policy is still the one that sampled."""
    is_last: bool
    """Whether it is the step's last one."""


class Actor:
    """A policy with its optimizer."""

    def __init__(self, policy: PolicyModel, optimizer: torch.optim.Optimizer, config: UpdateConfig) -> None:
        self.policy = policy
        self.optimizer = optimizer
        self.config = config
        self.skipped_in_a_row = 0
        self.routing: RoutingStats | None = None
        """Of the last update of a mixture of experts."""
        self.observed: Observed | None = None
        """Of the last epoch of the last update."""
        self.log_ratios_B: torch.Tensor | None = None
        """Sums over a response's tokens of log pi - log pi_old, in the last epoch of the last update; NaN where left out."""
        self.given_updates: Sequence[Sequence[int]] | None = None
        """The rows of each optimizer step of all epochs, where they are not those of `config.mini_batch_prompts`."""
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
        result_BT = torch.zeros(batch.mask_BT.shape, device=policy.device)
        with torch.no_grad():
            for rows in cut_into_micro_batches(batch, range(len(batch)), self.config.forward_limits):
                output = policy.response_log_probs(batch.group_of(rows), self.config.temperature)
                result_BT[rows, : output.log_probs_BT.shape[1]] = output.log_probs_BT
                if progress is not None:
                    progress(rows[-1] + 1, "")
        policy.module.train(was_training)
        return result_BT.cpu()

    def update(
        self,
        batch: Batch,
        kl_coef: float = 0.0,
        progress: Progress | None = None,
        around: Callable[[MiniBatch], AbstractContextManager] | None = None,
    ) -> dict[str, float]:
        """All epochs and mini-batches of one step; returns metrics. Raises TrainingError after repeated bad gradients.

        `around(mini_batch)` is entered before the gradient of each optimizer step is taken, and left when it is there, in
        the parameters' `grad`, and before it is clipped and applied.
        """
        self.policy.module.train()
        batch.move_to(self.policy.device)
        parts: list[dict[str, Metric]] = []
        advantages = self._advantages(batch)
        norms: list[float] = []
        self.routing = RoutingStats(self._experts_per_token()) if self.policy.is_mixture_of_experts else None
        updates = skipped = 0
        count = len(self.rows_of_updates(batch))
        for epoch in range(self.config.epochs):
            seen = Observed(batch)
            for rows in self._rows_of_epoch(batch, epoch):
                # before the first optimizer step of a round the policy IS the old policy
                mini = MiniBatch(batch, rows, kl_coef, unchanged=updates == 0, is_last=updates == count - 1)
                with around(mini) if around is not None else nullcontext():
                    parts.append(self._accumulate(batch, advantages, rows, kl_coef, seen, mini.unchanged))
                applied, grad_norm = self._optimizer_step()
                updates += 1
                skipped += not applied
                norms += [grad_norm] if applied else []
                if progress is not None:
                    progress(updates, f"epoch {epoch + 1} of {self.config.epochs}")
            parts.append(update_metrics(batch, advantages, seen, self.config))
            self.observed = seen
            self.log_ratios_B = seen.sequence_log_ratios()
        result = finalize_metrics(merge_metrics(parts))
        result |= {"actor/updates": updates - skipped, "actor/skipped_updates": skipped}
        if self.routing is not None:
            result |= self.routing.metrics()
        if norms:
            result["actor/grad_norm"] = sum(norms) / len(norms)
        if kl_coef and self.config.kl_kind:
            result["actor/kl_coef"] = kl_coef
        return result

    def rows_of_updates(self, batch: Batch) -> Sequence[Sequence[int]]:
        """The rows of each optimizer step of a step's update, in order; of all epochs."""
        return self.given_updates or self._mini_batches(batch) * self.config.epochs

    def _rows_of_epoch(self, batch: Batch, epoch: int) -> Sequence[Sequence[int]]:
        rows = self.rows_of_updates(batch)
        size = len(rows) // self.config.epochs
        return rows[epoch * size : (epoch + 1) * size]

    def with_loss(self, loss: PolicyLossConfig) -> Actor:
        """An actor with another loss and the same weights and optimizer, which keeps its own notes of what it sees."""
        twin = copy.copy(self)
        twin.config, twin.routing = dataclasses.replace(self.config, loss=loss), None
        return twin

    def accumulate(self, mini: MiniBatch) -> None:
        """Add the gradient of a mini-batch to the parameters' `grad`, and nothing else."""
        advantages = self._advantages(mini.batch)
        self._accumulate(
            mini.batch, advantages, mini.rows, mini.kl_coef, Observed(mini.batch), mini.unchanged
        )

    def micro_batches(self, batch: Batch, rows: Sequence[int]) -> list[list[int]]:
        """The rows of each forward and backward pass of an optimizer step."""
        return cut_into_micro_batches(batch, self._kept_rows(batch, rows), self.config.update_limits)

    def _mini_batches(self, batch: Batch) -> list[range]:
        size, prompts, mini = batch.group_size, len(batch.groups), self.config.mini_batch_prompts
        return [range(start * size, min(start + mini, prompts) * size) for start in range(0, prompts, mini)]

    def _advantages(self, batch: Batch) -> torch.Tensor:
        """(B, T), or (B,) for a loss that takes one advantage a sequence; ValueError where they differ within one."""
        if get_policy_loss(self.config.loss.loss_type).sequence_advantages:
            return sequence_advantages(batch.advantages_BT, batch.mask_BT)
        return batch.advantages_BT

    # ---- one mini-batch -----------------------------------------------------------------------------------------------

    def _accumulate(
        self, batch: Batch, advantages: torch.Tensor, rows: Sequence[int], kl_coef: float, seen: Observed, unchanged: bool
    ) -> dict[str, Metric]:
        """Gradients of one mini-batch: every term is a sum over micro-batches divided by the mini-batch's own units."""
        units = int(count_units(batch.host_mask_BT[list(rows)], self.config.loss))
        micro_batches = self.micro_batches(batch, rows)
        counts = self._expert_counts(batch, micro_batches) if self.router_coef else None
        balances: list[torch.Tensor] = []
        for micro_rows in micro_batches:
            # one micro-batch is its own mini-batch: its counts come from the same forward pass
            known = counts if len(micro_batches) > 1 else None
            balance = self.micro_batch(batch, micro_rows, units, advantages, kl_coef, seen, unchanged, known)
            balances += [] if balance is None else [balance]
        if not balances:
            return {}
        return {"actor/router_aux_loss": Metric("mean", torch.stack(balances).sum().detach(), torch.tensor(1))}

    def micro_batch(
        self,
        batch: Batch,
        rows: Sequence[int],
        units: int,
        advantages: torch.Tensor,
        kl_coef: float,
        seen: Observed,
        unchanged: bool,
        counts: ExpertCounts | None = None,
    ) -> torch.Tensor | None:
        """Forward and backward pass of some rows of a mini-batch of `units`; on a GPU the host never waits for it.

        `counts` are the mini-batch's expert counts, None when these rows are all of it. Returns the router's balance loss.
        """
        output = self.policy.response_log_probs(
            batch.group_of(rows), self.config.temperature, with_router=self.policy.is_mixture_of_experts
        )
        if self.routing is not None:
            self._note_routing(batch, rows, output, unchanged)
        loss = self._loss(batch, rows, output, advantages, kl_coef, seen, unchanged) / units
        balance = None
        if self.router_coef:
            balance = balance_loss(output, counts or count_experts(output, self._experts_per_token()))
            loss = loss + self.router_coef * balance
        loss.backward()
        return balance

    def _loss(
        self,
        batch: Batch,
        rows: Sequence[int],
        output: PackedOutput,
        advantages: torch.Tensor,
        kl_coef: float,
        seen: Observed,
        unchanged: bool,
    ) -> torch.Tensor:
        """The loss of a micro-batch, summed over its units; what it saw is noted down for the metrics."""
        config, mask_BT, log_probs_BT = self.config, output.mask_BT, output.log_probs_BT
        index = row_index(rows, mask_BT.device)
        width = mask_BT.shape[1]
        on_policy = unchanged and not config.sampler_is_old
        old_BT = log_probs_BT.detach() if on_policy else batch.behaviour_log_probs_BT[index, :width]
        seen.note(index, output, old_BT, unchanged)
        weights_BT = None
        if config.correction is not None:
            sampler_BT = batch.sampler_log_probs_BT[index, :width]
            weights_BT = correction_weights(old_BT, sampler_BT, mask_BT, config.correction)
        own_advantages = advantages[index] if advantages.dim() == 1 else advantages[index, :width]
        total = compute_policy_loss(
            log_probs_BT, old_BT, own_advantages, mask_BT, config.loss, weights_BT, with_metrics=False
        ).sum
        unit = loss_unit(config.loss)
        if config.kl_kind is not None:
            assert batch.ref_log_probs_BT is not None
            kl_BT = compute_kl(log_probs_BT, batch.ref_log_probs_BT[index, :width], config.kl_kind, mask_BT)
            total = total + kl_coef * aggregate(kl_BT, mask_BT, unit)
        if config.entropy_coef:
            total = total - config.entropy_coef * aggregate(output.entropy_BT, mask_BT, unit)
        return total

    def _kept_rows(self, batch: Batch, rows: Sequence[int]) -> list[int]:
        """The mini-batch's rows, without those left out of the loss and, where the configuration leaves them out, without
        groups that can't give a gradient."""
        kept = [row for row in rows if row not in batch.left_out]
        if not self.config.drop_zero_advantage:
            return kept
        size = batch.group_size
        useful = batch.groups_with_advantage()
        return [row for row in kept if useful[row // size]]

    def _note_routing(self, batch: Batch, rows: Sequence[int], output: PackedOutput, unchanged: bool) -> None:
        assert self.routing is not None
        sampled_BUL = batch.top_experts_BUL
        if sampled_BUL is not None:
            sampled_BUL = sampled_BUL[row_index(rows, sampled_BUL.device)]
        self.routing.note(output, sampled_BUL, unchanged)

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
            if parameter.grad is None and "step" in self.optimizer.state.get(parameter, {}):
                dtype = torch.promote_types(parameter.dtype, torch.float32)
                parameter.grad = torch.zeros_like(parameter, dtype=dtype)
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
