"""What other projects write of their samples: verl's JSON Lines, EasyR1's generations.log, TRL's completions.

Recognised by content. What a format lacks stays None and is shown as a stage that is not in that side.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gmpo_mm.errors import DataError
from gmpo_mm.inspection.sources import DECODED, MESSAGES, WITH_SPECIALS, Prompt, Reader, Sample, Source
from gmpo_mm.runs.reading import read_text

_ADVICE = "give a file that the trainer wrote"
_VERL_KEYS = {"input", "output", "score", "step"}
_EASYR1_SAMPLE = re.compile(
    r"\[prompt\] (.*?)\n\[output\] (.*?)\n\[ground_truth\] (.*?)\n\[score\] (\S+)\n\n", re.DOTALL
)
_SPECIAL = re.compile(r"<\|[^|<>]{1,40}\|>")


def dump_reader(path: Path) -> Reader | None:
    """The reader for a file or a folder of another project; None where it is none."""
    if path.is_dir():
        for folder in (path, path / "completions"):
            if files := sorted(folder.glob("*.parquet")):
                return _TRL(path, files) if _is_trl(files[0]) else None
        if files := sorted(path.glob("*.jsonl")):
            return _Verl(path, files) if _is_verl(files[0]) else None
        log = path / "generations.log"
        return _EasyR1(log) if log.is_file() else None
    with path.open("rb") as file:
        start = file.read(9)
    if start.startswith(b"PAR1"):
        return _TRL(path, [path]) if _is_trl(path) else None
    if start == b"[prompt] ":
        return _EasyR1(path)
    return _Verl(path, [path]) if _is_verl(path) else None


class _Verl(Reader):
    """`trainer.rollout_data_dir` and `validation_data_dir`: N.jsonl for each step, one line a response."""

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        super().__init__(path)
        self.files, self.folder = files, path.is_dir()

    def steps(self) -> list[int]:
        # the first line of each file is enough: a file holds one step
        return sorted(self._by_step())

    def read(self, step: int | None) -> Source:
        file = _of_step(self.path, self._by_step(), step)
        rows = _json_lines(file)
        known = {"input", "output", "gts", "score", "step", "uid", "request_id"}
        inputs: dict[str | None, set[Any]] = defaultdict(set)
        for row in rows:
            inputs[_uid(row)].add(str(row.get("input")))
        consistent = all(len(texts) == 1 for texts in inputs.values())
        prompts: dict[tuple[str, str, str], Prompt] = {}
        samples = []
        for number, row in enumerate(rows):
            if not row.keys() >= _VERL_KEYS:
                raise DataError(
                    f"{file}, line {number + 1}: no {', '.join(sorted(_VERL_KEYS - row.keys()))}; {_ADVICE}"
                )
            group = _uid(row)
            answer = None if row.get("gts") is None else str(row["gts"])
            # two prompts of a batch may have one text; a uid that holds several texts can't tell them apart
            instance = group if consistent else ""
            prompt = prompts.setdefault(
                (str(row["input"]), str(answer), str(instance)), Prompt(str(row["input"]), answer=answer)
            )
            parts = {k: float(v) for k, v in row.items() if k not in known and _is_number(v)}
            samples.append(
                Sample(
                    number,
                    prompt,
                    str(row["output"]),
                    reward=_number(row["score"], file),
                    parts=parts,
                    group=group,
                )
            )
        kind = "verl's generations (trainer.rollout_data_dir or validation_data_dir)"
        return Source(file, kind, _step(rows[0]["step"], file), samples, list(prompts.values()), DECODED)

    def _by_step(self) -> dict[int, Path]:
        return {_step(_first_line(file).get("step"), file): file for file in self.files}


def _uid(row: Mapping[str, Any]) -> str | None:
    """The prompt's; TransferQueue's keys are uid_rollout_output."""
    return str(row["uid"]).rsplit("_", 2)[0] if row.get("uid") is not None else None


class _EasyR1(Reader):
    """`generations.log` (logger `file`): validation samples, appended, without step numbers."""

    def steps(self) -> list[int]:
        return []

    def read(self, step: int | None) -> Source:
        text = read_text(self.path, _ADVICE)
        rows: list[tuple[str, ...]] = []
        place = 0
        while place < len(text):
            found = _EASYR1_SAMPLE.match(text, place)
            if found is None:
                line = text.count("\n", 0, place) + 1
                raise DataError(
                    f"{self.path}, line {line}: no sample of EasyR1's generation log begins here; {_ADVICE}"
                )
            rows.append(found.groups())
            place = found.end()
        if not rows:
            raise DataError(f"{self.path} is empty; {_ADVICE}")
        size = _period([(row[0], row[2]) for row in rows])
        count = len(rows) // size
        if step is not None and not 1 <= step <= count:
            step = None
        chosen = 0 if step is None else step - 1
        notes = []
        if count > 1:
            notes.append(
                f"{self.path.name} has no step numbers: its {len(rows)} samples are {count} validations of "
                f"{size}, and number {chosen + 1} is read (--step N reads the Nth)"
            )
        prompts: dict[tuple[str, str], Prompt] = {}
        samples = []
        for number, (prompt, output, answer, score) in enumerate(rows[chosen * size : (chosen + 1) * size]):
            key = prompts.setdefault((prompt, answer), Prompt(prompt, answer=answer))
            samples.append(Sample(number, key, output, reward=_number(score, self.path)))
        kind = "EasyR1's generation log (validation samples)"
        return Source(self.path, kind, None, samples, list(prompts.values()), DECODED, notes=notes)


class _TRL(Reader):
    """`log_completions`: completions/completions_NNNNN.parquet, one row a completion."""

    def __init__(self, path: Path, files: Sequence[Path]) -> None:
        super().__init__(path)
        self.files, self.folder = files, path.is_dir()

    def steps(self) -> list[int]:
        return sorted(self._by_step())

    def read(self, step: int | None) -> Source:
        file = _of_step(self.path, self._by_step(), step)
        rows = _parquet(file)
        prompts: dict[str, Prompt] = {}
        samples = []
        kinds = set()
        for number, row in enumerate(rows):
            text, kind = _text(row["prompt"], file)
            kinds.add(kind)
            prompt = prompts.setdefault(text, Prompt(text))
            parts = {
                k: float(v)
                for k, v in row.items()
                if k not in ("step", "prompt", "completion", "advantage") and _is_number(v)
            }
            advantage = float(row["advantage"]) if _is_number(row.get("advantage")) else None
            # the weights of the reward functions are not in the file
            reward = next(iter(parts.values())) if len(parts) == 1 else None
            samples.append(
                Sample(
                    number,
                    prompt,
                    _text(row["completion"], file)[0],
                    reward=reward,
                    parts=parts,
                    advantage=advantage,
                )
            )
        text_kind = MESSAGES if MESSAGES in kinds else WITH_SPECIALS
        number_of_step = _step(rows[0]["step"], file)
        return Source(
            file, "TRL's logged completions", number_of_step, samples, list(prompts.values()), text_kind
        )

    def _by_step(self) -> dict[int, Path]:
        return {_step(_parquet(file, ["step"])[0]["step"], file): file for file in self.files}


def _of_step(path: Path, files: Mapping[Any, Path], step: int | None) -> Path:
    if not path.is_dir():
        if step not in (None, *files):
            raise DataError(f"{path} is step {min(files)}, not {step}: leave --step out, or name another")
        return path
    if step is None:
        return files[min(files)]
    if step not in files:
        raise DataError(
            f"{path}: there is no file of step {step}; there are {', '.join(map(str, sorted(files)[:20]))}"
        )
    return files[step]


def _is_verl(file: Path) -> bool:
    try:
        return _first_line(file).keys() >= _VERL_KEYS
    except DataError:
        return False


def _first_line(file: Path) -> dict[str, Any]:
    with file.open("rb") as opened:
        return _object(opened.readline(), file, 1)


def _json_lines(file: Path) -> list[dict[str, Any]]:
    lines = [line for line in read_text(file, _ADVICE).split("\n") if line.strip()]
    return [_object(line, file, number) for number, line in enumerate(lines, start=1)]


def _object(line: str | bytes, file: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise DataError(f"{file}, line {number}: not a JSON object; {_ADVICE}")
    return row


def _is_trl(file: Path) -> bool:
    import pyarrow
    import pyarrow.parquet

    try:
        return {"step", "prompt", "completion"} <= set(pyarrow.parquet.read_schema(file).names)
    except (pyarrow.ArrowException, OSError):
        return False


def _parquet(file: Path, columns: list[str] | None = None) -> list[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows: list[dict[str, Any]] = pyarrow.parquet.read_table(file, columns=columns).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file} can't be read ({' '.join(str(error).split())[:200]}); {_ADVICE}") from None
    if not rows:
        raise DataError(f"{file} has no rows; {_ADVICE}")
    return rows


def _text(value: Any, file: Path) -> tuple[str, str]:
    """The text of a prompt or completion of TRL, and its kind: plain, or the messages' contents."""
    if isinstance(value, str):
        return value, WITH_SPECIALS if _SPECIAL.search(value) else DECODED
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        raise DataError(f"{file}: a prompt or completion is neither text nor messages; {_ADVICE}")
    contents = []
    for message in value:
        content = message.get("content")
        if isinstance(content, list):
            content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
        contents.append(str(content or ""))
    return "\n".join(contents), MESSAGES


def _period(rows: Sequence[tuple[str, str]]) -> int:
    """The length of the part of which the rows are repetitions; all of them where they are none."""
    for size in range(1, len(rows) // 2 + 1) if len(set(rows)) > 1 else ():
        if (
            len(rows) % size == 0
            and rows[0] == rows[size]
            and all(rows[i] == rows[i % size] for i in range(len(rows)))
        ):
            return size
    return len(rows)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not (isinstance(value, float) and value != value)


def _number(value: Any, file: Path) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DataError(f"{file}: the score {str(value)[:40]!r} is no number; {_ADVICE}") from None


def _step(value: Any, file: Path) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"{file}: the step {str(value)[:40]!r} is no whole number; {_ADVICE}")
    return value
