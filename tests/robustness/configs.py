"""Broken configurations through the dry run of `train`, each with the verdict that it has to get.

    python -m tests.robustness.configs --count 3000 --seed 7

They are made from the schema (every key, every range), from the shipped files and from lists of what people get wrong.
The verdict is an error that names a key and a fix, or acceptance; a traceback, a written file and a hang are never right.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import traceback
import types
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import yaml

from gmpo_mm.config.bounds import RANGES
from gmpo_mm.config.keys import default_of, schema_keys, section_names
from gmpo_mm.config.ranges import Range, ranges_of
from gmpo_mm.config.schema import ValidationSampling
from tests.engine.runs import ROOT, write_data
from tests.robustness.wrong_settings import contradictions, files, overrides, yaml_traps

SECONDS = 60
"""A dry run that takes longer hangs."""
MEND = re.compile(
    r"did you mean|\b(set|use|remove|give|name|write|choose|keep|put|add|quote|lower|raise|exchange|restore|correct|check|"
    r"make|train|there are|there is|known|shipped:|expected|not readable YAML|leave|must be|instead|fill|pip install|need|"
    r"fetch|convert|return (a|one)|one object a line)",
    re.IGNORECASE,
)  # fmt: skip
ANY = ""
EITHER = "either"
"""As `Case.key`: any error of ours, and any error of ours or acceptance."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A file (None: the base) and overrides. `key`: what the error names; None: it has to be accepted."""

    name: str
    key: str | None
    text: bytes | None = None
    overrides: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Bench:
    """What the cases are made from: a folder with data and broken files, and the base file's text."""

    folder: Path
    base: str
    rng: random.Random

    def changed(self, key: str, value: Any, text: str | None = None) -> bytes:
        """The base (or `text`) with another value at a dotted key."""
        tree = yaml.safe_load(text or self.base)
        node = tree
        *sections, last = key.split(".")
        for section in sections:
            if not isinstance(node.get(section), dict):
                node[section] = {}
            node = node[section]
        node[last] = value
        return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True).encode()


def _kinds(hint: Any) -> set[Any]:
    return set(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else {hint}


def _wrong_values(key: str, hint: Any) -> list[Any]:
    """Values of other types."""
    kinds = _kinds(hint)
    if get_origin(hint) is dict:
        return ["abc", [1], 3, True]
    if get_origin(hint) is list:
        return ["abc", {"a": 1}, None, [[1]], [None], 7]
    wrong: list[Any] = [[1, 2], {"a": 1}]
    if type(None) not in kinds and default_of(key) != "":
        wrong.append(None)
    if kinds & {int, float}:
        wrong += ["abc", "", True, "6,0e-5", float("nan"), float("inf"), float("-inf"), "0x", "1 2"]
    if int in kinds:
        wrong += [1.5, 10**30, -(10**30)]
    if bool in kinds:
        wrong += ["maybe", "", 2, -1, 0.5]
    if str in kinds:
        wrong += [False, True, "a\0b", "\x1b[2J"]
    return wrong


def wrong_types(bench: Bench) -> Iterator[Case]:
    """Every key with a value of each other type."""
    for key, hint in schema_keys().items():
        for value in _wrong_values(key, hint):
            yield Case(f"type {key} = {value!r:.40}", key, bench.changed(key, value))
    for section in sorted(section_names()):
        for value in ("abc", [1], 3, None):
            if not (section == "worker.actor.offload" and value == "abc"):
                yield Case(f"section {section} = {value!r}", section, bench.changed(section, value))


def _outside(allowed: Range) -> Iterator[float]:
    """Numbers right beside a range and far from it."""
    whole = isinstance(allowed.low, int) and isinstance(allowed.high, int)
    step = 1 if whole else 1e-3
    yield allowed.low if allowed.above else allowed.low - step
    yield allowed.high if allowed.below else allowed.high + step * max(1, abs(allowed.high))
    yield from (-7, -(10**12), 10**30, 1e300, -1e300)


def outside_ranges(bench: Bench) -> Iterator[Case]:
    """Every key that has a range, with numbers beside the range."""
    sampling = {f"worker.rollout.val_override_config.{key}": allowed for key, allowed in ranges_of(ValidationSampling)}
    for key, allowed in {**RANGES, **sampling}.items():
        for value in _outside(allowed):
            if not allowed.holds(value):
                yield Case(f"range {key} = {value}", key, None, (f"{key}={value!r}",))
    for value in ("[0.9]", "[0.9,0.999,0.9]", "[0.9,1.0]", "[-0.1,0.9]", "[]", "[.nan,0.9]", "[.inf,0.9]", "[9e9,0.9]"):
        yield Case(f"betas {value}", "worker.actor.optim.betas", None, (f"worker.actor.optim.betas={value}",))


def _slips(word: str) -> list[str]:
    """Slips of the finger."""
    forms = [word[:-1], word[0] + word[2:], f"{word}s", word[:2] + word[1:], word.upper(), f"{word} ", f" {word}"]
    forms += [word[0] + word[2] + word[1] + word[3:]] if len(word) > 3 else []
    forms += [word.replace("_", "-"), word.replace("_", "", 1)] if "_" in word else []
    return [form for form in dict.fromkeys(forms) if form.strip() and form != word]


def _beside(key: str, last: str) -> str:
    parent = key.rpartition(".")[0]
    return f"{parent}.{last}" if parent else last


def unknown_keys(bench: Bench) -> Iterator[Case]:
    """Misspelt keys and sections at every level, and keys in another section."""
    known = {*schema_keys(), *section_names()}
    for key in (*schema_keys(), *sorted(section_names())):
        last = key.rpartition(".")[2]
        value = {"x": 1} if key in section_names() else 1
        for slip in bench.rng.sample(_slips(last), min(2, len(_slips(last)))):
            if _beside(key, slip) not in known:
                yield Case(f"misspelt {_beside(key, slip)}", slip, bench.changed(_beside(key, slip), value))
        home = bench.rng.choice(sorted(section_names()))
        if f"{home}.{last}" not in known and key not in section_names():
            yield Case(f"{last} in {home}", f"{home}.{last}", None, (f"{home}.{last}=1",))


def _leaves(tree: Any, prefix: str = "") -> Iterator[str]:
    for name, value in tree.items():
        if isinstance(value, dict) and f"{prefix}{name}" in section_names():
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def shipped(bench: Bench) -> Iterator[Case]:
    """Shipped files with one key broken; and those that are for other commands."""
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        text = path.read_text()
        name = path.relative_to(ROOT).as_posix()
        if path.parent.name in ("evaluate", "sweeps", "benchmarks"):
            yield Case(f"{name} is for another command", ANY, text.encode())
            continue
        known = [key for key in sorted(_leaves(yaml.safe_load(text))) if key in schema_keys()]  # not offload's word
        for key in bench.rng.sample(known, 8):
            wrong = _wrong_values(key, schema_keys()[key])
            yield Case(f"{name} with {key} broken", key, bench.changed(key, bench.rng.choice(wrong), text))
            slip = bench.rng.choice(_slips(key.rpartition(".")[2]))
            yield Case(f"{name} with {slip}", slip, bench.changed(_beside(key, slip), 1, text))


def mutated(bench: Bench) -> Iterator[Case]:
    """The base with bytes changed, cut and doubled at random: an error of ours, or a file that is still right."""
    whole = bench.base.encode()
    for number in range(120):
        data, rng = bytearray(whole), bench.rng
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.randrange(len(data))
            piece = bytes(data[at : at + rng.randrange(1, 30)])
            change = rng.randrange(4)
            if change == 0:
                data[at] = rng.choice((rng.randrange(256), *b"\t\n:{}[]#&*!|>'\"%@`-?,. "))
            elif change == 1:
                del data[at : at + len(piece)]
            elif change == 2:
                data[at:at] = piece
            else:
                data[at:at] = rng.choice((b"<<: *a", b"&a ", b"*a", b"!!python/name:os.system ", b"${", b"}", b"---\n"))
        yield Case(f"mutated {number}", EITHER, bytes(data))


def listed(bench: Bench) -> Iterator[Case]:
    """What people get wrong."""
    for name, key, text in yaml_traps(bench.base, bench.changed):
        yield Case(name, key, text)
    for name, key, *given in (*contradictions(), *files(bench.folder), *overrides()):
        yield Case(name, key, None, tuple(given))


KINDS: tuple[Callable[[Bench], Iterator[Case]], ...] = (
    wrong_types, outside_ranges, unknown_keys, shipped, mutated, listed,
)  # fmt: skip


def make_bench(folder: Path, seed: int) -> Bench:
    """Data and broken files below `folder`."""
    data = write_data(folder / "data", train_size=24, test_size=4)
    base = (ROOT / "configs/quickstart.yaml").read_text().replace("data/synthetic_geometry", str(data))
    (folder / "base.yaml").write_text(base)
    return Bench(folder, base, random.Random(seed))


def all_cases(bench: Bench, name: str = "") -> list[Case]:
    """Every case (of one kind), in an order that the seed gives."""
    made = [case for kind in KINDS if name in ("", kind.__name__) for case in kind(bench)]
    bench.rng.shuffle(made)
    return made


def judge(bench: Bench, case: Case) -> str | None:
    """What is wrong with the dry run of a case, or None. The working directory must be `bench.folder`."""
    path = bench.folder / "base.yaml"
    if case.text is not None:
        path = bench.folder / "case.yaml"
        path.write_bytes(case.text)
    before = _listing(bench.folder)
    message, fault = _dry_run(path, case.overrides)
    path.unlink() if case.text is not None else None
    if fault is not None:
        return fault
    if new := _listing(bench.folder) - before:
        return f"a dry run wrote {sorted(new)}"
    if case.key == EITHER:
        return None
    if message is None:
        return None if case.key is None else f"accepted, and an error about {case.key or 'it'} is due"
    if case.key is None:
        return f"refused: {message}"
    if case.key not in message:
        return f"the error does not name {case.key}: {message}"
    return None if MEND.search(message) else f"the error has no fix: {message}"


def _dry_run(path: Path, given: Iterable[str]) -> tuple[str | None, str | None]:
    """The message of an error of ours, or None for acceptance; and a fault."""
    from gmpo_mm import cli
    from gmpo_mm.errors import GMPOError

    class LateError(BaseException):
        pass

    def late(*_: object) -> None:
        raise LateError

    former = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            cli.train(str(path), list(given), dry_run=True)
    except GMPOError as error:
        return str(error), None
    except LateError:
        return None, f"more than {SECONDS} s"
    except BaseException as error:
        place = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in traceback.extract_tb(error.__traceback__)[:-5:-1])
        return None, f"traceback: {type(error).__name__}: {str(error)[:300]} ({place})"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)
    return None, None


def _listing(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*") if path.name not in ("case.yaml", "__pycache__")
            and path.parent.name != "__pycache__"}  # fmt: skip


def main(arguments: Iterable[str]) -> int:
    """The command line; returns the exit status, 1 where a case got another verdict."""
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.configs", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=2000, metavar="N", help="how many; 0 is all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", default="", help=f"one of {', '.join(kind.__name__ for kind in KINDS)}")
    parser.add_argument("--only", default="", help="only those whose name holds this text")
    options = parser.parse_args(list(arguments))
    folder = Path(tempfile.mkdtemp(prefix="gmpo_configs_"))
    try:
        bench = make_bench(folder, options.seed)
        os.chdir(folder)
        chosen = [case for case in all_cases(bench, options.kind) if options.only in case.name][: options.count or None]
        wrong: Counter[str] = Counter()
        for case in chosen:
            problem = judge(bench, case)
            if problem is not None:
                wrong[problem.split()[0].rstrip(":")] += 1
                print(f"{case.name} | {' '.join(case.overrides)[:150]} | {problem[:600]}", flush=True)
    finally:
        os.chdir(ROOT)
        shutil.rmtree(folder, ignore_errors=True)
    print(*(f"{count} {kind}" for kind, count in wrong.items()), sep=", ")
    print(f"{len(chosen) - wrong.total()} of {len(chosen)} configurations were judged rightly")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
