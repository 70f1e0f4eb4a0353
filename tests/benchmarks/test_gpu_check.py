"""The check for GPUs, on the CPU with tiny shapes: no minute of a card may be lost to a typo."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu_check import parts, wheels
from benchmarks.gpu_check.__main__ import parse
from benchmarks.gpu_check.correctness import relative_error
from benchmarks.gpu_check.parts import BROKEN_PART, Context, Part, run_parts
from benchmarks.gpu_check.report import Report
from benchmarks.gpu_check.run import all_parts

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def new_report(out: Path, budget_s: float = 60.0) -> Report:
    return Report(out, {"card": "no GPU"}, budget_s)


def run_some(report: Report, some: list[Part], tiny: bool = True) -> None:
    run_parts(some, Context(CPU, tiny, report, report.out))


def part(name: str, run: Any, estimate_s: float = 1.0) -> Part:
    return Part(name, ("speed",), estimate_s, run)


def results(out: Path) -> list[dict[str, Any]]:
    return json.loads((out / "gpu_check.json").read_text())["results"]


def test_every_part_runs_on_a_cpu_and_a_broken_one_does_not_stop_the_others(tmp_path: Path) -> None:
    """One process for both: starting it takes longer than most parts."""
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--minutes", "2", "--device", "cpu", "--tiny"]
    environment = os.environ | {BROKEN_PART: "card", "OMP_NUM_THREADS": "1", "OUT": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)

    found = results(tmp_path)
    failed = [entry for entry in found if entry["status"] == "failed"]
    assert [entry["part"] for entry in failed] == ["card"], (failed, done.stderr[-2000:])
    assert done.returncode == 1
    assert "broken on purpose" in failed[0]["note"] and "Traceback" in failed[0]["traceback"]
    names = [p.name for p in all_parts(tiny=True)]
    assert list(json.loads((tmp_path / "gpu_check.json").read_text())["parts"]) == names
    assert {entry["part"] for entry in found} == set(names)
    # what was checked was measured, and what could not run here says why
    assert all(entry["value"] is not None or entry["note"] for entry in found)
    assert sum(entry["status"] == "ok" for entry in found) > 50
    table = (tmp_path / "gpu_check.md").read_text()
    assert table == "".join(f"{line}\n" for line in table.splitlines())
    assert table.count("| no GPU (") == len(found) and "FAILED: RuntimeError: broken on purpose" in table
    assert (tmp_path / "kernels.txt").is_file()


def test_a_result_is_on_disk_before_the_next_part_starts(tmp_path: Path) -> None:
    seen = []

    def first(context: Context) -> None:
        context.report.measured("speed", 3.0, "ms")

    def second(context: Context) -> None:
        seen.extend(results(tmp_path))

    run_some(new_report(tmp_path), [part("one", first), part("two", second)])
    assert [(entry["part"], entry["value"]) for entry in seen] == [("one", 3.0)]


def test_a_part_without_time_is_skipped_and_said_so(tmp_path: Path) -> None:
    report, ran = new_report(tmp_path, budget_s=30.0), []
    run_some(
        report,
        [part("long", ran.append, 100.0), part("short", lambda context: ran.append(1), 1.0)],
        tiny=False,
    )
    assert ran == [1] and not report.has_failed
    assert results(tmp_path)[0]["status"] == "skipped" and "needs about 100 s" in results(tmp_path)[0]["note"]


def test_numbers_out_of_bounds_and_nan_fail(tmp_path: Path) -> None:
    report = new_report(tmp_path)
    report.check("good", 0.1, 0.2)
    report.check("as large as needed", 0.99, least=0.9)
    assert not report.has_failed
    for value, bounds in ((0.3, {"limit": 0.2}), (0.5, {"least": 0.9}), (float("nan"), {"limit": 0.2})):
        other = new_report(tmp_path)
        other.check("bad", value, **bounds)
        assert other.has_failed and "FAILED" in other.table()
        assert "NaN" not in (tmp_path / "gpu_check.json").read_text()
        assert other.summary().endswith("0 ok, 0 measured, 0 skipped, 1 failed") and "bad" in other.summary()
    assert relative_error(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])) == pytest.approx(
        0.5 / 29.25**0.5
    )


def test_a_new_process_goes_on_after_the_part_that_lost_the_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test's stand-in for a GPU says that it no longer answers after the first part."""
    ran: list[str] = []
    some = [part(name, lambda context, name=name: ran.append(name)) for name in ("one", "two")]
    report = new_report(tmp_path)
    lost = Context(CPU, True, report, tmp_path)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(Context, "is_cuda", property(lambda self: self is lost))
    monkeypatch.setattr(parts, "_answers", lambda device: False)
    with pytest.raises(parts.DeviceLostError, match="one"):
        run_parts(some, lost)
    again = Report.reopen(tmp_path)
    assert again.data["started"] == report.data["started"]
    run_some(again, some)
    assert ran == ["one", "two"]


def test_a_part_that_takes_far_too_long_is_stopped(tmp_path: Path) -> None:
    """In a process of its own: the alarm is the test runner's too."""
    script = (
        "import time, pathlib, torch\n"
        "from benchmarks.gpu_check import parts\n"
        "from benchmarks.gpu_check.report import Report\n"
        "with parts._stopped_after(1): time.sleep(20)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert "TimeoutError: stopped after 1 s" in done.stderr


def test_missing_packages_come_from_wheels_and_installed_ones_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, files in {
        "missing_here-1-py3-none-any.whl": {
            "missing_here/__init__.py": "X = 1",
            "missing_here/data.txt": "data",
        },
        "torch-0-py3-none-any.whl": {"torch/__init__.py": "raise ImportError('the wheel was taken')"},
    }.items():
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for path, text in files.items():
                archive.writestr(path, text)
            archive.writestr("some-1.dist-info/METADATA", "")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("PYTHONPATH", "before")
    assert wheels.use_wheels(tmp_path) == ["missing_here-1-py3-none-any.whl"]
    import missing_here  # type: ignore[import-not-found]

    folder = Path(missing_here.__file__).parent
    assert (folder / "data.txt").read_text() == "data"
    assert os.environ["PYTHONPATH"] == f"before{os.pathsep}{folder.parent}"
    assert wheels.use_wheels(tmp_path / "nothing") == []


def test_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("OUT", raising=False)
    assert parse([]).out == Path("runs/gpu_check") and parse(["--only", "speed,memory"]).only == [
        "speed",
        "memory",
    ]
    monkeypatch.setenv("OUT", str(tmp_path))
    assert parse([]).out == tmp_path and parse(["--out", "here"]).out == Path("here")
    with pytest.raises(SystemExit):
        parse(["--only", "sped"])
    assert "--only sped: known are card, correctness" in capsys.readouterr().err
    groups = {group for p in all_parts(tiny=False) for group in p.groups}
    assert groups == set(parse([]).only)


def test_every_pinned_wheel_has_the_version_of_the_constraints() -> None:
    def pins(path: str) -> dict[str, str]:
        lines = (line.split(";")[0].split("#")[0].strip() for line in (ROOT / path).read_text().splitlines())
        return dict(line.split("==") for line in lines if line)

    listed, constraints, trl = (
        pins(path)
        for path in ("environments/gpu/requirements.txt", "constraints.txt", "environments/benchmarks/requirements.txt")
    )
    known = constraints | {"trl": trl["trl"]}
    assert {name: version for name, version in listed.items() if known.get(name, version) != version} == {}


def test_shapes_are_the_models_they_are_named_after() -> None:
    """Weights on no device: the parameters' counts are those of the published checkpoints."""
    from benchmarks.gpu_check.shapes import TEXT_1_5B, VL_3B, VL_7B_LORA, build_model

    for shape, count in ((TEXT_1_5B, 1_543_714_304), (VL_3B, 3_754_622_976), (VL_7B_LORA, 8_292_166_656)):
        model = build_model(shape, torch.device("meta"), torch.bfloat16)
        assert sum(p.numel() for p in model.parameters()) == count, shape.name


def test_the_plain_rows_have_the_gradient_of_our_update() -> None:
    """The comparison is of the same work: gradients of the text shape, in bfloat16 on either side."""
    from benchmarks.gpu_check.comparisons import _plain_backward
    from benchmarks.gpu_check.shapes import (
        TINY_VL,
        Optim,
        build_model,
        build_policy,
        make_batch,
        update_config,
    )
    from benchmarks.gpu_check.whole_update import GradientActor
    from gmpo_mm.training.optimizer import build_optimizer

    batch = make_batch(TINY_VL)
    model: Any = build_model(TINY_VL, CPU, torch.bfloat16).float()
    for group in batch.groups:
        for first in range(0, batch.group_size, 2):
            _plain_backward(model, TINY_VL, group, first, 2, len(batch))
    policy = build_policy(TINY_VL, CPU, checkpointing=False)
    actor = GradientActor(
        policy, build_optimizer(policy, Optim()), update_config(batch.group_size, len(batch.groups))
    )
    actor.update(batch)
    theirs = {n: p.grad.double() for n, p in model.named_parameters() if p.grad is not None}
    assert theirs.keys() == actor.gradients.keys()
    a, b = (torch.cat([g[n].flatten() for n in sorted(theirs)]) for g in (actor.gradients, theirs))
    assert float((a - b).norm() / b.norm()) < 0.05


def test_others_run_transformers_own_rotary_function() -> None:
    from transformers.models.qwen2 import modeling_qwen2

    from benchmarks.gpu_check.comparisons import as_published
    from benchmarks.gpu_check.shapes import TINY_TEXT, build_policy
    from gmpo_mm.models.fused_layers import ORIGINAL

    build_policy(TINY_TEXT, CPU)
    ours = modeling_qwen2.apply_rotary_pos_emb
    assert hasattr(ours, ORIGINAL)
    with as_published():
        assert modeling_qwen2.apply_rotary_pos_emb is getattr(ours, ORIGINAL)
    assert modeling_qwen2.apply_rotary_pos_emb is ours


def test_sync_debugging_is_off_afterwards_also_when_the_host_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.gpu_check.whole_update import _sync_debug_mode

    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with pytest.raises(RuntimeError), _sync_debug_mode(SimpleNamespace(is_cuda=True), "error"):  # type: ignore[arg-type]
        raise RuntimeError("called a synchronizing CUDA operation")
    assert modes == ["error", "default"]
