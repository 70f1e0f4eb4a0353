"""AdamW and its learning rate; with 16-bit weights it holds the float32 ones.

On a GPU the model's weights have the compute type, so that no pass casts them. An update of 1e-6 would vanish
in a bfloat16 weight, so the optimizer keeps each trained weight in float32 (its master), updates that, and
rounds it into the model. Gradients of all micro-batches are summed in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch.optim.adamw import adamw

from gmpo_mm.models.policy import PolicyModel


def _widen_gradient(parameter: torch.Tensor) -> None:
    """After a mini-batch's first gradient: later ones are added to it in place, without a float32 copy of them."""
    assert parameter.grad is not None
    if parameter.grad.dtype != torch.float32:
        parameter.grad = parameter.grad.float()


class MasterAdamW(torch.optim.Optimizer):
    """AdamW on float32 masters of 16-bit parameters; `state[p]` holds `step`, `exp_avg`, `exp_avg_sq` and
    `master`."""

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        masters: Mapping[torch.nn.Parameter, torch.Tensor],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
        eps: float = 1e-8,
    ) -> None:
        """`masters` holds a float32 tensor for each 16-bit parameter. Their gradients are float32 from now
        on."""
        super().__init__(parameters, dict(lr=lr, betas=betas, weight_decay=weight_decay, eps=eps, fused=True))
        for parameter in self._all():
            if parameter.dtype != torch.float32:
                master = masters[parameter]
                assert master.dtype == torch.float32 and master.shape == parameter.shape
                parameter.grad_dtype = None  # gradients arrive in 16 bits and are added to float32 ones
                parameter.register_post_accumulate_grad_hook(_widen_gradient)
                self.state[parameter]["master"] = master

    def _all(self) -> list[torch.nn.Parameter]:
        return [p for group in self.param_groups for p in group["params"]]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One AdamW step of every parameter that has a gradient; the kernels are fused, nothing is read
        back."""
        assert closure is None
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            states = [self._state(p) for p in parameters]
            weights = [s.get("master", p) for s, p in zip(states, parameters, strict=True)]
            adamw(
                weights, [p.grad for p in parameters],
                [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states],
                [], [s["step"] for s in states], fused=True, amsgrad=False, beta1=group["betas"][0],
                beta2=group["betas"][1], lr=group["lr"], weight_decay=group["weight_decay"], eps=group["eps"],
                maximize=False,
            )  # fmt: skip
            rounded = [(p, s["master"]) for p, s in zip(parameters, states, strict=True) if "master" in s]
            if rounded:
                torch._foreach_copy_([p for p, _ in rounded], [master for _, master in rounded])

    def _state(self, parameter: torch.nn.Parameter) -> dict[str, Any]:
        state = self.state[parameter]
        if "exp_avg" not in state:
            like = state.get("master", parameter)
            state["step"] = torch.zeros((), dtype=torch.float32, device=like.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(like), torch.zeros_like(like)
        return state


def build_optimizer(policy: PolicyModel, optim: Any) -> torch.optim.Optimizer:
    """AdamW over all trained parameters, with the keys of `worker.actor.optim`; it takes over the policy's
    masters."""
    parameters = [p for p in policy.module.parameters() if p.requires_grad]
    keys: dict[str, Any] = dict(lr=optim.lr, betas=tuple(optim.betas), weight_decay=optim.weight_decay)
    if policy.masters:
        return MasterAdamW(parameters, policy.take_masters(), **keys)
    return torch.optim.AdamW(parameters, **keys, fused=True)


def learning_rate(step: int, total_steps: int, optim: Any) -> float:
    """The rate of step `step` (the first is 1): linear warm-up, then constant or a cosine down to
    `min_lr_ratio`."""
    warmup = (
        optim.lr_warmup_steps
        if optim.lr_warmup_steps is not None
        else int(optim.lr_warmup_ratio * total_steps)
    )
    done = step - 1
    if done < warmup:
        return optim.lr * done / max(1, warmup)
    if optim.lr_scheduler_type == "constant":
        return optim.lr
    lowest = optim.min_lr_ratio or 0.0
    progress = (done - warmup) / max(1, total_steps - warmup)
    return optim.lr * (lowest + (1 - lowest) * 0.5 * (1 + math.cos(math.pi * progress)))
