"""`worker.actor.offload`: optimizer states and weights wait in CPU memory while vLLM has the GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

CPU = torch.device("cpu")
SLAB_BYTES = 1 << 28
"""Host memory is taken in pieces of this size: torch rounds each piece of pinned memory up to a power of
two."""
ALIGNMENT = 64


class HostCopy:
    """Tensors that move between a device and buffers in host memory, which are kept from round to round.

    A tensor stays the object that it is and keeps its values, shape and strides; tensors that share memory
    share it on both sides. Its memory on the device is free for others while it is away, once nobody else
    holds it.
    """

    def __init__(
        self,
        tensors: Callable[[], Iterable[torch.Tensor]],
        device: torch.device,
        host: torch.device = CPU,
        pin: bool = True,
    ) -> None:
        """`tensors()` names them anew each time; those that are not on `device` stay where they are.

        `pin` takes page-locked memory, from which and to which a GPU copies by itself; it needs CUDA.
        """
        self._tensors, self._device, self._host, self._pin = tensors, device, host, pin
        self._buffers: list[torch.Tensor] = []
        self._away: list[tuple[torch.Tensor, int]] = []  # a tensor and the number of its buffer

    def to_host(self) -> None:
        """Move the tensors to the host; nothing happens where they are there already."""
        if self._away:
            return
        storages: dict[int, tuple[int, torch.UntypedStorage]] = {}
        for tensor in {id(tensor): tensor for tensor in self._tensors()}.values():
            storage = tensor.untyped_storage()
            if tensor.device != self._device or storage.nbytes() == 0:
                continue
            assert tensor.grad is None, "gradients are freed after each update, before the weights leave"
            number, _ = storages.setdefault(storage.data_ptr(), (len(storages), storage))
            self._away.append((tensor, number))
        sizes = [storage.nbytes() for _, storage in storages.values()]
        if sizes != [len(buffer) for buffer in self._buffers]:
            _wait_for(self._device)  # for copies out of them that may be under way
            self._buffers = []  # before there are new ones
            self._buffers = carve(sizes, self._host, self._pin)
        for number, storage in storages.values():
            self._buffers[number].copy_(_bytes_of(storage), non_blocking=True)
        _wait_for(self._device)
        for tensor, number in self._away:
            tensor.data = _on(self._buffers[number], tensor)

    def to_device(self) -> None:
        """Move them back; nothing happens where they are there already.

        Later work on the device finds them in place.
        """
        arrived = {
            number: torch.empty_like(self._buffers[number], device=self._device) for _, number in self._away
        }
        for number, memory in arrived.items():
            memory.copy_(self._buffers[number], non_blocking=True)
        for tensor, number in self._away:
            tensor.data = _on(arrived[number], tensor)
        self._away = []


class Offload:
    """What leaves the device for a round of sampling.

    The order: optimizer states and reference leave, vLLM takes the policy's weights over, the policy leaves.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        policy: torch.nn.Module,
        reference: torch.nn.Module | None,
        device: torch.device,
        *,
        optimizer_states: bool,
        weights: bool,
        pin: bool = True,
    ) -> None:
        """`optimizer_states` moves all tensors that the optimizer keeps, `weights` policy and reference."""

        def of_optimizer() -> list[torch.Tensor]:
            found = [value for state in optimizer.state.values() for value in state.values()]
            return [value for value in found if isinstance(value, torch.Tensor)]

        def of_module(module: torch.nn.Module) -> Callable[[], Iterable[torch.Tensor]]:
            return lambda: [*module.parameters(), *module.buffers()]

        self._before_sync: list[HostCopy] = []
        self._after_sync: list[HostCopy] = []
        if optimizer_states:
            self._before_sync.append(HostCopy(of_optimizer, device, pin=pin))
        if weights:
            self._after_sync.append(HostCopy(of_module(policy), device, pin=pin))
            if reference is not None:
                self._before_sync.append(HostCopy(of_module(reference), device, pin=pin))

    def before_sync(self) -> None:
        """Move all but the policy, whose weights vLLM reads next."""
        for part in self._before_sync:
            part.to_host()

    def after_sync(self) -> None:
        """Move the policy."""
        for part in self._after_sync:
            part.to_host()

    def back(self) -> None:
        """Move everything to the device again."""
        for part in (*self._after_sync, *self._before_sync):
            part.to_device()


def carve(sizes: Sequence[int], host: torch.device, pin: bool) -> list[torch.Tensor]:
    """Byte buffers of these sizes, cut out of few large ones.

    Each is a storage of its own, which keeps the large one alive.
    """
    buffers: dict[int, torch.Tensor] = {}
    slabs: list[list] = []  # [bytes, how many are taken]
    padded = [-(-size // ALIGNMENT) * ALIGNMENT for size in sizes]
    left = sum(padded)
    for number in sorted(
        range(len(sizes)), key=lambda i: padded[i], reverse=True
    ):  # the largest first, so that gaps fill up
        slab = next((slab for slab in slabs if slab[1] + padded[number] <= len(slab[0])), None)
        if slab is None:
            length = max(padded[number], min(SLAB_BYTES, left))
            slab = [
                torch.empty(1 << (length - 1).bit_length(), dtype=torch.uint8, device=host, pin_memory=pin),
                0,
            ]
            slabs.append(slab)
        buffers[number] = torch.frombuffer(
            slab[0].numpy(), dtype=torch.uint8, count=sizes[number], offset=slab[1]
        )
        slab[1] += padded[number]
        left -= padded[number]
    return [buffers[number] for number in range(len(sizes))]


def _bytes_of(storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _on(memory: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """A tensor like `tensor` whose storage is that of the bytes in `memory`."""
    place = (tensor.storage_offset(), tensor.shape, tensor.stride())
    return torch.empty(0, dtype=tensor.dtype, device=memory.device).set_(memory.untyped_storage(), *place)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
