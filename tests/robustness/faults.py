"""Damage each file of a run, an evaluation or a sweep in each way, and give it to each command that reads it.

    python -m tests.robustness.faults --count 60 --seed 7 --only report

Borne is: the result of a whole file, or a clear error that names the file; and once the file is whole again, the command
goes on to that result. A traceback never is.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.engine.runs import ROOT, SMALL, write_data
from tests.robustness.forked import Commands, Request
from tests.robustness.kills import picture

SECONDS = 240
"""After that a command hangs."""
CHECKPOINT = "checkpoints/step_2"
RUN = ("run.json", "config.yaml", "metrics.jsonl", "environment.json")
MODEL = tuple(f"{CHECKPOINT}/{name}" for name in (
    "manifest.json", "trainer_state.json", "huggingface/model.safetensors", "huggingface/config.json",
    "huggingface/tokenizer.json"))  # fmt: skip
RESULT = tuple(f"synthetic_pictures-4/{n}" for n in ("evaluation.json", "problems.jsonl", "samples.jsonl", "summary.json"))
SWEPT = ("sweep.json", "sweep.yaml", *(f"runs/gmpo/seed_1/{name}" for name in RUN[:3]),
         *(f"evaluations/gmpo/seed_1/{name}" for name in RESULT))  # fmt: skip


@dataclass(frozen=True)
class Reader:
    """`argv(world)` reads `files` below `world / folder`; what it leaves in `world / out` is compared ("" for nothing)."""

    name: str
    folder: str
    files: tuple[str, ...]
    argv: Callable[[Path], list[str]]
    out: str


def _train(world: Path, steps: int) -> list[str]:
    return [
        "train", str(world / "inputs/config.yaml"), *SMALL, f"trainer.max_steps={steps}", "trainer.save_freq=1",
        "trainer.save_limit=1", f"trainer.run_dir={world}/run",
    ]  # fmt: skip


def _evaluate(world: Path, out: str, *more: str) -> list[str]:
    return ["evaluate", str(world / "inputs/evaluation.yaml"), f"out={world / out}", *more]


def _report(world: Path, what: str) -> list[str]:
    return ["report", str(world / what), "--out", str(world / "report")]


READERS = (
    Reader("report of a run", "run", (*RUN, "samples/step_2_train.jsonl"), lambda w: _report(w, "run"), "report"),
    Reader("report of a sweep", "sweep", SWEPT, lambda w: _report(w, "sweep"), "report"),
    Reader("compare", "evaluation", RESULT, lambda w: ["compare", f"{w}/evaluation", f"{w}/other"], ""),
    Reader("evaluate again", "evaluation", RESULT, lambda w: _evaluate(w, "evaluation"), "evaluation"),
    Reader("train a finished run", "run", RUN, lambda w: _train(w, 2), "run"),
    Reader("train on", "run", (*RUN, *MODEL, f"{CHECKPOINT}/optimizer.safetensors"), lambda w: _train(w, 3), "run"),
    Reader("evaluate a run", "run", MODEL, lambda w: _evaluate(w, "new", f"model={w}/run"), "new"),
    Reader("merge", "run", MODEL, lambda w: ["merge", f"{w}/run"], ""),
    Reader("sweep again", "sweep", SWEPT[:2], lambda w: ["sweep", f"{w}/inputs/sweep.yaml", "--out", f"{w}/sweep"], "sweep"),
    Reader("grade", "inputs", ("responses.jsonl",), lambda w: [
        "grade", f"{w}/inputs/responses.jsonl", "--gold-key", "answer", "--out", f"{w}/graded.jsonl"], ""),
    Reader("evaluate with settings", "inputs", ("evaluation.yaml",), lambda w: _evaluate(w, "evaluation"), "evaluation"),
    Reader("train with a file", "inputs", ("config.yaml", "data/train.parquet", "data/test_pictures.parquet"),
           lambda w: _train(w, 2), "run"),
    Reader("sweep with a file", "inputs", ("sweep.yaml",), lambda w: [
        "sweep", f"{w}/inputs/sweep.yaml", "--out", f"{w}/sweep"], "sweep"),
)  # fmt: skip


def _in_text(change: Callable[[Any, random.Random], Any]) -> Callable[[Path, random.Random], None]:
    """Damage that parses the file: all of JSON or YAML, or one line of JSON Lines."""

    def damage(file: Path, rng: random.Random) -> None:
        text = file.read_text()
        if file.suffix == ".yaml":
            file.write_text(yaml.safe_dump(change(yaml.safe_load(text), rng), sort_keys=False))
        elif file.suffix == ".json":
            file.write_text(json.dumps(change(json.loads(text), rng)))
        else:
            lines = text.splitlines()
            at = rng.randrange(len(lines))
            lines[at] = json.dumps(change(json.loads(lines[at]), rng))
            file.write_text("\n".join(lines) + "\n")

    return damage


def _without_key(content: Any, rng: random.Random) -> Any:
    return dict(list(content.items())[1:])


def _with_text(content: Any, rng: random.Random) -> Any:
    numbers = [key for key, value in content.items() if isinstance(value, (int, float)) and not isinstance(value, bool)]
    return {**content, (numbers[0] if numbers else next(iter(content))): "many"}


def _flip(file: Path, rng: random.Random) -> None:
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 0x80  # in a text it is no UTF-8 then
    file.write_bytes(data)


def _folder(file: Path, rng: random.Random) -> None:
    file.unlink()
    file.mkdir()


DAMAGES: dict[str, Callable[[Path, random.Random], Any]] = {
    "cut": lambda file, rng: os.truncate(file, rng.randrange(1, file.stat().st_size - 1)),
    "emptied": lambda file, rng: os.truncate(file, 0),
    "a flipped bit": _flip,
    "a folder in its place": _folder,
    "missing": lambda file, rng: file.unlink(),
    "not UTF-8": lambda file, rng: file.write_bytes(b"\xff\xfe{\n"),
    "zeros": lambda file, rng: file.write_bytes(b"\0" * file.stat().st_size),
    "a list": lambda file, rng: file.write_bytes(b"[1]\n"),
    "null": lambda file, rng: file.write_bytes(b"null\n"),
    "nested deep": lambda file, rng: file.write_bytes(b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n"),
    "a missing key": _in_text(_without_key),
    "text for a number": _in_text(_with_text),
}
UNKNOWABLE = {("environment.json", "a missing key"), ("environment.json", "text for a number")}
"""A record of what was installed then, which nothing computes with: another value is as good as the right one."""
BINARY = ("cut", "emptied", "a flipped bit", "a folder in its place", "missing", "zeros")


@dataclass(frozen=True)
class Fault:
    """One damage of one file for one reader."""

    reader: Reader
    file: str
    damage: str

    def __str__(self) -> str:
        return f"{self.reader.name}: {self.file}: {self.damage}"


def all_faults(rng: random.Random) -> list[Fault]:
    """Every fault, in an order that the seed gives."""
    made = [
        Fault(reader, file, damage)
        for reader in READERS
        for file in reader.files
        for damage in (BINARY if file.endswith((".safetensors", ".parquet")) else DAMAGES)
        if (file, damage) not in UNKNOWABLE
    ]
    rng.shuffle(made)
    return made


@dataclass
class World:
    """A finished run, evaluation and sweep below `folder`, made on demand, and what each reader makes of them."""

    folder: Path
    commands: Commands
    _results: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.whole.mkdir(parents=True)
        inputs = self.whole / "inputs"
        inputs.mkdir()
        data = write_data(inputs / "data", train_size=8, test_size=4)
        config = (ROOT / "configs/quickstart.yaml").read_text()
        (inputs / "config.yaml").write_text(config.replace("data/synthetic_geometry", str(self.here / "inputs" / "data")))
        assert data.is_dir()
        settings = {"model": "bundled:qwen2_5_vl_tiny", "benchmarks": ["synthetic_pictures"], "limit": 4, "n": 4, "threads": 1}
        (inputs / "evaluation.yaml").write_text(yaml.safe_dump(settings))
        sweep = {
            "base": str(self.here / "inputs/config.yaml"), "overrides": [*SMALL, "trainer.max_steps=1"],
            "variants": {"gmpo": {"label": "GMPO", "overrides": []}}, "seeds": [1],
            "evaluation": str(self.here / "inputs/evaluation_of_sweep.yaml"),
        }  # fmt: skip
        (inputs / "sweep.yaml").write_text(yaml.safe_dump(sweep))
        del settings["model"]
        (inputs / "evaluation_of_sweep.yaml").write_text(yaml.safe_dump(settings))
        rows = [{"response": rf"so \boxed{{{i % 7}}}", "answer": str(i % 5)} for i in range(30)]
        (inputs / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    @property
    def whole(self) -> Path:
        """What nothing damages."""
        return self.folder / "whole"

    @property
    def here(self) -> Path:
        """Where commands run; always the same, for its name stands in files."""
        return self.folder / "here"

    def _make(self, name: str) -> None:
        """`run`, `evaluation` or `sweep` in `whole`."""
        if name == "inputs" or (self.whole / name).exists():
            return
        self._place([])
        argv = {
            "run": _train(self.here, 2), "evaluation": _evaluate(self.here, "evaluation"),
            "sweep": ["sweep", f"{self.here}/inputs/sweep.yaml", "--out", f"{self.here}/sweep"],
        }[name]  # fmt: skip
        status, text = self._run(argv)
        assert status == 0, text
        shutil.copytree(self.here / name, self.whole / name)

    def _place(self, names: Iterable[str]) -> None:
        shutil.rmtree(self.here, ignore_errors=True)
        for name in ("inputs", *names):
            shutil.copytree(self.whole / name, self.here / name, dirs_exist_ok=True)

    def _prepare(self, reader: Reader) -> None:
        """The reader's inputs in `here`, whole."""
        needed = {reader.folder, reader.out} & {"run", "evaluation", "sweep"}
        for name in sorted(needed):
            self._make(name)
        self._place(sorted(needed))
        if reader.name == "compare":
            shutil.copytree(self.here / "evaluation", self.here / "other")

    def _run(self, argv: list[str]) -> tuple[int, str]:
        log = self.folder / "log"
        log.unlink(missing_ok=True)
        status = self.commands.run(Request(argv, str(self.folder), str(log), seconds=SECONDS)).status
        return status, log.read_text(errors="replace")

    def _result(self, reader: Reader) -> Any:
        """What a reader leaves, without what it set aside."""
        folder = self.here / reader.out
        if not reader.out or not folder.is_dir():
            return None
        return {name: content for name, content in picture(folder).items() if ".damaged" not in name}

    def wanted(self, reader: Reader) -> Any:
        """The result of whole files."""
        if reader.name not in self._results:
            self._prepare(reader)
            status, text = self._run(reader.argv(self.here))
            assert status == 0, text
            self._results[reader.name] = self._result(reader)
        return self._results[reader.name]

    def try_fault(self, fault: Fault, rng: random.Random) -> str | None:
        """What is wrong, or None."""
        reader = fault.reader
        wanted = self.wanted(reader)
        self._prepare(reader)
        file = self.here / reader.folder / fault.file
        DAMAGES[fault.damage](file, rng)
        status, text = self._run(reader.argv(self.here))
        if status not in (0, 2) or "Traceback" in text:
            return f"ended with {status}: {text[-700:]}"
        if status == 2 and file.name not in text and not self._names_a_key(fault, text):
            return f"the error does not name {file.name}: {text[-500:]}"
        if status == 0:
            return self._differences(reader, wanted, "it was read")
        shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
        shutil.copyfile(self.whole / reader.folder / fault.file, file)
        status, text = self._run(reader.argv(self.here))
        if status != 0:
            return f"once repaired: ended with {status}: {text[-500:]}"
        return self._differences(reader, wanted, "once repaired")

    def _names_a_key(self, fault: Fault, text: str) -> bool:
        """Whether the error of a file that a person writes, and that can still be read as one, names a key of it."""
        if fault.reader.folder != "inputs" or fault.damage not in ("cut", "a missing key", "text for a number"):
            return False
        whole = (self.whole / "inputs" / fault.file).read_text()
        return any(re.search(rf"\b{key}\b", text) for key in re.findall(r"^ *(\w+):", whole, re.MULTILINE))

    def _differences(self, reader: Reader, wanted: Any, when: str) -> str | None:
        found = self._result(reader)
        if found == wanted:
            return None
        names = sorted({*(found or {}), *(wanted or {})})
        differ = [name for name in names if (found or {}).get(name, "") != (wanted or {}).get(name, "")]
        return f"{when}, and these differ: {', '.join(differ)}"


def failures(world: World, chosen: Iterable[Fault], rng: random.Random) -> Iterator[tuple[Fault, str | None]]:
    """Each fault and what is wrong with it; in the order of the readers, which share their results."""
    for fault in chosen:
        yield fault, world.try_fault(fault, rng)


def main(arguments: Iterable[str]) -> int:
    """The command line; returns the exit status, 1 where a fault was not borne."""
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.faults", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=0, metavar="N", help="how many; 0 is all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="only those whose name holds this text")
    options = parser.parse_args(list(arguments))
    rng = random.Random(options.seed)
    chosen = [fault for fault in all_faults(rng) if options.only in str(fault)][: options.count or None]
    borne = 0
    with Commands() as commands, tempfile.TemporaryDirectory() as folder:
        for done, (fault, problem) in enumerate(failures(World(Path(folder), commands), chosen, rng)):
            if done and done % 50 == 0:
                print(f"  {borne} of {done} so far", flush=True)
            borne += problem is None
            if problem is not None:
                print(f"{fault}: {problem}", flush=True)
    print(f"{borne} of {len(chosen)} faults were borne")
    return int(borne < len(chosen))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
