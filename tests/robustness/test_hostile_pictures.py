"""Data sets that name files as pictures which are none of theirs: an error for the row, and nothing hangs or is sent."""

from __future__ import annotations

import contextlib
import os
import random
from pathlib import Path

import pytest

from gmpo_mm.data import RecordKeys, Records, check_records, load_records
from gmpo_mm.data import images as images_module
from gmpo_mm.data.dataset import picture_fingerprint
from gmpo_mm.data.records import Record
from gmpo_mm.data.sources import Part, Rows
from gmpo_mm.errors import DataError
from tests.data.helpers import KEYS, plain, write_lines


def place(folder: Path) -> dict[str, str]:
    """A data set's folder with a good picture and traps in it, a secret beside it; what rows may say, and the error's part."""
    own, outside = folder / "set", folder / "outside"
    for each in (own / "pictures", outside):
        each.mkdir(parents=True)
    (own / "a.png").write_bytes(plain())
    (outside / "secret.png").write_bytes(plain())
    os.mkfifo(own / "pipe.png")
    (own / "link.png").symlink_to(outside / "secret.png")
    (own / "far").symlink_to(outside)
    (own / "zero.png").symlink_to("/dev/zero")
    (own / "circle.png").symlink_to("circle.png")
    outside_it = "below its own folder"
    return {
        "../outside/secret.png": outside_it, str(outside / "secret.png"): outside_it, "link.png": outside_it,
        "far/secret.png": outside_it, "/dev/zero": outside_it, "zero.png": outside_it, "/etc/hostname": outside_it,
        "pictures/../../outside/secret.png": outside_it, "/proc/self/environ": outside_it, "/proc/self/fd/0": outside_it,
        "pipe.png": "a device or a pipe", "circle.png": "can't read image file", "a\0.png": "a zero character",
        "~nobody-of-that-name/x.png": "names no user's folder", "~/x.png": outside_it, "pictures": "can't read image file",
        "x" * 5000 + ".png": "can't read image file",
    }  # fmt: skip


def refused(records: Records) -> str:
    with pytest.raises(DataError, match="^row 0 of a.jsonl") as caught:
        check_records(records, decode_images=True)
    record = None
    with contextlib.suppress(DataError):
        record = records[0]
    if isinstance(record, Record):  # every other way to the bytes, as a server gets them, is closed too
        for read in (lambda: record.images[0].encoded(), lambda: picture_fingerprint(records)):
            with pytest.raises(DataError):
                read()
    return str(caught.value)


def test_a_data_set_reads_regular_files_below_its_own_folder_only(tmp_path: Path) -> None:
    for named, said in place(tmp_path).items():
        for value in (named, {"path": named}):
            row = {"problem": "<image>", "answer": "1", "images": [value]}
            spec = write_lines(tmp_path / "set/a.jsonl", [row])
            assert said in refused(load_records(spec, KEYS)), named


def test_image_dir_says_where_else_pictures_may_lie(tmp_path: Path) -> None:
    place(tmp_path)
    row = {"problem": "<image>", "answer": "1", "images": [str(tmp_path / "outside/secret.png")]}
    spec = write_lines(tmp_path / "set/a.jsonl", [row])
    check_records(load_records(spec, RecordKeys(prompt_key="problem", image_dir=str(tmp_path))))
    with pytest.raises(DataError, match="data.image_dir=~nobody-of-that-name"):
        load_records(spec, RecordKeys(prompt_key="problem", image_dir="~nobody-of-that-name"))


def test_rows_of_the_hub_name_no_files_here(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(plain())
    row = {"problem": "<image>", "answer": "1", "images": [str(tmp_path / "a.png")]}
    rows = Rows([row], (Part("owner/name", None, 0),))
    with pytest.raises(DataError, match="no folder of its own"):
        Records(rows, KEYS)[0]
    check_records(Records(rows, RecordKeys(prompt_key="problem", image_dir=str(tmp_path))))


def test_a_file_that_is_too_large_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.write(plain())
        file.truncate(images_module.MAX_FILE_BYTES + 1)  # holes: no disk is used
    monkeypatch.setattr(images_module, "MAX_FILE_BYTES", 1 << 20)
    spec = write_lines(tmp_path / "a.jsonl", [{"problem": "<image>", "answer": "1", "images": ["a.png"]}])
    assert "more than 1,048,576 bytes" in refused(load_records(spec, KEYS))


@pytest.mark.slow
def test_a_thousand_odd_paths_are_read_below_the_folder_or_refused(tmp_path: Path) -> None:
    traps = list(place(tmp_path))
    parts = ["..", ".", "", "far", "link.png", "a.png", "pictures", "~", "\u202e", "outside", "secret.png", "dev", "zero", " "]
    chance = random.Random(3)
    for _ in range(1000):
        named = chance.choice([*traps, "", "/"]) + "/".join(chance.choices(parts, k=chance.randint(0, 6)))
        records = load_records(
            write_lines(tmp_path / "set/a.jsonl", [{"problem": "<image>", "answer": "1", "images": [named]}]), KEYS
        )
        try:
            check_records(records)
        except DataError:
            continue
        (image,) = records[0].images
        assert image.path is not None and image.path.resolve() == (tmp_path / "set/a.png").resolve()
