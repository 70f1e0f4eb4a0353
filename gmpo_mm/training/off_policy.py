"""Samples from weights of some steps ago (`worker.rollout.staleness`) or rounded ones (`worker.rollout.emulate.weights`).

Step t samples with the weights after step t - 1 - k, for a staleness of k; those after step 0 are the first. The metrics say
which. The rest of `worker.rollout.emulate` is the sampler's (rollout/hf.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch

from gmpo_mm.errors import TrainingError
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.weights_hash import weights_sha256
from gmpo_mm.rollout.merged_weights import lora_layers
from gmpo_mm.rollout.rounding import rounded_parameters
from gmpo_mm.runs.checkpoint import CheckpointData

GROUP = "past_weights"
"""The checkpoint's file of former weights; a tensor is called `<step>/<parameter>`."""
RECORD = "weights"
"""The kind of the lines in metrics.jsonl that hold hashes of weights."""


class OffPolicySampling:
    """Keeps the trained weights of the last `staleness` steps on the CPU, and lends them to the model for sampling.

    One step more is kept while a step goes on, so that the step before it can still be saved when this one fails.
    """

    def __init__(self, policy: PolicyModel, staleness: int, rounding: str = "none") -> None:
        """`rounding` is a name in `rollout.rounding.ROUNDINGS`, or none."""
        self._policy, self._staleness, self._rounding = policy, staleness, rounding
        self._past: dict[int, dict[str, torch.Tensor]] = {}
        """Steps done -> name -> weight. No tensor in it is ever written to: a checkpoint may be reading it."""
        self._sampler_sha256 = ""
        self._rounding_error = 0.0

    def sampler_step(self, step: int) -> int:
        """The number of steps after which the weights were those that `step` samples with."""
        return max(0, step - 1 - self._staleness)

    @contextmanager
    def sampler_weights(self, step: int) -> Iterator[None]:
        """Inside, the model has the weights that `step` samples with. Its own are untouched, and come back in any case."""
        own = [(parameter, parameter.data) for parameter in self._policy.module.parameters()]
        source = self.sampler_step(step)
        self._policy.forget_images()
        try:
            if source != step - 1:
                for name, parameter in self._trained().items():
                    parameter.data = self._past[source][name].to(parameter.device)
            self._sampler_sha256 = self._sha256()
            with self._rounded() if self._rounding != "none" else nullcontext():
                yield
        finally:
            for parameter, data in own:
                parameter.data = data
            self._policy.forget_images()

    @contextmanager
    def _rounded(self) -> Iterator[None]:
        """Round the model's weights: with LoRA those of the merged model, as an engine gets it."""
        module = self._policy.causal_lm
        adapters = lora_layers(module)
        for layer, adapter in adapters:
            weight = layer.get_base_layer().weight
            with torch.no_grad():
                weight.data = weight.data + layer.get_delta_weight(adapter).to(weight.dtype)
        changes, squares = 0.0, 0.0
        for parameter, rounded in rounded_parameters(module, self._rounding):
            weight, parameter.data = parameter.data, rounded(parameter.data)
            changes += float((parameter.data.float() - weight.float()).square().sum())
            squares += float(weight.float().square().sum())
        self._rounding_error = (changes / squares) ** 0.5 if squares else 0.0
        with self._policy.adapter_disabled() if adapters else nullcontext():
            yield

    def keep(self, step: int) -> None:
        """Keep the model's weights as those after `step`, before the next update changes them."""
        if self._staleness == 0:
            return
        self._past[step] = {
            name: parameter.detach().to("cpu", copy=True).contiguous() for name, parameter in self._trained().items()
        }
        for former in [each for each in self._past if each < step - self._staleness]:
            del self._past[former]

    def metrics(self, step: int) -> dict[str, float]:
        """Which weights sampled, and how far rounding moved them."""
        of_rounding = {"rollout/rounding_error": self._rounding_error} if self._rounding != "none" else {}
        return {"rollout/weights_step": float(self.sampler_step(step)), **of_rounding}

    def first_record(self) -> dict[str, str]:
        """The line of step 0: the hash of the first weights."""
        return {"actor/weights_sha256": self._sha256()}

    def record(self) -> dict[str, str]:
        """The line of a step: hashes of the weights that sampled, and of those after its update."""
        return {"rollout/weights_sha256": self._sampler_sha256, **self.first_record()}

    # ---- checkpoints --------------------------------------------------------------------------------------------------

    def checkpoint_tensors(self, step: int) -> dict[str, dict[str, torch.Tensor]]:
        """What a run needs beside the model to go on after `step`; {} where nothing is."""
        steps = self._needed_after(step)
        group = {f"{each}/{name}": weight for each in steps for name, weight in self._past[each].items()}
        return {GROUP: group} if group else {}

    def load(self, data: CheckpointData) -> None:
        """Take former weights from a checkpoint; TrainingError where it doesn't hold those that this staleness needs."""
        found: dict[str, dict[str, torch.Tensor]] = {}
        for flat_name, tensor in (data.tensors(GROUP) if data.has_tensors(GROUP) else {}).items():
            former, _, name = flat_name.partition("/")
            # a copy lies in memory as one that was never saved: kernels may add up by alignment
            found.setdefault(former, {})[name] = tensor.clone()
        needed = self._needed_after(data.step)
        shapes = {name: (p.shape, p.dtype) for name, p in self._trained().items()}
        for step in needed:
            if {name: (w.shape, w.dtype) for name, w in found.get(str(step), {}).items()} != shapes:
                raise TrainingError(
                    f"{data.path} does not hold the weights after step {step}, with which worker.rollout.staleness="
                    f"{self._staleness} goes on; go on with the staleness and the worker.actor.model settings that made "
                    "the checkpoint (trainer.save_model_only leaves former weights out), or start a new run from its "
                    f"weights with worker.actor.model.model_path={data.model_dir}"
                )
        self._past = {step: found[str(step)] for step in needed}

    def _needed_after(self, step: int) -> range:
        return range(max(0, step - self._staleness), step)

    def _trained(self) -> Mapping[str, torch.nn.Parameter]:
        return {name: p for name, p in self._policy.module.named_parameters() if p.requires_grad}

    def _sha256(self) -> str:
        return weights_sha256(self._trained().items())
