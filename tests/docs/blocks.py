"""The fenced code blocks of a page, and how each kind is run. The rules stand in test_blocks.py.

python -m tests.docs.blocks        which blocks of which pages are run, and which are not and why
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
import yaml

from gmpo_mm.cli import app
from tests.docs.command_server import CommandServer, PythonSession
from tests.docs.generator import ROOT

RUN = ("bash", "python", "yaml")
SHOWN = ("text", "json", "jinja", "toml", "dockerfile", "makefile", "bibtex", "diff", "html")
OTHER_NAMES = {"sh": "bash", "shell": "bash", "console": "bash", "py": "python", "yml": "yaml", "": "text"}
TRAINING = {"engine", "ray_address", "data", "algorithm", "worker", "trainer"}
COPIED = ("configs", "data_tools", "examples")
"""Folders of the checkout that a page's commands may name."""
SECONDS = 120
"""That a block may take on a busy machine."""

_FENCE = re.compile(r"(?P<indent>[ ]*)(?P<fence>`{3,}|~{3,})[ ]*(?P<language>[\w+-]*)(?P<rest>.*)")
_NOT_RUN = re.compile(r"\s*<!-- not run:(?P<reason>.*)-->\s*")
_TITLE = re.compile(r'title="([^"]+)"')
_OPERATORS = {"&&", "||", ";", "|", "&", "(", ")", "{", "}", "\n"}


class BrokenPage(AssertionError):
    """A block that does not do what its page says, with page and line."""


@dataclass(frozen=True)
class Block:
    """`line` is that of the block's first line, from 1. `not_run`: the reason. `title`: the file that it is saved as."""

    page: str
    line: int
    language: str
    text: str
    not_run: str | None = None
    title: str | None = None

    def fail(self, why: str) -> BrokenPage:
        shown = textwrap.indent(self.text, "    ")
        return BrokenPage(
            f"{self.page}, line {self.line}: {why}\n{shown}\nTo leave it out: <!-- not run: reason --> above it"
        )


def pages(root: Path = ROOT) -> list[Path]:
    """README.md and all pages of docs/."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md")), root / "tests/docs/sample_page.md"]


def blocks_of(page: Path, name: str | None = None) -> Iterator[Block]:
    """The fenced blocks in order. Raises BrokenPage for one that is not closed, or a language that is not known."""
    name = name or page.name
    lines = page.read_text(encoding="utf-8").splitlines()
    number = 0
    while number < len(lines):
        opening = _FENCE.fullmatch(lines[number])
        if opening is None:
            number += 1
            continue
        closing = next(
            (
                i
                for i in range(number + 1, len(lines))
                if re.fullmatch(rf"\s*{opening['fence']}[`~]*\s*", lines[i])
            ),
            None,
        )
        if closing is None:
            raise BrokenPage(f"{name}, line {number + 1}: the code block is not closed")
        indent = len(opening["indent"])
        text = "\n".join(
            line[indent:] if not line[:indent].strip() else line for line in lines[number + 1 : closing]
        )
        title, above = _TITLE.search(opening["rest"]), _line_above(lines, number)
        note = _NOT_RUN.fullmatch(above)
        block = Block(
            name, number + 2, opening["language"], text, None if note is None else note["reason"].strip(),
            None if title is None else title[1],
        )  # fmt: skip
        _check_form(block)
        yield block
        number = closing + 1


def _line_above(lines: Sequence[str], number: int) -> str:
    """The line right above a fence, over one empty line."""
    above = [line for line in lines[max(0, number - 2) : number] if line.strip()]
    return above[-1] if above else ""


def _check_form(block: Block) -> None:
    if block.language not in (*RUN, *SHOWN):
        meant = OTHER_NAMES.get(block.language, "one of " + ", ".join((*RUN, *SHOWN)))
        raise block.fail(f"the language {block.language!r} is not known here; write {meant}")
    if block.not_run == "":
        raise block.fail("the comment gives no reason; write <!-- not run: reason -->")


def check_not_run(block: Block) -> None:
    """What can be seen without running: the syntax, and the options of gmpo-mm's commands."""
    if block.language == "python":
        try:
            compile(block.text, block.page, "exec")
        except SyntaxError as error:
            raise block.fail(f"no Python: {error}") from error
    elif block.language == "yaml":
        _parse_yaml(block)
    elif block.language == "bash":
        done = subprocess.run(["bash", "-n", "-c", block.text], capture_output=True, text=True)
        if done.returncode:
            raise block.fail(f"no bash: {done.stderr}")
        for words in _commands(block.text):
            _check_options(block, words)


def _commands(text: str) -> Iterator[list[str]]:
    """Each simple command that begins with gmpo-mm, as words."""
    for line in text.replace("\\\n", " ").splitlines():
        reader = shlex.shlex(line, posix=True, punctuation_chars="();|&")
        reader.whitespace_split = True
        try:
            words = list(reader)
        except ValueError:  # a text over several lines
            continue
        current: list[str] = []
        for word in [*words, ";"]:
            if word in _OPERATORS:
                if current[:1] == ["gmpo-mm"]:
                    yield current
                current = []
            elif current or word == "gmpo-mm":
                current.append(word)


def _check_options(block: Block, words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    words = words[1:]
    while words and hasattr(command, "commands"):
        found = command.get_command(command.make_context("gmpo-mm", [], resilient_parsing=True), words[0])
        if found is None:
            break
        command, words = found, words[1:]
    if hasattr(command, "commands") and words and not words[0].startswith("-"):
        raise block.fail(f"gmpo-mm has no command {words[0]!r}")
    try:
        command.make_context("gmpo-mm", list(words))
    except Exception as error:
        if type(error).__name__ not in ("Exit", "NoArgsIsHelpError"):  # --help and --version
            raise block.fail(f"gmpo-mm {' '.join(words)}: {getattr(error, 'message', error)}") from error


def _parse_yaml(block: Block) -> Any:
    try:
        return yaml.safe_load(block.text)
    except yaml.YAMLError as error:
        raise block.fail(f"no YAML: {error}") from error


class PageRunner:
    """Runs the blocks of one page, one after the other, in a folder of its own."""

    def __init__(self, server: CommandServer, folder: Path, data: Path) -> None:
        self.server, self.folder, self.data = server, folder, data
        folder.mkdir(parents=True, exist_ok=True)
        for name in COPIED:
            shutil.copytree(
                ROOT / name, folder / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        path = [
            str(server.bin),
            str(Path(shutil.which("python3") or "/usr/bin/python3").parent),
            os.environ["PATH"],
        ]
        self.environment = {
            **os.environ, "PATH": os.pathsep.join(path), "DOCS_COMMAND_SERVER": str(server.socket), "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "120",
        }  # fmt: skip

    def run(self, blocks: Sequence[Block]) -> None:
        """Raises BrokenPage for the first block that fails."""
        log = self.folder / ".python_output"
        with self.server.python(self.folder, self.environment, log) as session:
            for block in blocks:
                if block.title is not None:
                    self._save(block)
                if block.not_run is not None:
                    check_not_run(block)
                elif block.language == "bash":
                    self._bash(block, block.text)
                elif block.language == "python":
                    self._python(block, session, block.text, block.line)
                elif block.language == "yaml":
                    self._yaml(block, session)

    def _save(self, block: Block) -> None:
        file = self.folder / str(block.title)
        if not file.resolve().is_relative_to(self.folder.resolve()):
            raise block.fail(f"title={block.title!r} lies outside of the page's folder")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block.text + "\n", encoding="utf-8")

    def _bash(self, block: Block, text: str) -> None:
        try:
            done = subprocess.run(
                ["bash", "-e", "-o", "pipefail", "-c", text], cwd=self.folder, env=self.environment, timeout=SECONDS,
                stdin=subprocess.DEVNULL, capture_output=True, text=True,
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise block.fail(f"not ready after {SECONDS} seconds") from error
        if done.returncode:
            raise block.fail(f"status {done.returncode}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")

    def _python(self, block: Block, session: PythonSession, code: str, line: int = 1) -> None:
        error = session.run(code, block.page, line)
        if error is not None:
            raise block.fail(error)

    def _yaml(self, block: Block, session: PythonSession) -> None:
        """By its keys: a training configuration, a sweep, an evaluation or a benchmark; any other YAML is only parsed."""
        content = _parse_yaml(block)
        if not isinstance(content, dict) or not content:
            return
        file = self.folder / (block.title or f"block_{block.line}.yaml")
        file.write_text(block.text + "\n", encoding="utf-8")
        if "variants" in content:
            self._bash(block, f"gmpo-mm sweep {file.name} --dry-run")
        elif content.keys() <= TRAINING:
            self._training(block, session, content, file)
        elif "protocol" in content and "grader" in content:
            code = "from gmpo_mm.evaluation.benchmark import load_benchmark as _load\n_load({!r})"
            self._python(block, session, code.format(file.name))
        elif "benchmarks" in content:
            code = (
                "from gmpo_mm.evaluation.benchmark import load_benchmark as _load\n"
                "from gmpo_mm.evaluation.settings import load_settings as _settings\n"
                "for _name in _settings({!r}, [], {{}}).benchmarks: _load(_name)"
            )
            self._python(block, session, code.format(file.name))

    def _training(self, block: Block, session: PythonSession, content: dict[str, Any], file: Path) -> None:
        """A dry run; a part of a configuration is laid over a model and data that are there."""
        self._complete(content)
        completed = file.with_name(f"completed_{file.name}")
        completed.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        if content.get("engine", "auto") in ("auto", "local"):
            self._bash(block, f"gmpo-mm train {completed.name} trainer.run_dir=runs/dry --dry-run")
            return
        code = (  # an engine that need not be installed
            "from gmpo_mm.config import load_config as _load\n"
            "from gmpo_mm.engines.checks import validate_for_training as _validate\n"
            "_validate(_load({!r}), prepared=False)"
        )
        self._python(block, session, code.format(completed.name))

    def _complete(self, content: dict[str, Any]) -> None:
        data = content.setdefault("data", {})
        if not data.get("train_files"):
            data |= {"train_files": str(self.data / "train.parquet"), "prompt_key": "problem"}
            data.setdefault("val_files", str(self.data / "test_pictures.parquet"))
        data.setdefault("max_prompt_length", 96)  # small sizes, for the dry run to be quick
        data.setdefault("max_response_length", 24)
        model = content.setdefault("worker", {}).setdefault("actor", {}).setdefault("model", {})
        model.setdefault("model_path", "bundled:qwen2_5_vl_tiny")
        worker = content["worker"]
        if "rollout_batch_size" not in data and "global_batch_size" not in worker["actor"]:
            data["rollout_batch_size"] = worker["actor"]["global_batch_size"] = 16
        worker.setdefault("reward", {}).setdefault("reward_function", "gmpo_mm/rewards/math.py:compute_score")
        worker.setdefault("rollout", {}).setdefault("n", 8)


def report() -> None:
    """Print what is run and what is not."""
    for page in pages():
        name = page.relative_to(ROOT).as_posix()
        blocks = [block for block in blocks_of(page, name) if block.language in RUN]
        print(
            f"{name}: {sum(block.not_run is None for block in blocks)} run, "
            f"{sum(block.not_run is not None for block in blocks)} not run"
        )
        for block in blocks:
            if block.not_run is not None:
                print(f"    line {block.line}: {block.not_run}")


if __name__ == "__main__":
    report()
