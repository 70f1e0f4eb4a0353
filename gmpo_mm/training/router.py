"""The load-balancing loss of mixture-of-experts models (Switch Transformer, arXiv 2101.03961, equations 4 to 6).

    loss = E * sum_e f_e P_e,    f_e = share of tokens routed to expert e,  P_e = mean router probability of expert e

over all layers and tokens of the WHOLE mini-batch. f_e has no gradient, so it is counted first; the rest is then a sum over
micro-batches, and the loss does not depend on how the mini-batch was cut. Tokens count as often as in separate rows: a
prompt token once for every response of its pack.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gmpo_mm.models.policy import PackedOutput


@dataclass
class ExpertCounts:
    """Weighted numbers of routed tokens, (E,), and of layer-tokens in all."""

    routed_E: torch.Tensor
    total: torch.Tensor

    def __add__(self, other: ExpertCounts) -> ExpertCounts:
        return ExpertCounts(self.routed_E + other.routed_E, self.total + other.total)


@torch.no_grad()
def count_experts(output: PackedOutput, experts_per_token: int) -> ExpertCounts:
    """Count which experts the tokens of a forward pass went to, over all layers."""
    weights_N = output.router_weights_N
    assert weights_N is not None
    experts = output.router_logits[0].shape[-1]
    routed_E = torch.zeros(experts, device=weights_N.device)
    for logits_NE in output.router_logits:
        chosen_NK = logits_NE.topk(experts_per_token, dim=-1).indices
        routed_E.index_add_(0, chosen_NK.flatten(), weights_N.repeat_interleave(experts_per_token))
    return ExpertCounts(routed_E, weights_N.sum() * len(output.router_logits))


def balance_loss(output: PackedOutput, counts: ExpertCounts) -> torch.Tensor:
    """This micro-batch's part of the loss, given the counts of the whole mini-batch; the parts add up."""
    weights_N = output.router_weights_N
    assert weights_N is not None
    share_E = counts.routed_E / counts.total
    probability_E = sum((weights_N @ logits_NE.float().softmax(-1)) for logits_NE in output.router_logits)
    return len(share_E) * (share_E * probability_E / counts.total).sum()
