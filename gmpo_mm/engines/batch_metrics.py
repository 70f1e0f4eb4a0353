"""What a step's batch says of itself on every Ray engine; pure, and the same numbers for any order of the rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def truncated_rows(responses_BT: torch.Tensor, mask_BT: torch.Tensor, end_tokens: Sequence[int]) -> torch.Tensor:
    """(B,) bool: responses whose last token is no end token. Rows are right-padded; `mask_BT` is true on responses."""
    last_B = (mask_BT.sum(-1) - 1).clamp(min=0)
    return ~torch.isin(responses_BT.gather(1, last_B[:, None])[:, 0], torch.tensor(list(end_tokens)))


def response_shares(
    responses_BT: torch.Tensor,
    mask_BT: torch.Tensor,
    advantages_BT: torch.Tensor,
    groups: Sequence[str],
    end_tokens: Sequence[int],
) -> dict[str, float]:
    """Shares of truncated responses, and of groups in which no response has an advantage.

    Rows are right-padded; `mask_BT` is true on responses, `groups` has the name of each row's group.
    """
    truncated_B = truncated_rows(responses_BT, mask_BT, end_tokens)
    active_B = (advantages_BT.masked_fill(~mask_BT, 0) != 0).any(-1).tolist()
    active = {group for group, is_active in zip(groups, active_B, strict=True) if is_active}
    return {
        "response/truncated_frac": 1.0 - (~truncated_B).double().mean().item(),
        "group/zero_advantage_frac": 1.0 - len(active) / len(set(groups)),
    }
