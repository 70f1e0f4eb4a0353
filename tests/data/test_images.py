"""Pictures reach the model as a person sees them, at EasyR1's size, or not at all."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gmpo_mm.data.images import ImageSource, check_image, image_size, load_image, target_size
from gmpo_mm.errors import DataError
from tests.data.helpers import encoded, plain

RED, WHITE = (255, 0, 0), (255, 255, 255)


def load(data: bytes, min_pixels: int | None = None, max_pixels: int | None = None) -> Image.Image:
    return load_image(ImageSource(data=data), min_pixels, max_pixels, "row 3")


def half_transparent(mode: str) -> bytes:
    """Left half opaque red (black in grey modes), right half fully transparent over black."""
    image = Image.new("RGBA", (20, 10), (0, 0, 0, 0))
    image.paste((*RED, 255) if mode != "LA" else (0, 0, 0, 255), (0, 0, 10, 10))
    if mode == "P":
        palette = Image.new("P", (20, 10), 0)
        palette.putpalette([0, 0, 0, *RED] + [0] * 762)
        palette.paste(1, (0, 0, 10, 10))
        return encoded(palette, transparency=0)
    if mode == "RGB":
        return encoded(image.convert("RGB"), transparency=(0, 0, 0))
    return encoded(image.convert(mode))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparency_becomes_white(mode: str) -> None:
    image = load(half_transparent(mode))
    assert image.mode == "RGB"
    assert image.getpixel((2, 5)) == ((0, 0, 0) if mode == "LA" else RED)
    assert image.getpixel((15, 5)) == WHITE


def test_partial_transparency_is_blended_with_white() -> None:
    image = load(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128))))
    assert image.getpixel((0, 0)) == (127, 127, 127)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_other_modes_become_rgb(mode: str) -> None:
    image = Image.new("RGB", (8, 8), WHITE).convert(mode)
    assert load(encoded(image, "TIFF" if mode == "CMYK" else "PNG")).getpixel((3, 3)) == WHITE


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    grey = Image.fromarray(np.full((4, 4), 0x8000, dtype=np.uint16))
    assert load(encoded(grey)).getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_exif_orientation_is_applied_to_pixels_and_size(format: str) -> None:
    image = Image.new("RGB", (40, 20), "black")
    image.paste(WHITE, (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(image, format, exif=exif.tobytes())
    turned = load(data)
    assert turned.size == image_size(ImageSource(data=data), "x") == (20, 40)
    pixels = np.asarray(turned)
    assert pixels[5, 10].min() > 200 and pixels[35, 10].max() < 50


@settings(deadline=None)
@given(
    st.integers(1, 4000), st.integers(1, 4000), st.sampled_from([None, 64**2, 262144]), st.sampled_from([None, 4194304])
)
def test_the_size_follows_the_scale_rule(width: int, height: int, low: int | None, high: int | None) -> None:
    """Both sides times the same sqrt(limit / area), cut down: within a pixel of the shape, never above the limits."""
    new_width, new_height = target_size(width, height, low, high)
    area = width * height
    limit = high if high and area > high else low if low and area < low else None
    if limit is None:
        assert (new_width, new_height) == (width, height)
    else:
        scale = (limit / area) ** 0.5
        assert new_width <= width * scale * (1 + 1e-12) < new_width + 1 + 1e-6
        assert new_height <= height * scale * (1 + 1e-12) < new_height + 1 + 1e-6


@pytest.mark.parametrize(
    ("size", "limits", "expected"),
    [
        ((1604, 803), (None, 262144), (723, 362)),  # 1604 * sqrt(262144 / 1288012) = 723.6, 362.3
        ((260, 194), (262144, 4194304), (592, 442)),  # 260 * sqrt(262144 / 50440) = 592.7, 442.3
        ((1, 1), (262144, 4194304), (512, 512)),
        ((10000, 300), (262144, 1000000), (5773, 173)),
        ((512, 512), (262144, 262144), (512, 512)),
    ],
)
def test_known_sizes(size: tuple[int, int], limits: tuple[int | None, int], expected: tuple[int, int]) -> None:
    assert target_size(*size, *limits) == expected
    assert load(plain(*size), *limits).size == expected


def test_a_side_that_would_vanish_is_an_error() -> None:
    with pytest.raises(DataError, match="row 3: the image is so narrow"):
        load(plain(1, 10000), max_pixels=4096)


def test_a_decompression_bomb_is_refused_before_decoding() -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    for act in (check_image, lambda source, where: load_image(source, None, None, where)):
        with pytest.raises(DataError, match="row 3: the image is too large to be decoded safely"):
            act(ImageSource(data=bomb), "row 3")


@pytest.mark.parametrize(
    "data", [b"", b"not an image", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", plain()[:40]]
)
def test_what_is_no_image_is_an_error_and_starts_no_program(data: bytes) -> None:
    for decode in (False, True):
        with pytest.raises(DataError, match="^row 3: "):
            check_image(ImageSource(data=data), "row 3", decode=decode)


def test_a_flipped_byte_in_a_png_is_found_without_decoding() -> None:
    data = bytearray(plain(200, 200))
    data[60] ^= 0xFF
    with pytest.raises(DataError, match="row 3: broken image"):
        check_image(ImageSource(data=bytes(data)), "row 3")


def test_a_file_that_is_missing_or_a_folder_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.png", tmp_path):
        with pytest.raises(DataError, match=f"row 3: can't read image file {path}"):
            check_image(ImageSource(path=path), "row 3")
    with pytest.raises(DataError, match="neither bytes nor a path"):
        check_image(ImageSource(), "row 3")
