"""The scripts of `data_tools/`, run as a user runs them, and the modules behind them."""

from __future__ import annotations

import importlib
import io
import os
import runpy
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "data_tools"


def run_tool(script: str, *arguments: object) -> CompletedProcess[str]:
    """Run `data_tools/SCRIPT` as a command and give back what it said; in this process, which saves its imports' seconds."""
    command = [str(FOLDER / script), *map(str, arguments)]
    former, sys.argv = sys.argv, command
    out, err = io.StringIO(), io.StringIO()
    code: object = 0
    try:
        with redirect_stdout(out), redirect_stderr(err):
            runpy.run_path(command[0], run_name="__main__")
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        sys.argv = former
    return CompletedProcess(command, code if isinstance(code, int) else 1, out.getvalue(), err.getvalue())


def run_offline(script: str, *arguments: object, **environment: str) -> CompletedProcess[str]:
    """The same in a process of its own, without the hub and with these environment variables."""
    fixed = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, str(FOLDER / script), *map(str, arguments)], capture_output=True, text=True, cwd=ROOT,
        env={**os.environ, **fixed, **environment},
    )  # fmt: skip


def load_tool(script: str) -> ModuleType:
    """The module behind the script, whose functions can be called."""
    return importlib.import_module(f"gmpo_mm.datasets.{script.removesuffix('.py').removesuffix('_levels')}")


def assert_refused(done: CompletedProcess[str], *texts: str) -> None:
    """Exit code 2, and an error of one paragraph that holds these texts."""
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ") and "Traceback" not in done.stderr
    for text in texts:
        assert text in done.stderr
