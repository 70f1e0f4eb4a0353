"""Chunked token log-probabilities: values and gradients against plain autograd in float64."""

from __future__ import annotations

import pytest
import torch

from gmpo_mm.models.token_log_probs import token_log_probs

FORBIDDEN = [1, 7]


def naive(hidden: torch.Tensor, head: torch.nn.Linear, targets: torch.Tensor, temperature: float) -> tuple:
    logits = head(hidden) / temperature
    allowed = torch.ones(logits.shape[1], dtype=torch.bool)
    allowed[FORBIDDEN] = False
    log_p = logits.masked_fill(~allowed, float("-inf")).log_softmax(-1)
    entropy = -(log_p[:, allowed].exp() * log_p[:, allowed]).sum(-1)
    return log_p.gather(1, targets[:, None])[:, 0], entropy


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk_elements", [1, 45, 10_000])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_values_and_gradients_match_autograd(bias: bool, chunk_elements: int, temperature: float) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 15, bias=bias).double()
    hidden = torch.randn(11, 6, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 2, 3, 14, 5, 6, 8, 9, 10, 11, 3])
    weight, entropy_weight = torch.randn(2, 11, dtype=torch.float64)
    results = []
    for function in (
        lambda: token_log_probs(hidden, head, targets, temperature, FORBIDDEN, chunk_elements),
        lambda: naive(hidden, head, targets, temperature),
    ):
        log_p, entropy = function()
        loss = (log_p * weight).sum() + (entropy * entropy_weight).sum()
        grads = torch.autograd.grad(loss, [hidden, *head.parameters()])
        results.append((log_p, entropy, *grads))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


def test_logits_of_the_whole_batch_never_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    from gmpo_mm.models import token_log_probs as module

    sizes = []
    original = module.scaled_logits

    def watched(*args: object) -> torch.Tensor:
        logits = original(*args)
        sizes.append(logits.numel())
        return logits

    monkeypatch.setattr(module, "scaled_logits", watched)
    head = torch.nn.Linear(8, 100, bias=False)
    hidden = torch.randn(64, 8, requires_grad=True)
    log_p, _ = token_log_probs(hidden, head, torch.zeros(64, dtype=torch.long), chunk_elements=1000)
    log_p.sum().backward()
    assert max(sizes) == 1000 and len(sizes) == 2 * 7


def test_bfloat16_hidden_states_give_float32_log_probs() -> None:
    head = torch.nn.Linear(8, 20, bias=False)
    hidden = torch.randn(5, 8)
    exact, _ = token_log_probs(hidden, head, torch.arange(5))
    rounded, entropy = token_log_probs(hidden.bfloat16(), head, torch.arange(5))
    assert rounded.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(rounded, exact, atol=0.05, rtol=0.05)


def test_backward_pass_computes_the_forward_passs_logits_under_autocast() -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 30, bias=False)
    hidden = torch.randn(40, 16, requires_grad=True)
    targets, weight = torch.randint(2, 7, (40,)), torch.randn(40)
    grads = []
    for function, extra in ((token_log_probs, (FORBIDDEN,)), (naive, ())):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            log_p = function(hidden, head, targets, 0.5, *extra)[0]
        grads.append(torch.autograd.grad((log_p * weight).sum(), [hidden, head.weight]))
    for ours, expected in zip(*grads, strict=True):
        assert float((ours - expected).norm() / expected.norm()) < 0.02


def test_no_tokens_give_an_empty_differentiable_result() -> None:
    hidden = torch.randn(0, 8, requires_grad=True)
    log_p, _ = token_log_probs(hidden, torch.nn.Linear(8, 20, bias=False), torch.zeros(0, dtype=torch.long))
    log_p.sum().backward()
    assert log_p.shape == (0,) and hidden.grad.shape == (0, 8)


def test_temperature_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature"):
        token_log_probs(torch.randn(1, 8), torch.nn.Linear(8, 20), torch.zeros(1, dtype=torch.long), temperature=0.0)
