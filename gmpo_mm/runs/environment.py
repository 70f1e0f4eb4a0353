"""What a run was made with: versions, commit and machine, so that a printed number can be traced."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from gmpo_mm.version import VERSION

PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "peft", "vllm", "numpy", "sympy", "omegaconf")


def describe_environment(device: str | torch.device | None = None) -> dict[str, Any]:
    """Versions of Python and the packages (None: not installed), git commit of a checkout, device, CPU, threads."""
    commit, dirty = _git_state(Path(__file__).resolve().parents[2])
    return {
        "gmpo_mm": VERSION,
        "git_commit": commit,
        "git_dirty": dirty,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        **{name: _version(name) for name in PACKAGES},
        "cuda": torch.version.cuda,
        "device": None if device is None else str(device),
        "device_name": _device_name(device),
        "cpu": _cpu_name(),
        "cpu_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state(folder: Path) -> tuple[str | None, bool | None]:
    """Commit and whether tracked files differ from it; (None, None) outside a checkout."""
    if not (folder / ".git").exists():
        return None, None
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit, bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None, None  # no git, or a repository that it refuses to read: the versions have to do


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()


def _device_name(device: str | torch.device | None) -> str | None:
    if device is None or torch.device(device).type != "cuda" or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_name(torch.device(device))


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
