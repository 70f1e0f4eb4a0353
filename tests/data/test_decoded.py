"""Every picture is decoded before a run, once for the same content, and all faulty ones are named together."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from gmpo_mm.data import Records, check_records
from gmpo_mm.data.decoded import DecodedPictures
from gmpo_mm.data.images import ImageSource
from gmpo_mm.errors import DataError
from tests.data.helpers import KEYS, encoded, plain, records_of


def jpeg(seed: int = 90) -> bytes:
    return encoded(Image.effect_noise((200, 200), seed).convert("RGB"), "JPEG")


def checked(folder: Path, *contents: bytes) -> int:
    """Pictures that a start had to decode."""
    pictures = DecodedPictures(folder)
    for content in contents:
        pictures.check(ImageSource(data=content), "row 0")
    pictures.save()
    return pictures.decoded


def test_a_second_start_decodes_only_what_is_new(tmp_path: Path) -> None:
    a, b, c = plain(color="red"), plain(color="blue"), jpeg()
    assert checked(tmp_path, a, b, a) == 2
    assert checked(tmp_path, a, b) == 0
    assert checked(tmp_path, a, b, c) == 1
    (tmp_path / "a.png").write_bytes(c)
    pictures = DecodedPictures(tmp_path)
    pictures.check(ImageSource(path=tmp_path / "a.png"), "row 0")
    assert pictures.decoded == 0, "the content counts, not where it stands"


def test_a_faulty_picture_is_never_taken_for_a_good_one(tmp_path: Path) -> None:
    cut = jpeg()[:3000]
    for _ in range(2):
        with pytest.raises(DataError, match="row 0: broken image"):
            checked(tmp_path, cut)


def test_a_list_that_was_cut_off_and_one_that_cannot_be_kept_cost_only_time(tmp_path: Path) -> None:
    assert checked(tmp_path, plain()) == 1
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:30])
    assert checked(tmp_path, plain()) == 1
    assert checked(tmp_path, plain()) == 0
    (tmp_path / "file").write_text("")
    assert [checked(tmp_path / "file", plain()) for _ in range(2)] == [1, 1]


def test_all_pictures_that_are_cut_off_are_named_at_once_first_in_full_then_by_number() -> None:
    cut, good = jpeg()[:3000], jpeg()
    rows = [
        {"problem": "<image>", "answer": "1", "images": [good if i in (0, 27) else cut]} for i in range(30)
    ]
    seen: list[int] = []
    with pytest.raises(DataError) as caught:
        check_records(Records(rows, KEYS, "a.jsonl"), True, lambda done, _: seen.append(done))
    lines = str(caught.value).splitlines()
    assert lines[0] == "28 of 30 rows can't be used:" and lines[1].startswith(
        "row 1 of a.jsonl, image 0: broken image"
    )
    assert lines[-1] == "and 8 more: rows 21-26, 28-29 of a.jsonl" and len(lines) == 22
    assert seen == list(range(1, 31))


def test_a_picture_file_that_is_missing_or_unreadable_is_named(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    records = records_of(
        *({"problem": "<image>", "images": [tmp_path / name]} for name in ("none.png", "folder.png"))
    )
    with pytest.raises(
        DataError, match=r"(?s)2 of 2 rows.*none.png \(No such file.*folder.png \(Is a directory"
    ):
        check_records(records, decode_images=True)
