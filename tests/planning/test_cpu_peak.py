"""The planned peak of an update on the CPU against the memory that a real one takes, in a process of its
own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gmpo_mm.config.paths import BUNDLED_MODELS

ROOT = Path(__file__).parents[2]
BUNDLED = BUNDLED_MODELS
GROUPS = ("worker.rollout.n=8", "worker.actor.global_batch_size=4", "data.rollout_batch_size=4")
WHOLE = (
    *GROUPS,
    "worker.actor.dynamic_batching=false",
    "worker.actor.micro_batch_size_per_device_for_update=32",
)
SMOLLM2_135M = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49152,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "max_position_embeddings": 8192,
    "rope_theta": 100000,
    "tie_word_embeddings": True,
}

# Freed memory goes back to the system at once, so that what the process holds is what lives.
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def check(config: Path, lengths: tuple[int, int, int], *overrides: str) -> None:
    """Within 10 %, and not because both are small beside the noise."""
    command = [sys.executable, "-m", "tests.planning.cpu_update", str(config), *map(str, lengths), *overrides]
    env = os.environ | MALLOC | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["real"] > 120e6
    assert found["planned"] == pytest.approx(found["real"], rel=0.1), found


linux_only = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="VmHWM is Linux's")


@linux_only
def test_text_with_gradient_checkpointing() -> None:
    check(BUNDLED / "qwen2_tiny" / "config.json", (128, 256, 0), *WHOLE)


@linux_only
def test_pictures_without_gradient_checkpointing() -> None:
    keys = (
        *WHOLE,
        "worker.actor.model.enable_gradient_checkpointing=false",
        "worker.actor.global_batch_size=1",
    )
    check(BUNDLED / "qwen2_5_vl_tiny" / "config.json", (1200, 64, 1024), *keys, "data.rollout_batch_size=1")


@linux_only
@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", ["true", "false"])
def test_a_model_of_135_million_parameters(tmp_path: Path, checkpointing: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(SMOLLM2_135M), encoding="utf-8")
    keys = (
        *GROUPS,
        "worker.actor.dynamic_batching=false",
        "worker.actor.micro_batch_size_per_device_for_update=8",
        "worker.actor.global_batch_size=1",  # one micro-batch: no gradients of an earlier one
        "data.rollout_batch_size=1",
    )
    check(path, (256, 64, 0), *keys, f"worker.actor.model.enable_gradient_checkpointing={checkpointing}")
