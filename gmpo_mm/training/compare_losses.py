"""What other losses would have done in a step (`trainer.compare_losses`), on the local engine.

In log-prob space it costs no forward pass: the update's own log-probabilities are enough, those of its LAST epoch, each
mini-batch measured at the weights that it began with. A whole gradient costs one more forward and backward pass of one
mini-batch for each loss: of the step's last one, where the ratios are furthest from 1, with the weights before its optimizer
step.

Nothing that is measured reaches the run: the parameters, their `grad`, the random state and the notes of the actor are after
it what they would have been.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from gmpo_mm.algorithms import (
    PolicyLossConfig,
    StepTokens,
    UpdateRows,
    compare_losses,
    compared_configs,
    correction_weights,
)
from gmpo_mm.config.schema import Config
from gmpo_mm.training.actor import Actor, MiniBatch
from gmpo_mm.training.batch import Batch

KIND = "compare"
"""Of the line in metrics.jsonl."""


@dataclass
class LossComparison:
    """Measures the losses of `trainer.compare_losses` beside the trained one, step by step."""

    configs: dict[str, PolicyLossConfig]
    """By their names in the metrics; the trained loss comes first."""
    gradients_every: int = 0
    _gradients: dict[str, float] = field(default_factory=dict, init=False)

    @classmethod
    def of(cls, config: Config, loss: PolicyLossConfig) -> LossComparison | None:
        """As the configuration asks for; None where it compares nothing."""
        trainer = config.trainer
        if not trainer.compare_losses:
            return None
        return cls(compared_configs(loss, trainer.compare_losses), trainer.compare_losses_gradients_every)

    @property
    def trained(self) -> str:
        """The trained loss's name."""
        return next(iter(self.configs))

    def around(self, step: int, actor: Actor) -> Callable[[MiniBatch], AbstractContextManager] | None:
        """For `Actor.update`, on steps whose gradients are compared; else None."""
        self._gradients = {}
        if not self.gradients_every or step % self.gradients_every:
            return None
        return lambda mini: self._compare_gradients(actor, mini)

    def line(self, batch: Batch, actor: Actor) -> dict[str, Any]:
        """The step's metrics, after `actor` has updated."""
        state = _random_state(actor.policy.device)
        try:
            return compare_losses(step_tokens(batch, actor), self.configs, self.trained) | self._gradients
        finally:  # a loss of the user's own may draw
            _set_random_state(state, actor.policy.device)

    @contextmanager
    def _compare_gradients(self, actor: Actor, mini: MiniBatch) -> Iterator[None]:
        """Around the trained gradient: `grad` holds it on the way out."""
        if not mini.is_last:
            yield
            return
        start = _random_state(actor.policy.device)
        yield
        after = _random_state(actor.policy.device)
        parameters = [p for group in actor.optimizer.param_groups for p in group["params"]]
        trained = [p.grad for p in parameters]
        norms, dots = {self.trained: _dot(trained, trained).sqrt()}, {}
        try:
            for name, config in self.configs.items():
                if name == self.trained:
                    continue
                for parameter in parameters:
                    parameter.grad = None
                _set_random_state(start, actor.policy.device)  # dropout, where a model has any, drops the same
                actor.with_loss(config).accumulate(mini)
                own = [p.grad for p in parameters]
                norms[name], dots[name] = _dot(own, own).sqrt(), _dot(own, trained)
        finally:
            for parameter, gradient in zip(parameters, trained, strict=True):
                parameter.grad = gradient
            _set_random_state(after, actor.policy.device)
        self._gradients = _gradient_metrics(self.trained, norms, dots)


def step_tokens(batch: Batch, actor: Actor) -> StepTokens:
    """What the last epoch of an actor's last update saw, cut as it was cut."""
    seen, config = actor.observed, actor.config
    assert seen is not None
    weights_BT = None
    if config.correction is not None:
        weights_BT = correction_weights(seen.old_BT, batch.sampler_log_probs_BT, seen.mask_BT, config.correction)
    updates = actor.rows_of_updates(batch)
    return StepTokens(
        log_probs_BT=seen.log_probs_BT,
        old_log_probs_BT=seen.old_BT,
        advantages_BT=batch.advantages_BT,
        mask_BT=seen.mask_BT,
        updates=[
            UpdateRows.counted(rows, batch.host_mask_BT, actor.micro_batches(batch, rows))
            for rows in updates[-(len(updates) // config.epochs) :]
        ],
        entropy_BT=seen.entropy_BT,
        token_weights_BT=weights_BT,
    )


def _gradient_metrics(
    trained: str, norms: dict[str, torch.Tensor], dots: dict[str, torch.Tensor]
) -> dict[str, float]:
    """Norms, and cosines where both norms are finite and above 0."""
    found: dict[str, float] = {}
    for name, norm in norms.items():
        found[f"compare/{name}/gradient_norm"] = float(norm)
        product = float(norm) * float(norms[trained])
        if 0 < product < float("inf"):
            cosine = 1.0 if name == trained else float(dots[name]) / product
            found[f"compare/{name}/gradient_cosine"] = min(max(cosine, -1.0), 1.0)
    return found


@torch.no_grad()
def _dot(a: list[torch.Tensor | None], b: list[torch.Tensor | None]) -> torch.Tensor:
    """Inner product of two gradients, summed in float64; a parameter without one counts as 0."""
    total: torch.Tensor = torch.zeros((), dtype=torch.float64)
    for x, y in zip(a, b, strict=True):
        if x is not None and y is not None:
            product = (x.float() * y.float()).sum(dtype=torch.float64)
            total = total.to(product.device) + product
    return total


def _random_state(device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), on_device


def _set_random_state(state: tuple[torch.Tensor, torch.Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
