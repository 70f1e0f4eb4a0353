"""The record that every engine, reward and evaluation reads, and the checks that every row passes before training."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from PIL import Image

from gmpo_mm.data.decoded import DecodedPictures, cores
from gmpo_mm.data.images import ImageSource, check_image
from gmpo_mm.data.sources import Part, Rows, read_rows
from gmpo_mm.errors import DataError

IMAGE_MARK = "<image>"
Progress = Callable[[int, int], None]
"""Called with (rows done, rows in all)."""
MAX_EXPLAINED = 20
"""Faulty rows whose fault is shown in full; of all others only the number is shown."""


@dataclass(frozen=True)
class RecordKeys:
    """Column names, under the names and with the defaults of EasyR1's `data` section."""

    prompt_key: str = "prompt"
    answer_key: str = "answer"
    image_key: str = "images"
    video_key: str = "videos"
    image_dir: str | None = None

    @classmethod
    def from_data_config(cls, data_config: Any) -> RecordKeys:
        """Take the keys from a `data` section."""
        return cls(**{name: getattr(data_config, name) for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Record:
    """One problem. `answers`: any one counts. `row`: index in its `Records`. `where` names it in error messages."""

    problem: str
    images: tuple[ImageSource, ...]
    answer: str
    answers: tuple[str, ...]
    id: str
    source: str | None = None
    row: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    where: str = "record"


class Records(Sequence[Record]):
    """Rows as `Record`s, made (and checked) when they are asked for; images stay encoded."""

    def __init__(self, rows: Rows | Sequence[dict[str, Any]], keys: RecordKeys, name: str = "data") -> None:
        """Take over rows; `name` is for error messages. Raises DataError when there are none or a column is missing."""
        self.rows = rows if isinstance(rows, Rows) else Rows(rows, (Part(name, None, 0, in_memory=True),))
        self.keys = keys
        self.name = name
        if not len(self.rows):
            raise DataError(f"{name}: no rows; a data set needs at least one")
        self._image_dir = _home_expanded(keys.image_dir) if keys.image_dir else None
        columns = self.rows.columns
        for key, column in (("prompt_key", keys.prompt_key), ("answer_key", keys.answer_key)):
            if column not in columns and not (key == "answer_key" and "answers" in columns):
                raise DataError(
                    f"{name}: no column {column!r} (data.{key}); its columns are {', '.join(columns)} - set "
                    f"data.{key} to one of them"
                )

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        """A record; raises DataError that names the row when it is no usable one."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        return self._record(index, self.rows.row(index))

    def first(self, count: int | None) -> Records:
        """The first `count` rows; all of them for None."""
        if count is None or count >= len(self):
            return self
        rows = Rows(self.rows.data, self.rows.parts, self.rows.start, self.rows.start + count)
        return Records(rows, self.keys, self.name)

    def _record(self, index: int, row: dict[str, Any]) -> Record:
        keys = self.keys
        part, row_in_file = self.rows.part(index)
        id_ = row.get("id")
        where = f"row {row_in_file} of {part.name}" + (f" (id {id_})" if id_ is not None else "")
        problem = row.get(keys.prompt_key)
        if not isinstance(problem, str) or not problem.strip():
            raise DataError(f"{where}: no problem text in column {keys.prompt_key!r}: {_shorten(problem)}")
        if not _is_empty(row.get(keys.video_key)):
            raise DataError(f"{where}: holds a video in column {keys.video_key!r}; videos can't be trained on here")
        images = self._images(row.get(keys.image_key), part, where)
        marks = problem.count(IMAGE_MARK)
        if marks != len(images):
            raise DataError(
                f"{where}: {len(images)} image(s) in column {keys.image_key!r} but {marks} {IMAGE_MARK} in the "
                f"problem; put one {IMAGE_MARK} into {keys.prompt_key!r} where each image belongs, or correct "
                "data.image_key"
            )
        answer, answers = _answers(row.get(keys.answer_key), row.get("answers"), keys.answer_key, where)
        known = {keys.prompt_key, keys.answer_key, keys.image_key, keys.video_key, "id", "answers", "source"}
        source = row.get("source")
        return Record(
            problem=problem,
            images=images,
            answer=answer,
            answers=answers,
            id=str(index if id_ is None else id_),
            source=None if source is None else str(source),
            row=index,
            extra={key: value for key, value in row.items() if key not in known},
            where=where,
        )

    def _images(self, value: Any, part: Part, where: str) -> tuple[ImageSource, ...]:
        if _is_empty(value):
            return ()
        folder = self._image_dir or part.folder
        items = value if isinstance(value, (list, tuple)) else [value]
        anywhere = folder is None and part.in_memory  # a program's own rows name what they like
        return tuple(_image_source(item, folder, anywhere, f"{where}, image {i}") for i, item in enumerate(items))


def _home_expanded(image_dir: str) -> Path:
    try:
        return Path(image_dir).expanduser()
    except RuntimeError:  # ~nobody
        raise DataError(f"data.image_dir={image_dir}: begins with ~ and names no user's folder here; correct it") from None


def load_records(spec: str, keys: RecordKeys) -> Records:
    """Open `path`, `folder`, `folder@split` or `hub/name@split` (see `sources.read_rows`); nothing is decoded yet."""
    return Records(read_rows(spec), keys, spec)


@dataclass(frozen=True)
class Fault:
    """A row that can't be used: its index, and what is wrong, beginning with the row's name."""

    row: int
    message: str


def find_faults(
    records: Sequence[Record], decode_images: bool = False, progress: Progress | None = None
) -> list[Fault]:
    """Look at every row: problem, answer, images, their number and their headers.

    `decode_images` decodes every pixel too, in threads; a picture that was found good in an earlier run (told by
    its content) is not decoded again.
    """
    pictures = DecodedPictures() if decode_images else None

    def fault(index: int) -> str | None:
        try:
            record = records[index]
            for i, source in enumerate(record.images):
                where = f"{record.where}, image {i}"
                pictures.check(source, where) if pictures is not None else check_image(source, where)
        except DataError as error:
            return str(error)
        return None

    faults = []
    with ThreadPoolExecutor(cores() if decode_images else 1, thread_name_prefix="gmpo-check") as pool:
        try:
            for index, message in enumerate(pool.map(fault, range(len(records)))):
                if message is not None:
                    faults.append(Fault(index, message))
                if progress is not None:
                    progress(index + 1, len(records))
        finally:  # Ctrl-C does not wait for the rest
            pool.shutdown(wait=True, cancel_futures=True)
            if pictures is not None:
                pictures.save()
    return faults


def check_records(records: Sequence[Record], decode_images: bool = False, progress: Progress | None = None) -> None:
    """Raise one DataError that names every row in which `find_faults` finds something."""
    faults = find_faults(records, decode_images, progress)
    if faults:
        raise DataError(describe_faults(records, faults))


def describe_faults(records: Sequence[Record], faults: Sequence[Fault]) -> str:
    """The first faults in full and all other rows by number; at least one fault."""
    lines = [fault.message for fault in faults[:MAX_EXPLAINED]]
    if len(faults) > 1:
        lines.insert(0, f"{len(faults)} of {len(records)} rows can't be used:")
    if rest := faults[MAX_EXPLAINED:]:
        lines.append(f"and {len(rest)} more: {_row_names(records, [fault.row for fault in rest])}")
    return "\n".join(lines)


def _row_names(records: Sequence[Record], rows: Sequence[int]) -> str:
    """`rows 3, 7-9 of a.jsonl`; for rows of several files each file once."""
    numbers: dict[str, list[int]] = {}
    for row in rows:
        if isinstance(records, Records):
            part, number = records.rows.part(row)
            numbers.setdefault(f" of {part.name}", []).append(number)
        else:
            numbers.setdefault("", []).append(row)
    return "; ".join(f"rows {_ranges(found)}{name}" for name, found in numbers.items())


def _ranges(numbers: Sequence[int]) -> str:
    """`3, 7-9` for 3, 7, 8, 9, which rise."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def data_fingerprint(records: Records) -> str:
    """SHA-256 over the number of rows and the problem and answer columns, to tell changed data on resume."""
    digest = hashlib.sha256(str(len(records)).encode())
    for name in (records.keys.prompt_key, records.keys.answer_key, "answers"):
        if name in records.rows.columns:
            for value in records.rows.column(name):
                digest.update(repr(value).encode() + b"\0")
    return digest.hexdigest()


def picture_fingerprint(records: Records) -> str:
    """SHA-256 over the stored bytes of all pictures, row by row; empty for data without any."""
    if records.keys.image_key not in records.rows.columns:
        return ""
    digest, found = hashlib.sha256(), False
    for record in records:
        for source in record.images:
            digest.update(hashlib.sha256(source.encoded()).digest())
            found = True
        digest.update(b"\0")
    return digest.hexdigest() if found else ""


def _answers(answer: Any, answers: Any, key: str, where: str) -> tuple[str, tuple[str, ...]]:
    """The displayed answer and all accepted ones; a list in the answer column is the accepted ones."""
    if isinstance(answer, (list, tuple)):
        if not _is_empty(answers):
            raise DataError(f"{where}: both {key!r} and 'answers' hold lists; keep one")
        answer, answers = None, answer
    accepted = [] if _is_empty(answers) else answers if isinstance(answers, (list, tuple)) else [answers]
    texts = tuple(_answer_text(item, where) for item in accepted)
    if answer is None and not texts:
        raise DataError(f"{where}: no answer in column {key!r}; fill it in or remove the row")
    first = texts[0] if answer is None else _answer_text(answer, where)
    return first, texts or (first,)


def _answer_text(value: Any, where: str) -> str:
    """Strings verbatim; whole numbers without '.0', since a whole float is mostly an integer that went through a table
    with gaps; other floats by `repr`. Everything else is refused."""
    if isinstance(value, str) and value.strip():
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
    raise DataError(f"{where}: no usable answer: {_shorten(value)}; give a text or a finite number")


def _image_source(value: Any, folder: Path | None, anywhere: bool, where: str) -> ImageSource:
    if isinstance(value, dict):
        if isinstance(value.get("bytes"), str):
            raise DataError(f"{where}: {_text_in_place_of_bytes(value['bytes'])}; {_STORE_IT}")
        if value.get("bytes") is not None:
            value = value["bytes"]
        elif value.get("path"):
            value = value["path"]
        else:
            raise DataError(f"{where}: neither 'bytes' nor 'path' in {_shorten(sorted(value))}")
    if isinstance(value, (bytes, bytearray)):
        return ImageSource(data=bytes(value))
    if isinstance(value, Image.Image):
        return ImageSource(picture=value)
    if isinstance(value, (str, Path)) and str(value):
        text = str(value)
        if text[:5].lower() == "data:" or _BASE64_IMAGE.match(text):
            raise DataError(f"{where}: {_text_in_place_of_bytes(text)}; {_STORE_IT}")
        if "://" in text:
            raise DataError(f"{where}: {_shorten(value)} is an address; download it and give the file's path")
        return _image_file(text, folder, anywhere, where)
    raise DataError(f"{where}: can't read an image from {_shorten(value)}; give bytes, a path or {{bytes, path}}")


def _image_file(text: str, folder: Path | None, anywhere: bool, where: str) -> ImageSource:
    if "\0" in text:
        raise DataError(f"{where}: {_shorten(text)} has a zero character in it and can't be a file's path; correct it")
    if folder is None and not anywhere:
        raise DataError(
            f"{where}: {_shorten(text)} is a file's path, and the data set has no folder of its own to look in; set "
            "data.image_dir to the folder that holds its pictures"
        )
    try:
        path = Path(text).expanduser()
    except RuntimeError:  # ~nobody
        raise DataError(f"{where}: {_shorten(text)} begins with ~ and names no user's folder here; correct it") from None
    return ImageSource(path=path if folder is None else folder / path, root=folder)


_BASE64_IMAGE = re.compile(r"(?:iVBORw0KGgo|/9j/|R0lGOD|UklGR|Qk[0-9A-Za-z+/]|SUkq|TU0A)[0-9A-Za-z+/=\s]{60,}")
_STORE_IT = "decode it and give a file's path, or the bytes themselves in Parquet"


def _text_in_place_of_bytes(text: str) -> str:
    kind = "a data URL" if text[:5].lower() == "data:" else "base64 text"
    return f"{_shorten(text, 40)} is {kind} of {len(text):,} characters, not a file's path"


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, (list, tuple, str)) and len(value) == 0)


def _shorten(value: Any, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "..."
