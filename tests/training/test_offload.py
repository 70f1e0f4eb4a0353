"""Tensors leave for host memory and come back bit for bit. Both sides are CPU memory here; a GPU run copies
the same way."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from gmpo_mm.training import offload
from gmpo_mm.training.offload import HostCopy, Offload, carve
from tests.models.model_zoo import build_policy

CPU = torch.device("cpu")
NEEDS_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def trained(steps: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer, first: int = 0) -> None:
    for step in range(first, first + steps):
        generator = torch.Generator().manual_seed(step)
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.grad = noise.to(parameter.device)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def model_and_optimizer(device: torch.device = CPU) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    model = build_policy("qwen2_5_vl").module.to(device)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)


def state_of(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    moments = [state[key] for state in optimizer.state.values() for key in ("step", "exp_avg", "exp_avg_sq")]
    return [*model.parameters(), *model.buffers(), *moments]


def offload_of(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, reference: torch.nn.Module | None = None
) -> Offload:
    return Offload(optimizer, model, reference, CPU, optimizer_states=True, weights=True, pin=False)


def test_training_with_offloading_is_training_without_it() -> None:
    (model, optimizer), (twin, twins) = model_and_optimizer(), model_and_optimizer()
    moved = offload_of(model, optimizer)
    for round_ in range(3):  # in the first there is no optimizer state yet
        moved.before_sync()
        moved.after_sync()
        moved.back()
        trained(2, model, optimizer, first=2 * round_)
        trained(2, twin, twins, first=2 * round_)
    for ours, theirs in zip(state_of(model, optimizer), state_of(twin, twins), strict=True):
        assert torch.equal(ours, theirs)


def test_values_can_be_read_while_they_are_away_and_every_device_storage_is_free() -> None:
    model, optimizer = model_and_optimizer()
    trained(1, model, optimizer)
    tensors = state_of(model, optimizer)
    before = [tensor.clone() for tensor in tensors]
    shapes = [(tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors]
    on_device = [StorageWeakRef(tensor.untyped_storage()) for tensor in tensors]
    moved = offload_of(model, optimizer)
    moved.before_sync()
    weights = [*model.parameters(), *model.buffers()]  # vLLM reads them now
    assert [ref.expired() for ref in on_device].count(False) == len(weights)
    moved.after_sync()
    assert all(ref.expired() for ref in on_device)
    assert all(
        torch.equal(tensor, value) for tensor, value in zip(tensors, before, strict=True)
    )  # a checkpoint can be saved
    on_host = [StorageWeakRef(tensor.untyped_storage()) for tensor in tensors]
    moved.back()
    assert not any(ref.expired() for ref in on_host), "the host's buffers wait for the next round"
    assert all(torch.equal(tensor, value) for tensor, value in zip(tensors, before, strict=True))
    assert shapes == [(tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors]


def test_the_reference_leaves_before_the_policys_weights_go_to_vllm() -> None:
    model, optimizer = model_and_optimizer()
    reference = copy.deepcopy(model)
    moved = offload_of(model, optimizer, reference)
    refs = [StorageWeakRef(next(module.parameters()).untyped_storage()) for module in (model, reference)]
    moved.before_sync()
    assert [ref.expired() for ref in refs] == [False, True]
    moved.after_sync()
    assert [ref.expired() for ref in refs] == [True, True]
    moved.back()
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_host_buffers_are_kept_from_round_to_round() -> None:
    model, optimizer = model_and_optimizer()
    trained(1, model, optimizer)
    moved, seen = offload_of(model, optimizer), []
    for _ in range(2):
        moved.before_sync()
        moved.after_sync()
        seen.append([tensor.data_ptr() for tensor in state_of(model, optimizer)])
        moved.back()
    assert seen[0] == seen[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_what_shares_memory_shares_it_on_both_sides(dtype: torch.dtype) -> None:
    base = torch.arange(24).to(dtype).view(4, 6)
    column, turned = base[:, 2], base.t()
    tied = torch.nn.Parameter(base, requires_grad=False)
    other = torch.ones(3, dtype=torch.float64)
    tensors = [base, column, turned, tied, other]
    values = [tensor.clone() for tensor in tensors]
    moved = HostCopy(lambda: tensors, CPU, pin=False)
    moved.to_host()
    moved.to_host()  # a second call changes nothing
    for _ in ("on the host", "on the device"):
        assert all(torch.equal(tensor, value) for tensor, value in zip(tensors, values, strict=True))
        assert turned.stride() == (1, 6) and column.stride() == (6,) and column.storage_offset() == 2
        assert {t.untyped_storage().data_ptr() for t in tensors[:4]} == {base.untyped_storage().data_ptr()}
        assert other.untyped_storage().data_ptr() != base.untyped_storage().data_ptr()
        moved.to_device()
        moved.to_device()
    base.view(-1)[2] = 1
    assert column[0] == 1 and tied[0, 2] == 1


def test_a_tensor_elsewhere_stays_there() -> None:
    elsewhere = torch.empty(3, device="meta")
    here = torch.ones(3)
    moved = HostCopy(lambda: [elsewhere, here], CPU, pin=False)
    place = here.data_ptr()
    moved.to_host()
    assert here.data_ptr() != place and elsewhere.device.type == "meta"
    moved.to_device()


def test_weights_that_have_gradients_do_not_leave() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    with pytest.raises(AssertionError, match="gradients are freed"):
        HostCopy(lambda: [weight], CPU, pin=False).to_host()


def test_little_host_memory_is_wasted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offload, "SLAB_BYTES", 1 << 14)
    taken: list[int] = []
    empty = torch.empty

    def counted(length: int, **options: object) -> torch.Tensor:
        taken.append(length)
        return empty(length, **options)

    monkeypatch.setattr(torch, "empty", counted)
    sizes = [5 * 1024, 4, 4, 33 * 1024, *[1536] * 40, 100]
    buffers = carve(sizes, CPU, pin=False)
    monkeypatch.undo()
    assert all(length & (length - 1) == 0 for length in taken)  # torch rounds up to a power of two
    one_by_one = sum(1 << (size - 1).bit_length() for size in sizes)
    assert sum(sizes) <= sum(taken) < 1.15 * sum(sizes) < one_by_one
    assert [len(buffer) for buffer in buffers] == sizes
    spans = sorted((buffer.data_ptr(), buffer.data_ptr() + len(buffer)) for buffer in buffers)
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    for number, buffer in enumerate(buffers):
        buffer.fill_(number)
    assert all((buffer == number).all() for number, buffer in enumerate(buffers))


@NEEDS_CUDA
def test_on_a_gpu_the_memory_is_given_back_and_the_values_return() -> None:
    device = torch.device("cuda:0")
    model, optimizer = model_and_optimizer(device)
    trained(2, model, optimizer)
    before = [tensor.clone().cpu() for tensor in state_of(model, optimizer)]
    torch.cuda.synchronize()
    held = torch.cuda.memory_allocated()
    moved = Offload(optimizer, model, None, device, optimizer_states=True, weights=True)
    for _ in range(2):
        moved.before_sync()
        moved.after_sync()
        assert torch.cuda.memory_allocated() < held // 10
        assert all(t.device.type == "cpu" and t.is_pinned() for t in (*model.parameters(), *model.buffers()))
        moved.back()
        assert all(t.device == device for t in state_of(model, optimizer))
        assert all(
            torch.equal(t.cpu(), value) for t, value in zip(state_of(model, optimizer), before, strict=True)
        )
    trained(1, model, optimizer, first=2)
