"""AdamW with float32 masters of 16-bit weights, against the update written out in float64."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from gmpo_mm.models.loading import store_weights
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.runs.checkpoint import load_optimizer_tensors, optimizer_tensors
from gmpo_mm.training.optimizer import MasterAdamW, build_optimizer
from tests.models.model_zoo import build_policy

OPTIM = SimpleNamespace(lr=1e-2, betas=[0.9, 0.95], weight_decay=0.1)


def make_parameter(*shape: int) -> tuple[torch.nn.Parameter, torch.Tensor]:
    master = torch.randn(shape)
    return torch.nn.Parameter(master.bfloat16()), master


def make_optimizer(parameters: dict[torch.nn.Parameter, torch.Tensor], **keys: float) -> MasterAdamW:
    options = dict(lr=1e-2, betas=(0.9, 0.95), weight_decay=0.1) | keys
    return MasterAdamW(list(parameters), parameters, **options)


def naive_adamw(
    weight: torch.Tensor, grads: list[torch.Tensor], lr: float = 1e-2, decay: float = 0.1
) -> torch.Tensor:
    """Loshchilov and Hutter (arXiv 1711.05101), Algorithm 2, in float64."""
    weight, m, v = weight.double(), 0.0, 0.0
    for t, grad in enumerate((g.double() for g in grads), start=1):
        m, v = 0.9 * m + 0.1 * grad, 0.95 * v + 0.05 * grad**2
        step = (m / (1 - 0.9**t)) / ((v / (1 - 0.95**t)).sqrt() + 1e-8)
        weight = weight - lr * decay * weight - lr * step
    return weight


def test_masters_follow_adamw_and_the_weights_are_their_rounding() -> None:
    torch.manual_seed(0)
    parameter, master = make_parameter(5, 3)
    start = master.clone()
    optimizer = make_optimizer({parameter: master})
    grads = [torch.randn(5, 3) for _ in range(4)]
    for grad in grads:
        parameter.grad = grad.clone()
        optimizer.step()
    state = optimizer.state[parameter]
    torch.testing.assert_close(state["master"].double(), naive_adamw(start, grads), rtol=1e-6, atol=1e-6)
    assert torch.equal(parameter, state["master"].bfloat16()) and state["exp_avg"].dtype == torch.float32
    assert float(state["step"]) == 4


def test_updates_too_small_for_bfloat16_add_up() -> None:
    parameter = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    optimizer = make_optimizer({parameter: torch.ones(4)}, lr=1e-5, weight_decay=0.0)
    for _ in range(1000):  # 1e-5 is a hundredth of the distance between two bfloat16 numbers near 1
        parameter.grad = torch.ones(4)
        optimizer.step()
    torch.testing.assert_close(
        optimizer.state[parameter]["master"], torch.full((4,), 0.99), rtol=1e-4, atol=0
    )
    assert torch.equal(parameter, torch.full((4,), 0.99).bfloat16())


def test_gradients_of_micro_batches_are_summed_in_float32() -> None:
    parameter = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    make_optimizer({parameter: torch.ones(1)})
    for value in (256.0, *[1.0] * 8):  # in bfloat16 256 + 1 is 256
        (parameter * value).sum().backward()
    assert parameter.grad.dtype == torch.float32 and float(parameter.grad) == 264.0


def test_a_parameter_without_a_gradient_stays() -> None:
    first, second = make_parameter(3), make_parameter(3)
    optimizer = make_optimizer(dict([first, second]))
    first[0].grad = torch.ones(3)
    before = second[0].detach().clone()
    optimizer.step()
    assert torch.equal(second[0], before) and set(optimizer.state[second[0]]) == {"master"}


def test_the_optimizer_takes_the_masters_over_and_float32_weights_need_none() -> None:
    module = build_policy("qwen2").module
    masters = store_weights(module, torch.device("cpu"), torch.bfloat16, sixteen_bit=True)
    policy = PolicyModel(module, compute_dtype=torch.bfloat16, masters=masters)
    optimizer = build_optimizer(policy, OPTIM)
    assert isinstance(optimizer, MasterAdamW) and policy.masters == {}
    assert all(optimizer.state[p]["master"] is master for p, master in masters.items())
    plain = build_optimizer(build_policy("qwen2"), OPTIM)
    assert type(plain) is torch.optim.AdamW


def test_a_resumed_optimizer_goes_on_with_its_float32_weights() -> None:
    """The checkpoint's model files hold the masters, its optimizer file the moments."""
    torch.manual_seed(0)
    runs = []
    for resumed in (False, True):
        torch.manual_seed(1)
        parameter, master = make_parameter(4, 3)
        optimizer = make_optimizer({parameter: master})
        for step in range(4):
            if resumed and step == 2:
                named = [("weight", parameter)]
                moments, weights = (
                    optimizer_tensors(optimizer, named),
                    {"weight": optimizer.state[parameter]["master"].clone()},
                )
                assert sorted(moments) == ["exp_avg/weight", "exp_avg_sq/weight", "step/weight"]
                parameter = torch.nn.Parameter(weights["weight"].bfloat16())
                optimizer = make_optimizer({parameter: torch.zeros(4, 3)})
                load_optimizer_tensors(optimizer, [("weight", parameter)], moments, weights)
            parameter.grad = torch.full((4, 3), 0.1 * (step + 1))
            optimizer.step()
        runs.append((parameter.detach(), optimizer.state[parameter]["master"]))
    assert torch.equal(runs[0][0], runs[1][0]) and torch.equal(runs[0][1], runs[1][1])


def test_a_mini_batch_without_useful_groups_steps_16_bit_weights_as_it_does_float32_ones() -> None:
    """Before the first step nothing happens; after it the moments move the weights on, without a gradient."""
    from dataclasses import replace

    from gmpo_mm.training.actor import Actor
    from tests.training.builders import BASE, make_batch

    found = []
    for sixteen_bit in (False, True):
        policy = build_policy("qwen2")
        if sixteen_bit:
            masters = store_weights(policy.module, torch.device("cpu"), torch.bfloat16, sixteen_bit=True)
            policy = PolicyModel(policy.module, compute_dtype=torch.bfloat16, masters=masters)
        optimizer = build_optimizer(policy, OPTIM)
        actor = Actor(policy, optimizer, replace(BASE, drop_zero_advantage=True))
        idle, useful = make_batch(build_policy("qwen2"), idle=(0, 1, 2, 3)), make_batch(build_policy("qwen2"))
        weights = []
        for batch in (idle, useful, idle):
            actor.update(batch)
            held = optimizer.state
            parts = [held.get(p, {}).get("master", p).detach().flatten() for p in policy.module.parameters()]
            weights.append(torch.cat(parts))
        steps = {float(state["step"]) for state in optimizer.state.values()}
        found.append((weights, steps))
    (float32, float32_steps), (bfloat16, bfloat16_steps) = found
    assert float32_steps == bfloat16_steps == {2.0}
    for weights in (float32, bfloat16):
        assert not torch.equal(weights[1], weights[2])
    assert torch.equal(float32[0], bfloat16[0]), "no step before the first gradient: weight decay would move them"
