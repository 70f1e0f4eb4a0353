"""What has to hold before Ray starts a worker: the installation, the directory. Imports no `verl`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from pathlib import Path

from gmpo_mm.config import Config
from gmpo_mm.config.json_text import read_mapping
from gmpo_mm.data.records import Record
from gmpo_mm.engines.installed import Requirement, find_verl, installed_version, unmet
from gmpo_mm.errors import ConfigError
from gmpo_mm.models.processing import find_files

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
FAILS_WITHOUT_PICTURES = ("Qwen2VLProcessor", "Qwen2_5_VLProcessor")
VERL_FILES = ("latest_checkpointed_iteration.txt",)


def installed_packages() -> dict[str, str | None]:
    """Versions of what decides whether verl runs here; None where one is missing."""
    return {name: installed_version(name) for name in SHOWN}


def check_installation(on_cpu: bool) -> str:
    """verl's version; ConfigError with everything that keeps an installed verl from training."""
    found = find_verl()
    if found is None:
        raise ConfigError(f"engine=verl: verl is not installed. {HOW_TO_GET}; or train with engine=local.")
    if found.engine != "verl":
        whose = "EasyR1's" if found.engine == "easyr1" else "of unknown origin"
        raise ConfigError(
            f"engine=verl: `verl` at {found.root} ({found.version}) is {whose}, and both are imported as `verl`; train with "
            f"engine=easyr1, or use an environment of its own. {HOW_TO_GET}."
        )
    wrong = list(problems(found.version, on_cpu))
    if wrong:
        versions = ", ".join(f"{name} {version or 'missing'}" for name, version in installed_packages().items())
        raise ConfigError(
            f"engine=verl: verl {found.version} at {found.root} can't train here:\n"
            + "\n".join(f"  - {problem}" for problem in wrong)
            + f"\nInstalled: {versions}"
        )
    return found.version


def problems(version: str, on_cpu: bool) -> Iterator[str]:
    """One sentence for each thing that keeps the installed verl from training, on GPUs or with the CPU plug-in."""
    if version != TESTED:
        yield f"verl {version} is installed; the engine is written for and tested with {TESTED}: pip install verl=={TESTED}."
    yield from unmet(REQUIREMENTS if on_cpu else REQUIREMENTS + GPU_REQUIREMENTS)


def check_directory(path: Path) -> None:
    """ConfigError for a directory that holds a run of verl itself, from whose weights it would go on."""
    if not path.is_dir() or (path / "run.json").is_file():
        return  # a run of ours is the run directory's own business
    checkpoints = sorted(path.glob("global_step_*"), key=lambda folder: (len(folder.name), folder.name))
    found = [name for name in VERL_FILES if (path / name).exists()] + [folder.name for folder in checkpoints[-1:]]
    if found:
        start = f"; to train on from its weights, add trainer.resume={checkpoints[-1]}" if checkpoints else ""
        raise ConfigError(
            f"trainer.run_dir (or save_checkpoint_path) = {path}: it holds a run of verl ({', '.join(found)}), which verl "
            f"would go on from; give another trainer.run_dir{start}"
        )


def check_remote_code(config: Config, tokenizer_path: str) -> None:
    """ConfigError for a tokenizer with code of its own unless the user allows it: verl's reward workers always would."""
    if config.worker.actor.model.trust_remote_code:
        return
    for file in find_files(tokenizer_path, ("tokenizer_config.json",)):
        if read_mapping(file, "restore it, or give another model").get("auto_map"):
            raise ConfigError(
                f"worker.actor.model.trust_remote_code = false: the tokenizer at {tokenizer_path} brings code of its own "
                "(auto_map), and verl's reward workers run such code without asking; set trust_remote_code=true if you trust "
                "it, or use engine=local"
            )


def check_pictures(
    train_records: Sequence[Record], val_records: Sequence[Record], processor: object | None, path: str
) -> None:
    """ConfigError when verl would train pictures away, or fail on a row without one.

    It goes on without a processor that it can't load; and its forward pass of Qwen2-VL and Qwen2.5-VL raises for a micro-batch
    without a picture (`image_embeds.mean()` of what transformers 5 no longer gives as a tensor).
    """
    without = [record for record in train_records if not record.images]
    if without and type(processor).__name__ in FAILS_WITHOUT_PICTURES:
        raise ConfigError(
            f"data.train_files: {len(without)} of {len(train_records)} rows have no picture ({without[0].where} is the first), "
            f"and verl {TESTED} fails on a micro-batch of such rows with this family of models; leave them out, or use "
            "engine=local or engine=easyr1"
        )
    has_pictures = len(without) < len(train_records) or any(record.images for record in val_records)
    if has_pictures and processor is None:
        missing = "" if importlib.util.find_spec("torchvision") else " (it needs torchvision, which is not installed)"
        raise ConfigError(
            f"worker.actor.model.model_path = {path}: the data has pictures, and verl can't load the model's processor"
            f"{missing}, so it would drop them; install what the warning above names"
        )
