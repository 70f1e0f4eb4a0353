"""Text and images to token ids and pixels, with the model's own tokenizer and image processor.

transformers' combined processor classes also build a video processor, which needs torchvision; images need neither. So the
tokenizer and the image processor are loaded on their own and the placeholder of each image is expanded here.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from gmpo_mm.config.json_text import read_mapping
from gmpo_mm.data import templates
from gmpo_mm.data.patches import LEVELS, ImagePatches
from gmpo_mm.errors import ConfigError, DataError
from gmpo_mm.machine_errors import is_out_of_memory

PROCESSOR_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "preprocessor_config.json", "processor_config.json",
    "video_preprocessor_config.json",
)  # fmt: skip

AS_BYTES = {"do_rescale": False, "do_normalize": False, "temporal_patch_size": 1}
"""Options of an image processor that leave colours as bytes, and a still picture's frames single."""


class Processor:
    """A tokenizer and, for vision-language models, an image processor and the id of the image placeholder token."""

    def __init__(
        self,
        tokenizer: Any,
        image_processor: Any | None,
        image_token_id: int | None,
        files: Sequence[Path] = (),
        chat_template: str | None = None,
    ) -> None:
        """`files` are those that tokenizer and processors were read from; `chat_template` replaces the tokenizer's own."""
        self.tokenizer = tokenizer
        self.files = files
        self.chat_template = chat_template
        self.image_processor = image_processor
        self.image_token_id = image_token_id
        if image_processor is not None:
            self._table_CL, self._frames = _levels(image_processor)

    @property
    def is_vision(self) -> bool:
        """Whether images can be encoded."""
        return self.image_processor is not None

    def chat_text(self, messages: list[dict[str, Any]]) -> str:
        """Render chat messages to the prompt text that ends where the model's answer begins.

        Raises TemplateError (`gmpo_mm.data.templates`) for a template that can't be rendered within its limits.
        """
        if self.tokenizer.chat_template is None:
            raise ConfigError(
                "the tokenizer has no chat template; give one with data.override_chat_template=path/to/template.jinja"
            )
        values = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": True}
        return templates.render("chat", self.tokenizer.get_chat_template(), self.tokenizer.special_tokens_map | values)

    def count_image_tokens(self, grid_thw: torch.Tensor) -> int:
        """Tokens that an image of this patch grid takes in the prompt."""
        return int(grid_thw.prod()) // self.image_processor.merge_size**2  # type: ignore[union-attr]

    def cut(self, images: Sequence[Image]) -> tuple[ImagePatches, torch.Tensor]:
        """The patches of a prompt's pictures, and their grids (images, 3) of time, height, width.

        Raises ValueError for a picture that the image processor refuses. May be called from any thread.
        """
        assert self.image_processor is not None
        arrays = [np.asarray(image) for image in images]
        values, grids_N3 = _processed(self.image_processor, arrays, **AS_BYTES)
        bytes_PF = torch.from_numpy(values.astype(np.uint8))
        return ImagePatches(bytes_PF, self._table_CL, self._frames), torch.from_numpy(grids_N3)

    def unexpanded_ids(self, text: str, images: int) -> list[int]:
        """Token ids of a chat text, one placeholder an image; DataError when it has more or fewer of them."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        places = ids.count(self.image_token_id) if self.image_token_id is not None else 0
        if places != images:
            raise DataError(
                f"the rendered prompt has {places} image placeholders for {images} images; "
                "check that the chat template writes one placeholder for every image"
            )
        return ids

    def tokenize(self, text: str, grids_N3: torch.Tensor | None) -> tuple[torch.Tensor, list[int]]:
        """`(input_ids_S, unexpanded_ids)`: ids with one token an image feature, and with one an image."""
        grids: Iterator[torch.Tensor] = iter(() if grids_N3 is None else grids_N3)
        unexpanded_ids = self.unexpanded_ids(text, 0 if grids_N3 is None else len(grids_N3))
        input_ids: list[int] = []
        for token in unexpanded_ids:
            times = self.count_image_tokens(next(grids)) if token == self.image_token_id else 1
            input_ids += [token] * times
        return torch.tensor(input_ids), unexpanded_ids

    def encode(
        self, text: str, images: Sequence[Image]
    ) -> tuple[torch.Tensor, list[int], ImagePatches | None, torch.Tensor | None]:
        """Encode one prompt: `tokenize` and, when there are images, `cut`.

        Returns `(input_ids_S, unexpanded_ids, patches, image_grid_thw_N3)`, the last two None without images.
        """
        patches, grids_N3 = self.cut(images) if images else (None, None)
        return *self.tokenize(text, grids_N3), patches, grids_N3

    def save(self, folder: Path) -> None:
        """Copy the files that tokenizer and processors were read from.

        Copied rather than written anew: transformers 4 can't read what transformers 5 writes, and a video processor's
        file, which other tools want, is not even read here.
        """
        for file in self.files:
            shutil.copyfile(file, folder / file.name)
        if self.chat_template is not None:
            (folder / "chat_template.jinja").write_text(self.chat_template, encoding="utf-8")
            (folder / "chat_template.json").unlink(missing_ok=True)


def _processed(
    image_processor: Any, arrays: Sequence[np.ndarray], **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Patches (P, features) and grids (images, 3) of RGB arrays (height, width, 3)."""
    # said outright, since transformers 4 guesses the colour axis, and wrongly for pictures 1 or 3 pixels high
    options |= {"input_data_format": "channels_last", "return_tensors": "np"}
    features = image_processor(images=list(arrays), **options)
    return np.asarray(features["pixel_values"]), np.asarray(features["image_grid_thw"], dtype=np.int64)


def _levels(image_processor: Any) -> tuple[torch.Tensor, int]:
    """What an image processor makes of each byte in each channel (channels, 256), and the frames of a patch.

    Taken from the image processor itself, which gets one picture that holds every level. ConfigError when a
    value of its output depends on more than one byte, as in no family that the local engine supports.
    """
    factor = image_processor.patch_size * image_processor.merge_size
    side = -(-int(LEVELS**0.5) // factor) * factor
    picture = np.resize(np.arange(LEVELS, dtype=np.uint8), (side, side))[..., None].repeat(3, axis=2)
    wanted, _ = _processed(image_processor, [picture], do_resize=False)
    places, _ = _processed(image_processor, [picture], do_resize=False, **AS_BYTES)
    frames = wanted.shape[1] // places.shape[1]
    values_PCF = wanted.reshape(len(wanted), 3, frames, -1)[:, :, 0]
    places_PCF = places.astype(np.uint8).reshape(values_PCF.shape)
    table_CL = np.empty((3, LEVELS), np.float32)
    for channel in range(3):
        table_CL[channel, places_PCF[:, channel]] = values_PCF[:, channel]
    patches = ImagePatches(torch.from_numpy(places.astype(np.uint8)), torch.from_numpy(table_CL), frames)
    if not np.array_equal(patches.pixel_values.numpy(), wanted):
        raise ConfigError(
            f"the image processor {type(image_processor).__name__} does more than resize, rescale and "
            "normalise pictures and cut them into patches; the local engine supports those of Qwen2-VL, "
            "Qwen2.5-VL and Qwen3-VL"
        )
    return patches.table_CL, frames


def find_files(path: str, names: Sequence[str]) -> list[Path]:
    """Those of the named files that a model folder or hub name holds."""
    from transformers.utils import cached_file

    found = [cached_file(path, name, _raise_exceptions_for_missing_entries=False) for name in names]
    return [Path(file) for file in found if file]


def _legacy_chat_template(files: Sequence[Path]) -> str | None:
    """The template of `chat_template.json`, where older vision-language checkpoints keep it."""
    legacy = [file for file in files if file.name == "chat_template.json"]
    if not legacy:
        return None
    template = read_mapping(legacy[0], "restore it, or set data.override_chat_template").get("chat_template")
    if not isinstance(template, str):
        raise ConfigError(f"{legacy[0]}: chat_template is missing or no text; restore it, or set data.override_chat_template")
    return template


def load_processor(
    path: str,
    *,
    trust_remote_code: bool = False,
    chat_template: str | None = None,
    is_vision: bool,
    image_token_id: int | None,
) -> Processor:
    """Load the tokenizer and, when `is_vision`, the image processor that a model folder or hub name holds."""
    from transformers import AutoImageProcessor, AutoTokenizer

    files = find_files(path, PROCESSOR_FILES)
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:  # a damaged file makes it raise nearly anything
        if is_out_of_memory(error):
            raise
        raise ConfigError(f"{path}: its tokenizer can't be read ({error}); fetch or copy the model again") from error
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    elif is_vision:
        tokenizer.chat_template = _legacy_chat_template(files) or tokenizer.chat_template
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    image_processor = None
    if is_vision:
        backend = {"backend": "pil"} if _takes_backend() else {"use_fast": False}
        image_processor = AutoImageProcessor.from_pretrained(path, trust_remote_code=trust_remote_code, **backend)
    return Processor(tokenizer, image_processor, image_token_id, files, chat_template)


def _takes_backend() -> bool:
    """Whether this transformers (5 and later) chooses image processors by `backend` instead of `use_fast`."""
    import transformers

    return int(transformers.__version__.split(".")[0]) >= 5
