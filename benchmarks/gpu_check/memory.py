"""Peak memory of an update: what the plan predicts, and what PyTorch's allocator counts."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.gpu_check.parts import Context
from benchmarks.gpu_check.shapes import TEXT_1_5B, VL_3B, VL_7B_LORA, Shape

GIB = 2**30
WITHIN_PERCENT = 10.0
"""How far a prediction may be off."""


@dataclass
class Peak:
    """Bytes of tensors, and of what the allocator took from the card for them."""

    allocated: int = 0
    reserved: int = 0


@contextmanager
def peak_memory(context: Context) -> Iterator[Peak]:
    """The high-water marks of a block; zeros on a CPU."""
    peak = Peak()
    if not context.is_cuda:
        yield peak
        return
    context.synchronize()
    context.free()
    torch.cuda.reset_peak_memory_stats(context.device)
    yield peak
    context.synchronize()
    peak.allocated = torch.cuda.max_memory_allocated(context.device)
    peak.reserved = torch.cuda.max_memory_reserved(context.device)


def report_memory(context: Context, shape: Shape, peak: Peak) -> None:
    """Measured, reserved and predicted."""
    report = context.report
    if not context.is_cuda:
        report.skipped(f"{shape.name}: memory", "a CPU's allocator keeps no account")
        return
    report.measured(f"{shape.name}: peak memory, allocated", peak.allocated / GIB, "GiB")
    report.measured(f"{shape.name}: peak memory, reserved", peak.reserved / GIB, "GiB")
    context.cache.setdefault("peaks", {})[shape.name] = peak.allocated


# ---- predictions: made by a process of their own while the card is at work ---------------------------------


def start_predicting(context: Context) -> None:
    """Let the plan predict the shapes' memory in a process that sees no GPU."""
    if not context.is_cuda:
        return
    out = context.scratch / "predicted.json"
    command = [sys.executable, "-m", "benchmarks.gpu_check.memory", str(out)]
    with open(context.scratch / "predicting.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            command, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, stdout=log, stderr=log
        )
    context.cache["predicting"] = (process, out)


def compare_predictions(context: Context) -> None:
    """Each measured peak beside the plan's."""
    report = context.report
    peaks: dict[str, int] = context.cache.get("peaks", {})
    if not peaks:
        report.skipped("predicted memory", "no peak was measured")
        return
    process, out = context.cache["predicting"]
    try:
        process.wait(timeout=max(1.0, min(60.0, report.seconds_left)))
    except subprocess.TimeoutExpired:
        process.kill()
    predicted = json.loads(out.read_text(encoding="utf-8")) if out.is_file() else {}
    log = (
        (context.scratch / "predicting.log")
        .read_text(encoding="utf-8", errors="replace")
        .strip()
        .splitlines()
    )
    for name, allocated in peaks.items():
        found = predicted.get(name)
        if not isinstance(found, (int, float)):
            report.skipped(
                f"{name}: predicted memory", str(found or (log[-1:] or ["it was not ready in time"])[0])
            )
            continue
        report.measured(f"{name}: predicted memory", found / GIB, "GiB")
        off = 100 * abs(found / allocated - 1)
        report.check(f"{name}: prediction off by", off, WITHIN_PERCENT, unit="%", note="of allocated memory")


def predict(shape: Shape) -> float:
    """Bytes at the peak of an update of this shape, by `gmpo_mm.planning`; every response as long as the
    longest."""
    from gmpo_mm.config import load_config
    from gmpo_mm.models.cards import find_card
    from gmpo_mm.planning.micro_batch import OPTIMIZER_STEP, UPDATE, Lengths, Rehearsal
    from gmpo_mm.planning.model_files import read_model_config

    path, *overrides = shape.planned
    prompt = shape.prompt + (shape.image_tokens + 2 if shape.image_tokens else 0)
    overrides += [
        f"worker.rollout.n={shape.group_size}", f"worker.actor.global_batch_size={shape.groups}",
        f"data.rollout_batch_size={shape.groups}", "worker.actor.dynamic_batching=false",
        f"worker.actor.micro_batch_size_per_device_for_update={shape.group_size}",
        f"worker.actor.micro_batch_size_per_device_for_experience={shape.group_size}",
        f"data.max_prompt_length={prompt}", f"data.max_response_length={shape.longest}",
        "worker.actor.model.enable_gradient_checkpointing=true", "algorithm.disable_kl=true",
    ]  # fmt: skip
    config = load_config(path, overrides).config
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tensors without contents
        rehearsal = Rehearsal(
            config, read_model_config(config), torch.device("cuda:0"), torch.bfloat16, find_card("h100")
        )
        measured = rehearsal.measure(Lengths(prompt, shape.longest, shape.image_tokens), with_slope=False)
    return max(measured.peaks[name].total for name in (UPDATE, OPTIMIZER_STEP) if name in measured.peaks)


def main() -> None:
    """Predict all shapes; a shape that can't be predicted gets the reason."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    found: dict[str, float | str] = {}
    for shape in (VL_3B, TEXT_1_5B, VL_7B_LORA):
        try:
            found[shape.name] = predict(shape)
        except Exception as error:
            found[shape.name] = f"{type(error).__name__}: {error}"
        aside = out.with_suffix(".part")
        aside.write_text(json.dumps(found), encoding="utf-8")
        aside.replace(out)


if __name__ == "__main__":
    main()
