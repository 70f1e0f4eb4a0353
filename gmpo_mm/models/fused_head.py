"""Log-probabilities and entropies of chosen tokens on a GPU: large chunks, nothing read back, nothing cast.

As in `token_log_probs` logits exist for one chunk of tokens at a time and are computed again in the backward
pass. A chunk here is a few thousand tokens, so that the matrix products run at full speed, and what happens
to its logits are two compiled passes: one reduces them to three numbers a token, the other turns them into
their gradient.
"""

from __future__ import annotations

from typing import Any

import torch

from gmpo_mm.models.fused import Fused, wide

CHUNK_BYTES = 3 << 29
"""Logits held at once (1.5 GiB): 2,560 tokens of a vocabulary of 151,936 in float32."""


@Fused
def _statistics(
    logits_NV: torch.Tensor, shift_V: torch.Tensor, targets_N: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log p(target), entropy and log-sum-exp, each (N,)."""
    scaled_NV = (wide(logits_NV) + shift_V) / temperature
    lse_N = scaled_NV.logsumexp(-1)
    p_NV = (scaled_NV - lse_N[:, None]).exp()
    # H = lse - sum p x; a forbidden token has p = 0 and x = -inf, and counts nothing
    entropy_N = lse_N - torch.where(p_NV > 0, p_NV * scaled_NV, 0.0).sum(-1)
    return scaled_NV.gather(1, targets_N[:, None])[:, 0] - lse_N, entropy_N, lse_N


@Fused
def _logits_grad(
    logits_NV: torch.Tensor, shift_V: torch.Tensor, targets_N: torch.Tensor, lse_N: torch.Tensor,
    grad_N: torch.Tensor, temperature: float, dtype: torch.dtype,
) -> torch.Tensor:  # fmt: skip
    """d log p(target) / d logits = ([target] - p) / temperature, times its gradient."""
    p_NV = ((wide(logits_NV) + shift_V) / temperature - lse_N[:, None]).exp()
    is_target_NV = torch.arange(logits_NV.shape[1], device=logits_NV.device) == targets_N[:, None]
    return ((is_target_NV.to(p_NV.dtype) - p_NV) * (grad_N[:, None] / temperature)).to(dtype)


@Fused
def _logits_grad_with_entropy(
    logits_NV: torch.Tensor, shift_V: torch.Tensor, targets_N: torch.Tensor, lse_N: torch.Tensor,
    grad_N: torch.Tensor, temperature: float, dtype: torch.dtype, entropy_N: torch.Tensor,
    grad_entropy_N: torch.Tensor,
) -> torch.Tensor:  # fmt: skip
    """The same, and d H / d logits = -p (log p + H) / temperature, times the entropy's gradient."""
    log_p_NV = (wide(logits_NV) + shift_V) / temperature - lse_N[:, None]
    p_NV = log_p_NV.exp()
    is_target_NV = torch.arange(logits_NV.shape[1], device=logits_NV.device) == targets_N[:, None]
    total_NV = (is_target_NV.to(p_NV.dtype) - p_NV) * grad_N[:, None]
    about_NV = torch.where(p_NV > 0, p_NV * (log_p_NV + entropy_N[:, None]), 0.0)
    return ((total_NV - about_NV * grad_entropy_N[:, None]) / temperature).to(dtype)


def product(a: torch.Tensor, b: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """`a @ b` with its sums in `dtype`: a 16-bit product on a GPU can give float32 at the same speed."""
    if a.dtype == dtype:
        return a @ b
    if a.is_cuda or Fused.observer is not None:  # a plan runs the GPU's operators on tensors without contents
        return torch.mm(a, b, out_dtype=dtype)
    return a.to(dtype) @ b.to(dtype)


class _FusedTokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_NC: torch.Tensor, weight_VC: torch.Tensor, bias_V: torch.Tensor | None,
        shift_V: torch.Tensor, targets_N: torch.Tensor, temperature: float, chunk: int, dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        # without an entropy bonus its gradient is then None, which needs no look at the device
        ctx.set_materialize_grads(False)
        ctx.options = (temperature, chunk, dtype)
        found = []
        for part in _chunks(len(hidden_NC), chunk):
            logits_NV = product(hidden_NC[part], weight_VC.T, dtype)
            found.append(_statistics(logits_NV, shift_V, targets_N[part], temperature))
        log_probs_N, entropy_N, lse_N = (torch.cat(parts) for parts in zip(*found, strict=True))
        ctx.save_for_backward(hidden_NC, weight_VC, shift_V, targets_N, lse_N, entropy_N)
        return log_probs_N, entropy_N

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad_N: torch.Tensor | None, grad_entropy_N: torch.Tensor | None
    ) -> tuple:
        hidden_NC, weight_VC, shift_V, targets_N, lse_N, entropy_N = ctx.saved_tensors
        temperature, chunk, dtype = ctx.options
        if grad_N is None:
            grad_N = torch.zeros_like(lse_N)
        grad_hidden_NC = torch.empty_like(hidden_NC) if ctx.needs_input_grad[0] else None
        grad_weight_VC = grad_bias_V = None
        for part in _chunks(len(hidden_NC), chunk):
            logits_NV = product(hidden_NC[part], weight_VC.T, dtype)
            args = (logits_NV, shift_V, targets_N[part], lse_N[part], grad_N[part], temperature, hidden_NC.dtype)
            if grad_entropy_N is None:
                grad_NV = _logits_grad(*args)
            else:
                grad_NV = _logits_grad_with_entropy(*args, entropy_N[part], grad_entropy_N[part])
            del logits_NV, args
            if grad_hidden_NC is not None:
                grad_hidden_NC[part] = grad_NV @ weight_VC
            if ctx.needs_input_grad[1]:
                grad_weight_VC = _added(grad_weight_VC, product(grad_NV.T, hidden_NC[part], lse_N.dtype))
            if ctx.needs_input_grad[2]:
                grad_bias_V = _added(grad_bias_V, grad_NV.sum(0, dtype=lse_N.dtype))
        return grad_hidden_NC, grad_weight_VC, grad_bias_V, None, None, None, None, None


def _chunks(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def _added(total: torch.Tensor | None, part: torch.Tensor) -> torch.Tensor:
    return part if total is None else total.add_(part)


def fused_token_log_probs(
    hidden_NC: torch.Tensor,
    lm_head: torch.nn.Linear,
    targets_N: torch.Tensor,
    temperature: float,
    forbidden_F: torch.Tensor,
    logits_dtype: torch.dtype = torch.float32,
    chunk: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each target token and entropy of its distribution, both (N,), in nats, float32 or
    better.

    `forbidden_F` are ids that have probability 0. `chunk` is the number of tokens whose logits exist at once.
    With bfloat16 logits a log-probability is off by about 0.01 nats (0.05 at most was seen), with float32
    ones it is not.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0 for log-probabilities, got {temperature}")
    if hidden_NC.dtype in (torch.float32, torch.float64):
        logits_dtype = hidden_NC.dtype
    if hidden_NC.shape[0] == 0:
        empty = hidden_NC.sum() * 0.0 + hidden_NC.new_zeros(0, dtype=torch.float32)
        return empty, empty
    if chunk is None:
        fitting = CHUNK_BYTES // (lm_head.weight.shape[0] * logits_dtype.itemsize)
        chunk = max(1, fitting // 128 * 128 or fitting)
    # what is added to every row's logits: a forbidden token's -inf, and the layer's own bias
    shift_V = torch.zeros(
        lm_head.weight.shape[0], dtype=torch.promote_types(logits_dtype, torch.float32), device=hidden_NC.device
    )
    shift_V.index_fill_(0, forbidden_F, float("-inf"))
    if lm_head.bias is not None:
        shift_V += lm_head.bias.detach()
    return _FusedTokenLogProbs.apply(
        hidden_NC, lm_head.weight, lm_head.bias, shift_V, targets_N, temperature, chunk, logits_dtype
    )
