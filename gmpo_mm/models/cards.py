"""GPUs: what their data sheets promise, and what share of it real operators reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gmpo_mm.errors import ConfigError

GIB = 2**30
PCIE_4, PCIE_5 = 32e9, 64e9


@dataclass(frozen=True)
class Card:
    """One GPU: dense peaks in FLOP/s, the bytes of memory that PyTorch sees, bandwidths in bytes/s."""

    name: str
    bf16: float
    float32: float
    memory: float
    bandwidth: float
    pcie: float
    capability: tuple[int, int]


CARDS = {
    # NVIDIA's data sheets: tensor-core bfloat16 without sparsity and with float32 sums, and float32 without
    # tensor cores
    "h100": Card("H100 SXM 80 GB", 989e12, 67e12, 79.2 * GIB, 3.35e12, PCIE_5, (9, 0)),
    "h100-pcie": Card("H100 PCIe 80 GB", 756e12, 51e12, 79.2 * GIB, 2.0e12, PCIE_5, (9, 0)),
    "h800": Card("H800 SXM 80 GB", 989e12, 67e12, 79.2 * GIB, 3.35e12, PCIE_5, (9, 0)),
    "h200": Card("H200 SXM 141 GB", 989e12, 67e12, 139.8 * GIB, 4.8e12, PCIE_5, (9, 0)),
    "h20": Card("H20 96 GB", 148e12, 44e12, 95.1 * GIB, 4.0e12, PCIE_5, (9, 0)),
    "b200": Card("B200 180 GB", 2250e12, 75e12, 178.3 * GIB, 7.7e12, PCIE_5, (10, 0)),
    "a100": Card("A100 SXM 80 GB", 312e12, 19.5e12, 79.2 * GIB, 2.039e12, PCIE_4, (8, 0)),
    "a100-40gb": Card("A100 SXM 40 GB", 312e12, 19.5e12, 39.4 * GIB, 1.555e12, PCIE_4, (8, 0)),
    "a800": Card("A800 SXM 80 GB", 312e12, 19.5e12, 79.2 * GIB, 2.039e12, PCIE_4, (8, 0)),
    "l40s": Card("L40S 48 GB", 362e12, 91.6e12, 44.4 * GIB, 0.864e12, PCIE_4, (8, 9)),
    "a6000": Card("RTX A6000 48 GB", 154.8e12, 38.7e12, 47.4 * GIB, 0.768e12, PCIE_4, (8, 6)),
    "4090": Card("RTX 4090 24 GB", 165.2e12, 82.6e12, 23.5 * GIB, 1.008e12, PCIE_4, (8, 9)),
    "5090": Card("RTX 5090 32 GB", 209.5e12, 104.8e12, 31.4 * GIB, 1.792e12, PCIE_5, (12, 0)),
}


@dataclass(frozen=True)
class Reached:
    """Shares of a data sheet's numbers that operators reach, and the time that a launch costs.

    An H100 SXM ran a bfloat16 product of 8192 x 8192 matrices at 798 TFLOP/s (0.81 of its peak) and a copy at
    3.0 TB/s (0.90 of its bandwidth); a model's products are smaller, and its copies shorter.
    """

    products: float = 0.72
    attention_forward: float = 0.45
    attention_backward: float = 0.35
    masked_forward: float = 0.16
    masked_backward: float = 0.11
    bandwidth: float = 0.85
    decoding_bandwidth: float = 0.6
    pcie: float = 0.75
    launch_seconds: float = 2e-6


REACHED = Reached()

CONTEXT_BYTES = 0.5 * GIB
"""CUDA's context, kernels and cuBLAS's workspace: memory that PyTorch's allocator does not hand out."""

SEGMENT_BYTES = 2 * 2**20
"""The allocator takes memory from the card in multiples of this."""


def find_card(name: str) -> Card:
    """The card of a short name, as `h100`; ConfigError that lists the names for any other."""
    try:
        return CARDS[name.lower()]
    except KeyError:
        raise ConfigError(f"--gpu {name}: no such card is known; known are {', '.join(CARDS)}") from None


def card_of_this_machine(device: Any) -> Card | None:
    """The card that `device` is, by its driver's name; None for one that isn't in the table."""
    import torch

    name = torch.cuda.get_device_properties(device).name.lower()
    # the longest key that the name holds: "nvidia h100 pcie" is not the SXM card
    words = name.replace("-", " ").split()
    keys = sorted((k for k in CARDS if all(part in words for part in k.split("-"))), key=len)
    return CARDS[keys[-1]] if keys else None
