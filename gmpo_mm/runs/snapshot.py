"""Copies of a run's tensors in host memory, so that they can be written while training goes on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import psutil
import torch

from gmpo_mm.errors import TrainingError

ALIGNMENT = 64


class HostCopies:
    """Copies tensors to the CPU.

    `reuse`: one buffer is filled again by every call, so that the former copies are lost. `pin`: it is
    page-locked, so that a GPU writes into it at full speed. Without `reuse` each call makes fresh copies,
    freed with the last reference.
    """

    def __init__(self, *, reuse: bool, pin: bool) -> None:
        self._reuse, self._pin = reuse, pin
        self._buffer = np.empty(0, dtype=np.uint8)

    @classmethod
    def of_device(cls, device: torch.device) -> HostCopies:
        """For tensors on `device`: a pinned, reused buffer for a GPU, fresh copies for the CPU."""
        return cls(reuse=device.type == "cuda", pin=device.type == "cuda")

    def missing_bytes(self, tensors: Mapping[str, torch.Tensor]) -> int:
        """Host memory that `copy` of these tensors would take beyond what is held already."""
        need = sum(_room(tensor) for tensor in _distinct(tensors).values())
        return max(0, need - self._buffer.nbytes)

    def copy(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors on the CPU, contiguous; one that has several names is copied once and keeps them.

        Raises TrainingError when the buffer can't be page-locked.
        """
        distinct = _distinct(tensors)
        if self._reuse:
            copies = self._fill_buffer(distinct)
        else:
            copies = {
                key: value.detach().clone(memory_format=torch.contiguous_format)
                for key, value in distinct.items()
            }
        return {name: copies[id(tensor)] for name, tensor in tensors.items()}

    def _fill_buffer(self, tensors: Mapping[int, torch.Tensor]) -> dict[int, torch.Tensor]:
        need = sum(_room(tensor) for tensor in tensors.values())
        if need > self._buffer.nbytes:
            self._replace_buffer(need)
        copies: dict[int, torch.Tensor] = {}
        start = 0
        for key, tensor in tensors.items():
            copies[key] = _part(self._buffer, start, tensor)
            copies[key].copy_(tensor.detach(), non_blocking=True)
            start += _room(tensor)
        if self._pin:
            torch.cuda.synchronize()
        return copies

    def _replace_buffer(self, size: int) -> None:
        """Page-locked in place: torch's own pinned memory is rounded up to a power of two, twice the size at
        worst."""
        if self._pin and self._buffer.nbytes:
            torch.cuda.cudart().cudaHostUnregister(self._buffer.ctypes.data)
        self._buffer = np.empty(0, dtype=np.uint8)  # the former one is freed before the new one is made
        buffer = np.empty(size, dtype=np.uint8)
        if self._pin:
            code = int(torch.cuda.cudart().cudaHostRegister(buffer.ctypes.data, buffer.nbytes, 0))
            if code != 0:
                raise TrainingError(
                    f"could not page-lock {size:,} bytes of host memory for checkpoints (CUDA error {code}); free host "
                    "memory, or raise the limit of locked memory (ulimit -l), then run the same command again"
                )
        self._buffer = buffer


def available_memory(control_group: Path = Path("/sys/fs/cgroup")) -> int:
    """Bytes that this process could still allocate on the host: the machine's, or less where a container has
    a limit.

    psutil knows nothing of a container's limit (cgroup v2). Cached files count as used there, but make room.
    """
    available = int(psutil.virtual_memory().available)
    try:
        limit = (control_group / "memory.max").read_text().strip()
        if limit == "max":
            return available
        used = int((control_group / "memory.current").read_text())
        facts = dict(line.split() for line in (control_group / "memory.stat").read_text().splitlines())
        return min(available, int(limit) - used + int(facts["inactive_file"]))
    except FileNotFoundError:  # no control groups of this version here
        return available


def _distinct(tensors: Mapping[str, torch.Tensor]) -> dict[int, torch.Tensor]:
    return {id(tensor): tensor for tensor in tensors.values()}


def _room(tensor: torch.Tensor) -> int:
    size = tensor.numel() * tensor.element_size()
    return size + -size % ALIGNMENT


def _part(buffer: np.ndarray, start: int, like: torch.Tensor) -> torch.Tensor:
    """A tensor with a storage of its own: to safetensors and transformers, tensors of one storage are tied
    weights."""
    if not like.numel():
        return torch.empty(like.shape, dtype=like.dtype)
    part = torch.frombuffer(buffer, dtype=like.dtype, count=like.numel(), offset=start)  # type: ignore[call-overload]
    return part.view(like.shape)
