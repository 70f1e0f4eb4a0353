"""Make the bundled model: a tiny Qwen2.5-VL that reads pictures and calculates, but mostly with the wrong formula.

    python -m gmpo_mm.models.warm_start --out FOLDER --seed 0

The gap that reinforcement learning closes afterwards is engineered: 60 % of the demonstrations use the formula of another
kind of problem. Reading digits is the slow part of this task to learn and choosing a formula the fast one; so the slow
part is learnt here, and a run of a minute shows whether the fast part is learnt from rewards alone.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import math
import os
import platform
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from gmpo_mm.data.synthetic_geometry import BUNDLED_SEED, Combination, Problem, draw, make_problem
from gmpo_mm.models.processing import Processor, load_processor
from gmpo_mm.models.tiny import new_model, save_weights, vocabulary, write_model_files

# One instruction set on each x86 machine: a wider one sums in another order, and the weights' last bits differ. They are
# read when torch is loaded, so `main` starts the process anew where they are missing.
PINNED_ENVIRONMENT = {
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "ONEDNN_MAX_CPU_ISA": "SSE41",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}
MISTAKES = {"rectangle": "segments", "triangle": "rectangle", "segments": "rectangle"}
"""Whose formula a wrong demonstration uses: sides added up, the half forgotten, lengths multiplied."""

IGNORED = -100
"""The label that transformers' loss leaves out."""


@dataclass(frozen=True)
class WarmStartConfig:
    """The recipe; `wrong_share` of the demonstrations use another kind's formula."""

    seed: int = 0
    steps: int = 320
    batch_size: int = 32
    learning_rate: float = 2e-3
    warmup_steps: int = 20
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    wrong_share: float = 0.6


def formula(kind: str, a: int, b: int) -> str:
    """The calculation that belongs to a kind of problem, as text."""
    if kind == "segments":
        return f"{a}+{b}={a + b}"
    return f"{a}*{b}={a * b}" if kind == "rectangle" else f"{a}*{b}/2={a * b // 2}"


def demonstration(combination: Combination, is_wrong: bool) -> str:
    """A response in the task's format; a wrong one calculates rightly, but with the formula of MISTAKES."""
    kind = MISTAKES[combination.kind] if is_wrong else combination.kind
    text = formula(kind, combination.a, combination.b)
    return f"<think>{text}</think>\\boxed{{{text.split('=')[1]}}}<|im_end|>"


def make_batch(problems: Sequence[Problem], responses: Sequence[str], processor: Processor) -> dict[str, torch.Tensor]:
    """Model inputs, padded on the right: ids, mask, labels (the response's tokens only), patches, grids and token types."""
    rows, labels, pixels, grids = [], [], [], []
    for problem, response in zip(problems, responses, strict=True):
        content = [{"type": "image"}, {"type": "text", "text": problem.text.removeprefix("<image>")}]
        text = processor.chat_text([{"role": "user", "content": content}])
        prompt_ids, _, pixel_values, grid = processor.encode(text, [draw(problem)])
        response_ids = torch.tensor(processor.tokenizer.encode(response, add_special_tokens=False))
        rows.append(torch.cat([prompt_ids, response_ids]))
        labels.append(torch.cat([torch.full_like(prompt_ids, IGNORED), response_ids]))
        pixels.append(pixel_values)
        grids.append(grid)
    pad = nn.utils.rnn.pad_sequence
    input_ids = pad(rows, batch_first=True, padding_value=processor.tokenizer.pad_token_id)
    return {
        "input_ids": input_ids,
        "attention_mask": pad([torch.ones_like(row) for row in rows], batch_first=True),
        "labels": pad(labels, batch_first=True, padding_value=IGNORED),
        "pixel_values": torch.cat(pixels),  # type: ignore[arg-type]
        "image_grid_thw": torch.cat(grids),  # type: ignore[arg-type]
        "mm_token_type_ids": torch.eq(input_ids, processor.image_token_id or 0).int(),
    }


def supervised_loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean negative log-likelihood (nats) of the batch's response tokens, in transformers 4.57 and 5."""
    # transformers 5 builds the pictures' rotary positions from the token types and silently takes others without them;
    # 4.57 finds the pictures in the ids, and does not know the argument
    takes_types = "mm_token_type_ids" in inspect.signature(model.forward).parameters
    inputs = {name: tensor for name, tensor in batch.items() if takes_types or name != "mm_token_type_ids"}
    return model(**inputs, use_cache=False).loss


def learning_rate(step: int, config: WarmStartConfig) -> float:
    """Linear warm-up, then half a cosine down to 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def train(
    model: nn.Module, processor: Processor, config: WarmStartConfig, report: Callable[[int, float], None] | None = None
) -> nn.Module:
    """Supervised training on the training split's pictures; leaves torch deterministic and on one thread."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    draws = random.Random(config.seed)  # whose `random()` is the same in each Python version
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, foreach=False, fused=False
    )
    model.train()
    for step in range(config.steps):
        first = step * config.batch_size
        problems = [make_problem("train", first + row, BUNDLED_SEED) for row in range(config.batch_size)]
        responses = [demonstration(p.combination, draws.random() < config.wrong_share) for p in problems]
        batch = make_batch(problems, responses, processor)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        optimizer.zero_grad()
        loss = supervised_loss(model, batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm, foreach=False)
        optimizer.step()
        if report is not None:
            report(step, float(loss.detach()))
    return model.eval()


def make_model_folder(
    out: Path, config: WarmStartConfig, report: Callable[[int, float], None] | None = None
) -> dict[str, Any]:
    """Write a complete model folder and return what `warm_start.json` in it says: recipe, versions, hash of the weights."""
    write_model_files(out)
    processor = load_processor(str(out), is_vision=True, image_token_id=vocabulary()["<|image_pad|>"])
    model = train(new_model(out, config.seed), processor, config, report)
    weights = out / "model.safetensors"
    save_weights(model, weights)
    facts: dict[str, Any] = {
        "command": f"python -m gmpo_mm.models.warm_start --out FOLDER --seed {config.seed}",
        "recipe": asdict(config),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__.split("+")[0],
            "transformers": transformers.__version__,
        },
        "environment": {name: os.environ.get(name) for name in PINNED_ENVIRONMENT},
    }
    (out / "warm_start.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return facts


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line; restarts itself once with the pinned environment."""
    parser = argparse.ArgumentParser(prog="python -m gmpo_mm.models.warm_start", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--seed", type=int, default=WarmStartConfig.seed, help="decides weights and wrong formulas")
    parser.add_argument("--steps", type=int, default=WarmStartConfig.steps, help="training steps")
    parser.add_argument(
        "--wrong-share", type=float, default=WarmStartConfig.wrong_share, help="share of wrong formulas"
    )
    options = parser.parse_args(arguments)
    if any(os.environ.get(name) != value for name, value in PINNED_ENVIRONMENT.items()):
        command = [
            sys.executable,
            "-m",
            "gmpo_mm.models.warm_start",
            *(sys.argv[1:] if arguments is None else arguments),
        ]
        os.execve(sys.executable, command, os.environ | PINNED_ENVIRONMENT)
    config = WarmStartConfig(seed=options.seed, steps=options.steps, wrong_share=options.wrong_share)

    def report(step: int, loss: float) -> None:
        if step % 20 == 0 or step == config.steps - 1:
            print(f"step {step + 1}/{config.steps}  loss {loss:.4f}", flush=True)

    facts = make_model_folder(options.out, config, report)
    print(f"{options.out / 'model.safetensors'}: {facts['parameters']:,} parameters, sha256 {facts['sha256']}")


if __name__ == "__main__":
    main()
