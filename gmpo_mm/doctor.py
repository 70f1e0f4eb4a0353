"""What this machine can run: devices, versions, engines, rollout backends and trackers, and why others are not there."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from typing import Any

from gmpo_mm.config.backends import SAMPLERS, TRACKERS, Backend
from gmpo_mm.engines.installed import installed_version, package_folder
from gmpo_mm.engines.registry import all_engines
from gmpo_mm.version import VERSION

OPTIONAL_PACKAGES = ("tokenizers", "safetensors", "datasets", "peft", "omegaconf", "sympy", "flash-attn", "ray")
IMPORT_SECONDS = 180


def diagnose() -> dict[str, dict[str, str]]:
    """Section -> (item -> finding), all in words; loads no model and asks no network."""
    return {
        "machine": _machine(),
        "torch": _torch(),
        "packages": {name: installed_version(name) or "not installed" for name in ("transformers", *OPTIONAL_PACKAGES)},
        "engines": {engine.name: engine.diagnose() for engine in all_engines()},
        "rollouts": {name: _sampler(name, backend) for name, backend in SAMPLERS.items()},
        "trackers": {"console": "ready", "file": "ready", **{name: _state(backend) for name, backend in TRACKERS.items()}},
    }


def _machine() -> dict[str, str]:
    import psutil

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = psutil.virtual_memory()
    return {
        "gmpo_mm": VERSION,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "CPU": f"{usable} of {os.cpu_count()} cores usable",
        "memory": f"{_gigabytes(memory.available)} of {_gigabytes(memory.total)} free",
    }


def _torch() -> dict[str, str]:
    try:
        import torch
    except (ImportError, OSError) as error:  # a build whose libraries are missing raises OSError
        return {"torch": f"can't be imported: {error}"}
    found = {"torch": f"{torch.__version__}, {torch.get_num_threads()} threads"}
    if not torch.cuda.is_available():
        why = "this build has no CUDA" if torch.version.cuda is None else "torch sees no GPU or driver"
        return {**found, "GPU": f"none: {why}; trainer.device=auto is the CPU, in float32"}
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found[f"cuda:{index}"] = f"{properties.name}, {_gigabytes(properties.total_memory)}"
    return {**found, "CUDA": str(torch.version.cuda)}


def _sampler(name: str, backend: Backend) -> str:
    """Whether its package can be imported, tried in a process of its own: an import can take the process down with it."""
    package = backend.package
    if package is None:
        return "ready: samples with the trained model itself"
    if package_folder(package) is None:
        return f"not installed: pip install {backend.install} (a GPU machine); worker.rollout.name={name} asks for it"
    version = installed_version(package) or installed_version(f"{package}-cpu") or "of unknown version"
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {package}"], capture_output=True, text=True, timeout=IMPORT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{version} is installed, but `import {package}` took more than {IMPORT_SECONDS} s"
    if done.returncode == 0:
        return f"ready: {version}"
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return f"{version} is installed, but can't be imported: {lines[-1]}"


def _state(backend: Backend) -> str:
    if package_folder(backend.package or "") is None:
        return f"not installed: pip install {backend.install}"
    return f"ready: {installed_version(backend.package or '') or 'installed'}"


def _gigabytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def print_report(report: dict[str, dict[str, str]]) -> None:
    """The report as a table on stdout."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title="gmpo-mm doctor", title_justify="left", show_header=False)
    for section, items in report.items():
        table.add_section()
        for index, (name, finding) in enumerate(items.items()):
            table.add_row(Text(section if index == 0 else "", style="bold"), name, _coloured(finding))
    Console().print(table)


def _coloured(finding: str) -> Any:
    from rich.text import Text

    good, bad = finding.startswith("ready"), finding.startswith(("not ", "none")) or "can't be" in finding
    return Text(finding, style="green" if good else "yellow" if bad else "")
