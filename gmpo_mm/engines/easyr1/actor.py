"""The actor of EasyR1 with our losses: its forward pass, its optimizer step, our loss between the two."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from ray.experimental.tqdm_ray import tqdm
from verl.protocol import DataProto
from verl.utils.seqlen_balancing import prepare_dynamic_batch
from verl.utils.ulysses import gather_outputs_and_unpad
from verl.workers.actor.dp_actor import DataParallelPPOActor

from gmpo_mm.algorithms import (
    Metric,
    aggregate,
    compute_kl,
    compute_policy_loss,
    correction_metrics,
    correction_weights,
    count_units,
    finalize_metrics,
    get_policy_loss,
    log_prob_gap,
    loss_unit,
    make_correction,
    masked_mean,
    merge_metrics,
    sequence_advantages,
)
from gmpo_mm.config.loss import actor_loss_config
from gmpo_mm.engines.distributed import LossScale, reduce_over_ranks
from gmpo_mm.engines.easyr1.entropy import token_entropy
from gmpo_mm.engines.easyr1.rows_seen import ROWS, SEEN, RowsSeen
from gmpo_mm.errors import TrainingError
from gmpo_mm.runs.learning_watch import MAX_SKIPPED_IN_A_ROW

UPDATES = "gmpo/updates"
"""Name under which the metrics of every mini-batch travel to the trainer, which takes them out before EasyR1 averages."""
SAMPLER_LOG_PROBS = "sampler_log_probs"
"""Of the sampled tokens, (B, T), in a batch that is trained on with a correction."""
TENSORS = (
    "input_ids", "attention_mask", "position_ids", "responses", "response_mask", "old_log_probs", "ref_log_probs", "advantages",
    SAMPLER_LOG_PROBS, ROWS,
)  # fmt: skip


class GMPOActor(DataParallelPPOActor):
    """Updates the policy with `gmpo_mm.algorithms`; padding-free, dynamic batching, ulysses and LoRA are EasyR1's own.

    EasyR1 weights micro-batches by their tokens, which is right for a mean over tokens only. Here each loss is divided by
    its own units over the whole mini-batch and all ranks (`worker.actor.seq_mean: exact`).
    """

    def __init__(self, config: Any, actor_module: Any, actor_optimizer: Any = None) -> None:
        super().__init__(config, actor_module, actor_optimizer)
        self.loss = actor_loss_config(config)
        self.correction = make_correction(config.correction, config.correction_cap, config.correction_floor)
        self.skipped_in_a_row = 0
        self._stock_log_probs: Callable[..., torch.Tensor] = self.log_probs_from_logits  # type: ignore[has-type]
        self._entropies: list[torch.Tensor] | None = None
        self._seen = RowsSeen()
        self.log_probs_from_logits = self._log_probs_from_logits

    def update_policy(self, data: DataProto) -> dict[str, Any]:
        """All epochs and mini-batches of a step, as EasyR1 calls it; metrics are those of all ranks together.

        Returns a number for each metric over the whole step, under `UPDATES` one dictionary for each mini-batch, and under
        `SEEN`, where the rows have numbers, what this rank's passes saw.
        Raises TrainingError after three gradients in a row that were not finite.
        """
        self.actor_module.train()
        temperature = data.meta_info["temperature"]
        mini_batches = self._with_advantages(data).split(self.config.global_batch_size_per_device)
        parts: list[dict[str, Metric]] = []
        updates: list[dict[str, float]] = []
        for epoch in range(self.config.ppo_epochs):
            self._seen.epoch_begins()
            for mini_batch in self._shown(mini_batches, f"epoch {epoch + 1}: mini-batches"):
                part = reduce_over_ranks(merge_metrics(self._accumulate(mini_batch, temperature)))
                norm = float(self._optimizer_step())
                self._note_norm(norm)
                parts.append(part)
                updates.append(finalize_metrics(part) | {"actor/grad_norm": norm})
        norms = [update["actor/grad_norm"] for update in updates if math.isfinite(update["actor/grad_norm"])]
        metrics: dict[str, Any] = dict(finalize_metrics(merge_metrics(parts)))
        metrics |= {"actor/updates": float(len(norms)), "actor/skipped_updates": float(len(updates) - len(norms))}
        if norms:
            metrics["actor/grad_norm"] = sum(norms) / len(norms)
        if self._kl_in_loss(data.batch):
            metrics["actor/kl_coef"] = self.config.kl_coef
        seen, self._seen = self._seen, RowsSeen()
        if ROWS in data.batch:
            metrics[SEEN] = [seen]
        return metrics | {UPDATES: updates}

    # ---- one mini-batch -----------------------------------------------------------------------------------------------

    def _accumulate(self, mini_batch: DataProto, temperature: float) -> Iterator[dict[str, Metric]]:
        """Gradients of one mini-batch; yields each micro-batch's metrics."""
        scale = LossScale(mini_batch.batch["response_mask"], self.loss, self.config.seq_mean)
        self._seen.update_begins()
        for micro_batch in self._shown(self._micro_batches(mini_batch), "micro-batches", position=2):
            inputs = {**micro_batch.batch, **micro_batch.non_tensor_batch}
            log_probs_BT, entropy_BT = self._forward(inputs, temperature)
            self._seen.note(inputs, log_probs_BT, entropy_BT)
            total, metrics = self._loss(inputs, log_probs_BT, entropy_BT)
            (total * scale.of(inputs["response_mask"])).backward()
            yield metrics

    def _loss(
        self, inputs: dict[str, Any], log_probs_BT: torch.Tensor, entropy_BT: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, Metric]]:
        """The micro-batch's loss, summed over its units, with the KL and the entropy term; and its metrics."""
        mask_BT, unit = inputs["response_mask"].bool(), loss_unit(self.loss)
        old_BT, weights_BT, corrected = inputs["old_log_probs"], None, {}
        if self.correction is not None:
            sampler_BT = inputs[SAMPLER_LOG_PROBS]
            weights_BT = correction_weights(old_BT, sampler_BT, mask_BT, self.correction)
            corrected = correction_metrics(old_BT, sampler_BT, mask_BT, self.correction)
            corrected |= log_prob_gap(old_BT, sampler_BT, mask_BT)
        policy = compute_policy_loss(log_probs_BT, old_BT, inputs["advantages"], mask_BT, self.loss, weights_BT)
        total, metrics = policy.sum, policy.metrics | corrected
        metrics["actor/entropy"] = masked_mean(entropy_BT, mask_BT)
        if "ref_log_probs" in inputs:
            ref_BT = inputs["ref_log_probs"]
            metrics["actor/kl_ref"] = masked_mean(compute_kl(log_probs_BT.detach(), ref_BT, "low_var_kl", mask_BT), mask_BT)
        if self._kl_in_loss(inputs):
            kl = aggregate(compute_kl(log_probs_BT, inputs["ref_log_probs"], self.config.kl_penalty, mask_BT), mask_BT, unit)
            total = total + self.config.kl_coef * kl
            units = torch.as_tensor(count_units(mask_BT, self.loss), device=mask_BT.device)
            metrics["actor/kl_loss"] = Metric("mean", kl.detach(), units)
        if self.config.entropy_coef:
            total = total - self.config.entropy_coef * aggregate(entropy_BT, mask_BT, unit)
        return total, metrics

    def _kl_in_loss(self, tensors: Any) -> bool:
        return bool(self.config.use_kl_loss) and "ref_log_probs" in tensors

    def _with_advantages(self, data: DataProto) -> DataProto:
        """What an update reads; one advantage a sequence, (B,), where the loss takes that, found once for the whole step."""
        data = data.select(list(TENSORS), ["multi_modal_inputs"])
        if get_policy_loss(self.loss.loss_type).sequence_advantages:
            mask_BT = data.batch["response_mask"].bool()
            data.batch["advantages"] = sequence_advantages(data.batch["advantages"], mask_BT)
        return data

    def _micro_batches(self, mini_batch: DataProto) -> list[DataProto]:
        size = self.config.micro_batch_size_per_device_for_update
        if not self.config.dynamic_batching:
            return mini_batch.split(size)
        return prepare_dynamic_batch(mini_batch, max_token_len=size * mini_batch.batch["input_ids"].size(-1))[0]

    # ---- log-probabilities and entropies ------------------------------------------------------------------------------

    def _forward(self, inputs: dict[str, Any], temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """EasyR1's forward pass; log-probabilities and entropies of the response tokens, (B, T)."""
        self._entropies = []
        try:
            log_probs_BT = self._forward_micro_batch(inputs, temperature=temperature)
            (entropy,) = self._entropies
        finally:
            self._entropies = None
        if entropy.dim() == 1:
            entropy = self._padded(entropy, inputs["attention_mask"])[:, -log_probs_BT.shape[1] - 1 : -1]
        return log_probs_BT, entropy

    def _log_probs_from_logits(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """What EasyR1's forward pass calls with its logits, which exist nowhere else; entropies are taken here."""
        if self._entropies is not None:
            self._entropies.append(token_entropy(logits, with_gradient=bool(self.config.entropy_coef)))
        return self._stock_log_probs(logits, labels)

    def _padded(self, values_N: torch.Tensor, attention_mask_BS: torch.Tensor) -> torch.Tensor:
        """Values of the unpadded tokens, in the order of EasyR1's `unpad_input`, back in (B, S)."""
        mask_BS = attention_mask_BS.bool()
        if self.config.ulysses_size > 1:
            missing = -int(mask_BS.sum()) % self.config.ulysses_size
            values_N = gather_outputs_and_unpad(values_N, gather_dim=0, unpad_dim=0, padding_size=missing)
        return values_N.new_zeros(mask_BS.shape).masked_scatter(mask_BS, values_N)

    # ---- the rest -----------------------------------------------------------------------------------------------------

    def _note_norm(self, norm: float) -> None:
        self.skipped_in_a_row = 0 if math.isfinite(norm) else self.skipped_in_a_row + 1
        if self.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            raise TrainingError(
                f"{self.skipped_in_a_row} updates in a row had a gradient norm of {norm}; the run ends before the weights are "
                "spoilt. Look at ratio/token_max and actor/grad_norm in metrics.jsonl, then lower worker.actor.optim.lr or "
                "tighten the loss's clip keys"
            )

    def _shown(self, items: list[DataProto], what: str, position: int = 1) -> Iterable[DataProto]:
        return tqdm(items, desc=f"Update policy, {what}", position=position) if self.rank == 0 else items
