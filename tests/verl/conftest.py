"""Tests against the real verl. They skip, with one line that says how to run them, where `import verl` is not verl's own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gmpo_mm.engines.installed import find_verl

HOW = "verl is not installed here: make test-verl runs these tests in an environment of their own"
FOUND = find_verl()
HAS_VERL = FOUND is not None and FOUND.engine == "verl"
HERE = Path(__file__).parent

if HAS_VERL:  # before anything imports verl, which settles its platform then
    from gmpo_mm.engines.verl.launch import CPU_ENVIRONMENT

    os.environ.update(CPU_ENVIRONMENT)


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Modules that import verl can't even be collected without it; test_skipped.py stands for them."""
    if HAS_VERL or collection_path.parent != HERE or collection_path.name in ("conftest.py", "test_skipped.py"):
        return None
    return collection_path.name.startswith("test_")


@pytest.fixture(scope="session")
def verl_root() -> Path:
    """Where the installed verl lies."""
    assert FOUND is not None
    return FOUND.root


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for command in (
        ["data_tools/synthetic_geometry.py", "--out", f"{folder}/geometry", "--train-size", "64", "--test-size", "16"],
        ["data_tools/countdown.py", "--tiny", "--out", f"{folder}/countdown"],
    ):
        subprocess.run([sys.executable, *command], cwd=HERE.parents[1], check=True, capture_output=True)
    return folder
