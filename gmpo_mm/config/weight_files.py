"""Whether a folder's weights are whole as far as that can be told without reading them: headers, offsets, sizes.

A safetensors file is 8 bytes with the header's length, the header as JSON, and the tensors' bytes without a gap
(https://huggingface.co/docs/safetensors, "Format").
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from gmpo_mm.errors import ConfigError

ADAPTER_WEIGHTS = "adapter_model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_HEADER_BYTES = 100_000_000
"""The format's own bound."""
_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8}
_BITS |= {"I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32}
_BITS |= {"F64": 64, "I64": 64, "U64": 64, "C64": 64}
_ADVICE = "fetch or copy the model again"


def check_weight_files(folder: Path, key: str) -> None:
    """ConfigError that names `key` and the first file of a model's folder that is cut, damaged or missing."""
    index = folder / INDEX_FILE
    try:
        named = _shards(index) if index.is_file() else {}
        read = {*named.values(), ADAPTER_WEIGHTS}  # beside an index, other files are nobody's
        files = sorted(f for f in folder.iterdir() if f.suffix == ".safetensors" and (not named or f.name in read))
    except OSError as error:
        raise ConfigError(f"{key}: {error.filename or folder} can't be read ({error.strerror}); {_ADVICE}") from error
    except ValueError as error:
        raise ConfigError(f"{key}: {index} is damaged ({error}); {_ADVICE}") from None
    for name in sorted(set(named.values())):
        if not (folder / name).is_file():
            raise ConfigError(f"{key}: {folder / name} is missing, which {INDEX_FILE} names; {_ADVICE}")
    tensors: dict[str, set[str]] = {}
    for file in files:
        try:
            tensors[file.name] = _tensors(file)
        except OSError as error:
            raise ConfigError(f"{key}: {file} can't be read ({error.strerror}); {_ADVICE}") from error
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"{key}: the weights in {file} are damaged ({error}); {_ADVICE}") from None
    for tensor, name in named.items():
        if name in tensors and tensor not in tensors[name]:
            raise ConfigError(f"{key}: {folder / name} lacks {tensor}, which {INDEX_FILE} says it holds; {_ADVICE}")


def check_has_weights(folder: Path, key: str) -> None:
    """ConfigError unless a folder of a model or an adapter holds weights in safetensors format, the only one that is read."""
    if any(folder.glob("*.safetensors")) or (folder / INDEX_FILE).is_file():
        return
    others = sorted(file.name for file in folder.iterdir() if file.suffix in (".bin", ".pt", ".pth", ".gguf"))
    found = f" (but {', '.join(others[:3])}, which is not read)" if others else ""
    raise ConfigError(
        f"{key}: {folder} holds no weights in safetensors format{found}; {_ADVICE}, or convert it with "
        "model.save_pretrained(folder)"
    )


def _shards(index: Path) -> dict[str, str]:
    """Tensor -> file. ValueError for an index of another form."""
    content = json.loads(index.read_bytes())
    found = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found or not all(isinstance(name, str) for name in found.values()):
        raise ValueError("it has no weight_map from tensors to files")
    if any(Path(name).name != name for name in found.values()):
        raise ValueError("its weight_map names a file outside the folder")
    return found


def _tensors(file: Path) -> set[str]:
    """The names of a file's tensors; ValueError for a file that is not whole."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        first = stream.read(8)
        length = int.from_bytes(first, "little")
        if len(first) < 8 or length > MAX_HEADER_BYTES or size < 8 + length:
            raise ValueError(f"it has {size:,} bytes, which is less than its header; it was cut, or is no safetensors file")
        header = _header(stream.read(length))
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: _offsets(*item)):
        begin, next_end = _offsets(name, entry)
        bits = _BITS.get(entry.get("dtype"), 0) * math.prod(entry["shape"])
        if begin != end or next_end < begin or (bits and (next_end - begin) * 8 != bits):
            raise ValueError(f"its header gives {name} a wrong place or size")
        end = next_end
    if size != 8 + length + end:
        raise ValueError(f"it has {size:,} bytes, and its header says {8 + length + end:,}")
    return set(header)


def _header(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON mapping")
    header.pop("__metadata__", None)
    return header


def _offsets(name: str, entry: Any) -> tuple[int, int]:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    shape = entry.get("shape") if isinstance(entry, dict) else None
    is_place = isinstance(offsets, list) and len(offsets) == 2 and isinstance(shape, list)
    if not is_place or not all(type(number) is int and number >= 0 for number in (*offsets, *shape)):  # type: ignore[misc]
        raise ValueError(f"its header has no place or shape for {name}")
    return offsets[0], offsets[1]  # type: ignore[index]
