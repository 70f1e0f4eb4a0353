"""Opens the two sides of `gmpo-mm diff`: knows a path by what is in it; reads runs and records."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError

from gmpo_mm.errors import DataError
from gmpo_mm.inspection.dumps import dump_reader
from gmpo_mm.inspection.sources import Picture, Prompt, Reader, Sample, Source
from gmpo_mm.runs.metrics_file import FILE_NAME, read_metrics
from gmpo_mm.runs.reading import read_yaml
from gmpo_mm.runs.run_config import flatten
from gmpo_mm.runs.step_record import FOLDER, PICTURES, StepRecord, load_step, recorded_steps


def open_sources(a: Path, b: Path, step: int | None) -> tuple[Source, Source]:
    """Both sides at a step, by default the first that both have. DataError for what can't be read."""
    readers = [_reader(path) for path in (a, b)]
    if step is None:
        steps = [reader.steps() for reader in readers]
        common = sorted(set(steps[0]) & set(steps[1]))
        if all(steps) and not common and any(reader.folder for reader in readers):
            shown = [_listed(found) for found in steps]
            raise DataError(
                f"{a} and {b} have no step in common: {shown[0]} against {shown[1]}; record the same step in "
                "both (trainer.record_steps), or name two files"
            )
        step = common[0] if common else None
    one, other = (reader.read(step) for reader in readers)
    return one, other


class _RunDirectory(Reader):
    folder = True

    def steps(self) -> list[int]:
        found = recorded_steps(self.path)
        return found or sorted(self._metrics())

    def read(self, step: int | None) -> Source:
        metrics = self._metrics()
        found = recorded_steps(self.path)
        if step is None:
            step = next(iter(found or sorted(metrics)), None)
        if step in found:
            source = from_record(
                load_step(self.path, step), self.path / FOLDER / f"step_{step}.json", self.path
            )
        elif found:
            listed = f"there are {_listed(found)} (trainer.record_steps)"
            raise DataError(f"{self.path}: step {step} has no record; {listed}")
        elif step in metrics:
            config = read_yaml(self.path / "config.yaml", "restore it, or compare records")
            kind = "a run without records: its configuration and its metrics"
            source = Source(self.path, kind, step, config=flatten(config), metrics=metrics[step])
            source.learning_rate = metrics[step].get("actor/lr")
        else:
            where = f"{self.path}: step {step} is neither recorded nor in {FILE_NAME}"
            raise DataError(f"{where}; set trainer.record_steps=[{step}] and train again")
        source.path, source.run_metrics = self.path, metrics
        return source

    def _metrics(self) -> dict[int, dict[str, float]]:
        if not (self.path / FILE_NAME).is_file():
            return {}
        lines = [line for line in read_metrics(self.path) if line["kind"] == "train"]
        return {line["step"]: {k: v for k, v in line.items() if isinstance(v, float)} for line in lines}


class _RecordFile(Reader):
    @cached_property
    def _record(self) -> StepRecord:
        return load_step(self.path)

    def steps(self) -> list[int]:
        return [self._record.step]

    def read(self, step: int | None) -> Source:
        record = self._record
        if step not in (None, record.step):
            raise DataError(
                f"{self.path} is step {record.step}, not {step}: leave --step out, or name another"
            )
        return from_record(record, self.path, self.path.parent.parent)


def _reader(path: Path) -> Reader:
    """By what is in the path, not by its name."""
    if not path.exists():
        raise DataError(
            f"{path} is not there; give a run directory, a record, or a dump of verl, EasyR1 or TRL"
        )
    if path.is_dir() and (recorded_steps(path) or (path / FILE_NAME).is_file()):
        return _RunDirectory(path)
    if (
        path.is_file()
        and path.suffix in (".json", ".safetensors")
        and path.with_suffix(".safetensors").is_file()
    ):
        return _RecordFile(path)
    found = dump_reader(path)
    if found is None:
        raise DataError(
            f"{path} is nothing that can be compared: give a run directory, a record (rollouts/step_N.json), "
            "verl's JSON Lines (trainer.rollout_data_dir), EasyR1's generations.log or TRL's completions"
        )
    return found


def from_record(record: StepRecord, path: Path, run_dir: Path) -> Source:
    """A record of ours. DataError where a response's group is no prompt of the record."""
    groups = range(len(record.prompts))
    if any(group not in groups for group in record.group_ids_B.tolist()):
        raise DataError(
            f"{path}: a response's group is none of its {len(groups)} prompts; record the step again"
        )
    prompts = [
        Prompt(
            p.text,
            p.id,
            p.problem,
            p.answer,
            tuple(p.input_ids_S.tolist()),
            _pictures(p.images, p.image_grid_thw_N3, run_dir),
        )
        for p in record.prompts
    ]
    values = {
        "sampler_log_probs": record.sampler_log_probs_BT,
        "old_log_probs": record.old_log_probs_BT,
        "ref_log_probs": record.ref_log_probs_BT,
        "log_probs": record.log_probs_BT,
    }
    samples = []
    for row, length in enumerate(record.lengths_B):
        mask_T, advantages_T = record.mask_BT[row, :length], record.advantages_BT[row, :length].double()
        seen = advantages_T[mask_T]
        group = int(record.group_ids_B[row])
        samples.append(
            Sample(
                row,
                prompts[group],
                record.texts[row],
                tuple(record.response_ids_BT[row, :length].tolist()),
                mask_T,
                record.stop_reasons[row],
                row in record.left_out,
                float(record.rewards_B[row]),
                {name: float(part_B[row]) for name, part_B in record.reward_parts.items()},
                group,
                advantages_T,
                float(seen[0]) if len(seen) and bool((seen == seen[0]).all()) else None,
                {
                    name: tensor[row, :length].double()
                    for name, tensor in values.items()
                    if tensor is not None
                },
            )
        )
    return Source(
        path,
        f"record of engine {record.engine}",
        record.step,
        samples,
        prompts,
        engine=record.engine,
        temperature=record.temperature,
        learning_rate=record.learning_rate,
        updates=record.updates,
        weights_before=record.weights_before,
        weights_after=record.weights_after,
        metrics=record.metrics,
        config=flatten(dict(record.config)),
    )


def _pictures(names: Sequence[str], grid_N3: torch.Tensor | None, run_dir: Path) -> tuple[Picture, ...]:
    found = []
    for number, name in enumerate(names):
        file: Path | None = run_dir / FOLDER / PICTURES / f"{name}.png"
        size = None
        try:
            assert file is not None
            with Image.open(file) as image:
                size = image.size
        except (OSError, UnidentifiedImageError):
            file = None
        grid = tuple(grid_N3[number].tolist()) if grid_N3 is not None and number < len(grid_N3) else None
        found.append(Picture(name, size, grid, file))
    return tuple(found)


def _listed(steps: Sequence[int]) -> str:
    shown = ", ".join(map(str, steps[:8]))
    return (
        f"step{'s' if len(steps) > 1 else ''} {shown}{', ...' if len(steps) > 8 else ''}"
        if steps
        else "no step"
    )
