"""What a step made of the card: model FLOPs utilisation and memory, under EasyR1's names."""

from __future__ import annotations

import psutil
import torch

from gmpo_mm.models.cards import GIB, card_of_this_machine
from gmpo_mm.models.flops import ModelFlops, mfu, work_of
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.training.batch import Batch


class UpdateMeter:
    """Counts an update's model FLOPs. `peak` is the card's dense peak in the compute type, in FLOP/s."""

    def __init__(self, policy: PolicyModel, peak: float) -> None:
        self.policy, self.peak = policy, peak
        self._counts = ModelFlops.of(policy.module)

    def utilisation(self, batch: Batch, epochs: int, only_with_advantage: bool, seconds: float) -> float:
        """Share of the peak that `epochs` passes over a batch made in `seconds`; recomputation does not count.

        `only_with_advantage`: groups without an advantage were left out of the update.
        """
        kept = batch.groups_with_advantage() if only_with_advantage else [True] * len(batch.groups)
        size = batch.group_size
        rows = [row for row in range(len(batch)) if kept[row // size] and row not in batch.left_out]
        vision = getattr(self.policy.causal_lm.config, "vision_config", None)
        work = work_of(batch.group_of(rows), vision)
        return mfu(epochs * self._counts.count(work, backward=True), seconds, self.peak)


def meter_of(policy: PolicyModel) -> UpdateMeter | None:
    """A meter for the card that a policy is on; None on a CPU and for a card whose data sheet is not known."""
    if policy.device.type != "cuda":
        return None
    card = card_of_this_machine(policy.device)
    if card is None:
        return None
    return UpdateMeter(policy, card.float32 if policy.compute_dtype == torch.float32 else card.bf16)


def start_step(device: torch.device) -> None:
    """Forget the peaks of memory before this step."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def memory_metrics(device: torch.device) -> dict[str, float]:
    """Peaks of a step on a GPU, and the machine's memory in use, in GiB (EasyR1 calls them gb); {} on a CPU."""
    if device.type != "cuda":
        return {}
    return {
        "perf/max_memory_allocated_gb": torch.cuda.max_memory_allocated(device) / GIB,
        "perf/max_memory_reserved_gb": torch.cuda.max_memory_reserved(device) / GIB,
        "perf/cpu_memory_used_gb": psutil.virtual_memory().used / GIB,
    }
