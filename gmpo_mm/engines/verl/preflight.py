"""What has to hold before Ray starts a worker: the installation, the directory. Imports no `verl`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gmpo_mm.engines.foreign_run import check_no_foreign_run
from gmpo_mm.engines.installed import Requirement, checked_version, installed_version, unmet

TESTED = "0.9.1"
HOW_TO_GET = "pip install 'gmpo-mm[verl]'"
REQUIREMENTS = (
    Requirement(("transformers",), ">=5.5.3,<5.11", "verl's own range"),
    Requirement(("tensordict",), ">=0.10,<0.11", "its batches"),
    Requirement(("TransferQueue",), ">=0.1.11,<0.2", "its queue of responses"),
    Requirement(("ray",), ">=2.41", "its workers are Ray actors"),
    Requirement(("omegaconf",), ">=2.3,<2.4", "its hydra"),
    Requirement(("hydra-core",), ">=1.3", "its configuration"),
    Requirement(("torchdata",), ">=0", "its data loader"),
    *(Requirement((name,), ">=0", "verl imports it without asking for it") for name in ("cachetools", "fastapi", "uvicorn")),
)
GPU_REQUIREMENTS = (
    Requirement(("vllm",), ">=0.24,<0.25", "its rollouts; what its extra verl[vllm] asks for"),
    Requirement(("flash-attn",), ">=2.4.3", "its workers ask transformers for flash_attention_2"),
)
SHOWN = ("torch", "transformers", "vllm", "flash-attn", "ray", "omegaconf", "tensordict", "TransferQueue", "hydra-core")
VERL_FILES = ("latest_checkpointed_iteration.txt",)


def installed_packages() -> dict[str, str | None]:
    """Versions of what decides whether verl runs here; None where one is missing."""
    return {name: installed_version(name) for name in SHOWN}


def check_installation(on_cpu: bool) -> str:
    """verl's version; ConfigError with everything that keeps an installed verl from training."""
    return checked_version(
        "verl", "verl", HOW_TO_GET, "train with engine=easyr1, or use an environment of its own",
        problems=lambda version: problems(version, on_cpu), packages=installed_packages,
    )  # fmt: skip


def problems(version: str, on_cpu: bool) -> Iterator[str]:
    """One sentence for each thing that keeps the installed verl from training, on GPUs or with the CPU plug-in."""
    if version != TESTED:
        yield f"verl {version} is installed; the engine is written for and tested with {TESTED}: pip install verl=={TESTED}."
    yield from unmet(REQUIREMENTS if on_cpu else REQUIREMENTS + GPU_REQUIREMENTS)


def check_directory(path: Path) -> None:
    """ConfigError for a directory that holds a run of verl itself, from whose weights it would go on."""
    check_no_foreign_run(path, "verl", VERL_FILES, "go on from")
