"""The frame around every policy loss: prepared inputs, a sum over units, metrics that merge."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gmpo_mm.algorithms.config import PolicyLossConfig
from gmpo_mm.algorithms.losses import saturated_exp
from gmpo_mm.algorithms.masked import aggregate, masked_mean_B, zero_outside
from gmpo_mm.algorithms.metrics import Metric, masked_max, masked_mean, masked_min
from gmpo_mm.algorithms.registry import LossTerms, RegisteredLoss, get_policy_loss


@dataclass(frozen=True)
class PolicyLoss:
    """``sum``: 0-dim, the loss summed over its units, with gradient. ``metrics``: ready for ``merge_metrics``."""

    sum: Tensor
    metrics: dict[str, Metric]


def loss_unit(config: PolicyLossConfig) -> str:
    """What the loss is a mean over: ``seq`` for losses of whole sequences (gmpo, gspo), else ``loss_avg_mode``.

    KL and entropy terms that are added to the loss use the same: ``aggregate(kl_BT, mask_BT, loss_unit(config))``.
    """
    return "seq" if get_policy_loss(config.loss_type).unit == "sequence" else config.loss_avg_mode


def count_units(response_mask_BT: Tensor, config: PolicyLossConfig) -> int | Tensor:
    """How many units a batch holds: an int of sequences (empty ones too), or a 0-dim tensor of valid tokens.

    Take it of the WHOLE mini-batch, over micro-batches and ranks, and divide ``PolicyLoss.sum`` by it.
    """
    if loss_unit(config) == "seq":
        return response_mask_BT.shape[0]
    return response_mask_BT.bool().sum()


def compute_policy_loss(
    log_probs_BT: Tensor,
    old_log_probs_BT: Tensor,
    advantages_BT: Tensor,
    response_mask_BT: Tensor,
    config: PolicyLossConfig,
    token_weights_BT: Tensor | None = None,
    with_metrics: bool = True,
) -> PolicyLoss:
    """The configured loss as a SUM over its units, and its metrics; nothing is read back from the device.

    The caller divides by ``count_units`` of the whole mini-batch. Half-precision inputs are computed in float32,
    float64 stays. Entries where the mask is False may hold anything. A fully masked sequence adds 0.

    Args:
        log_probs_BT: log pi of the sampled tokens, with gradient.
        old_log_probs_BT: log pi_old of the same tokens; no gradient flows into it.
        advantages_BT: (B, T), or (B,) for one advantage a sequence. GMPO needs one a sequence: given (B, T) it takes
            the valid tokens' common value, at the price of one synchronisation with the device.
        response_mask_BT: bool, True on the tokens of the response.
        token_weights_BT: constant factors for a sampler that differs from the trainer, as made by
            ``correction_weights``; 0 masks a token, which goes on to count in |o| and in ``count_units``. A loss of
            tokens is multiplied token by token. A loss of a whole sequence (gmpo, gspo) is multiplied by one weight a
            sequence, the geometric mean of its tokens' weights: the same mean that makes its ratio, and no larger than
            the cap that the weights keep. A masked token has a ratio of 1 there and a weight of 1: it neither moves the
            sequence's ratio nor has a gradient. A sequence whose tokens are all masked has the loss 0.
        with_metrics: False leaves ``metrics`` empty. A trainer can then take them once over all micro-batches of an
            update, since they merge to the same numbers.

    Raises:
        ValueError: unknown loss type; shapes that don't fit; advantages that differ within a sequence where the loss
            needs one.
    """
    loss = get_policy_loss(config.loss_type)
    _check_shapes(log_probs_BT, old_log_probs_BT, advantages_BT, response_mask_BT, token_weights_BT)
    mask_BT = response_mask_BT.bool()
    dtype = torch.promote_types(torch.promote_types(log_probs_BT.dtype, old_log_probs_BT.dtype), torch.float32)
    log_probs_BT = zero_outside(log_probs_BT.to(dtype), mask_BT)
    old_log_probs_BT = zero_outside(old_log_probs_BT.detach().to(dtype), mask_BT)
    advantages = _prepare_advantages(advantages_BT.detach().to(dtype), mask_BT, loss)

    # one ratio is made of all tokens, so a masked one has to leave it; a loss of tokens is multiplied by its 0 below
    learning_BT = log_probs_BT
    if token_weights_BT is not None and loss.unit == "sequence":
        learning_BT = torch.where(token_weights_BT.eq(0), old_log_probs_BT, log_probs_BT)
    result = loss.function(learning_BT, old_log_probs_BT, advantages, mask_BT, config)
    terms = result if isinstance(result, LossTerms) else LossTerms(result)
    total = _sum_over_units(terms.losses, mask_BT, loss, config, token_weights_BT)
    if not with_metrics:
        return PolicyLoss(total, {})

    with torch.no_grad():
        units = torch.as_tensor(count_units(mask_BT, config), device=total.device)
        metrics = {"actor/pg_loss": Metric("mean", total.detach(), units)}
        metrics |= _common_metrics(log_probs_BT.detach(), old_log_probs_BT, mask_BT)
        flags = terms.token_flags() if callable(terms.token_flags) else terms.token_flags
        for name, flag in flags.items():
            flag_BT = flag[:, None].expand_as(mask_BT) if flag.dim() == 1 else flag
            metrics[name] = masked_mean(flag_BT.to(dtype), mask_BT)
    return PolicyLoss(total, metrics)


def sequence_advantages(advantages_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """The one advantage of each sequence, (B,), from its valid tokens; 0 for a sequence without any.

    Raises:
        ValueError: the advantages of a sequence differ.
    """
    if advantages_BT.shape[1] == 0:
        return advantages_BT.new_zeros(advantages_BT.shape[0])
    lowest_B = zero_outside(advantages_BT, mask_BT, float("inf")).amin(dim=-1)
    highest_B = zero_outside(advantages_BT, mask_BT, float("-inf")).amax(dim=-1)
    filled_B = mask_BT.any(dim=-1)
    differ_B = filled_B & (lowest_B != highest_B)
    if bool(differ_B.any()):
        rows = differ_B.nonzero().flatten().tolist()
        raise ValueError(
            f"the advantages of {len(rows)} sequence(s) differ from token to token (first row: {rows[0]}), but this "
            "loss takes one advantage a sequence. Use an outcome estimator (grpo, dr_grpo, rloo, remax), or with "
            "reinforce_plus_plus gamma 1 and the KL term in the loss (use_kl_loss) rather than in the reward."
        )
    return zero_outside(highest_B, filled_B)


def _prepare_advantages(advantages: Tensor, mask_BT: Tensor, loss: RegisteredLoss) -> Tensor:
    if loss.sequence_advantages:
        if advantages.dim() == 1:
            return zero_outside(advantages, mask_BT.any(dim=-1))
        return sequence_advantages(advantages, mask_BT)
    advantages_BT = advantages[:, None].expand_as(mask_BT) if advantages.dim() == 1 else advantages
    return zero_outside(advantages_BT, mask_BT)


def _sum_over_units(
    losses: Tensor, mask_BT: Tensor, loss: RegisteredLoss, config: PolicyLossConfig, token_weights_BT: Tensor | None
) -> Tensor:
    expected = mask_BT.shape[:1] if loss.unit == "sequence" else mask_BT.shape
    if losses.shape != expected:
        raise ValueError(f"policy loss {loss.name!r} returned shape {tuple(losses.shape)}, not {tuple(expected)}.")
    if token_weights_BT is not None:
        weights_BT = zero_outside(token_weights_BT.detach().to(losses.dtype), mask_BT, fill=1.0)
        losses = losses * (_sequence_weights(weights_BT, mask_BT) if loss.unit == "sequence" else weights_BT)
    if loss.unit == "sequence":
        return zero_outside(losses, mask_BT.any(dim=-1)).sum()
    return aggregate(losses, mask_BT, config.loss_avg_mode)


def _sequence_weights(weights_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """One weight a sequence, (B,): the geometric mean over its tokens, a masked one as 1; 0 where all are masked."""
    kept_BT = weights_BT != 0
    weights_B = masked_mean_B(torch.where(kept_BT, weights_BT, 1.0).log(), mask_BT).exp()
    return zero_outside(weights_B, (kept_BT & mask_BT).any(dim=-1))


def _common_metrics(log_probs_BT: Tensor, old_log_probs_BT: Tensor, mask_BT: Tensor) -> dict[str, Metric]:
    """The metrics of every loss: distances between the policies, and the range of their ratios (Figure 3)."""
    d_BT = log_probs_BT - old_log_probs_BT
    product_log_B = d_BT.sum(dim=-1)
    geo_mean_log_B = masked_mean_B(d_BT, mask_BT)
    filled_B = mask_BT.any(dim=-1)
    tokens, sequences = mask_BT.sum(), filled_B.sum()

    def exp_of(metric: Metric) -> Metric:  # exp is monotonic, so it can wait until one number is left
        return Metric(metric.kind, saturated_exp(metric.value), metric.count)

    return {
        "actor/ppo_kl": Metric("mean", -product_log_B.sum(), tokens),
        "actor/entropy_loss": Metric("mean", -log_probs_BT.sum(), tokens),
        "ratio/token_min": exp_of(masked_min(d_BT, mask_BT, tokens)),
        "ratio/token_max": exp_of(masked_max(d_BT, mask_BT, tokens)),
        "ratio/seq_geo_mean_min": exp_of(masked_min(geo_mean_log_B, filled_B, sequences)),
        "ratio/seq_geo_mean_max": exp_of(masked_max(geo_mean_log_B, filled_B, sequences)),
        "ratio/seq_product_log_min": masked_min(product_log_B, filled_B, sequences),
        "ratio/seq_product_log_max": masked_max(product_log_B, filled_B, sequences),
    }


def _check_shapes(
    log_probs_BT: Tensor, old_BT: Tensor, advantages: Tensor, mask_BT: Tensor, weights_BT: Tensor | None
) -> None:
    if log_probs_BT.dim() != 2:
        raise ValueError(f"log_probs_BT has shape {tuple(log_probs_BT.shape)}; it must be (sequences, tokens).")
    shape = log_probs_BT.shape
    for name, tensor in (("old_log_probs_BT", old_BT), ("response_mask_BT", mask_BT), ("token_weights_BT", weights_BT)):
        if tensor is not None and tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, log_probs_BT {tuple(shape)}; make them equal.")
    if advantages.shape not in (shape, shape[:1]):
        raise ValueError(
            f"advantages have shape {tuple(advantages.shape)}; for log_probs_BT {tuple(shape)} they must be "
            f"{tuple(shape)} or {tuple(shape[:1])}."
        )
