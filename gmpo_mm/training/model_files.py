"""The trained weights as files that stock transformers (and peft, for adapters) loads again."""

from __future__ import annotations

import shutil
from pathlib import Path

from gmpo_mm.errors import TrainingError
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.processing import Processor


def save_model(policy: PolicyModel, processor: Processor, folder: Path) -> None:
    """Write weights (of the adapter only, for LoRA), configuration, tokenizer and image processor into `folder`."""
    policy.module.save_pretrained(folder)  # type: ignore[operator]
    for file in policy.config_files:  # as they were read, so that every transformers version that read them still can
        shutil.copyfile(file, folder / file.name)
    processor.save(folder)


def load_weights(policy: PolicyModel, folder: Path) -> None:
    """Load what `save_model` wrote into a policy of the same configuration, bit for bit."""
    if hasattr(policy.module, "peft_config"):
        from peft import load_peft_weights, set_peft_model_state_dict

        set_peft_model_state_dict(policy.module, load_peft_weights(str(folder), device=str(policy.device)))
        return
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    kind = AutoModelForImageTextToText if policy.vision is not None else AutoModelForCausalLM
    loaded = kind.from_pretrained(folder, dtype=policy.lm_head.weight.dtype, use_safetensors=True)
    missing, unexpected = policy.module.load_state_dict(loaded.state_dict(), strict=False)
    if missing or unexpected:
        raise TrainingError(
            f"{folder} does not fit the configured model (missing {missing[:3]}, unexpected {unexpected[:3]}); resume with the "
            "worker.actor.model settings that made the checkpoint"
        )

