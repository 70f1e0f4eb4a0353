"""Packages that a bare CUDA machine lacks, from the wheels that `make gpu-wheels` has downloaded."""

from __future__ import annotations

import atexit
import importlib.util
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".gpu-wheels"


def import_names(wheel: Path) -> set[str]:
    """Packages and modules at the top of a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    return {
        top.removesuffix(".py")
        for top in tops
        if not top.endswith((".dist-info", ".data", ".so", ".pth", ".libs"))
    }


def _is_installed(wheel: Path) -> bool:
    return all(importlib.util.find_spec(name) is not None for name in import_names(wheel))


def extend_path_of_children(folder: str) -> None:
    """Let the Python processes that this one starts import what is in a folder."""
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), folder]))


def use_wheels(folder: Path = FOLDER) -> list[str]:
    """Unpack the wheels whose packages are missing and put them on the path, for child processes too.

    Returns the file names of those that were used. What is installed stays as it is. To be called before
    anything of gmpo_mm is imported. Nothing happens where the folder is missing.
    """
    missing = [wheel for wheel in sorted(folder.glob("*.whl")) if not _is_installed(wheel)]
    if not missing:
        return []
    unpacked = tempfile.mkdtemp(
        prefix="gpu_check_wheels_"
    )  # zipimport would not give packages their data files
    atexit.register(shutil.rmtree, unpacked, ignore_errors=True)
    for wheel in missing:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)
    sys.path.append(unpacked)
    extend_path_of_children(unpacked)
    importlib.invalidate_caches()
    return [wheel.name for wheel in missing]
