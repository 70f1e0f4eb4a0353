"""Pictures that travel as bytes reach the vision tower with the bits of transformers' own processors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode

from gmpo_mm.data import RecordKeys, load_records
from gmpo_mm.data.patches import ImagePatches, pixel_values
from gmpo_mm.data.prompts import load_images
from gmpo_mm.errors import ConfigError
from gmpo_mm.models.processing import Processor, load_processor
from gmpo_mm.toys.tiny import write_model_files

CLIP = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "patch_size": 14,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}
PUBLISHED = {  # `preprocessor_config.json` of Qwen's checkpoints
    "qwen2_vl and qwen2_5_vl": {**CLIP, "min_pixels": 3136, "max_pixels": 12845056},
    "qwen3_vl": {
        "image_processor_type": "Qwen2VLImageProcessorFast",
        "patch_size": 16,
        "size": {"longest_edge": 16777216, "shortest_edge": 65536},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    },
    "no rescaling": {**CLIP, "do_rescale": False},
}
SIZES = [(28, 28), (1, 1), (3, 200), (1000, 30), (300, 200), (640, 480), (57, 57), (896, 896)]


@pytest.fixture(scope="module", params=list(PUBLISHED))
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Processor:
    folder = tmp_path_factory.mktemp("published")
    write_model_files(folder)
    options = {"temporal_patch_size": 2, "merge_size": 2, **PUBLISHED[request.param]}
    (folder / "preprocessor_config.json").write_text(json.dumps(options))
    return load_processor(str(folder), is_vision=True, image_token_id=5)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def transformers_own(processor: Processor, images: list[Image.Image]) -> Any:
    arrays = [np.asarray(image) for image in images]
    return processor.image_processor(images=arrays, return_tensors="pt", input_data_format="channels_last")


def assert_same_bits(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert found.dtype == wanted.dtype == torch.float32 and found.is_contiguous()
    assert torch.equal(found.view(torch.int32), wanted.view(torch.int32))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_picture_has_the_bits_of_transformers_own_processor(
    published: Processor, size: tuple[int, int]
) -> None:
    image = noise(*size)
    wanted = transformers_own(published, [image])
    patches, grids = published.cut([image])
    assert torch.equal(grids, wanted["image_grid_thw"]) and grids.dtype == torch.int64
    assert_same_bits(patches.pixel_values, wanted["pixel_values"])
    size_of = {
        name: tensor.nbytes
        for name, tensor in (("now", patches.bytes_PF), ("before", wanted["pixel_values"]))
    }
    assert size_of["before"] == 8 * size_of["now"]


def test_several_pictures_and_several_prompts_keep_their_order(published: Processor) -> None:
    images = [noise(*size, seed=i) for i, size in enumerate(SIZES[:6])]
    wanted = transformers_own(published, images)
    first, grids = published.cut(images[:2])
    others = [published.cut([image])[0] for image in images[2:]]
    assert torch.equal(grids, wanted["image_grid_thw"][:2])
    assert_same_bits(pixel_values([first, *others], torch.device("cpu")), wanted["pixel_values"])


def test_real_pictures_have_the_bits_of_transformers_own_processor(
    published: Processor, geometry3k: Path
) -> None:
    records = load_records(
        str(geometry3k / "geometry3k_validation.parquet"), RecordKeys(prompt_key="problem")
    )
    for row in range(0, len(records), 10):
        images = list(load_images(records[row], max_pixels=400_000))
        assert_same_bits(
            published.cut(images)[0].pixel_values, transformers_own(published, images)["pixel_values"]
        )


def test_an_image_processor_that_mixes_pixels_is_refused(processor: Processor) -> None:
    real: Any = processor.image_processor

    class Blurring:
        patch_size, merge_size = real.patch_size, real.merge_size

        def __call__(self, **kwargs: Any) -> Any:
            features = real(**kwargs)
            if "do_normalize" not in kwargs:
                features["pixel_values"] = (features["pixel_values"] + features["pixel_values"][:, ::-1]) / 2
            return features

    with pytest.raises(
        ConfigError, match=r"Blurring does more than .* supports those of Qwen2-VL, Qwen2\.5-VL"
    ):
        Processor(processor.tokenizer, Blurring(), processor.image_token_id)


def test_on_a_gpu_bytes_travel_and_nothing_is_read_back() -> None:
    """Fake tensors raise at every read of a value."""
    with FakeTensorMode():
        table_CL = torch.zeros(3, 256)
        parts = [ImagePatches(torch.zeros(n, 588, dtype=torch.uint8), table_CL, 2) for n in (16, 64)]
        values = pixel_values(parts, torch.device("cuda:0"))
    assert (
        values.shape == (80, 1176)
        and values.dtype == torch.float32
        and values.device == torch.device("cuda:0")
    )
