"""A slow reference for every policy loss: a float64 double loop over sequences and tokens, in ratio space where the
paper is, with a branch where the product code has a minimum or a clamp. It shares no line with the product code."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gmpo_mm.algorithms import GMPOConfig, PolicyLossConfig


@dataclass
class Batch:
    log_probs: Tensor
    old: Tensor
    advantages: Tensor  # (B, T)
    mask: Tensor

    def rows(self, index) -> "Batch":
        return Batch(self.log_probs[index], self.old[index], self.advantages[index], self.mask[index])

    def to(self, dtype: torch.dtype) -> "Batch":
        return Batch(self.log_probs.to(dtype), self.old.to(dtype), self.advantages.to(dtype), self.mask)


def make_batch(
    seed: int = 0, sequences: int = 10, tokens: int = 9, spread: float = 0.8, per_token: bool = False
) -> Batch:
    """Random log-probs and ratios wide enough for every clip; lengths from 0 to T; signs of A mixed, one A = 0; rubbish
    under the mask."""
    g = torch.Generator().manual_seed(seed)
    old = -3 * torch.rand(sequences, tokens, generator=g, dtype=torch.float64) - 0.01
    log_probs = old + spread * torch.randn(sequences, tokens, generator=g, dtype=torch.float64)
    lengths = torch.randint(1, tokens + 1, (sequences,), generator=g)
    lengths[0], lengths[1], lengths[2] = 0, 1, tokens
    mask = torch.arange(tokens)[None] < lengths[:, None]
    advantages = torch.randn(sequences, tokens if per_token else 1, generator=g, dtype=torch.float64)
    advantages = advantages.expand(sequences, tokens).clone()
    advantages[3] = 0.0
    for number, tensor in enumerate((log_probs, old, advantages)):
        tensor[~mask] = (float("nan"), float("inf"), -float("inf"))[number]
    return Batch(log_probs, old, advantages, mask)


def every_config() -> list[PolicyLossConfig]:
    """Every loss with every combination of its options, bounds asymmetric so that they can't be swapped unseen."""
    configs = []
    for clip in ("token", "sequence", "none"):
        for normalize in (True, False):
            gmpo = GMPOConfig(clip=clip, normalize=normalize, log_clip_low=0.3, log_clip_high=0.7)
            configs.append(PolicyLossConfig(loss_type="gmpo", gmpo=gmpo))
    for loss_type in ("default", "gspo", "gspo_token", "cispo", "sapo"):
        for mode in ("token", "seq"):
            configs.append(PolicyLossConfig(loss_type=loss_type, loss_avg_mode=mode))
    configs.append(PolicyLossConfig(clip_ratio_low=0.1, clip_ratio_high=0.5, clip_ratio_dual=1.6))
    configs.append(PolicyLossConfig(loss_type="sapo", tau_positive=0.5, tau_negative=2.0))
    for loss_type in ("default", "gspo_token", "cispo"):  # one-sided: no lower bound
        configs.append(PolicyLossConfig(loss_type=loss_type, clip_ratio_low=1.0, clip_ratio_high=0.5, clip_ratio_dual=1.7))
    return configs


def config_name(config: PolicyLossConfig) -> str:
    if config.loss_type == "gmpo":
        return f"gmpo-{config.gmpo.clip}-{'norm' if config.gmpo.normalize else 'nonorm'}"
    return f"{config.loss_type}-{config.loss_avg_mode}-{config.clip_ratio_dual}-{config.tau_positive}"


def naive_loss(log_probs: Tensor, batch: Batch, config: PolicyLossConfig) -> tuple[Tensor, int]:
    """(sum over units, number of units); ``log_probs`` is ``batch.log_probs`` with a gradient."""
    total = torch.zeros((), dtype=torch.float64)
    units = 0
    of_sequences = config.loss_type in ("gmpo", "gspo") or config.loss_avg_mode == "seq"
    for i in range(batch.mask.shape[0]):
        valid = [t for t in range(batch.mask.shape[1]) if batch.mask[i, t]]
        units += 1 if of_sequences else len(valid)
        if not valid:
            continue
        d = [log_probs[i, t] - batch.old[i, t].item() for t in valid]
        a = [batch.advantages[i, t].item() for t in valid]
        if config.loss_type == "gmpo":
            total = total + _gmpo(d, a[0], config.gmpo)
            continue
        sequence_d = sum(d) / len(d)
        losses = []
        for k, t in enumerate(valid):
            if config.loss_type == "default":
                losses.append(_ppo(torch.exp(d[k]), a[k], config))
            elif config.loss_type == "gspo":
                losses.append(_ppo(torch.exp(sequence_d), a[k], config))
            elif config.loss_type == "gspo_token":
                ratio = torch.exp(sequence_d).detach() * torch.exp(log_probs[i, t] - log_probs[i, t].detach())
                losses.append(_ppo(ratio, a[k], config))
            elif config.loss_type == "cispo":
                ratio = math.exp(d[k].item())
                ratio = min(max(ratio, 1 - config.clip_ratio_low), 1 + config.clip_ratio_high)
                losses.append(-a[k] * ratio * log_probs[i, t])
            elif config.loss_type == "sapo":
                tau = config.tau_negative if a[k] < 0 else config.tau_positive
                gate = 4 / tau / (1 + torch.exp(-tau * (torch.exp(d[k]) - 1)))
                losses.append(-a[k] * gate)
        total = total + (sum(losses) / len(losses) if of_sequences else sum(losses))
    return total, units


def _gmpo(d: list[Tensor], a: float, options: GMPOConfig) -> Tensor:
    """Equation (4) and Table 4 in ratio space: products of ratios, then the power."""
    power = 1 / len(d) if options.normalize else 1.0
    product = torch.ones((), dtype=torch.float64)
    for d_t in d:
        factor = torch.exp(d_t)
        if options.clip == "token":
            factor = _pessimistic(factor, a, options)
        product = product * factor
    if options.clip == "sequence":
        product = _pessimistic(product, a, options)
    return -a * product**power


def _pessimistic(ratio: Tensor, a: float, options: GMPOConfig) -> Tensor:
    """|min(ratio A, clip(ratio) A)| / |A|."""
    low, high = math.exp(-options.log_clip_low), math.exp(options.log_clip_high)
    if a > 0 and ratio.item() > high:
        return torch.full_like(ratio, high)
    if a < 0 and ratio.item() < low:
        return torch.full_like(ratio, low)
    return ratio


def _ppo(ratio: Tensor, a: float, config: PolicyLossConfig) -> Tensor:
    if a >= 0:
        return -a * (ratio if ratio.item() <= 1 + config.clip_ratio_high else 1 + config.clip_ratio_high)
    if ratio.item() < 1 - config.clip_ratio_low:
        return torch.full_like(ratio, -a * (1 - config.clip_ratio_low))
    if ratio.item() > config.clip_ratio_dual:
        return torch.full_like(ratio, -a * config.clip_ratio_dual)
    return -a * ratio
