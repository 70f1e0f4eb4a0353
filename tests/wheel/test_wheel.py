"""The wheel alone, in an environment of its own and outside the checkout, does what the first page promises.

Built from the source distribution; the dependencies are those of the environment that runs the tests.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from gmpo_mm.start.init import KINDS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
ROOT = Path(__file__).resolve().parents[2]
PACKED = ("pyproject.toml", "README.md", "LICENSE", "gmpo_mm", "configs")
SMALL = {"geometry3k": "qwen2_5_vl_tiny", "math": "qwen2_tiny", "smollm2": "qwen2_tiny"}
"""Models that a dry run rehearses in seconds, in place of the kinds' own."""
CHECKOUT_ONLY = re.compile(r"data_tools/|examples/|\bmake (?:test|quickstart)|pip install -e")


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel and nothing else of ours."""

    wheel: Path
    bin: Path

    def run(self, folder: Path, *command: object, code: int = 0) -> CompletedProcess[str]:
        """`gmpo-mm COMMAND...` in a folder; fails on another exit code, and on words about files that only a checkout has."""
        folder.mkdir(exist_ok=True)
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}
        environment |= {"HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "COLUMNS": "160", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [str(self.bin / "gmpo-mm"), *map(str, command)], capture_output=True, text=True, cwd=folder, env=environment
        )
        said = done.stdout + done.stderr
        assert done.returncode == code, said
        assert (found := CHECKOUT_ONLY.search(said)) is None, f"{found}: {said}"
        return done


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in PACKED:  # a copy, so that nothing that is built stays in the checkout
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    _call([sys.executable, "-c", "from setuptools.build_meta import build_sdist; build_sdist('..')"], source)
    (archive,) = folder.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    _call([*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(archive)], folder)
    (wheel,) = folder.glob("*.whl")
    _call([sys.executable, "-m", "venv", "--without-pip", "venv"], folder)
    python = folder / "venv" / "bin" / "python"
    _call([*pip, "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)], folder)
    # a path in a .pth file is not searched for .pth files, so an editable installation there stays out of sight
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    where = _call([str(python), "-c", "import gmpo_mm; print(gmpo_mm.__file__)"], folder)
    assert where.strip() == str(site / "gmpo_mm" / "__init__.py")
    return Installed(wheel, python.parent)


def _call(command: list[str], folder: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_holds_every_file_of_configs_and_every_file_of_the_package(installed: Installed) -> None:
    packed = set(zipfile.ZipFile(installed.wheel).namelist())
    tracked = _call(["git", "ls-files", "gmpo_mm", "configs"], ROOT).split()
    wanted = {name if name.startswith("gmpo_mm/") else f"gmpo_mm/{name}" for name in tracked}
    assert wanted - packed == {"gmpo_mm/configs/in_the_wheel.py"}  # the step of the build itself
    assert not [name for name in packed if not name.startswith(("gmpo_mm/", "gmpo_mm-"))]


def test_quickstart_trains_and_shows_a_result(installed: Installed, tmp_path: Path) -> None:
    done = installed.run(tmp_path, "quickstart", "trainer.max_steps=2", "trainer.save_freq=2", "trainer.val_freq=-1")
    assert "held-out pictures" in done.stdout and (tmp_path / "runs/quickstart/gmpo/quickstart.png").is_file()
    evaluated = installed.run(
        tmp_path, "evaluate", "evaluate/quickstart", "model=runs/quickstart/gmpo", "limit=2", "n=2", "out=scores"
    )
    assert "synthetic_pictures" in evaluated.stdout


def test_what_init_writes_passes_a_dry_run_for_each_kind(installed: Installed, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        outputs = dict(zip(KINDS, pool.map(lambda kind: _start(installed.run, tmp_path, kind), KINDS), strict=True))
    for kind, output in outputs.items():
        assert f"runs/{kind}" in output and "reward.py:compute_score" in output


def _start(run: Callable[..., CompletedProcess[str]], folder: Path, kind: str) -> str:
    """Type what init says, as far as the hub is not needed; the dry run names what is missing else."""
    said = run(folder, "init", kind, kind).stdout
    commands = [line.split("#")[0].strip() for line in said.partition("next:\n")[2].splitlines()]
    assert commands[0] == f"cd {kind}"
    dry_run = f"gmpo-mm train {kind}.yaml --dry-run"
    assert dry_run in commands
    if kind in ("quickstart", "countdown"):
        run(folder / kind, *commands[1].removeprefix("gmpo-mm ").split())
    small = [f"worker.actor.model.model_path=bundled:{SMALL[kind]}"] if kind in SMALL else []
    output = run(folder / kind, *dry_run.removeprefix("gmpo-mm ").split(), *small).stdout
    missing = kind not in ("quickstart", "countdown")
    assert ("gmpo-mm data" in output) == missing, output
    return output


def test_shipped_names_work_wherever_a_configuration_is_taken(installed: Installed, tmp_path: Path) -> None:
    listed = installed.run(tmp_path, "configs").stdout
    assert "geometry3k/gmpo_qwen2_5_vl_7b " in listed and "sweeps/quickstart " in listed
    name = "language/table1_line2_gmpo_qwen2_5_math_1_5b"
    plan = installed.run(tmp_path, "train", name, "worker.actor.model.model_path=bundled:qwen2_tiny", "--dry-run").stdout
    assert "gmpo-mm data math hub" in plan  # its prompt template is in the wheel, its data is not
    assert "quickstart" in installed.run(tmp_path, "sweep", "sweeps/quickstart", "--dry-run", "seeds=[1]").stdout
    refused = installed.run(tmp_path, "train", "geometry3k/gmpo_qwen2_5_vl_7", code=2)
    assert "Did you mean geometry3k/gmpo_qwen2_5_vl_7b?" in refused.stderr
    refused = installed.run(tmp_path, "train", "quickstart", code=2)
    assert "gmpo-mm data synthetic_geometry --out data/synthetic_geometry" in refused.stderr
