"""Copies in host memory: exact, apart from what training goes on with, one for each tied weight."""

from __future__ import annotations

import psutil
import pytest
import torch

from gmpo_mm.runs.snapshot import HostCopies, available_memory


def some_tensors():
    tied = torch.nn.Parameter(torch.randn(4, 3))
    return {
        "embedding": tied,
        "head": tied,
        "transposed": torch.randn(3, 5).T,
        "half": torch.randn(7).bfloat16(),
        "step": torch.tensor(7.0),
        "empty": torch.zeros(0, 3),
    }


@pytest.mark.parametrize("reuse", [False, True])
def test_copies_stay_as_they_were_and_tied_names_share_one(reuse):
    tensors = some_tensors()
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    copies = HostCopies(reuse=reuse, pin=False).copy(tensors)
    with torch.no_grad():
        for tensor in tensors.values():
            tensor.add_(1)
    assert copies.keys() == tensors.keys() and copies["embedding"] is copies["head"]
    for name, copy in copies.items():
        assert copy.dtype == before[name].dtype and torch.equal(copy, before[name])
        assert copy.is_contiguous() and not copy.requires_grad and copy.data_ptr() % copy.element_size() == 0
    # transformers takes tensors of one storage for tied weights
    storages = {
        name: copy.untyped_storage() for name, copy in copies.items() if copy.numel() and name != "head"
    }
    assert len({storage.data_ptr() for storage in storages.values()}) == len(storages)
    assert all(len(storage) == copies[name].nbytes for name, storage in storages.items())


def test_a_reused_buffer_is_allocated_once_and_grows_when_it_has_to():
    tensors = some_tensors()
    copies = HostCopies(reuse=True, pin=False)
    assert copies.missing_bytes(tensors) == 4 * 64  # each rounded up to 64 bytes, a tied one once
    first = copies.copy(tensors)
    assert copies.missing_bytes(tensors) == 0
    with torch.no_grad():
        tensors["embedding"].add_(1)
    second = copies.copy(tensors)
    assert first["embedding"].data_ptr() == second["embedding"].data_ptr()
    assert torch.equal(second["embedding"], tensors["embedding"])

    tensors["one more"] = torch.randn(100)
    assert copies.missing_bytes(tensors) == 448
    third = copies.copy(tensors)
    assert all(torch.equal(third[name], tensor) for name, tensor in tensors.items())


def test_fresh_copies_cost_their_bytes_every_time():
    tensors = some_tensors()
    copies = HostCopies(reuse=False, pin=False)
    copies.copy(tensors)
    assert copies.missing_bytes(tensors) > 0


@pytest.mark.parametrize(("limit", "expected"), [("max", None), ("5000", 2100), (str(2**60), None)])
def test_a_containers_limit_counts(tmp_path, monkeypatch, limit, expected):
    machine = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    (tmp_path / "memory.max").write_text(limit + "\n")
    (tmp_path / "memory.current").write_text("3000\n")
    (tmp_path / "memory.stat").write_text("anon 2800\ninactive_file 100\n")
    assert available_memory(tmp_path) == (expected or machine.available)
    assert available_memory(tmp_path / "none") == machine.available
