"""An engine is its folder and one entry: the registry and the folders agree, and nothing else knows engines by name."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from gmpo_mm.config import load_config
from gmpo_mm.config.bounds import choices
from gmpo_mm.config.engine_facts import ENGINES, facts_of
from gmpo_mm.config.keys import schema_keys, section_names
from gmpo_mm.engines.registry import all_engines, engine_of, get_engine
from gmpo_mm.planning.dry_run import print_dry_run
from tests.config.conftest import Load, load, workplace  # noqa: F401  (fixtures)
from tests.engine.runs import arguments, run_here, write_data

PACKAGE = Path(__file__).parents[2] / "gmpo_mm"
HEAVY = ("torch", "ray", "verl", "vllm", "transformers")


def test_each_folder_with_an_engine_has_its_entry_and_each_entry_its_folder() -> None:
    folders = {file.parent.name for file in (PACKAGE / "engines").glob("*/engine.py")}
    assert folders == set(ENGINES) == {engine.name for engine in all_engines()}
    assert set(choices()["engine"]) == {"auto", *folders}


def test_asking_an_engine_imports_nothing_that_it_trains_with() -> None:
    code = (
        "import sys\nfrom gmpo_mm.engines.registry import all_engines\n"
        f"[engine.distributed for engine in all_engines()]\nprint(*(set({HEAVY}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True, check=True)
    assert done.stdout.split() == []


def test_auto_is_the_local_engine(load: Load) -> None:  # noqa: F811
    config = load("engine=auto").config
    assert engine_of(config) is get_engine("local")
    assert not facts_of(config).distributed


def test_what_an_engine_does_not_read_are_keys_of_the_schema() -> None:
    known = {*schema_keys(), *(f"{name}." for name in section_names())}
    for engine in all_engines():
        tables = [engine.unread, dict.fromkeys(engine.refused, ""), *engine.unread_where.values()]
        for name in {name for table in tables for name in table}:
            assert name in known or any(key.startswith(name) for key in known if name.endswith("_")), (engine.name, name)


def test_nothing_outside_the_engines_compares_with_an_engines_name() -> None:
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        if file.is_relative_to(PACKAGE / "engines") or file.name == "engine_facts.py":
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Compare, ast.match_case)) and "engine" in ast.unparse(node):
                words = {item.value for item in ast.walk(node) if isinstance(item, ast.Constant)}
                if words & {"auto", *ENGINES}:
                    found.append(f"{file.relative_to(PACKAGE)}:{getattr(node, 'lineno', '')}")
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("gmpo_mm.engines."):
                name = node.module.split(".")[2]  # type: ignore[union-attr]
                if name in ENGINES and name != "local":
                    found.append(f"{file.relative_to(PACKAGE)}:{node.lineno}")
    assert not found, "ask the engine's object (engines/protocol.py)"


def test_a_dry_run_of_auto_finds_the_checkpoint_that_the_run_would_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It once looked for the checkpoints of another engine."""
    monkeypatch.chdir(tmp_path)
    args = arguments(
        write_data(tmp_path / "data"), tmp_path / "run", "engine=auto", "trainer.max_steps=1", "data.val_files="
    )
    run_here(args)
    print_dry_run(load_config(args[0], [*args[1:], "trainer.resume=must"]))
    assert "Dry run" in capsys.readouterr().out
