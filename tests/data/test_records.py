"""What a row becomes, and the rows that are refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from gmpo_mm.data import RecordKeys, Records, check_records, data_fingerprint, load_image, load_records
from gmpo_mm.errors import DataError
from tests.data.helpers import KEYS, encoded, plain, records_of, write_lines


def test_text_and_image_rows_stand_in_one_file(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for name, color in (("a.png", "red"), ("b.png", "blue")):
        (tmp_path / "pictures" / name).write_bytes(plain(color=color))
    spec = write_lines(
        tmp_path / "mixed.jsonl",
        [
            {"problem": "1 + 1?", "answer": "2"},
            {"problem": "<image>Colour?", "answer": "red", "images": ["pictures/a.png"]},
            {"problem": "<image> or <image>?", "answer": "2", "images": ["pictures/a.png", {"path": "pictures/b.png"}]},
            {"problem": "3 + 1?", "answer": "4", "images": []},
        ],
    )
    records = load_records(spec, KEYS)
    assert [len(record.images) for record in records] == [0, 1, 2, 0]
    colors = [load_image(source, None, None, "x").getpixel((0, 0)) for source in records[2].images]
    assert colors == [(255, 0, 0), (0, 0, 255)]
    check_records(records, decode_images=True)


def test_image_dir_is_where_relative_paths_start(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").write_bytes(plain())
    spec = write_lines(tmp_path / "a.jsonl", [{"problem": "<image>", "answer": "1", "images": "a.png"}])
    check_records(load_records(spec, RecordKeys(prompt_key="problem", image_dir=str(tmp_path / "elsewhere"))))
    with pytest.raises(DataError, match=r"row 0 of a.jsonl, image 0: can't read image file .*data.image_dir"):
        check_records(load_records(spec, KEYS))


def test_images_come_as_bytes_pictures_paths_and_structs(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(plain())
    forms = [plain(), Image.new("RGB", (60, 40), "red"), str(path), path, {"bytes": plain(), "path": None}]
    forms += [{"bytes": None, "path": str(path)}, {"bytes": plain(), "path": "missing.png"}]
    for form in forms:
        (source,) = records_of({"problem": "<image>", "images": [form]})[0].images
        image = load_image(source, None, None, "x")
        assert (image.size, image.mode, image.getpixel((5, 5))) == ((60, 40), "RGB", (255, 0, 0))


def test_optional_and_other_columns_are_kept() -> None:
    record = records_of(
        {"id": 7, "answer": "1", "answers": ["1", "one\n"], "source": "here", "level": 3, "images": None, "videos": []}
    )[0]
    assert (record.id, record.answer, record.answers, record.source) == ("7", "1", ("1", "one\n"), "here")
    assert record.extra == {"level": 3}
    assert record.where == "row 0 of test data (id 7)"
    assert records_of({}, {})[1].id == "1"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("025", ("025", ("025",))),
        (" 5 \\sqrt { 5 }\n", (" 5 \\sqrt { 5 }\n", (" 5 \\sqrt { 5 }\n",))),
        (142, ("142", ("142",))),
        (142.0, ("142", ("142",))),
        (-0.5, ("-0.5", ("-0.5",))),
        (1e300, ("1e+300", ("1e+300",))),
        (["3", 4], ("3", ("3", "4"))),
    ],
)
def test_answers_become_text_by_rule(answer: object, expected: tuple[str, tuple[str, ...]]) -> None:
    record = records_of({"answer": answer})[0]
    assert (record.answer, record.answers) == expected


def test_an_answer_may_stand_in_answers_alone() -> None:
    assert Records([{"problem": "x", "answers": ["3", "4"]}], KEYS)[0].answer == "3"


DATA_URL = "data:image/png;base64,iVBORw0KGgo" + "A" * 69


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"answer": None}, "no answer in column 'answer'"),
        ({"answer": ""}, "no usable answer: ''"),
        ({"answer": " \n"}, "no usable answer"),
        ({"answer": []}, "no answer"),
        ({"answer": ["1", None]}, "no usable answer: None"),
        ({"answer": float("nan")}, "no usable answer: nan"),
        ({"answer": True}, "no usable answer: True"),
        ({"answer": {"value": 1}}, "no usable answer: {'value': 1}"),
        ({"answer": ["1"], "answers": ["2"]}, "both 'answer' and 'answers'"),
        ({"problem": None}, "no problem text in column 'problem'"),
        ({"problem": "  "}, "no problem text"),
        ({"problem": [{"role": "user"}]}, "no problem text"),
        ({"videos": ["a.mp4"]}, "holds a video"),
        ({"images": [plain()]}, "1 image(s) in column 'images' but 0 <image> in the problem; put one <image>"),
        ({"problem": "<image><image>", "images": [plain()]}, "1 image(s) in column 'images' but 2 <image>"),
        ({"problem": "<image>"}, "0 image(s) in column 'images' but 1 <image>"),
        ({"problem": "<image>", "images": [{"bytes": None, "path": None}]}, "image 0: neither 'bytes' nor 'path'"),
        ({"problem": "<image>", "images": [3]}, "image 0: can't read an image from 3"),
        ({"problem": "<image>", "images": ["https://example.org/a.png"]}, "is an address; download it"),
        ({"problem": "<image>", "images": [DATA_URL]}, "is a data URL of 102 characters, not a file's path; decode it"),
        ({"problem": "<image>", "images": [{"path": DATA_URL}]}, "is a data URL of 102 characters"),
        ({"problem": "<image>", "images": [{"bytes": DATA_URL}]}, "is a data URL of 102 characters"),
        ({"problem": "<image>", "images": [DATA_URL[22:]]}, "is base64 text of 80 characters, not a file's path"),
        ({"problem": "<image>", "images": [{"bytes": "AAAA"}]}, "is base64 text of 4 characters"),
    ],
)
def test_a_row_that_cannot_be_trained_on_is_named(row: dict, message: str) -> None:
    records = records_of({}, row)
    assert records[0].answer == "2"
    with pytest.raises(DataError) as caught:
        records[1]
    assert str(caught.value).startswith("row 1 of test data") and message in str(caught.value)
    with pytest.raises(DataError, match="row 1 of test data"):
        check_records(records)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the image is empty (0 bytes)"),
        (b"\n<!DOCTYPE html><html>", "a page of HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "a pointer of Git LFS (`git lfs pull`"),
        (b"<?xml version='1.0'?>\n<svg width='3'>", "a drawing in SVG"),
        (b"%PDF-1.7", "a PDF document"),
        (b"\0\0\0\x20ftypheic", "a HEIC image"),
        (b"\0\0\0\x20ftypisom", "a video"),
        (b"data:image/png;base64,iVBOR", "a data URL (base64 text)"),
        (b"iVBORw0KGgoAAAANSUhEUg", "an image as base64 text"),
        (b"\0" * 900, "nothing but zero bytes"),
        (b"some words", "not an image of a known format"),
    ],
)
def test_what_is_no_image_is_called_what_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.png").write_bytes(content)
    for image in (content, str(tmp_path / "a.png")):
        for decode in (False, True):
            with pytest.raises(DataError) as caught:
                check_records(records_of({"problem": "<image>", "images": [image]}), decode)
            assert str(caught.value).startswith("row 0 of test data, image 0: ")
            assert message.replace("image is", f"image file {image} is" if isinstance(image, str) else "image is") in str(
                caught.value
            )


def test_no_rows_and_wrong_columns_are_errors_when_opened() -> None:
    with pytest.raises(DataError, match="nothing: no rows"):
        Records([], KEYS, "nothing")
    with pytest.raises(DataError, match=r"no column 'prompt' \(data.prompt_key\); its columns are problem, answer"):
        Records([{"problem": "x", "answer": "1"}], RecordKeys())
    with pytest.raises(DataError, match="data.answer_key"):
        Records([{"problem": "x"}], KEYS)


@pytest.mark.parametrize("decode_images", [False, True])
def test_the_check_counts_all_faults_and_names_row_file_and_image(tmp_path: Path, decode_images: bool) -> None:
    cut = plain()[:-30]
    rows = [{"problem": "<image><image>", "answer": "1", "images": [{"bytes": plain()}, {"bytes": cut}]}] * 7
    seen: list[tuple[int, int]] = []
    records = Records([{"problem": "x", "answer": "1"}, *rows], KEYS, "a.jsonl")
    with pytest.raises(DataError) as caught:
        check_records(records, decode_images, lambda done, total: seen.append((done, total)))
    lines = str(caught.value).splitlines()
    assert lines[0] == "7 of 8 rows can't be used:"
    assert [line.partition(": broken image")[0] for line in lines[1:]] == [f"row {i} of a.jsonl, image 1" for i in range(1, 8)]
    assert seen == [(i, 8) for i in range(1, 9)]


def test_a_jpeg_cut_in_its_pixels_is_found_by_decoding() -> None:
    noise = Image.effect_noise((200, 200), 90).convert("RGB")
    data = encoded(noise, "JPEG")
    records = records_of({"problem": "<image>", "images": [data[: len(data) // 2]]})
    check_records(records)
    with pytest.raises(DataError, match="row 0 of test data, image 0: broken image"):
        check_records(records, decode_images=True)


def test_the_fingerprint_changes_with_problems_answers_and_rows_only() -> None:
    rows = [{"problem": "a", "answer": "1", "level": 1}, {"problem": "b", "answer": "2", "level": 1}]

    def fingerprint(*changed: dict) -> str:
        return data_fingerprint(Records(list(changed), KEYS))

    same = fingerprint(*rows)
    assert fingerprint(rows[0], {**rows[1], "level": 5}) == same
    others = [
        fingerprint(rows[0], {**rows[1], "answer": "3"}),
        fingerprint(rows[0], {**rows[1], "problem": "c"}),
        fingerprint(rows[1], rows[0]),
        fingerprint(rows[0]),
        fingerprint({**rows[0], "answer": "1\0"}, rows[1]),
    ]
    assert len({same, *others}) == 6
