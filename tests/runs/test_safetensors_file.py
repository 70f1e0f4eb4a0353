"""Our safetensors files against the library's own: the same bytes, and the hash of exactly those bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from gmpo_mm.runs.safetensors_file import CHUNK_BYTES, SafetensorsWriter, WriteStopped

TYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool,
]  # fmt: skip


def random_tensor(dtype: torch.dtype, shape: list[int], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype is torch.bool:
        return torch.randint(0, 2, shape, generator=generator).bool()
    size = torch.empty(0, dtype=dtype).element_size()
    return (
        torch.randint(0, 256, [*shape, size], generator=generator, dtype=torch.uint8)
        .view(dtype)
        .reshape(shape)
    )


def assert_same_bytes(
    folder: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "theirs", metadata=metadata
    )
    writer = SafetensorsWriter()
    writer.save_file(tensors, folder / "ours", metadata)
    assert (folder / "ours").read_bytes() == (folder / "theirs").read_bytes()
    assert writer.sha256 == {folder / "ours": hashlib.sha256((folder / "theirs").read_bytes()).hexdigest()}


NAMES = st.text(st.characters(exclude_categories=("Cs",)), max_size=8).filter(
    lambda name: name != "__metadata__"
)
SHAPES = st.lists(st.integers(0, 4), max_size=4)


@given(
    entries=st.dictionaries(NAMES, st.tuples(st.sampled_from(TYPES), SHAPES, st.integers(0, 99)), max_size=8),
    metadata=st.sampled_from([None, {"format": "pt"}]),
)
@settings(max_examples=300, deadline=None)
def test_every_type_shape_and_name_gives_the_librarys_bytes(tmp_path_factory, entries, metadata):
    tensors = {name: random_tensor(*entry) for name, entry in entries.items()}
    assert_same_bytes(tmp_path_factory.mktemp("file"), tensors, metadata)


def test_strides_gradients_and_large_tensors(tmp_path):
    tensors = {
        "transposed": torch.randn(3, 5).T,
        "expanded": torch.randn(1, 4).expand(3, 4),
        "sliced": torch.randn(10)[2:7:2],
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "more than a chunk": torch.randn(CHUNK_BYTES // 4 + 3),
    }
    assert_same_bytes(tmp_path, {name: tensor.detach() for name, tensor in tensors.items()})
    SafetensorsWriter().save_file(tensors, tmp_path / "again")
    assert all(torch.equal(load_file(tmp_path / "again")[name], tensor) for name, tensor in tensors.items())


def test_a_stopped_writer_writes_nothing_more(tmp_path):
    writer = SafetensorsWriter()
    writer.save_file({"x": torch.ones(3)}, tmp_path / "first")
    writer.stop()
    with pytest.raises(WriteStopped):
        writer.save_file({"x": torch.ones(3)}, tmp_path / "second")
    with pytest.raises(WriteStopped):
        writer.check()
    assert list(writer.sha256) == [tmp_path / "first"]
