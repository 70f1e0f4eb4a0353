"""A disk that fills up while a checkpoint is saved, on a real small file system."""

import json
import shutil
import subprocess
import sys

import pytest

MOUNT = 'mount -t tmpfs -o size="$1" tmpfs "$2" && shift 2 && exec "$@"'


def on_small_disk(tmp_path, size, script):
    """Run a Python script in a mount namespace of its own, where tmp_path/disk is a file system of `size`."""
    unshare = shutil.which("unshare")
    if unshare is None:
        pytest.skip("needs `unshare` (util-linux) to mount a small file system")
    disk = tmp_path / "disk"
    disk.mkdir()
    wrapper = [unshare, "--mount", "--map-root-user", "sh", "-c", MOUNT, "sh"]
    probe = subprocess.run([*wrapper, size, str(disk), "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"this machine doesn't let us mount a small file system: {probe.stderr.strip()}")
    done = subprocess.run(
        [*wrapper, size, str(disk), sys.executable, "-c", script, str(disk)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
from gmpo_mm.errors import TrainingError
from gmpo_mm.runs.checkpoint import checkpoint_steps, load_checkpoint, save_checkpoint

disk = Path(sys.argv[1])
directory = disk / "checkpoints"

def save(step):
    def model_files(folder):
        for index in range(3):
            (folder / f"part_{index}.bin").write_bytes(bytes([step]) * 200_000)
    save_checkpoint(directory, step, model_files=model_files, tensors={"optimizer": {"x": torch.full((50_000,), float(step))}},
                    state={"value": step}, keep=1)

def fill(free_pages):
    stat = os.statvfs(disk)
    with open(disk / "filler", "wb") as file:
        file.write(bytes((stat.f_bavail - free_pages) * stat.f_frsize))

def check(step):
    loaded = load_checkpoint(directory / f"step_{step}")
    assert loaded.state["value"] == step and bool((loaded.tensors("optimizer")["x"] == step).all())
    assert sorted(os.listdir(directory)) == [f"step_{step}"], os.listdir(directory)

save(1)
messages = []
for free_pages in [0, 1, 2, 40, 49, 50, 60, 100, 140, 150, 151, 160, 190, 196, 197, 198, 199, 200, 201, 202, 203, 204]:
    fill(free_pages)
    try:
        save(2)
    except TrainingError as error:
        messages.append([free_pages, str(error)])
        check(1)
    else:
        check(2)
        break
    os.unlink(disk / "filler")
print(json.dumps({"messages": messages, "saved": checkpoint_steps(directory), "directory": str(directory)}))
"""


def test_a_full_disk_keeps_the_former_checkpoint_whole_and_says_what_to_do(tmp_path):
    result = on_small_disk(tmp_path, "4m", SCRIPT)
    assert result["saved"] == [2], "with enough pages free the save has to work, or the test stopped too early"
    assert len(result["messages"]) >= 12
    for free_pages, text in result["messages"]:
        assert f"{result['directory']}/step_2: the disk is full" in text
        assert "needs at least 80" in text  # 600,000 of model and 200,000 of tensors, as the former one shows
        assert f"{free_pages * 4096:,} bytes were free" in text
        assert f"the former checkpoint {result['directory']}/step_1 is whole" in text
        assert "trainer.save_limit" in text and "run the same command again to go on from there" in text


RUN = """
import json, os, sys
from pathlib import Path
from gmpo_mm.errors import TrainingError
from gmpo_mm.runs.run_directory import RunDirectory, read_metrics

disk = Path(sys.argv[1])
errors = []

def full_disk():
    stat = os.statvfs(disk)
    with open(disk / "filler", "wb") as file:
        file.write(bytes(stat.f_bavail * stat.f_frsize))

def open_run():
    return RunDirectory.open(disk / "run", resume="auto", config="a: 1", command=["train"])

try:
    with open_run() as run:
        run.begin()
        run.save_checkpoint(1, model_files=lambda folder: (folder / "config.json").write_text("{}"), tensors={}, state={})
        step = 1
        run.log_metrics(step, "train", {})
        full_disk()
        while True:  # the rest of the file's last page takes a few whole lines and a half one
            step += 1
            run.metrics.log_metrics(step, "train", {"text": "x" * 1000})
except TrainingError as error:
    errors.append(str(error))
ends_whole = (disk / "run" / "metrics.jsonl").read_bytes().endswith(b"\\n")
whole = [line["step"] for line in read_metrics(disk / "run")]
try:
    with open_run() as run:
        run.begin()
except TrainingError as error:
    errors.append(str(error))
os.unlink(disk / "filler")
with open_run() as run:
    run.begin()
    run.log_metrics(2, "train", {})
    run.finish()
after = [line["step"] for line in read_metrics(disk / "run")]
print(json.dumps({"errors": errors, "whole": whole, "ends_whole": ends_whole, "after": after}))
"""


def test_a_run_whose_disk_fills_up_ends_with_the_fix_and_goes_on_when_there_is_space(tmp_path):
    result = on_small_disk(tmp_path, "1m", RUN)
    assert len(result["errors"]) == 2
    for text in result["errors"]:
        assert "No space left on device" in text and "run the same command again" in text
    assert len(result["whole"]) > 1
    assert result["ends_whole"], "the half line that still fitted is taken back"
    assert result["after"] == [step for step in result["whole"] if step <= 1] + [2]
