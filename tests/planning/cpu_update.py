"""A real update on the CPU in a process of its own: prints the bytes of its peak beside the planned ones.

python -m tests.planning.cpu_update MODEL_CONFIG.json PROMPT RESPONSE IMAGE KEY=VALUE...
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path
from typing import Any

import torch

from gmpo_mm.config import load_config
from gmpo_mm.config.paths import BUNDLED_MODELS
from gmpo_mm.engines.local.launch import update_config
from gmpo_mm.models import loading
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.planning.micro_batch import (
    OPTIMIZER_STEP,
    UPDATE,
    Lengths,
    Rehearsal,
    first_micro_batch,
    make_batch,
)
from gmpo_mm.training.actor import Actor
from gmpo_mm.training.optimizer import build_optimizer

BUNDLED = BUNDLED_MODELS


def status(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def real_actor(config: Any, model_config: Any) -> Actor:
    """The actor as the engine builds it, with random weights."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    kind = AutoModelForImageTextToText if hasattr(model_config, "vision_config") else AutoModelForCausalLM
    model: Any = loading.use_packed_attention(
        kind.from_config(model_config, dtype=torch.float32, attn_implementation="sdpa")
    )
    if config.worker.actor.model.enable_gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    ids = [getattr(model_config, name, None) for name in ("image_token_id", "video_token_id")]
    policy = PolicyModel(model, forbidden_token_ids=[i for i in ids if i is not None])
    return Actor(policy, build_optimizer(policy, config.worker.actor.optim), update_config(config))


def measured_peak(config: Any, model_config: Any, tiny_config: Any, lengths: Lengths) -> int:
    """Growth of the process's memory, from before the model until the peak of an update that is not the
    first.
    """
    small = real_actor(
        config, tiny_config
    )  # modules that are imported, and buffers of libraries, on first use
    few = Lengths(16, 4, min(lengths.image, 4))
    small.update(
        first_micro_batch(config, make_batch(config, small.policy, few), small.config.update_limits).batch
    )
    del small
    gc.collect()
    before = status("VmRSS")
    actor = real_actor(config, model_config)
    batch = first_micro_batch(
        config, make_batch(config, actor.policy, lengths), actor.config.update_limits
    ).batch
    for _ in range(2):
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again
        actor.update(batch)
    return status("VmHWM") - before


def main() -> None:
    """The command."""
    from transformers import AutoConfig

    path, prompt, response, image, *overrides = sys.argv[1:]
    lengths = Lengths(int(prompt), int(response), int(image))
    torch.set_num_threads(1)
    config = load_config(None, ["algorithm.disable_kl=true", *overrides]).config
    kind = "qwen2_5_vl_tiny" if lengths.image else "qwen2_tiny"
    tiny_config = AutoConfig.from_pretrained(BUNDLED / kind)
    real = measured_peak(config, AutoConfig.from_pretrained(path), tiny_config, lengths)
    rehearsal = Rehearsal(config, AutoConfig.from_pretrained(path), torch.device("cpu"), torch.float32, None)
    measured = rehearsal.measure(lengths, with_slope=False)
    planned = max(measured.peaks[phase].total for phase in (UPDATE, OPTIMIZER_STEP))
    print(json.dumps({"real": real, "planned": planned, "held": sum(measured.held.values())}))


if __name__ == "__main__":
    main()
