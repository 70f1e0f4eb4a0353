"""EasyR1's worker with our actor in it."""

from __future__ import annotations

from typing import Any

from verl.single_controller.base import Worker
from verl.single_controller.base.decorator import Dispatch, register
from verl.utils.fsdp_utils import load_fsdp_model, offload_fsdp_model
from verl.workers import fsdp_workers
from verl.workers.fsdp_workers import FSDPWorker

from gmpo_mm.engines.easyr1.actor import GMPOActor
from gmpo_mm.engines.easyr1.trained_weights import fsdp_weights_sha256, trained_weights


class _Base(Worker):
    """EasyR1 makes its colocated class from the first base of a worker, without arguments, so `FSDPWorker` can't be it."""


class GMPOWorker(_Base, FSDPWorker):
    """Model, FSDP, vLLM, checkpoints and reference are EasyR1's; the updates are `GMPOActor`'s.

    A subclass needs an empty base of its own before this one, for the same reason, and `@register` on what it overrides.
    """

    def _build_model_optimizer(self, *args: Any, role: str, **kwargs: Any) -> None:
        """EasyR1's; names and sizes of the actor's trained weights are kept, in the model's own order."""
        stock = fsdp_workers.FSDP

        def wrapped(model: Any, *others: Any, **options: Any) -> Any:
            if role == "actor":
                self._trained = trained_weights(model)
            return stock(model, *others, **options)

        fsdp_workers.FSDP = wrapped
        try:
            super()._build_model_optimizer(*args, role=role, **kwargs)
        finally:
            fsdp_workers.FSDP = stock

    def _build_rollout(self) -> None:
        """EasyR1's rollout, or with a correction ours, which hands on what the correction compares with."""
        if self.config.actor.correction == "none":
            super()._build_rollout()
            return
        from gmpo_mm.engines.easyr1.rollout import GMPORollout

        stock = fsdp_workers.vLLMRollout
        fsdp_workers.vLLMRollout = GMPORollout
        try:
            super()._build_rollout()
        finally:
            fsdp_workers.vLLMRollout = stock

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self) -> None:
        """Build everything as EasyR1 does, then put our actor in the place of its own."""
        super().init_model()
        if not self._has_actor:
            return
        self.actor = GMPOActor(
            config=self.config.actor, actor_module=self.fsdp_module, actor_optimizer=self.optimizer
        )
        if getattr(self.model_config, "router_aux_loss_coef", 0.0):
            self.print_rank0(
                "note: EasyR1's forward pass gives no router logits, so the router's auxiliary loss of this mixture-of-experts "
                "model is not part of the loss; engine=local trains it"
            )

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def trained_weights_sha256(self) -> str:
        """`weights_sha256` of the actor's trained weights on rank 0, "" on the others."""
        if self._use_param_offload:
            load_fsdp_model(self.fsdp_module)
        found = fsdp_weights_sha256(self.fsdp_module, self._trained, self.rank)
        if self._use_param_offload:
            offload_fsdp_model(self.fsdp_module)
        return found

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def trained_weights_bytes(self) -> int:
        """How large the actor's trained weights are, on all ranks together."""
        return sum(self._trained.values())
