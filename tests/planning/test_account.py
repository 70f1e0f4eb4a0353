"""The account of a device that need not be there: bytes, kinds, phases, values that are known, and reads
by the host.
"""

import gc

import pytest
import torch
from torch import nn

from gmpo_mm.planning.account import Account, NotPlannableError, known_value

MIB = 2**20
GPU, CPU = torch.device("cuda:0"), torch.device("cpu")


def test_live_bytes_rise_and_fall_with_tensors_and_views_cost_nothing() -> None:
    account = Account(GPU)
    with account, account.phase_of("work"):
        a = torch.empty(MIB, device=GPU)
        b = a.view(1024, -1).t()[3:]
        assert (account.live, account.kinds["activations"]) == (4 * MIB, 4 * MIB)
        c = a * 2
        assert account.live == 8 * MIB
        del c
        d = a.to(torch.bfloat16)
        assert account.live == 6 * MIB
        a.add_(1)
        assert account.live == 6 * MIB
        del a, b, d
        gc.collect()
    assert account.live == 0
    assert account.peaks["work"].total == 8 * MIB


def test_blocks_of_the_gpu_s_allocator_are_512_bytes() -> None:
    account = Account(GPU)
    with account:
        kept = [torch.empty(1, device=GPU), torch.empty(129, device=GPU)]
    assert account.live == 512 + 1024
    del kept


def test_kinds_are_told_apart_and_add_up() -> None:
    account = Account(GPU, vocabulary=100)
    with account.building():
        layer = nn.Linear(64, 100, bias=False)
    account.register("weights", list(layer.parameters()))
    hidden = torch.zeros(32, 64)
    with account, account.phase_of("update"):
        logits = layer(hidden.to(GPU))
        loss = logits.log_softmax(-1).sum()
        loss.backward()
    account.register("gradients", [layer.weight.grad])
    assert account.kinds["weights"] == account.kinds["gradients"] == 64 * 100 * 4
    peak = account.peaks["update"]
    assert peak.kinds["logits"] >= 2 * 32 * 100 * 4
    assert sum(peak.kinds.values()) == peak.total


def test_the_bytes_are_those_of_the_same_work_on_the_cpu() -> None:
    def work(device: torch.device) -> int:
        account = Account(device)
        with account.building():
            layer = nn.Linear(256, 256)
        account.register("weights", list(layer.parameters()))
        with account, account.phase_of("update"):
            layer(torch.zeros(512, 256).to(device)).relu().sum().backward()
        return account.peaks["update"].total

    on_gpu, on_cpu = work(GPU), work(CPU)
    # on the CPU the input is where it is used; on the GPU it is a copy, and blocks are rounded up
    assert 0 <= on_gpu - on_cpu <= 10 * 512


def test_python_sees_the_planned_device_and_only_while_the_account_is_on() -> None:
    account = Account(GPU)
    before = torch.autocast.__init__
    with account:
        x = torch.zeros(3).to(GPU)
        assert x.device == GPU and x.is_cuda and (x + 1).device == GPU
        assert x.to(GPU).untyped_storage()._cdata == x.untyped_storage()._cdata
        with torch.autocast("cuda", dtype=torch.bfloat16):
            assert torch.is_autocast_enabled("cuda")
            assert torch.nn.functional.linear(x[None], x[None]).dtype == torch.bfloat16
        assert torch.cuda.get_device_capability() == (9, 0)
    assert torch.autocast.__init__ is before
    assert not x.is_cuda


def test_whole_numbers_that_the_host_copied_over_keep_their_values() -> None:
    account = Account(GPU)
    with account:
        lengths = torch.tensor([3, 5, 2]).to(GPU)
        starts = torch.cat([torch.zeros(1, dtype=torch.long, device=GPU), lengths.cumsum(0)])
        value = known_value(starts)
        mask = torch.arange(5, device=GPU) < lengths[:, None]
        picked = torch.rand(3, 5, device=GPU)[mask]
        assert picked.shape == (10,)
        assert int(lengths.max()) == 5
        lengths += torch.randn(3, device=GPU).long()
        assert known_value(lengths) is None
    assert value is not None
    assert value.tolist() == [0, 3, 8, 10]


def test_reads_are_counted_on_a_gpu_and_answered_without_finding_a_fault() -> None:
    account = Account(GPU)
    with account:
        x = torch.randn(4, device=GPU)
        assert float(x.sum()) == 1.0
        assert not bool((x > 3).any())
        assert bool(x.isfinite().all())
        host = torch.zeros(4)
        host.copy_(x)
        assert x.tolist() == [1.0] * 4  # one transfer
    assert sum(account.reads.values()) == 5
    assert host.tolist() == [0, 0, 0, 0]
    on_cpu = Account(CPU)
    with on_cpu.building():
        y = torch.randn(4)
    with on_cpu:
        float(y.sum())
    assert not on_cpu.reads


@pytest.mark.parametrize("read", [lambda x: x.nonzero(), lambda x: x[x > 0], lambda x: int(x.argmax())])
def test_shapes_that_only_a_real_gpu_knows_can_t_be_planned(read: object) -> None:
    account = Account(GPU)
    with (
        account,
        account.phase_of("update"),
        pytest.raises(NotPlannableError, match="only a real device has"),
    ):
        read(torch.randn(4, device=GPU))  # type: ignore[operator]
