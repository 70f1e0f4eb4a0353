"""Small real evaluations of the bundled model, in this process or in one that can be killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from gmpo_mm.evaluation.evaluate import evaluate
from gmpo_mm.evaluation.results import Result
from gmpo_mm.evaluation.settings import EvaluateSettings, load_settings

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
BUNDLED = "bundled:qwen2_5_vl_tiny"
BUNDLED_FOLDER = ROOT / "gmpo_mm/toys/bundled/qwen2_5_vl_tiny"


def settings(out: Path, **changes: Any) -> EvaluateSettings:
    """12 problems of the bundled task, 4 samples each; `changes` go before."""
    values = {"model": BUNDLED, "benchmarks": ["synthetic_pictures"], "limit": 12, "n": 4, "threads": 1, "out": str(out)}
    return load_settings(None, [], values | changes)


def evaluate_one(out: Path, **changes: Any) -> Result:
    """The result of `settings(out, **changes)`."""
    (result,) = evaluate(settings(out, **changes), command=["test"])
    return result


def start_process(*arguments: str) -> subprocess.Popen[str]:
    """`gmpo-mm evaluate` as a user starts it, in its own process group."""
    return subprocess.Popen(
        [sys.executable, "-m", "gmpo_mm.cli", "evaluate", *arguments], text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
    )  # fmt: skip


def write_tiny_text_model(folder: Path) -> Path:
    """A random Qwen2 of 60,000 parameters with the bundled model's tokenizer and chat template."""
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_FOLDER)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=8192, tie_word_embeddings=True, initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((BUNDLED_FOLDER / name).read_bytes())
    return folder
