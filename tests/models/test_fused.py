"""Fused norm, SwiGLU, rotary embedding and head: values and gradients against plain float64 autograd."""

from __future__ import annotations

import copy

import pytest
import torch

from gmpo_mm.errors import ConfigError
from gmpo_mm.models.fused import Fused, observed, rms_norm, rotary, swiglu
from gmpo_mm.models.fused_head import fused_token_log_probs
from gmpo_mm.models.fused_layers import ORIGINAL, fuse_layers
from gmpo_mm.models.loading import add_lora
from tests.models.model_zoo import build_model
from tests.models.test_token_log_probs import FORBIDDEN, naive


def grads_of(function: object, *inputs: torch.Tensor) -> list[torch.Tensor]:
    outputs = function(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    torch.manual_seed(1)
    loss = sum((out * torch.randn_like(out)).sum() for out in outputs)
    return [*outputs, *torch.autograd.grad(loss, inputs)]


def naive_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return weight * x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-5)


def naive_rotary(q: torch.Tensor, k: torch.Tensor, angle: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each pair (i, i + D/2) as a complex number times exp(i angle)."""

    def turn(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, -1)
        turned = torch.complex(first, second) * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([turned.real, turned.imag], -1)

    return turn(q), turn(k)


def test_rms_norm_and_its_gradients() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 7, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, dtype=torch.float64, requires_grad=True)
    for ours, expected in zip(
        grads_of(lambda *a: rms_norm(*a, 1e-5), x, weight), grads_of(naive_norm, x, weight), strict=True
    ):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-13)


def test_swiglu_and_its_gradients() -> None:
    torch.manual_seed(0)
    gate, up = (torch.randn(4, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    expected = grads_of(lambda a, b: a / (1 + torch.exp(-a)) * b, gate, up)
    for ours, wanted in zip(grads_of(swiglu, gate, up), expected, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-13)


def test_rotary_and_its_gradients() -> None:
    torch.manual_seed(0)
    q, k = torch.randn(1, 4, 5, 8, dtype=torch.float64), torch.randn(1, 2, 5, 8, dtype=torch.float64)
    angle = torch.randn(1, 1, 5, 4, dtype=torch.float64)
    cos, sin = (torch.cat([f(angle)] * 2, -1) for f in (torch.cos, torch.sin))
    q.requires_grad_(), k.requires_grad_()
    ours = grads_of(lambda a, b: rotary(a, b, cos, sin), q, k)
    for a, b in zip(ours, grads_of(lambda a, b: naive_rotary(a, b, angle), q, k), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("with_entropy", [False, True])
def test_head_values_and_gradients(bias: bool, chunk: int, with_entropy: bool) -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(6, 15, bias=bias).double()
    hidden = torch.randn(11, 6, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 2, 3, 14, 5, 6, 8, 9, 10, 11, 3])
    forbidden = torch.tensor(FORBIDDEN)
    weight, entropy_weight = torch.randn(2, 11, dtype=torch.float64)
    results = []
    for function in (
        lambda: fused_token_log_probs(hidden, head, targets, 0.6, forbidden, chunk=chunk),
        lambda: naive(hidden, head, targets, 0.6),
    ):
        log_p, entropy = function()
        loss = (log_p * weight).sum() + ((entropy * entropy_weight).sum() if with_entropy else 0.0)
        results.append((log_p, entropy, *torch.autograd.grad(loss, [hidden, *head.parameters()])))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


def test_head_makes_no_gradient_that_nobody_asked_for() -> None:
    head = torch.nn.Linear(6, 15, bias=False).requires_grad_(False)
    hidden = torch.randn(5, 6, requires_grad=True)
    log_p, _ = fused_token_log_probs(
        hidden, head, torch.zeros(5, dtype=torch.long), 1.0, torch.tensor([], dtype=torch.long)
    )
    log_p.sum().backward()
    assert head.weight.grad is None and hidden.grad is not None


def test_head_in_bfloat16_keeps_float32_logits_and_gradients() -> None:
    torch.manual_seed(0)
    head = torch.nn.Linear(64, 500, bias=False).bfloat16()
    head.weight.grad_dtype = torch.float32
    hidden = torch.randn(40, 64).bfloat16().requires_grad_()
    targets = torch.randint(0, 500, (40,))
    none = torch.tensor([], dtype=torch.long)
    exact = (hidden.double() @ head.weight.double().T).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    log_p, _ = fused_token_log_probs(hidden, head, targets, 1.0, none)
    rounded, _ = fused_token_log_probs(hidden, head, targets, 1.0, none, logits_dtype=torch.bfloat16)
    off, off_when_rounded = (float((x.double() - exact).detach().abs().max()) for x in (log_p, rounded))
    assert off < 1e-5 < 1e-3 < off_when_rounded
    log_p.sum().backward()
    assert head.weight.grad.dtype == torch.float32 and hidden.grad.dtype == torch.bfloat16


def test_logits_of_a_float32_model_stay_float32() -> None:
    torch.manual_seed(0)
    head, hidden, none = torch.nn.Linear(6, 15, bias=False), torch.randn(5, 6), torch.tensor([], dtype=torch.long)
    targets = torch.arange(5)
    asked, default = (
        fused_token_log_probs(hidden, head, targets, 1.0, none, logits_dtype=dtype)[0]
        for dtype in (torch.bfloat16, torch.float32)
    )
    assert torch.equal(asked, default)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "qwen2_5_vl"])
def test_a_fused_decoder_computes_the_same_and_a_copy_of_it_is_its_own(family: str) -> None:
    model = build_model(family)
    decoder = model.model.language_model if hasattr(model.model, "language_model") else model.model
    layer = decoder.layers[0]
    x = torch.randn(1, 5, 32)
    before = layer.mlp(layer.input_layernorm(x))
    fuse_layers(decoder)
    torch.testing.assert_close(layer.mlp(layer.input_layernorm(x)), before)
    twin = copy.deepcopy(layer)
    with torch.no_grad():
        layer.input_layernorm.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    torch.testing.assert_close(twin.mlp(twin.input_layernorm(x)), before)
    assert not bool(layer.mlp(x).any())


def test_rotary_of_transformers_in_bfloat16_is_ours_after_fusing() -> None:
    from transformers.models.qwen2 import modeling_qwen2

    fuse_layers(build_model("qwen2").model)
    torch.manual_seed(0)
    q, k = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 5, 8)
    angle = torch.randn(1, 5, 4)
    cos, sin = (torch.cat([f(angle)] * 2, -1) for f in (torch.cos, torch.sin))
    plain = modeling_qwen2.apply_rotary_pos_emb(q, k, cos, sin)
    sixteen = modeling_qwen2.apply_rotary_pos_emb(*(x.bfloat16() for x in (q, k, cos, sin)))
    for a, b in zip(sixteen, plain, strict=True):
        assert a.dtype == torch.bfloat16
        torch.testing.assert_close(a.float(), b, rtol=0, atol=0.04)


def test_rotary_of_the_vision_tower_in_bfloat16_is_ours_after_fusing() -> None:
    from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as published

    torch.manual_seed(0)
    q, k, angle = torch.randn(5, 4, 8), torch.randn(5, 4, 8), torch.randn(5, 4)
    cos, sin = (torch.cat([f(angle)] * 2, -1) for f in (torch.cos, torch.sin))
    before = published.apply_rotary_pos_emb_vision(q.bfloat16(), k.bfloat16(), cos, sin)
    fuse_layers(build_model("qwen2_5_vl").model.visual)
    assert getattr(published.apply_rotary_pos_emb_vision, ORIGINAL, None) is not None
    after = published.apply_rotary_pos_emb_vision(q.bfloat16(), k.bfloat16(), cos, sin)
    for a, b in zip(after, before, strict=True):
        assert a.dtype == torch.bfloat16
        torch.testing.assert_close(a, b, rtol=0, atol=0.02)


def lora_model() -> torch.nn.Module:
    model = add_lora(build_model("qwen2"), 3, 6, "all-linear", None)
    torch.manual_seed(2)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # a fresh adapter's are 0
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_lora_computes_what_peft_computes() -> None:
    ids = torch.arange(3, 12)[None]
    found = []
    for fused in (False, True):
        model = lora_model()
        if fused:
            fuse_layers(model)
        logits = model(input_ids=ids).logits
        torch.manual_seed(4)
        (logits * torch.randn_like(logits)).sum().backward()
        with torch.no_grad(), model.disable_adapter():
            without = model(input_ids=ids).logits
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        found.append((logits, without, grads))
    (plain, plain_without, grads), (ours, ours_without, our_grads) = found
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours_without, plain_without)
    assert float((ours - ours_without).abs().max()) > 0.1 and our_grads.keys() == grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(our_grads[name], grad, rtol=1e-3, atol=1e-4 * float(grad.abs().max()))


def test_an_adapter_that_is_not_one_plain_lora_goes_through_peft() -> None:
    model = lora_model()
    fuse_layers(model)
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    x = torch.randn(2, 5, 32)
    assert layer.forward._one_plain_adapter(x) == "default"
    assert layer.forward._one_plain_adapter(x.double()) is None
    layer.lora_dropout["default"] = torch.nn.Dropout(0.5)
    assert layer.forward._one_plain_adapter(x) is None
    layer.lora_dropout["default"] = torch.nn.Identity()
    layer.merge()
    assert layer.forward._one_plain_adapter(x) is None


def test_an_observer_sees_each_fused_call() -> None:
    seen = []

    def note(function: object, args: tuple) -> object:
        seen.append(function.__name__)
        return function(*args)

    with observed(note):
        swiglu(torch.ones(2, requires_grad=True), torch.ones(2)).sum().backward()
    assert seen == ["_gated", "_gated_grad"] and Fused.observer is None


def test_a_function_that_cannot_be_compiled_names_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> object:
        def fail(*_: object) -> None:
            raise RuntimeError("no C compiler")

        return fail

    monkeypatch.setattr(torch, "compile", broken)
    function = Fused(lambda x: x)
    function.function.__name__ = "f"
    function._compiled = torch.compile(function.function)
    with pytest.raises(
        ConfigError, match=r"worker\.actor\.use_torch_compile=true.*no C compiler.*set it to false"
    ):
        function._first_call(torch.ones(1))
