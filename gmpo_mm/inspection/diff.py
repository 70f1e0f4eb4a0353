"""`gmpo-mm diff A B`: the first stage at which two sides part, and what is equal or different after it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmpo_mm.config import resolve_model_path
from gmpo_mm.errors import DataError
from gmpo_mm.inspection.alignment import Alignment, align
from gmpo_mm.inspection.comparing import METRIC
from gmpo_mm.inspection.findings import ABSENT, DIFFERS, UNKNOWN, Example, Stage
from gmpo_mm.inspection.opening import open_sources
from gmpo_mm.inspection.sources import Source
from gmpo_mm.inspection.walk import walk
from gmpo_mm.runs.run_config import FREE_KEYS
from gmpo_mm.runs.step_record import OF_THE_MACHINE

FORMAT = 1
_NOT_COMPARED = (*OF_THE_MACHINE, "rollout/log_prob_gap")
_UNUSED_SECTIONS = ("worker.critic.", "worker.ref.")


@dataclass(eq=False)
class Diff:
    """What was found; `first` is the answer. Shown as a table by `print`, as data by `to_json`."""

    a: Source
    b: Source
    aligned: Alignment
    stages: Sequence[Stage]
    settings: Mapping[str, tuple[Any, Any]]
    """Configuration keys that decide the training and differ: key -> (A, B)."""
    notes: Sequence[str]

    @property
    def first(self) -> Stage | None:
        """The first stage at which A and B part; None where all that can be compared is equal."""
        return next((stage for stage in self.stages if stage.status == DIFFERS), None)

    @property
    def equal(self) -> bool:
        """Whether all that can be compared is equal, float32 rounding aside."""
        return self.first is None

    def to_json(self) -> dict[str, Any]:
        """Everything, for programs."""
        sides = {"a": _side(self.a), "b": _side(self.b)}
        aligned = {
            "responses": len(self.aligned.pairs),
            "equal_responses": len(self.aligned.same),
            "by": dict(self.aligned.by),
            "only_a": len(self.aligned.samples_only_a),
            "only_b": len(self.aligned.samples_only_b),
        }
        return {
            "format": FORMAT,
            "equal": self.equal,
            "first": None if self.first is None else self.first.name,
            "causes": [] if self.first is None else [vars(cause) for cause in self.first.causes],
            **sides,
            "aligned": aligned,
            "configuration": {key: {"a": x, "b": y} for key, (x, y) in self.settings.items()},
            "stages": [stage.to_json() for stage in self.stages],
            "notes": list(self.notes),
        }

    def __repr__(self) -> str:
        if self.first is None:
            return f"Diff: {self.a.path} and {self.b.path} are equal in all that can be compared"
        causes = "; ".join(cause.words for cause in self.first.causes)
        return f"Diff: they part at {self.first.name}: {self.first.words} ({causes})"


def diff(a: str | Path, b: str | Path, step: int | None = None) -> Diff:
    """Compare a step of two runs, records or dumps. DataError for what can't be read or compared."""
    one, other = open_sources(Path(a), Path(b), step)
    aligned = align(one, other)
    stages = list(walk(one, other, aligned))
    if all(stage.status in (ABSENT, UNKNOWN) for stage in stages):
        raise DataError(
            f"{a} ({one.kind}) and {b} ({other.kind}) have nothing in common that could be compared"
        )
    for stage in stages:
        if stage.example is not None:
            _show_tokens(stage.example, one)
    notes = [*one.notes, *other.notes, *_alignment_notes(aligned, one, other), *_metric_notes(one, other)]
    return Diff(one, other, aligned, stages, _settings(one, other), notes)


def write_diff(found: Diff, file: Path) -> None:
    """Write everything as JSON. Raises DataError when the file can't be written."""
    text = json.dumps(found.to_json(), indent=2, ensure_ascii=False, default=str)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise DataError(f"--json {file}: can't be written ({error.strerror}); name another file") from None


def _side(source: Source) -> dict[str, Any]:
    return {
        "path": str(source.path),
        "kind": source.kind,
        "step": source.step,
        "prompts": len(source.prompts),
        "responses": len(source.samples),
    }


def _settings(a: Source, b: Source) -> dict[str, tuple[Any, Any]]:
    if not a.config or not b.config:
        return {}
    keys = [
        key
        for key in {**a.config, **b.config}
        if key not in FREE_KEYS and not key.startswith(_UNUSED_SECTIONS)
    ]
    missing = "(not there)"
    pairs = {key: (a.config.get(key, missing), b.config.get(key, missing)) for key in keys}
    return {key: (x, y) for key, (x, y) in pairs.items() if x != y}


def _alignment_notes(aligned: Alignment, a: Source, b: Source) -> list[str]:
    by = {name: count for name, count in aligned.by.items() if count}
    notes = []
    if by:
        shown = ", ".join(f"{count:,} by {name}" for name, count in by.items())
        notes.append(
            f"{len(aligned.pairs):,} responses of {len(aligned.prompts)} prompts were matched: {shown}"
        )
    if a.step is not None and b.step is not None and a.step != b.step:
        notes.append(f"A is step {a.step} and B is step {b.step}")
    return notes


def _metric_notes(a: Source, b: Source) -> list[str]:
    """Where the metrics of two runs part, which may be before the step that is looked at."""
    steps = sorted(set(a.run_metrics) & set(b.run_metrics))
    for step in steps:
        x, y = a.run_metrics[step], b.run_metrics[step]
        names = [n for n in x if n in y and not n.startswith(_NOT_COMPARED)]
        off = [
            n
            for n in names
            if x[n] == x[n] and abs(x[n] - y[n]) > METRIC.absolute + METRIC.relative * abs(x[n])
        ]
        if off:
            first = off[0]
            text = (
                f"the runs' metrics part at step {step}: {first} is {x[first]:.6g} in A, {y[first]:.6g} in B"
            )
            if a.step is not None and step < a.step:
                text += f"; look there first: trainer.record_steps=[{step}] in both, and diff --step {step}"
            return [text]
    return [f"the runs' metrics are equal in all {len(steps)} steps that both have"] if steps else []


def _show_tokens(example: Example, source: Source) -> None:
    """The tokens around an example's place, decoded where the model's tokenizer lies on this disk."""
    if example.ids is None or example.token < 0:
        return
    ids, at = example.ids, example.token
    start, end = max(0, at - 4), min(len(ids), at + 5)
    texts = _token_texts(list(ids[start:end]), source)
    shown = " ".join(f"[{text}]" if start + n == at else text for n, text in enumerate(texts))
    example.around = f"{'... ' if start else ''}{shown}{' ...' if end < len(ids) else ''}"


def _token_texts(ids: Sequence[int], source: Source) -> list[str]:
    from tokenizers import Tokenizer

    path = source.config.get("worker.actor.model.tokenizer_path") or source.config.get(
        "worker.actor.model.model_path"
    )
    try:
        file = Path(resolve_model_path(str(path))) / "tokenizer.json"
        tokenizer = Tokenizer.from_file(str(file)) if file.is_file() else None
    except Exception:  # tokenizers raises Exception itself; without it the ids are shown
        tokenizer = None
    if tokenizer is None:
        return [str(i) for i in ids]
    return [repr(tokenizer.decode([i], skip_special_tokens=False))[1:-1] or str(i) for i in ids]
