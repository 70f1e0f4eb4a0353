"""True token entropy from logits, against float64, whatever the chunk."""

from __future__ import annotations

import pytest
import torch

from gmpo_mm.engines.easyr1.entropy import token_entropy


@pytest.mark.parametrize("shape", [(5, 7, 33), (35, 33), (0, 33)])
@pytest.mark.parametrize("chunk", [1, 66, 10_000])
def test_entropy_equals_a_float64_sum_over_the_vocabulary(shape: tuple[int, ...], chunk: int) -> None:
    logits = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    p = logits.double().softmax(-1)
    expected = -(p * p.log()).sum(-1)
    found = token_entropy(logits, chunk_elements=chunk)
    assert found.shape == shape[:-1]
    assert torch.allclose(found.double(), expected, atol=1e-5)


def test_a_token_that_can_not_be_sampled_adds_nothing() -> None:
    logits = torch.tensor([[0.0, 0.0, float("-inf"), 0.0]])
    assert token_entropy(logits).item() == pytest.approx(torch.tensor(3.0).log().item())


def test_half_precision_is_computed_in_float32() -> None:
    logits = torch.randn(4, 1000, generator=torch.Generator().manual_seed(1)).bfloat16()
    p = logits.double().softmax(-1)
    assert token_entropy(logits).dtype == torch.float32
    assert torch.allclose(token_entropy(logits).double(), -(p * p.log()).sum(-1), atol=1e-4)


def test_the_gradient_is_there_only_when_it_is_asked_for_and_survives_overwritten_logits() -> None:
    leaf = torch.randn(6, 11, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    assert not token_entropy(leaf * 1.0).requires_grad
    logits = leaf * 1.0
    entropy = token_entropy(logits, with_gradient=True, chunk_elements=22)
    with torch.no_grad():
        logits.zero_()  # as flash-attention's cross entropy does in its backward pass
    entropy.sum().backward()
    twin = leaf.detach().clone().requires_grad_()
    p = twin.softmax(-1)
    (-(p * p.log()).sum()).backward()
    assert torch.allclose(leaf.grad, twin.grad, atol=1e-12)
