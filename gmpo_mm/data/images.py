"""From an image as a data set stores it to the RGB picture that a model sees."""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from gmpo_mm.errors import DataError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""Formats that are opened. A closed list, since some of Pillow's readers start other programs (EPS)."""
MAX_FILE_BYTES = 256 << 20
"""Of a picture's file."""
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class ImageSource:
    """An image not yet decoded: its encoded bytes, a file, or a picture in memory; the first that is set counts.

    A file named by a data set has to lie below the folder `root`, symbolic links resolved.
    """

    data: bytes | None = None
    path: Path | None = None
    picture: Image.Image | None = None
    root: Path | None = None

    def encoded(self) -> bytes:
        """The stored bytes; for a picture in memory its raw pixels. To tell images apart, not to read them.

        Raises DataError for a file that can't be read.
        """
        if self.data is not None:
            return self.data
        if self.path is not None:
            return _read(self, "image")
        return b"" if self.picture is None else self.picture.tobytes()


def load_image(source: ImageSource, min_pixels: int | None, max_pixels: int | None, where: str) -> Image.Image:
    """Decode to RGB: EXIF orientation applied, transparency flattened onto white, area brought into [min, max] pixels.

    Of an animation the first frame is taken. Raises DataError that begins with `where` (row and image).
    """
    image = _open(source, where)
    with _broken_names(where):
        image = _to_rgb(ImageOps.exif_transpose(image), where)
    size = target_size(image.width, image.height, min_pixels, max_pixels, where)
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def image_size(source: ImageSource, where: str) -> tuple[int, int]:
    """Width and height in pixels after EXIF orientation, from the header alone where the format allows it."""
    image = _open(source, where)
    with _broken_names(where):
        turned = _orientation(image, source) in (5, 6, 7, 8)
    return (image.height, image.width) if turned else image.size


def check_image(source: ImageSource, where: str, decode: bool = False) -> None:
    """Raise DataError for an image that is missing or broken.

    Without `decode` only the header and, where the format has them (PNG), the checksums are read: a JPEG that is cut
    off in its pixels passes here and is found when it is loaded.
    """
    if decode:
        load_image(source, None, None, where)
        return
    image = _open(source, where)
    if source.picture is None:
        with _broken_names(where):
            image.verify()


def target_size(
    width: int, height: int, min_pixels: int | None, max_pixels: int | None, where: str = "image"
) -> tuple[int, int]:
    """The size that EasyR1 gives an image: both sides scaled by sqrt(limit / area) and cut down to whole pixels."""
    if max_pixels is not None and width * height > max_pixels:
        factor = math.sqrt(max_pixels / (width * height))
        width, height = int(width * factor), int(height * factor)
    if min_pixels is not None and 0 < width * height < min_pixels:
        factor = math.sqrt(min_pixels / (width * height))
        width, height = int(width * factor), int(height * factor)
    if width < 1 or height < 1:
        raise DataError(
            f"{where}: the image is so narrow that nothing is left of a side under max_pixels={max_pixels}; "
            "crop it or raise data.max_pixels"
        )
    return width, height


def _open(source: ImageSource, where: str) -> Image.Image:
    """Read header and size; pixels are decoded later."""
    if source.picture is not None:
        return source.picture
    data = source.data if source.data is not None else _read(source, where)
    if not data:
        file = "" if source.path is None else f" file {source.path}"
        raise DataError(f"{where}: the image{file} is empty (0 bytes); restore it, or remove the row")
    with _broken_names(where, data):
        return Image.open(BytesIO(data), formats=FORMATS)


@contextmanager
def _broken_names(where: str, data: bytes = b"") -> Iterator[None]:
    """Turn what Pillow raises into DataError; its plug-ins raise OSError, SyntaxError, EOFError, struct.error, ...

    `data` is what it was given, so that something that is no image can be called by its name.
    """
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{where}: the image is too large to be decoded safely ({error}); scale it down") from error
    except Image.UnidentifiedImageError as error:
        raise DataError(f"{where}: {what_it_is(data)}not an image of a known format ({', '.join(FORMATS)})") from error
    except Exception as error:
        raise DataError(f"{where}: broken image: {error}") from error


_BEGINNINGS = (
    (rb"version https://git-lfs", "a pointer of Git LFS (`git lfs pull` fetches the file itself), "),
    (rb"(?i)(?:<!doctype html|<html)", "a page of HTML, such as a download that failed, "),
    (rb"(?i)(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?(?:<!doctype svg[^>]*>\s*)?<svg", "a drawing in SVG, "),
    (rb"%PDF", "a PDF document, "),
    (rb"%!PS", "a PostScript document, "),
    (rb"data:", "a data URL (base64 text), "),
    (rb"https?://", "a web address, "),
    (rb".{4}ftyp(?:avif|avis)", "an AVIF image, "),
    (rb".{4}ftyp(?:heic|heix|hevc|mif1|msf1)", "a HEIC image, "),
    (rb".{4}ftyp|\x1aE\xdf\xa3", "a video, "),
    (rb"PK\x03\x04", "a ZIP archive, "),
    (rb"\x1f\x8b", "a gzip archive, "),
    (rb"\x93NUMPY", "a NumPy array, "),
    (rb"iVBORw0KGgo|/9j/|R0lGOD|UklGR", "an image as base64 text, "),
    (rb"[\[{]", "JSON text, "),
    (rb"\0+$", "nothing but zero bytes, "),
)


def what_it_is(data: bytes) -> str:
    """`a page of HTML, such as a download that failed, `: what bytes are that are no image; empty where nobody knows."""
    beginning = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip()
    found = (name for pattern, name in _BEGINNINGS if re.match(pattern, beginning, re.DOTALL))
    return next(found, "")


def _read(source: ImageSource, where: str) -> bytes:
    """The content of a regular file of bounded size below `source.root`; a device or a pipe is not waited for."""
    path = source.path
    if path is None:
        raise DataError(f"{where}: the image has neither bytes nor a path")
    try:
        real = path.resolve()
        if source.root is not None and not real.is_relative_to(source.root.resolve()):
            raise DataError(
                f"{where}: the image file {str(path)!r} lies outside {str(source.root)!r}, and a data set may only name files "
                "below its own folder; put it there, or set data.image_dir (in a benchmark's file: image_dir) to a folder that "
                "holds all of its pictures"
            )
        descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise DataError(f"{where}: the image file {path} is a device or a pipe, not a regular file")
            content = file.read(MAX_FILE_BYTES + 1)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(
            f"{where}: can't read image file {path} ({reason}); relative paths start at data.image_dir or else "
            "at the data file's folder"
        ) from error
    if len(content) > MAX_FILE_BYTES:
        raise DataError(f"{where}: the image file {path} has more than {MAX_FILE_BYTES:,} bytes; scale the image down")
    return content


def _orientation(image: Image.Image, source: ImageSource) -> Any:
    # Pillow decodes a whole PNG to look for an EXIF chunk behind the pixels; ask only when there is one.
    if image.format == "PNG" and source.picture is None:
        data = source.data if source.data is not None else _read(source, "image")
        if b"eXIf" not in data and b"Raw profile type" not in data:
            return 1
    return image.getexif().get(_ORIENTATION, 1)


def _to_rgb(image: Image.Image, where: str) -> Image.Image:
    if image.mode == "F":
        raise DataError(f"{where}: floating-point images have no defined white; store it as 8-bit PNG")
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255 instead of scaling
        grey = np.clip(np.asarray(image, dtype=np.int64) >> 8, 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")
