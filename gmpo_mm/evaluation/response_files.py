"""Responses as other tools leave them, as rows with `response` (a text or a list), `answer`, and what else
is known.

    easyr1      generations.log of trainer.logger=[file]: [prompt], [output], [ground_truth], [score]
    verl        a JSON Lines file of trainer.validation_data_dir: input, output, gts, score
    lm_eval     samples_TASK_DATE.jsonl of --log_samples: doc, target, resps
    lmms_eval   DATE_samples_TASK.jsonl: input, target, filtered_resps, and resps where they differ
    vlmevalkit  a sheet MODEL_DATASET.xlsx, .tsv or .csv: question, answer, prediction, and A, B, C, D
    skythought  results.json: by problem `responses` with their `content`
    qwen_math   JSON Lines of Qwen2.5-Math: question, gt, code (the responses), pred
    rows        a row for each problem, with columns of any name (`read_rows`)

A problem with options gets `letter` and `choices`, and its answer is then the option's text or the letter.
"""

from __future__ import annotations

import csv
import json
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gmpo_mm.data.sources import Part, Rows, read_rows
from gmpo_mm.errors import ConfigError, DataError

Row = dict[str, Any]
SHEETS = (".xlsx", ".tsv", ".csv")
LETTERS = ("A", "B", "C", "D")
_EASYR1_RECORD = re.compile(r"(?m)^\[prompt\] ")
_OPTION = re.compile(r"(?m)^\(?([A-D])[.)] ?(.+)$")


def read_responses(file: str, form: str = "auto") -> tuple[Rows, str]:
    """The rows of a file and its format's name; `auto` recognises it by its columns. DataError names what is missing."""
    if form not in ("auto", "rows", *FORMATS):
        raise ConfigError(f"--format={form!r} is not known; use one of auto, rows, {', '.join(FORMATS)}")
    path = Path(file).expanduser()
    if path.is_dir() and form in ("auto", "verl") and (newest := _newest_step(path)):
        path = newest
    if form == "auto":
        form = _recognised(path)
    if form == "rows":
        return read_rows(file), "rows"
    if not path.is_file():
        raise DataError(f"{file}: there is no such file; --format {form} reads one file")
    try:
        rows = list(FORMATS[form](path))
    except KeyError as error:
        raise DataError(
            f"{file}: a row has no {error}, which files of {form} have; give another --format"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: can't be read: {error}") from error
    return Rows(rows, (Part(path.name, path.parent, 0),)), form


def _newest_step(folder: Path) -> Path | None:
    """The file of the last step in verl's validation_data_dir, whose files are all named after a step."""
    files = [path for path in folder.iterdir() if path.is_file()]
    if not files or not all(re.fullmatch(r"\d+\.jsonl", path.name) for path in files):
        return None
    return max(files, key=lambda path: int(path.stem))


def _recognised(path: Path) -> str:
    """The format by the file's name and its first row; `rows` for anything else."""
    if not path.is_file() or path.suffix == ".parquet":
        return "rows"
    if path.suffix == ".log":
        return "easyr1"
    if path.suffix in SHEETS:
        return "vlmevalkit"
    first = _first_object(path)
    if (
        path.suffix == ".json"
        and first
        and all(isinstance(value, Mapping) and "responses" in value for value in first.values())
    ):
        return "skythought"
    keys = set(first)
    known = {
        "verl": {"input", "output", "gts", "score"}, "lm_eval": {"doc_id", "doc", "target", "resps"},
        "lmms_eval": {"doc_id", "target", "filtered_resps"}, "qwen_math": {"question", "gt", "code", "pred"},
    }  # fmt: skip
    return next((name for name, wanted in known.items() if wanted <= keys and "response" not in keys), "rows")


def _first_object(path: Path) -> Mapping[str, Any]:
    """The first line's object, or the file's; {} where it is something else."""
    try:
        with path.open(encoding="utf-8") as file:
            text = file.readline()
            if (
                path.suffix == ".json" and text.lstrip()[:1] == "{"
            ):  # a list's rows are read when they are needed
                text += file.read()
        value = json.loads(text)
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, Mapping) else {}


def _easyr1(path: Path) -> Iterator[Row]:
    for number, record in enumerate(_EASYR1_RECORD.split(path.read_text(encoding="utf-8"))[1:]):
        prompt, output, rest = record.partition("\n[output] ")
        response, truth, rest = rest.rpartition("\n[ground_truth] ")
        answer, scored, score = rest.rpartition("\n[score] ")
        if not (output and truth and scored):
            raise DataError(
                f"{path}: record {number} has no [output], [ground_truth] and [score]; is this EasyR1's generations.log?"
            )
        yield {"problem": prompt, "response": response, "answer": answer, "score": float(score.split()[0])}


def _verl(path: Path) -> Iterator[Row]:
    for row in _objects(path):
        yield {**row, "problem": row["input"], "response": row["output"], "answer": row["gts"]}


def _lm_eval(path: Path) -> Iterator[Row]:
    seen: dict[Any, Any] = {}  # each filter of a task writes all rows once more
    for number, row in enumerate(_objects(path)):
        if seen.setdefault(row["doc_id"], row.get("filter")) != row.get("filter"):
            continue
        responses = _flat(row["resps"])
        if not all(isinstance(text, str) for text in responses):
            raise DataError(
                f"{path}: row {number} has log-likelihoods and no generated text, so there is nothing to grade"
            )
        doc = row["doc"] if isinstance(row["doc"], Mapping) else {}
        problem = next(
            (doc[key] for key in ("problem", "question", "query") if isinstance(doc.get(key), str)), None
        )
        options = doc.get("choices") if isinstance(doc.get("choices"), list) else None
        # lm-eval logs a list of golds as Python's text of it; the list itself is in the document
        lists = (value for value in doc.values() if isinstance(value, list))
        target = next((value for value in lists if str(value) == row["target"]), row["target"])
        yield {
            "id": row["doc_id"],
            "problem": problem,
            "response": responses,
            **_answer(target, options),
        }


def _lmms_eval(path: Path) -> Iterator[Row]:
    for row in _objects(path):
        problem = row["input"] if isinstance(row.get("input"), str) else None
        options = [text.strip() for _, text in _OPTION.findall(problem or "")][:4]
        response = _flat(row.get("resps", row["filtered_resps"]))
        yield {
            "id": row["doc_id"],
            "problem": problem,
            "response": response,
            **_answer(row["target"], options),
        }


def _qwen_math(path: Path) -> Iterator[Row]:
    for row in _objects(path):
        yield {"id": row.get("idx"), "problem": row["question"], "response": row["code"], "answer": row["gt"]}


def _skythought(path: Path) -> Iterator[Row]:
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: broken JSON: {error}") from error
    for name, record in records.items():
        said = record["responses"]
        entries = said.values() if isinstance(said, Mapping) else said
        gold = next((record[key] for key in ("answer", "expected_answer", "gold") if key in record), None)
        if gold is None:
            raise DataError(f"{path}: problem {name} has no answer, expected_answer or gold")
        problem = next(
            (record[key] for key in ("problem", "question", "prompt") if isinstance(record.get(key), str)),
            None,
        )
        yield {
            "id": name,
            "problem": problem,
            "response": [entry["content"] for entry in entries],
            "answer": gold,
        }


def _vlmevalkit(path: Path) -> Iterator[Row]:
    for row in _sheet(path):
        options = [row[letter] for letter in LETTERS if row.get(letter) not in (None, "")]
        yield {
            "id": row.get("index"), "problem": row.get("question"), "response": row["prediction"] or None,
            **_answer(row["answer"], options),
        }  # fmt: skip


def _sheet(path: Path) -> Iterator[Row]:
    """The rows of a sheet as texts, by the names in its first row."""
    if path.suffix != ".xlsx":
        csv.field_size_limit(64 << 20)  # pictures may stand in a cell
        with path.open(encoding="utf-8", newline="") as file:
            yield from csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")
        return
    try:
        import openpyxl
    except ImportError as error:
        raise ConfigError(
            f"{path}: to read .xlsx: pip install 'gmpo-mm[sheets]' (openpyxl), or save it as .tsv"
        ) from error
    try:
        rows = openpyxl.load_workbook(path, read_only=True).worksheets[0].iter_rows(values_only=True)
        names = [str(name) for name in next(rows, ())]
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: can't be read as .xlsx: {error}") from error
    for values in rows:
        yield {name: None if value is None else str(value) for name, value in zip(names, values)}


def _answer(target: Any, options: Sequence[Any] | None) -> Row:
    """The gold; with options also the letter, and both the option's text and the letter count."""
    letter = str(target).strip().strip("()").upper()
    if not options or letter not in LETTERS[: len(options)]:
        return {"answer": target} | ({"letter": letter} if letter in LETTERS else {})
    choices = [str(option) for option in options]
    return {"answers": [choices[LETTERS.index(letter)], letter], "letter": letter, "choices": choices}


def _flat(value: Any) -> list[Any]:
    """The texts of lists in lists."""
    return [text for one in value for text in _flat(one)] if isinstance(value, list) else [value]


def _objects(path: Path) -> Iterator[Row]:
    rows = read_rows(str(path))
    return (rows.row(index) for index in range(len(rows)))


FORMATS: dict[str, Callable[[Path], Iterator[Row]]] = {
    "easyr1": _easyr1, "verl": _verl, "lm_eval": _lm_eval, "lmms_eval": _lmms_eval, "vlmevalkit": _vlmevalkit,
    "skythought": _skythought, "qwen_math": _qwen_math,
}  # fmt: skip
