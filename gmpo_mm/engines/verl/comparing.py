"""`trainer.compare_losses` on engine verl, from the log-probabilities of the update itself, of all ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.nn.utils.rnn import pad_sequence

from gmpo_mm.algorithms import PolicyLossConfig, StepTokens, UpdateRows, compare_losses
from gmpo_mm.engines.batch_metrics import truncated_rows
from gmpo_mm.engines.verl.step_rows import StepRows

KIND = "compare"
"""Of the line in metrics.jsonl."""


def compared(
    rows: StepRows, configs: Mapping[str, PolicyLossConfig], end_tokens: Sequence[int] | None
) -> dict[str, Any]:
    """The step's `compare` line, over its last epoch.

    `configs` are `compared_configs`, the trained loss first. Responses that none of `end_tokens` ends were
    left out of the loss; no response where that is None.
    """
    mask_BT = rows.padded("response_mask").bool()
    if end_tokens is not None:
        mask_BT &= ~truncated_rows(rows.padded("responses"), mask_BT, end_tokens)[:, None]
    return compare_losses(
        StepTokens(
            log_probs_BT=pad_sequence(rows.seen.log_probs, batch_first=True),
            old_log_probs_BT=rows.padded("old_log_probs").float(),
            advantages_BT=rows.padded("advantages").float(),
            mask_BT=mask_BT,
            updates=[
                UpdateRows.counted(sorted(row for call in calls for row in call), mask_BT, calls)
                for calls in rows.seen.last_epoch
            ],
            entropy_BT=rows.padded("entropy").float(),
            token_weights_BT=rows.padded_if_any("rollout_is_weights"),
        ),
        configs,
        next(iter(configs)),
    )
