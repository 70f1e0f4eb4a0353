"""Text and images to token ids and pixels, with the model's own tokenizer and image processor.

transformers' combined processor classes also build a video processor, which needs torchvision; images need neither. So the
tokenizer and the image processor are loaded on their own and the placeholder of each image is expanded here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from gmpo_mm.errors import ConfigError, DataError

PROCESSOR_FILES = (
    "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja", "chat_template.json", "preprocessor_config.json", "processor_config.json",
    "video_preprocessor_config.json",
)  # fmt: skip


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

    @property
    def is_vision(self) -> bool:
        """Whether images can be encoded."""
        return self.image_processor is not None

    def chat_text(self, messages: list[dict[str, Any]]) -> str:
        """Render chat messages to the prompt text that ends where the model's answer begins."""
        if self.tokenizer.chat_template is None:
            raise ConfigError(
                "the tokenizer has no chat template; give one with data.override_chat_template=path/to/template.jinja"
            )
        return self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)

    def count_image_tokens(self, grid_thw: torch.Tensor) -> int:
        """Tokens that an image of this patch grid takes in the prompt."""
        return int(grid_thw.prod()) // self.image_processor.merge_size**2  # type: ignore[union-attr]

    def encode(
        self, text: str, images: Sequence[Image]
    ) -> tuple[torch.Tensor, list[int], torch.Tensor | None, torch.Tensor | None]:
        """Encode one prompt.

        Returns `(input_ids_S, unexpanded_ids, pixel_values, image_grid_thw)`: ids with one token for every image feature, ids
        with one placeholder for every image, the patches (patches, features) of all images, and their grids (images, 3).
        """
        unexpanded_ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        places = [i for i, token in enumerate(unexpanded_ids) if token == self.image_token_id]
        if len(places) != len(images):
            raise DataError(
                f"the rendered prompt has {len(places)} image placeholders for {len(images)} images; "
                "check that the chat template writes one placeholder for every image"
            )
        if not images:
            return torch.tensor(unexpanded_ids), unexpanded_ids, None, None
        if self.image_processor is None:
            raise DataError("a record has images, but the model takes text only; choose a vision-language model")
        # said outright, since transformers 4 guesses the colour axis, and wrongly for pictures 1 or 3 pixels high
        arrays = [np.asarray(image) for image in images]
        features = self.image_processor(images=arrays, return_tensors="pt", input_data_format="channels_last")
        pixel_values, grids_N3 = features["pixel_values"], features["image_grid_thw"]
        input_ids: list[int] = []
        done = 0
        for place, grid in zip(places, grids_N3, strict=True):
            input_ids += unexpanded_ids[done:place] + [self.image_token_id] * self.count_image_tokens(grid)  # type: ignore[list-item]
            done = place + 1
        input_ids += unexpanded_ids[done:]
        return torch.tensor(input_ids), unexpanded_ids, pixel_values, grids_N3

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


def find_files(path: str, names: Sequence[str]) -> list[Path]:
    """Those of the named files that a model folder or hub name holds."""
    from transformers.utils import cached_file

    found = [cached_file(path, name, _raise_exceptions_for_missing_entries=False) for name in names]
    return [Path(file) for file in found if file]


def _legacy_chat_template(files: Sequence[Path]) -> str | None:
    """The template of `chat_template.json`, where older vision-language checkpoints keep it."""
    legacy = [file for file in files if file.name == "chat_template.json"]
    return json.loads(legacy[0].read_text(encoding="utf-8"))["chat_template"] if legacy else None


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
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
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
