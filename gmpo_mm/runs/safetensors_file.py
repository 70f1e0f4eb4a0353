"""Writes safetensors files and takes their SHA-256 from the bytes on their way to the disk.

`safetensors.torch.save_file` never releases Python's interpreter lock, so a thread that saves with it would
stop the training beside it, and the file would have to be read again for its hash. The bytes are the same as
its own.

Layout (https://huggingface.co/docs/safetensors, "Format"): 8 bytes with the header's length N, little-endian;
N bytes of JSON, padded with spaces to a multiple of 8; the tensors' bytes in the header's order, which is by
type, then by name.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path

import torch

CHUNK_BYTES = 1 << 23
_TYPES = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""In the order in which a file holds them."""
_ORDER = {dtype: place for place, dtype in enumerate(_TYPES)}


class WriteStopped(Exception):
    """`SafetensorsWriter.stop` was called; what was written so far is to be removed."""


class SafetensorsWriter:
    """Writes the safetensors files of one checkpoint; `stop` may be called from another thread."""

    def __init__(self) -> None:
        self.sha256: dict[Path, str] = {}
        """Hexadecimal SHA-256 of each file that was written, flushed and closed."""
        self._stop = threading.Event()

    def stop(self) -> None:
        """Make `save_file` and `check` raise WriteStopped as soon as they can."""
        self._stop.set()

    def check(self) -> None:
        """Raise WriteStopped if `stop` was called."""
        if self._stop.is_set():
            raise WriteStopped

    def save_file(
        self, tensors: Mapping[str, torch.Tensor], path: Path, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Write one file and flush it to the disk; OSError when the file system refuses.

        Tensors may be on any device and of any strides; one at a time is copied when it has to be.
        """
        names = sorted(tensors, key=lambda name: (_ORDER[tensors[name].dtype], name))
        digest = hashlib.sha256()
        with path.open("wb") as file:
            parts = (_bytes(tensors[name]) for name in names)  # one at a time: some are copies
            for data in itertools.chain([memoryview(_header(names, tensors, metadata))], parts):
                for start in range(0, len(data), CHUNK_BYTES):
                    self.check()
                    chunk = data[start : start + CHUNK_BYTES]
                    file.write(chunk)
                    digest.update(chunk)
            file.flush()
            os.fsync(file.fileno())
        self.sha256[path] = digest.hexdigest()


def _header(
    names: list[str], tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None
) -> bytes:
    entries: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        entries[name] = {
            "dtype": _TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _bytes(tensor: torch.Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().view(-1)
    return flat.view(torch.uint8).numpy().data if len(flat) else memoryview(b"")
