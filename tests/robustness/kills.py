"""Kill a command right before each of its file operations, or at random moments, and give the same command again.

    python -m tests.robustness.kills --command train,evaluate --every
    python -m tests.robustness.kills --command train --random 100 --seed 7

Afterwards every file has to be as the command leaves it that nobody killed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gmpo_mm.errors import DataError
from tests.engine.runs import ROOT, SMALL, write_data
from tests.robustness.forked import Commands, Ended, Request

_CLOCKED = ("timing", "perf", "time", "seconds", "updated", "created", "command", "environment", "git_")


@dataclass(frozen=True)
class Command:
    """`argv(inputs, out)` is the command line; `prepare(inputs, run)` makes what it reads, `run(argv)` being another command.

    `begin(inputs, out)` makes what is in the output folder before the command's first start.
    """

    name: str
    argv: Callable[[Path, Path], list[str]]
    prepare: Callable[[Path, Callable[[list[str]], None]], None] = lambda inputs, run: None
    begin: Callable[[Path, Path], None] = lambda inputs, out: None


def _train(inputs: Path, out: Path) -> list[str]:
    return [
        "train", str(ROOT / "configs/quickstart.yaml"), f"data.train_files={inputs}/data/train.parquet",
        f"data.val_files={inputs}/data/test_pictures.parquet", *SMALL, "trainer.save_freq=1", "trainer.save_limit=1",
        "trainer.val_freq=1", "trainer.max_steps=2", f"trainer.run_dir={out}",
    ]  # fmt: skip


def _evaluate(inputs: Path, out: Path) -> list[str]:
    names = "synthetic_pictures,synthetic_combinations"
    return [
        "evaluate", "--model", "bundled:qwen2_5_vl_tiny", "--benchmark", names, "limit=6", "n=16", "threads=1", f"out={out}",
    ]  # fmt: skip


def _sweep(inputs: Path, out: Path) -> list[str]:
    return ["sweep", str(inputs / "sweep.yaml"), "--out", str(out)]


def _write_sweep(inputs: Path, run: Callable[[list[str]], None]) -> None:
    import yaml

    evaluation = inputs / "evaluation.yaml"
    evaluation.write_text("benchmarks: [synthetic_pictures]\nlimit: 4\nn: 4\nthreads: 1\n")
    _, base, *overrides = _train(inputs, inputs)
    content = {
        "base": base, "overrides": [text for text in overrides if "run_dir" not in text] + ["trainer.max_steps=1"],
        "variants": {"gmpo": {"label": "GMPO", "overrides": []}}, "seeds": [1], "evaluation": str(evaluation),
    }  # fmt: skip
    (inputs / "sweep.yaml").write_text(yaml.safe_dump(content))


def _grade(inputs: Path, out: Path) -> list[str]:
    return ["grade", str(inputs / "responses.jsonl"), "--gold-key", "answer", "--out", str(out / "graded.jsonl")]


def _write_responses(inputs: Path, run: Callable[[list[str]], None]) -> None:
    rows = [{"response": rf"so \boxed{{{i % 7}}}", "answer": str(i % 5)} for i in range(300)]
    (inputs / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _report(inputs: Path, out: Path) -> list[str]:
    return ["report", str(inputs / "sweep"), "--out", str(out)]


def _make_sweep(inputs: Path, run: Callable[[list[str]], None]) -> None:
    _write_sweep(inputs, run)
    run(_sweep(inputs, inputs / "sweep"))


def _merge(inputs: Path, out: Path) -> list[str]:
    return ["merge", str(out)]


def _train_adapter(inputs: Path, run: Callable[[list[str]], None]) -> None:
    run([*_train(inputs, inputs / "run"), "trainer.max_steps=1", "worker.actor.model.lora.rank=2"])
    run(["merge", str(inputs / "run")])  # of another folder, so that the copy's merge replaces it


def _copy_run(inputs: Path, out: Path) -> None:
    shutil.copytree(inputs / "run", out)


COMMANDS = {
    command.name: command
    for command in (
        Command("train", _train),
        Command("evaluate", _evaluate),
        Command("sweep", _sweep, _write_sweep),
        Command("grade", _grade, _write_responses),
        Command("report", _report, _make_sweep),
        Command("merge", _merge, _train_adapter, _copy_run),
    )
}


def picture(folder: Path) -> dict[str, Any]:
    """Every file of a folder by its relative path, without what a clock or the number of starts changes."""
    files: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            files[f"{name}/"] = None
        elif path.name.startswith("events.out.tfevents") or path.name == ".lock" or path.suffix == ".log":
            continue
        else:
            files[name] = _content(path)
    return files


def _content(path: Path) -> Any:
    try:
        if path.name == "metrics.jsonl":
            return _metric_lines(path)
        if path.name in ("run.json", "sweep.json", "environment.json", "evaluation.json"):
            return _without_clock(json.loads(path.read_text()))
    except (ValueError, RecursionError, DataError):  # damaged, and left as it was
        pass
    return path.read_bytes()


def _metric_lines(path: Path) -> list[Any]:
    """The last line of each step and kind: a killed run may have written some that it did again."""
    from gmpo_mm.runs.metrics_file import read_metrics

    return [_without_clock(line) for line in read_metrics(path)]


def _without_clock(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_clock(item) for key, item in value.items() if not any(word in key for word in _CLOCKED)}
    return [_without_clock(item) for item in value] if isinstance(value, list) else value


@dataclass
class Trials:
    """Kills one command again and again; `work` holds its inputs, its output and the log of the last trial."""

    command: Command
    work: Path
    commands: Commands
    wanted: dict[str, Any] = field(default_factory=dict)
    operations: tuple[str, ...] = ()
    seconds: float = 0.0

    def __post_init__(self) -> None:
        (self.work / "inputs").mkdir(parents=True)
        if not (self.work / "inputs/data").exists():
            write_data(self.work / "inputs/data", train_size=24, test_size=4)
        self.command.prepare(self.work / "inputs", self._prepare)
        self.command.begin(self.work / "inputs", self.out)
        started = time.monotonic()
        ended = self._start(self.out, below=True)
        self.seconds = time.monotonic() - started
        assert ended.status == 0, (self.work / "log").read_text()[-2000:]
        self.wanted, self.operations = picture(self.out), ended.operations

    @property
    def out(self) -> Path:
        """Where the command writes; always the same, for its name stands in files."""
        return self.work / "out"

    def before_operation(self, number: int) -> str | None:
        """Kill before operation `number` (from 1); what is wrong after the second start, or None."""
        return self._trial(f"before operation {number}, {self.operations[number - 1]}", kill_before=number)

    def after(self, seconds: float) -> str | None:
        """Kill after some time; the same."""
        return self._trial(f"after {seconds:.3f} s", seconds=seconds)

    def _trial(self, moment: str, **kill: Any) -> str | None:
        shutil.rmtree(self.out, ignore_errors=True)
        self.command.begin(self.work / "inputs", self.out)
        first = self._start(self.out, below=True, **kill)
        if first.status not in (-9, 0, 1) or (first.status == 1 and self.command.name != "sweep"):  # it tells of a killed run
            return f"{self.command.name} killed {moment}: ended with {first.status} before: {self._log()}"
        second = self._start(self.out)
        if second.status != 0:
            return f"{self.command.name} killed {moment}: the second start ends with {second.status}: {self._log()}"
        found = picture(self.out)
        differ = [name for name in sorted({*found, *self.wanted}) if found.get(name, "") != self.wanted.get(name, "")]
        return f"{self.command.name} killed {moment}: {', '.join(differ)}" if differ else None

    def _start(self, out: Path, below: bool = False, **kill: Any) -> Ended:
        log = self.work / "log"
        log.unlink(missing_ok=True)
        argv = self.command.argv(self.work / "inputs", out)
        return self.commands.run(Request(argv, str(self.work), str(log), str(out) if below else None, **kill))

    def _prepare(self, argv: list[str]) -> None:
        ended = self.commands.run(Request(argv, str(self.work), str(self.work / "log")))
        assert ended.status == 0, self._log()

    def _log(self) -> str:
        return (self.work / "log").read_text(errors="replace")[-600:]


def failures(trials: Trials, every: bool, count: int, seed: int) -> Iterator[str | None]:
    """One item a kill: None where it was borne."""
    if every:
        yield from map(trials.before_operation, range(1, len(trials.operations) + 1))
    rng = random.Random(f"{trials.command.name} {seed}")
    yield from (trials.after(rng.uniform(0.02, trials.seconds * 1.1)) for _ in range(count))


def main(arguments: Iterable[str]) -> int:
    """The command line; returns the exit status, 1 where a kill was not borne."""
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.kills", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--command", default=",".join(COMMANDS))
    parser.add_argument("--every", action="store_true", help="before each file operation")
    parser.add_argument("--random", type=int, default=0, metavar="N", help="at N random moments")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(list(arguments))
    wrong = 0
    with Commands() as commands, tempfile.TemporaryDirectory() as folder:
        for name in options.command.split(","):
            trials = Trials(COMMANDS[name], Path(folder) / name, commands)
            borne = total = 0
            for result in failures(trials, options.every, options.random, options.seed):
                total, borne = total + 1, borne + (result is None)
                if result is not None:
                    print(f"  {result}", flush=True)
                elif total % 20 == 0:
                    print(f"  {name}: {borne} of {total} so far", flush=True)
            wrong += total - borne
            print(f"{name}: {borne} of {total} kills borne; {len(trials.operations)} file operations", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
