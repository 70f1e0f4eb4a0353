"""Log-probabilities and entropies of chosen tokens from hidden states; logits exist for one chunk of tokens at a time."""

from __future__ import annotations

from typing import Any

import torch

from gmpo_mm.models.fused_head import product

CHUNK_ELEMENTS = 1 << 24
"""Logits held at once (64 MiB in float32), forward and backward."""


def scaled_logits(
    hidden_NC: torch.Tensor,
    weight_VC: torch.Tensor,
    bias_V: torch.Tensor | None,
    temperature: float,
    forbidden: list[int] | torch.Tensor,
) -> torch.Tensor:
    """Logits (N, V) in at least float32 at a sampling temperature, with forbidden tokens at -inf."""
    if hidden_NC.is_cuda and bias_V is None and hidden_NC.dtype == weight_VC.dtype:
        logits_NV = product(hidden_NC, weight_VC.T, torch.float32)  # not rounded to 16 bits, as in the update
    else:
        logits_NV = torch.nn.functional.linear(hidden_NC, weight_VC.to(hidden_NC.dtype), bias_V)
    if logits_NV.dtype not in (torch.float32, torch.float64):
        logits_NV = logits_NV.float()
    if temperature != 1.0:
        logits_NV = logits_NV / temperature
    if len(forbidden):
        logits_NV[:, forbidden] = float("-inf")
    return logits_NV


class _TokenLogProbs(torch.autograd.Function):
    """(log pi(token), entropy) per token; the backward pass computes each chunk's logits again instead of keeping them."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NC: torch.Tensor,
        weight_VC: torch.Tensor,
        bias_V: torch.Tensor | None,
        targets_N: torch.Tensor,
        temperature: float,
        forbidden: list[int],
        chunk: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        log_probs, entropies = [], []
        for start in range(0, hidden_NC.shape[0], chunk):
            part = slice(start, start + chunk)
            log_p_NV = scaled_logits(hidden_NC[part], weight_VC, bias_V, temperature, forbidden).log_softmax(-1)
            log_probs.append(log_p_NV.gather(1, targets_N[part, None])[:, 0])
            entropies.append(-(log_p_NV.exp() * log_p_NV.clamp_min(torch.finfo(log_p_NV.dtype).min)).sum(-1))
        log_probs_N, entropy_N = torch.cat(log_probs), torch.cat(entropies)
        ctx.save_for_backward(hidden_NC, weight_VC, bias_V, targets_N, entropy_N)
        ctx.options = (temperature, forbidden, chunk)
        kind = hidden_NC.device.type
        ctx.autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        return log_probs_N, entropy_N

    @staticmethod
    def backward(ctx: Any, grad_log_probs_N: torch.Tensor, grad_entropy_N: torch.Tensor) -> tuple:
        kind, dtype, enabled = ctx.autocast
        with torch.autocast(kind, dtype=dtype, enabled=enabled):  # the logits have to be those of the forward pass
            return _TokenLogProbs._backward(ctx, grad_log_probs_N, grad_entropy_N)

    @staticmethod
    def _backward(ctx: Any, grad_log_probs_N: torch.Tensor, grad_entropy_N: torch.Tensor) -> tuple:
        hidden_NC, weight_VC, bias_V, targets_N, entropy_N = ctx.saved_tensors
        temperature, forbidden, chunk = ctx.options
        grad_hidden_NC = torch.empty_like(hidden_NC) if ctx.needs_input_grad[0] else None
        grad_weight_VC = torch.zeros_like(weight_VC) if ctx.needs_input_grad[1] else None
        grad_bias_V = torch.zeros_like(bias_V) if bias_V is not None and ctx.needs_input_grad[2] else None
        for start in range(0, hidden_NC.shape[0], chunk):
            part = slice(start, start + chunk)
            log_p_NV = scaled_logits(hidden_NC[part], weight_VC, bias_V, temperature, forbidden).log_softmax(-1)
            p_NV = log_p_NV.exp()
            # d log p(token) / d logit = [token] - p;  d H / d logit = -p (log p + H)
            grad_NV = p_NV * -grad_log_probs_N[part, None]
            grad_NV.scatter_add_(1, targets_N[part, None], grad_log_probs_N[part, None])
            if bool(grad_entropy_N[part].any()):
                finite = log_p_NV.clamp_min(torch.finfo(log_p_NV.dtype).min)
                grad_NV -= p_NV * (finite + entropy_N[part, None]) * grad_entropy_N[part, None]
            grad_NV = (grad_NV / temperature).to(hidden_NC.dtype)
            if grad_hidden_NC is not None:
                grad_hidden_NC[part] = grad_NV @ weight_VC.to(hidden_NC.dtype)
            if grad_weight_VC is not None:
                grad_weight_VC += (grad_NV.T @ hidden_NC[part]).to(weight_VC.dtype)
            if grad_bias_V is not None:
                grad_bias_V += grad_NV.sum(0).to(grad_bias_V.dtype)
        return grad_hidden_NC, grad_weight_VC, grad_bias_V, None, None, None, None


def token_log_probs(
    hidden_NC: torch.Tensor,
    lm_head: torch.nn.Linear,
    targets_N: torch.Tensor,
    temperature: float = 1.0,
    forbidden: list[int] | None = None,
    chunk_elements: int = CHUNK_ELEMENTS,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probability of each target token and entropy of its distribution, both (N,), in nats, at least float32.

    `forbidden` tokens have probability 0 (they can't be sampled either); both outputs are differentiable.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0 for log-probabilities, got {temperature}")
    if hidden_NC.shape[0] == 0:
        empty = hidden_NC.sum() * 0.0 + hidden_NC.new_zeros(0, dtype=torch.float32)
        return empty, empty
    chunk = max(1, chunk_elements // lm_head.weight.shape[0])
    return _TokenLogProbs.apply(
        hidden_NC, lm_head.weight, lm_head.bias, targets_N, temperature, forbidden or [], chunk
    )
