"""A model whose weights are cut or damaged is refused before anything is loaded, whoever reads it."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import pytest

from gmpo_mm.config.paths import BUNDLED_MODELS, find_model
from gmpo_mm.config.weight_files import INDEX_FILE, check_weight_files
from gmpo_mm.errors import ConfigError
from gmpo_mm.models.loading import load_model

KEY = "worker.actor.model.model_path"
MODEL = BUNDLED_MODELS / "qwen2_5_vl_tiny"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MODEL, tmp_path / "model"))


def weights_of(model: Path) -> Path:
    return next(model.glob("*.safetensors"))


def with_header(file: Path, change: dict[str, object] | bytes) -> None:
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = change if isinstance(change, bytes) else json.dumps(json.loads(data[8 : 8 + length]) | change).encode()
    file.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])


def in_shards(model: Path) -> tuple[Path, Path]:
    """The same model in two files with an index."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(weights_of(model))
    weights_of(model).unlink()
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, model / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in parts.items() for name in part}}
    (model / INDEX_FILE).write_text(json.dumps(index))
    first, second = (model / file for file in parts)
    return first, second


@pytest.mark.parametrize("cut", [1, 0.1, 0.5, 0.999])
def test_cut_weights_are_refused_when_named_and_when_loaded(model: Path, cut: float) -> None:
    file = weights_of(model)
    file.write_bytes(file.read_bytes()[: int(cut * file.stat().st_size) if cut != 1 else 5])
    for read in (lambda: find_model(str(model), KEY), lambda: load_model(str(model))):
        with pytest.raises(ConfigError) as refused:
            read()
        assert KEY in str(refused.value) and file.name in str(refused.value) and "again" in str(refused.value)


@pytest.mark.parametrize(
    "header",
    [
        b"[]", b"{", b"\xff\xfe", b"[" * 100_000, {"x": 1}, {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}},
        {"x": {"dtype": "F32", "shape": ["a"], "data_offsets": [0, 4]}},
        {"x": {"dtype": "F32", "shape": [1], "data_offsets": [-4, 0]}},
    ],
    ids=["list", "cut", "no text", "deep", "number", "overlap", "text", "negative"],
)  # fmt: skip
def test_damaged_header_is_refused(model: Path, header: dict[str, object] | bytes) -> None:
    with_header(weights_of(model), header)
    with pytest.raises(ConfigError, match="damaged"):
        check_weight_files(model, KEY)


def test_whole_models_pass(model: Path) -> None:
    for folder in BUNDLED_MODELS.glob("*/config.json"):
        check_weight_files(folder.parent, KEY)
    in_shards(model)
    check_weight_files(model, KEY)
    load_model(str(model))


def test_missing_cut_and_exchanged_shards_are_named(model: Path) -> None:
    first, second = in_shards(model)
    whole = first.read_bytes()
    first.write_bytes(whole[:-3])
    with pytest.raises(ConfigError, match=first.name):
        check_weight_files(model, KEY)
    first.write_bytes(second.read_bytes())
    with pytest.raises(ConfigError, match="lacks"):
        check_weight_files(model, KEY)
    first.unlink()
    with pytest.raises(ConfigError, match=f"{first.name} is missing"):
        check_weight_files(model, KEY)


@pytest.mark.parametrize(
    "content", [b"[]", b"{}", b"{", b'{"weight_map": {"a": "../x"}}', b'{"weight_map": {"a": 1}}', b"\xff"]
)
def test_damaged_index_is_refused(model: Path, content: bytes) -> None:
    in_shards(model)
    (model / INDEX_FILE).write_bytes(content)
    with pytest.raises(ConfigError, match=INDEX_FILE):
        check_weight_files(model, KEY)


@pytest.mark.parametrize("seed", range(6))
def test_any_cut_is_found(model: Path, seed: int) -> None:
    file = weights_of(model)
    data = file.read_bytes()
    file.write_bytes(data[: random.Random(seed).randrange(len(data))])
    with pytest.raises(ConfigError):
        check_weight_files(model, KEY)
