"""Data and models that verl would train on as something else than they are, found before a worker starts. Imports no `verl`."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from gmpo_mm.config import Config
from gmpo_mm.config.json_text import read_mapping
from gmpo_mm.data.records import Record
from gmpo_mm.engines.verl.preflight import TESTED
from gmpo_mm.errors import ConfigError
from gmpo_mm.models.processing import find_files

FAILS_WITHOUT_PICTURES = ("Qwen2VLProcessor", "Qwen2_5_VLProcessor")


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
