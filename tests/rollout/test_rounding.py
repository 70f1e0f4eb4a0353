"""Weights rounded for `worker.rollout.emulate.weights` are those of loops written from the formats' definitions."""

from __future__ import annotations

import math

import pytest
import torch

from gmpo_mm.rollout.rounding import ROUNDINGS, rounded_parameters
from tests.models.model_zoo import build_policy


def nearest(value: float, step: float) -> float:
    """The multiple of `step` next to a number, of two the one with an even factor."""
    return round(value / step) * step


def naive_float(value: float, mantissa: int, smallest_exponent: int, largest: float) -> float:
    """A number of a format with `mantissa` bits after the point, subnormal below 2^smallest_exponent."""
    if value == 0:
        return 0.0
    exponent = max(math.floor(math.log2(abs(value))), smallest_exponent)
    return math.copysign(min(abs(nearest(value, 2.0 ** (exponent - mantissa))), largest), value)


def naive(kind: str, row_of: list[list[float]]) -> list[list[float]]:
    largest = max(abs(w) for row in row_of for w in row)
    result = []
    for row in row_of:
        if kind == "bfloat16":
            result.append([naive_float(w, 7, -126, 3.3895313892515355e38) for w in row])
        elif kind == "float8_e4m3":
            scale = largest / 448 if largest else 1.0
            result.append([naive_float(w / scale, 3, -6, 448.0) * scale for w in row])
        else:
            of_row = max(abs(w) for w in row)
            scale = of_row / 127 if of_row else 1.0
            result.append([round(w / scale) * scale for w in row])
    return result


@pytest.mark.parametrize("kind", ROUNDINGS)
def test_a_matrix_is_rounded_as_a_loop_rounds_it(kind: str) -> None:
    torch.manual_seed(3)
    matrix = torch.randn(12, 40) * torch.logspace(-4, 1, 12)[:, None]  # rows of very different size
    matrix[3] = 0.0
    matrix[5, 7] = 0.0
    found = ROUNDINGS[kind](matrix)
    expected = torch.tensor(naive(kind, matrix.double().tolist()), dtype=torch.float64)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=1e-12)
    assert not torch.equal(found, matrix) and not found[3].any()
    assert torch.equal(ROUNDINGS[kind](-matrix), -found), "symmetric"
    relative = float((found - matrix).norm() / matrix.norm())
    assert relative < {"bfloat16": 2**-8, "float8_e4m3": 2**-4, "int8": 2**-6}[kind]


@pytest.mark.parametrize("kind", ["float8_e4m3", "int8"])
def test_each_expert_of_a_layer_is_a_matrix_of_its_own(kind: str) -> None:
    torch.manual_seed(4)
    experts = torch.randn(3, 6, 5) * torch.tensor([1.0, 1e-3, 50.0])[:, None, None]
    together = ROUNDINGS[kind](experts)
    assert torch.equal(together, torch.stack([ROUNDINGS[kind](each) for each in experts]))


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_moe"])
def test_an_engine_in_8_bits_keeps_embeddings_output_layer_norms_and_biases(family: str) -> None:
    module = build_policy(family).module
    names = {id(p): name for name, p in module.named_parameters()}
    rounded = {names[id(p)] for p, _ in rounded_parameters(module, "int8")}
    for name, parameter in module.named_parameters():
        kept = "embed_tokens" in name or "lm_head" in name or parameter.dim() not in (2, 3)
        assert (name in rounded) != kept, name
    assert {names[id(p)] for p, _ in rounded_parameters(module, "bfloat16")} == set(names.values())
