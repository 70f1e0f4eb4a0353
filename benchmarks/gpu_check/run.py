"""The parts in their order, and a run of them."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.gpu_check import comparisons, correctness, learning, memory, sampling, speed, whole_update
from benchmarks.gpu_check.parts import Context, DeviceLostError, Part, run_parts
from benchmarks.gpu_check.report import JSON_NAME, TABLE_NAME, Report, environment
from benchmarks.gpu_check.shapes import TEXT_1_5B, TINY_LORA, TINY_TEXT, TINY_VL, VL_3B, VL_7B_LORA
from gmpo_mm.models.loading import resolve_device


def all_parts(tiny: bool) -> list[Part]:
    """Every part in order of worth, with what it takes on an H100 in seconds."""
    text, pictures, lora = (TINY_TEXT, TINY_VL, TINY_LORA) if tiny else (TEXT_1_5B, VL_3B, VL_7B_LORA)
    both = ("speed", "memory")
    return [
        Part("card", ("card",), 5, speed.measure_card),
        Part("attention", ("correctness",), 15, correctness.check_attention),
        Part("vision attention", ("correctness",), 8, correctness.check_vision_attention),
        Part("head", ("correctness",), 15, correctness.check_head),
        Part("norm, SwiGLU, rotary", ("correctness",), 15, correctness.check_fused),
        Part("vision tower", ("correctness",), 10, whole_update.check_vision_tower),
        Part("whole update", ("correctness",), 30, whole_update.check_update),
        Part("sampler", ("correctness",), 15, whole_update.check_sampler),
        Part("host reads", ("correctness",), 10, whole_update.check_host_reads),
        Part("update of VL-3B", both, 50, partial(speed.measure_shape, shape=pictures, with_profile=True)),
        Part("update of 1.5B", both, 30, partial(speed.measure_shape, shape=text)),
        Part("update of VL-7B with LoRA", both, 40, partial(speed.measure_shape, shape=lora)),
        Part("predicted memory", ("memory",), 2, memory.compare_predictions),
        Part(
            "transformers' rows, VL-3B",
            ("comparisons",),
            30,
            partial(comparisons.measure_plain_rows, shape=pictures),
        ),
        Part("TRL, 1.5B", ("comparisons",), 25, partial(comparisons.measure_trl, shape=text)),
        Part("learning from pictures", ("learning",), 60, learning.learn_pictures),
        Part("sampling", ("sampling",), 20, partial(sampling.measure_sampling, shape=text)),
        Part("FlexAttention", ("correctness",), 40, correctness.check_flex),
        Part("variants of the update", ("comparisons",), 45, partial(speed.measure_variants, shape=text)),
        Part("CountDown with 200M experts", ("learning",), 75, learning.learn_countdown),
    ]


def check(options: argparse.Namespace, wheels: list[str], arguments: Sequence[str] | None = None) -> int:
    """Run what the options ask for; 0 when nothing failed, else 1."""
    device = resolve_device(options.device)
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)  # as the local engine does
        torch.set_float32_matmul_precision("highest")
    if options.resume:
        report = Report.reopen(options.out)
    else:
        report = Report(options.out, environment(device, options.commit, wheels), 60 * options.minutes)
    tiny = options.tiny or device.type == "cpu"
    parts = [part for part in all_parts(tiny) if set(part.groups) & set(options.only)]
    with tempfile.TemporaryDirectory(prefix="gpu_check_", ignore_cleanup_errors=True) as scratch:
        context = Context(device, tiny, report, Path(scratch))
        if "memory" in options.only:
            memory.start_predicting(context)
        try:
            run_parts(parts, context, stop_slow=device.type == "cuda")
        except DeviceLostError as lost:
            print(f"{lost} has left the GPU unusable for this process; a new one goes on", flush=True)
            _start_anew(sys.argv[1:] if arguments is None else arguments)
    report.part = ""
    report.data["seconds"] = round(report.elapsed, 1)
    report.write()
    print(report.summary())
    print(f"{options.out / JSON_NAME} and {options.out / TABLE_NAME}", flush=True)
    return int(report.has_failed)


def _start_anew(arguments: Sequence[str]) -> None:
    """Replace this process by one that goes on after the part that broke it."""
    again = [*arguments, *([] if "--resume" in arguments else ["--resume"])]
    os.execv(sys.executable, [sys.executable, "-m", "benchmarks.gpu_check", *again])
