"""Routing of mixture-of-experts models: the load-balancing loss, and what a step's metrics say of the router.

The loss is that of the Switch Transformer (arXiv 2101.03961, equations 4 to 6):

    loss = E * sum_e f_e P_e,    f_e = share of tokens routed to expert e,  P_e = mean router probability of expert e

over all layers and tokens of the WHOLE mini-batch. f_e has no gradient, so it is counted first; the rest is then a sum over
micro-batches, and the loss does not depend on how the mini-batch was cut. Tokens count as often as in separate rows: a
prompt token once for every response of its pack.

transformers gives experts no capacity, so no token is ever dropped; an expert can only stay unused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from gmpo_mm.models.packed import PackedOutput


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


@dataclass
class RoutingStats:
    """What the router did in the forward passes of a step's updates (all epochs), in weighted tokens.

    `routed_LE`: how many were routed to each expert of each layer. `changed` holds (layer-tokens whose preferred expert is
    another one than when they were sampled, layer-tokens compared): for all passes, and for those before the round's first
    optimizer step, whose weights are the sampler's own, so that only rounding can make a difference. Sums are float64 tensors
    that stay on the device until `metrics` reads them.
    """

    experts_per_token: int
    routed_LE: torch.Tensor | None = None
    entropy: torch.Tensor | float = 0.0
    layer_tokens: torch.Tensor | float = 0.0
    changed: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)

    @torch.no_grad()
    def note(self, output: PackedOutput, sampled_BUL: torch.Tensor | None, unchanged: bool) -> None:
        """Count a forward pass; `sampled_BUL` (B, U or more, layers) are the sampler's preferred experts, None if unknown."""
        weights_N = output.router_weights_N
        assert weights_N is not None
        routed, entropy_N = [], torch.zeros_like(weights_N)
        for logits_NE in output.router_logits:
            chosen_NK = logits_NE.topk(self.experts_per_token, dim=-1).indices
            count_E = torch.zeros(logits_NE.shape[-1], dtype=torch.float64, device=weights_N.device)
            count_E.index_add_(0, chosen_NK.flatten(), weights_N.double().repeat_interleave(self.experts_per_token))
            routed.append(count_E)
            log_probs_NE = logits_NE.float().log_softmax(-1)
            entropy_N -= (log_probs_NE.exp() * log_probs_NE).sum(-1)
        routed_LE = torch.stack(routed)
        self.routed_LE = routed_LE if self.routed_LE is None else self.routed_LE + routed_LE
        self.entropy = self.entropy + (entropy_N * weights_N).double().sum()
        self.layer_tokens = self.layer_tokens + weights_N.double().sum() * len(routed)
        if sampled_BUL is not None and output.token_place_BU is not None:
            self._compare(output, sampled_BUL, unchanged)

    def _compare(self, output: PackedOutput, sampled_BUL: torch.Tensor, unchanged: bool) -> None:
        place_BU, mask_BU = output.token_place_BU, output.mask_BT[:, 1:]
        assert place_BU is not None
        top_NL = torch.stack([logits_NE.argmax(-1) for logits_NE in output.router_logits], dim=-1)
        differs_BUL = (top_NL[place_BU] != sampled_BUL[:, : place_BU.shape[1]]) & mask_BU[..., None]
        found = differs_BUL.sum().double(), mask_BU.sum().double() * differs_BUL.shape[-1]
        for name in ("rollout_disagreement", *(["rollout_disagreement_same_weights"] if unchanged else [])):
            before = self.changed.get(name, (0.0, 0.0))
            self.changed[name] = (before[0] + found[0], before[1] + found[1])

    def shares_LE(self) -> torch.Tensor:
        """Share of a layer's routed tokens that each expert got, (layers, experts); each row sums to 1."""
        assert self.routed_LE is not None
        return self.routed_LE / self.routed_LE.sum(-1, keepdim=True)

    def metrics(self) -> dict[str, float]:
        """Least and largest share of an expert (even: 1/E), entropy of the load (even: 1), unused experts, router entropy.

        The router's entropy is in nats, a mean over tokens and layers. Disagreement is a share of layer-tokens.
        """
        if self.routed_LE is None:
            return {}
        shares_LE = self.shares_LE()
        load_entropy_L = -torch.special.xlogy(shares_LE, shares_LE).sum(-1) / math.log(shares_LE.shape[-1])
        found = {
            "moe/expert_share_min": float(shares_LE.min()),
            "moe/expert_share_max": float(shares_LE.max()),
            "moe/load_entropy": float(load_entropy_L.mean()),
            "moe/unused_experts": float((self.routed_LE == 0).sum()),
            "moe/router_entropy": float(self.entropy / self.layer_tokens),
        }
        for name, (differing, compared) in self.changed.items():
            if compared:
                found[f"moe/{name}"] = float(differing / compared)
        return found
