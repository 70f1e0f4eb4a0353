"""What other losses would have done in a step (`trainer.compare_losses`), from what the actors' passes gave anyway.

The numbers are those of all ranks together: every rank's rows are here, and each loss is put to all of them at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gmpo_mm.algorithms import StepTokens, UpdateRows, compare_losses, compared_configs, correction_weights
from gmpo_mm.config import policy_loss_config
from gmpo_mm.config.correction import correction_of
from gmpo_mm.config.schema import Config
from gmpo_mm.engines.easyr1.rows_seen import StepSeen

KIND = "compare"
"""Of the line in metrics.jsonl."""


class StepComparison:
    """Measures the losses of `trainer.compare_losses` beside the trained one, step by step."""

    def __init__(self, config: Config) -> None:
        self.configs = compared_configs(policy_loss_config(config), config.trainer.compare_losses)
        self.correction, self.epochs = correction_of(config), config.worker.actor.ppo_epochs

    def line(self, trained: Mapping[str, torch.Tensor], order_B: torch.Tensor, seen: StepSeen) -> dict[str, Any]:
        """The step's metrics.

        `trained` are the tensors of the batch that was trained on; row i of `seen` is their row `order_B[i]`.
        """
        width = int(trained["response_mask"].sum(1).max())

        def tensor(name: str) -> torch.Tensor:
            return trained[name][order_B, :width]

        mask_BT, old_BT, weights_BT = tensor("response_mask").bool(), tensor("old_log_probs"), None
        if self.correction is not None:
            weights_BT = correction_weights(old_BT, tensor("sampler_log_probs"), mask_BT, self.correction)
        last_epoch = slice(-(len(seen.calls) // self.epochs), None)
        updates = [
            UpdateRows.counted(rows, mask_BT, calls)
            for rows, calls in zip(seen.updates[last_epoch], seen.calls[last_epoch], strict=True)
        ]
        tokens = StepTokens(
            log_probs_BT=seen.log_probs_BT[:, :width],
            old_log_probs_BT=old_BT,
            advantages_BT=tensor("advantages"),
            mask_BT=mask_BT,
            updates=updates,
            entropy_BT=seen.entropy_BT[:, :width],
            token_weights_BT=weights_BT,
        )
        return compare_losses(tokens, self.configs, next(iter(self.configs)))
