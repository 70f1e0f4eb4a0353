"""configs, init, data, completion, `python -m gmpo_mm`, and an example in every --help."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from gmpo_mm.cli import app
from gmpo_mm.config import load_config
from gmpo_mm.config.shipped import find_file, shipped_names
from gmpo_mm.engines.checks import validate_for_training
from gmpo_mm.errors import ConfigError
from gmpo_mm.start.commands import DATA_TOOLS
from gmpo_mm.start.init import KINDS

ROOT = Path(__file__).resolve().parents[2]


def invoke(*arguments: object):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, list(map(str, arguments)))


def test_a_path_that_exists_wins_over_a_shipped_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = ROOT / "configs" / "quickstart.yaml"
    assert find_file("quickstart") == find_file("configs/quickstart.yaml") == find_file("quickstart.yaml") == shipped
    Path("quickstart.yaml").write_text("worker: {rollout: {n: 3}}\n")
    assert load_config("quickstart.yaml").config.worker.rollout.n == 3 and find_file("quickstart") == shipped
    Path("quickstart").mkdir()  # a folder is no configuration
    assert find_file("quickstart") == shipped
    assert find_file("../pyproject.toml") == Path("../pyproject.toml")


def test_configs_lists_every_shipped_file_with_a_sentence_and_prints_one() -> None:
    shown = invoke("configs").stdout
    files = list((ROOT / "configs").rglob("*.yaml"))
    assert len(shipped_names()) == len(files)
    for name in shipped_names():
        assert re.search(rf"^{re.escape(name)} +\w", shown, re.MULTILINE), name
    assert invoke("configs", "evaluate/quickstart").stdout == (ROOT / "configs/evaluate/quickstart.yaml").read_text()
    assert "Did you mean quickstart_grpo?" in str(invoke("configs", "quickstart_grp").exception)


@pytest.mark.parametrize("kind", KINDS)
def test_init_writes_a_short_configuration_that_holds_and_never_overwrites(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = invoke("init", kind, "mine")
    assert done.exit_code == 0 and f"gmpo-mm train {kind}.yaml --dry-run" in done.stdout
    text = Path(f"mine/{kind}.yaml").read_text()
    assert len(text.splitlines()) <= 30 and text.startswith("# ")
    monkeypatch.chdir(tmp_path / "mine")
    validate_for_training(load_config(f"{kind}.yaml"), prepared=False)
    Path("reward.py").write_text("mine")
    Path(f"{kind}.yaml").unlink()
    refused = invoke("init", kind)
    assert isinstance(refused.exception, ConfigError) and "reward.py" in str(refused.exception)
    assert Path("reward.py").read_text() == "mine" and not Path(f"{kind}.yaml").exists()


def test_an_unknown_kind_or_data_set_is_told_what_was_meant() -> None:
    assert "Did you mean countdown?" in str(invoke("init", "countdwn").exception)
    assert "Did you mean geometry3k?" in invoke("data", "geometry3").stderr


def test_every_help_has_an_example() -> None:
    for name in get_command(app).commands:  # type: ignore[attr-defined]
        assert re.search(rf"Example: gmpo-mm {name}\b", invoke(name, "--help").stdout), name
    for name in (*DATA_TOOLS, "math_levels"):
        shown = invoke("data", name, "--help")
        assert shown.exit_code == 0 and f"gmpo-mm data {'math' if name == 'math_levels' else name}" in shown.stdout, name


def test_python_m_is_the_command_and_the_shell_completes_it() -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "gmpo_mm"]
    said = subprocess.run([*command, "--version"], capture_output=True, text=True, env=environment)
    assert said.stdout.startswith("gmpo-mm ")
    assert "--install-completion" in invoke("--help").stdout
    code = "import sys; sys.argv = ['gmpo-mm']; from gmpo_mm.cli import main; main()"
    asked = {"_GMPO_MM_COMPLETE": "complete_bash", "COMP_WORDS": "gmpo-mm tra", "COMP_CWORD": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment | asked)
    assert done.stdout.split() == ["train"]


def test_no_message_of_the_package_names_a_file_that_only_a_checkout_has() -> None:
    """Words that a user of the wheel reads: the configurations' comments and all texts in the code."""
    only_here = re.compile(r"data_tools/\w+\.py|\bmake (?:test|quickstart)\b|pip install -e '?\.|\bexamples/\w+\.(?:py|md|sh)")
    files = [*(ROOT / "gmpo_mm").rglob("*.py"), *(ROOT / "gmpo_mm").rglob("*.yaml"), *(ROOT / "configs").rglob("*.yaml")]
    found = {f"{path.relative_to(ROOT)}: {hit.group()}" for path in files for hit in only_here.finditer(path.read_text())}
    assert found <= {"gmpo_mm/rollout/vllm.py: make test"}  # a docstring on how it is tested
