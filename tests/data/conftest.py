"""A real tokenizer and image processor (the tiny model's), and the real data where they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from gmpo_mm.models.processing import Processor, load_processor
from gmpo_mm.toys.tiny import model_config, write_model_files

SHARED_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def processor(tmp_path_factory: pytest.TempPathFactory) -> Processor:
    """Tokenizer and image processor of the tiny Qwen2.5-VL, loaded as for training."""
    folder = tmp_path_factory.mktemp("tiny")
    write_model_files(folder)
    return load_processor(str(folder), is_vision=True, image_token_id=model_config()["image_token_id"])


@pytest.fixture(scope="session")
def text_processor(processor: Processor) -> Processor:
    """The same without images."""
    return Processor(processor.tokenizer, None, None)


@pytest.fixture(scope="session")
def geometry3k() -> Path:
    """The folder with the three real Geometry3K files."""
    if not (SHARED_DATA / "geometry3k_test.parquet").is_file():
        pytest.skip("the real Geometry3K files are not beside this repository (../shared/data)")
    return SHARED_DATA
