"""From a record to what a model reads: template, chat, tokens, pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from PIL import Image

from gmpo_mm.config.shipped import find_file
from gmpo_mm.data import templates
from gmpo_mm.data.images import image_size, load_image, target_size
from gmpo_mm.data.patches import ImagePatches
from gmpo_mm.data.records import IMAGE_MARK, Record
from gmpo_mm.errors import DataError


class PromptProcessor(Protocol):
    """What prompts need of `gmpo_mm.models.processing.Processor`."""

    tokenizer: Any
    image_processor: Any

    @property
    def is_vision(self) -> bool: ...

    def chat_text(self, messages: list[dict[str, Any]]) -> str: ...

    def cut(self, images: Sequence[Image.Image]) -> tuple[ImagePatches, torch.Tensor]: ...

    def unexpanded_ids(self, text: str, images: int) -> list[int]: ...

    def tokenize(self, text: str, grids_N3: torch.Tensor | None) -> tuple[torch.Tensor, list[int]]: ...


@dataclass(frozen=True, eq=False)
class Pictures:
    """A record's pictures, RGB and within `data.min_pixels` and `max_pixels`; their patches and grids."""

    images: tuple[Image.Image, ...] = ()
    patches: ImagePatches | None = None
    grid_thw_N3: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class EncodedPrompt:
    """A prompt ready for a model.

    `text` is the chat text. `input_ids_S` (int64) has one placeholder per image token; `unexpanded_ids` one per image.
    `images` are the RGB pictures that were encoded; `patches` and `image_grid_thw_N3` (time, height and width
    in patches of each of N images) are None for text.
    """

    record: Record
    text: str
    input_ids_S: torch.Tensor
    unexpanded_ids: list[int]
    images: tuple[Image.Image, ...]
    patches: ImagePatches | None
    image_grid_thw_N3: torch.Tensor | None

    @property
    def pixel_values(self) -> torch.Tensor | None:
        """The vision tower's input (patches, features), float32 in main memory: made anew at every call."""
        return None if self.patches is None else self.patches.pixel_values


def load_format_prompt(path: str | Path | None) -> str | None:
    """Read an EasyR1 `data.format_prompt` Jinja file; None for none. Raises DataError when it can't do its work."""
    if path is None:
        return None
    try:
        text = find_file(Path(path).expanduser()).read_text(encoding="utf-8")
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"data.format_prompt={path}: can't read the template: {error}; correct the file") from error
    check_format_prompt(text, "data.format_prompt")
    return text


def build_messages(record: Record, format_prompt: str | None) -> list[dict[str, Any]]:
    """One user turn. With images its content is cut at each `<image>` into text and image parts, else it is plain text.

    `format_prompt` is Jinja text over `content`, stripped before rendering, as in EasyR1.
    """
    prompt = record.problem
    if format_prompt is not None:
        try:
            prompt = templates.render("format", format_prompt, {"content": record.problem})
        except templates.TemplateError as error:
            raise DataError(f"{record.where}: data.format_prompt can't be rendered: {error}") from None
    pieces = prompt.split(IMAGE_MARK)
    if len(pieces) - 1 != len(record.images):
        raise DataError(
            f"{record.where}: {len(record.images)} image(s) but {len(pieces) - 1} {IMAGE_MARK} after "
            "data.format_prompt; the template must keep those of the problem and add none"
        )
    if not record.images:
        return [{"role": "user", "content": prompt}]
    content: list[dict[str, str]] = []
    for index, piece in enumerate(pieces):
        if index:
            content.append({"type": "image"})
        if piece:
            content.append({"type": "text", "text": piece})
    return [{"role": "user", "content": content}]


def prompt_text(record: Record, processor: PromptProcessor, format_prompt: str | None) -> str:
    """The chat text of a record. Raises DataError for control tokens in the problem or images that can't be read."""
    if record.images and not processor.is_vision:
        raise DataError(f"{record.where}: has images, but the model reads text only; choose a vision-language model")
    for token in _control_tokens(processor.tokenizer):
        if token != IMAGE_MARK and token in record.problem:
            raise DataError(
                f"{record.where}: the problem holds the control token {token!r}, which would be read as structure, not "
                "as text; rewrite or remove it"
            )
    messages = build_messages(record, format_prompt)
    try:
        text = processor.chat_text(messages)
    except templates.TemplateError as error:
        raise DataError(
            f"{record.where}: the model's chat template can't be rendered: {error}; correct it, or give another with "
            "data.override_chat_template"
        ) from None
    if not text:
        raise DataError(f"{record.where}: the chat template makes an empty prompt of it; correct the template")
    return text


def load_images(
    record: Record, *, min_pixels: int | None = None, max_pixels: int | None = None
) -> tuple[Image.Image, ...]:
    """Decode a record's pictures. Raises DataError that names row and image."""
    return tuple(
        load_image(source, min_pixels, max_pixels, f"{record.where}, image {i}")
        for i, source in enumerate(record.images)
    )


def load_pictures(
    record: Record,
    processor: PromptProcessor,
    *,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> Pictures:
    """Decode a record's pictures and cut them into patches. Raises DataError that names row and image.

    Nearly all of its time is spent outside Python's lock, so threads run it side by side.
    """
    images = load_images(record, min_pixels=min_pixels, max_pixels=max_pixels)
    if not images:
        return Pictures()
    try:
        patches, grid_thw_N3 = processor.cut(images)
    except ValueError as error:
        sizes = ", ".join(f"{image.width} x {image.height}" for image in images)
        raise DataError(
            f"{record.where}: the model's processor refuses the prompt (image sizes in pixels: {sizes}): "
            f"{error}"
        ) from error
    return Pictures(images, patches, grid_thw_N3)


def build_prompt(
    record: Record,
    processor: PromptProcessor,
    *,
    format_prompt: str | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    pictures: Callable[[], Pictures] | None = None,
) -> EncodedPrompt:
    """Render, decode and encode one record. Raises DataError that names its row.

    `pictures` gives the record's pictures where something else loads them (`load_pictures`).
    """
    text = prompt_text(record, processor, format_prompt)
    if pictures is not None:
        loaded = pictures()
    else:
        loaded = load_pictures(record, processor, min_pixels=min_pixels, max_pixels=max_pixels)
    try:
        input_ids_S, unexpanded_ids = processor.tokenize(text, loaded.grid_thw_N3)
    except DataError as error:
        raise DataError(f"{record.where}: {error}") from error
    return EncodedPrompt(
        record, text, input_ids_S, unexpanded_ids, loaded.images, loaded.patches, loaded.grid_thw_N3
    )


def prompt_length(
    record: Record,
    processor: PromptProcessor,
    *,
    format_prompt: str | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
) -> int:
    """Tokens that `build_prompt` would give, from the text and the images' headers, without decoding a pixel.

    An image processor that can't tell its number of patches from a size is asked for the real encoding instead.
    """
    image_processor = processor.image_processor
    if record.images and not (
        hasattr(image_processor, "get_number_of_image_patches") and hasattr(image_processor, "merge_size")
    ):
        built = build_prompt(
            record, processor, format_prompt=format_prompt, min_pixels=min_pixels, max_pixels=max_pixels
        )
        return len(built.input_ids_S)
    text = prompt_text(record, processor, format_prompt)
    try:
        length = len(processor.unexpanded_ids(text, len(record.images)))
    except DataError as error:
        raise DataError(f"{record.where}: {error}") from error
    for i, source in enumerate(record.images):
        where = f"{record.where}, image {i}"
        width, height = target_size(*image_size(source, where), min_pixels, max_pixels, where)
        try:
            patches = image_processor.get_number_of_image_patches(height, width, {})
        except ValueError as error:
            raise DataError(
                f"{where} ({width} x {height} pixels): the model's processor refuses it: {error}"
            ) from error
        length += patches // image_processor.merge_size**2 - 1
    return length


def check_format_prompt(text: str, where: str) -> None:
    """Raise DataError unless the Jinja text uses `content`, the problem, and nothing else; `where` names it."""
    try:
        used = templates.variables("format", text)
    except templates.TemplateError as error:
        raise DataError(f"{where}: {error}") from None
    if used != {"content"}:
        raise DataError(
            f"{where}: the template must use the problem as {{{{ content }}}} and no other variable; "
            f"it uses {', '.join(sorted(used)) or 'none'}"
        )


_CONTROL_TOKENS: WeakKeyDictionary[Any, tuple[str, ...]] = WeakKeyDictionary()


def _control_tokens(tokenizer: Any) -> tuple[str, ...]:
    """Texts that the tokenizer turns into special tokens wherever they stand."""
    if tokenizer not in _CONTROL_TOKENS:
        added = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        _CONTROL_TOKENS[tokenizer] = tuple(sorted(added | set(tokenizer.all_special_tokens)))
    return _CONTROL_TOKENS[tokenizer]
