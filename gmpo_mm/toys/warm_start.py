"""Make the bundled models, which can do the slow part of their task and mostly get the fast part wrong.

    python -m gmpo_mm.toys.warm_start --out FOLDER --seed 0                           # qwen2_5_vl_tiny
    python -m gmpo_mm.toys.warm_start --model qwen3_moe_tiny --out FOLDER --seed 0    # or qwen2_tiny
    python -m gmpo_mm.toys.warm_start --model qwen3_moe_200m --out FOLDER            # not shipped; uses a GPU if there is one

The gap that reinforcement learning closes afterwards is engineered: 60 % of the demonstrations are wrong. The vision model is
shown the formula of another kind of problem, the text models an expression with one sign turned round. Reading digits, or
finding which signs give a target, is slow to learn; which of two answers to prefer is fast. So the slow part is learnt here,
and a run of a minute or three shows whether the fast part is learnt from rewards alone. The 200-million model is
shown right solutions only, of CountDown with three and four numbers.
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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from gmpo_mm.models.processing import Processor, load_processor
from gmpo_mm.toys.countdown import (
    TEST_SIZE,
    TINY,
    TINY_TEST_SIZE,
    TINY_TRAIN_SIZE,
    TRAIN_SIZE,
    CountdownProblem,
    CountdownSettings,
    make_splits,
)
from gmpo_mm.toys.countdown_demonstrations import IGNORED, countdown_batches
from gmpo_mm.toys.synthetic_geometry import BUNDLED_SEED, Combination, Problem, draw, make_problem
from gmpo_mm.toys.tiny import new_model, save_weights, vocabulary, write_model_files
from gmpo_mm.toys.tiny_text import new_text_model, save_text_model, text_config

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

VISION_MODEL = "qwen2_5_vl_tiny"
Report = Callable[[int, float], None]
Batches = Callable[[int], dict[str, torch.Tensor]]
"""Step -> the model's inputs."""


@dataclass(frozen=True)
class WarmStartConfig:
    """A recipe; `wrong_share` of the demonstrations are wrong."""

    seed: int = 0
    steps: int = 320
    batch_size: int = 32
    learning_rate: float = 2e-3
    warmup_steps: int = 20
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    wrong_share: float = 0.6


RECIPES = {
    VISION_MODEL: WarmStartConfig(),
    "qwen2_tiny": WarmStartConfig(steps=800, batch_size=64),
    "qwen3_moe_tiny": WarmStartConfig(steps=800, batch_size=64),
    "qwen3_moe_200m": WarmStartConfig(steps=3000, batch_size=128, learning_rate=3e-4, warmup_steps=100, wrong_share=0.0),
}
BUNDLED = (VISION_MODEL, "qwen2_tiny", "qwen3_moe_tiny")
"""Made on one thread of the CPU, byte for byte; the others on what the machine has."""


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
        prompt_ids, _, patches, grid = processor.encode(text, [draw(problem)])
        response_ids = torch.tensor(processor.tokenizer.encode(response, add_special_tokens=False))
        rows.append(torch.cat([prompt_ids, response_ids]))
        labels.append(torch.cat([torch.full_like(prompt_ids, IGNORED), response_ids]))
        assert patches is not None
        pixels.append(patches.pixel_values)
        grids.append(grid)
    pad = nn.utils.rnn.pad_sequence
    input_ids = pad(rows, batch_first=True, padding_value=processor.tokenizer.pad_token_id)
    return {
        "input_ids": input_ids,
        "attention_mask": pad([torch.ones_like(row) for row in rows], batch_first=True),
        "labels": pad(labels, batch_first=True, padding_value=IGNORED),
        "pixel_values": torch.cat(pixels),
        "image_grid_thw": torch.cat(grids),  # type: ignore[arg-type]
        "mm_token_type_ids": torch.eq(input_ids, processor.image_token_id or 0).int(),
    }


def supervised_loss(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean negative log-likelihood (nats) of the batch's response tokens, in transformers 4.57 and 5.

    A mixture of experts adds its balance loss, with the coefficient of its configuration.
    """
    # transformers 5 builds the pictures' rotary positions from the token types and silently takes others without them;
    # 4.57 finds the pictures in the ids, and does not know the argument
    takes_types = "mm_token_type_ids" in inspect.signature(model.forward).parameters
    inputs: dict[str, Any] = {name: tensor for name, tensor in batch.items() if takes_types or name != "mm_token_type_ids"}
    if getattr(model.config, "num_experts", 0):
        inputs["output_router_logits"] = True
    return model(**inputs, use_cache=False).loss


def learning_rate(step: int, config: WarmStartConfig) -> float:
    """Linear warm-up, then half a cosine down to 0."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def picture_batches(processor: Processor, batch_size: int, wrong_share: float, draws: random.Random) -> Batches:
    """Step -> batch: the training split's pictures in their order, wrong formulas by the draws."""

    def batch_of(step: int) -> dict[str, torch.Tensor]:
        problems = [make_problem("train", step * batch_size + row, BUNDLED_SEED) for row in range(batch_size)]
        responses = [demonstration(problem.combination, draws.random() < wrong_share) for problem in problems]
        return make_batch(problems, responses, processor)

    return batch_of


def training_problems(name: str) -> list[CountdownProblem]:
    """What a text model is shown: the training split that `gmpo-mm data countdown` writes, with or without --tiny."""
    if name in BUNDLED:
        return make_splits(TINY, TINY_TRAIN_SIZE, TINY_TEST_SIZE)["train"]
    return make_splits(CountdownSettings(), TRAIN_SIZE, TEST_SIZE)["train"]


def train(model: nn.Module, batch_of: Batches, config: WarmStartConfig, report: Report | None = None) -> nn.Module:
    """Supervised training on the model's device."""
    device = next(model.parameters()).device
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, foreach=False, fused=False
    )
    model.train()
    for step in range(config.steps):
        batch = {name: tensor.to(device) for name, tensor in batch_of(step).items()}
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


def make_model_folder(name: str, out: Path, config: WarmStartConfig, report: Report | None = None) -> dict[str, Any]:
    """Write a complete model folder and return what `warm_start.json` in it says: recipe, versions, hash of the weights.

    For a bundled model it leaves torch deterministic and on one thread.
    """
    is_vision = name == VISION_MODEL
    if name in BUNDLED:
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
    draws = random.Random(config.seed)  # whose `random()` is the same in each Python version
    weights = out / "model.safetensors"
    if is_vision:
        write_model_files(out)
        model = new_model(out, config.seed)
        processor = load_processor(str(out), is_vision=True, image_token_id=vocabulary()["<|image_pad|>"])
        save_weights(
            train(model, picture_batches(processor, config.batch_size, config.wrong_share, draws), config, report), weights
        )
    else:
        model = new_text_model(out, text_config(name), config.seed)
        if name not in BUNDLED and torch.cuda.is_available():
            model = model.cuda()
        processor = load_processor(str(out), is_vision=False, image_token_id=None)
        batches = countdown_batches(training_problems(name), processor, config.batch_size, config.wrong_share, draws)
        save_text_model(train(model, batches, config, report), out, text_config(name))
    chosen = "" if is_vision else f"--model {name} "
    facts: dict[str, Any] = {
        "command": f"python -m gmpo_mm.toys.warm_start {chosen}--out FOLDER --seed {config.seed}",
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
    parser = argparse.ArgumentParser(prog="python -m gmpo_mm.toys.warm_start", description=__doc__)
    parser.add_argument("--model", choices=RECIPES, default=VISION_MODEL, help="which of the bundled models to make")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--seed", type=int, default=WarmStartConfig.seed, help="decides weights and wrong demonstrations")
    parser.add_argument("--steps", type=int, help="training steps; the recipe's when not given")
    parser.add_argument("--wrong-share", type=float, help="share of wrong demonstrations; the recipe's when not given")
    options = parser.parse_args(arguments)
    if options.model in BUNDLED and any(os.environ.get(name) != value for name, value in PINNED_ENVIRONMENT.items()):
        command = [
            sys.executable,
            "-m",
            "gmpo_mm.toys.warm_start",
            *(sys.argv[1:] if arguments is None else arguments),
        ]
        os.execve(sys.executable, command, os.environ | PINNED_ENVIRONMENT)
    recipe = RECIPES[options.model]
    given = {"seed": options.seed, "steps": options.steps, "wrong_share": options.wrong_share}
    config = replace(recipe, **{key: value for key, value in given.items() if value is not None})

    def report(step: int, loss: float) -> None:
        if step % 20 == 0 or step == config.steps - 1:
            print(f"step {step + 1}/{config.steps}  loss {loss:.4f}", flush=True)

    facts = make_model_folder(options.model, options.out, config, report)
    print(f"{options.out / 'model.safetensors'}: {facts['parameters']:,} parameters, sha256 {facts['sha256']}")


if __name__ == "__main__":
    main()
