"""A process that writes what a run writes, and trains nothing.

`python -m tests.sweeps.stub_run PARENT train BASE OVERRIDES...` ends with its parent, and after a Ctrl-C it finishes its step
and saves, as a run does. With `worker.actor.ppo_epochs` above 1,000 its first step never ends. A reward file that holds
`raise` fails it.
"""

from __future__ import annotations

import signal

asked_to_stop: list[int] = []
if __name__ == "__main__":  # before the imports: a run, too, is asked at any time
    signal.signal(signal.SIGINT, lambda number, frame: asked_to_stop.append(number))

import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

from gmpo_mm.config import Config, load_config, run_directory, split_function_spec, to_yaml  # noqa: E402
from gmpo_mm.runs.metrics_file import FILE_NAME, MetricsFile  # noqa: E402
from gmpo_mm.verifiers.supervisor import die_with_parent  # noqa: E402

ENDLESS_EPOCHS = 1000
STEP_SECONDS = 0.02


def main() -> int:
    """Train; returns the exit code."""
    die_with_parent(int(sys.argv[1]))
    assert sys.argv[2] == "train"
    config = load_config(sys.argv[3], sys.argv[4:]).config
    folder = run_directory(config)
    folder.mkdir(parents=True, exist_ok=True)
    saved, metrics = _read_saved(folder), MetricsFile(folder / FILE_NAME)
    _write_state(folder, config, "running", saved, saved)
    (folder / "config.yaml").write_text(to_yaml(config))
    if (folder / FILE_NAME).exists():
        metrics.log_event("resume", from_step=saved)
    if (failure := _failure(config)) is not None:
        print(failure)
        _write_state(folder, config, "failed", saved, saved, failure)
        return 1
    for step in range(saved + 1, (config.trainer.max_steps or 1) + 1):
        while config.worker.actor.ppo_epochs > ENDLESS_EPOCHS:
            time.sleep(STEP_SECONDS)
        time.sleep(STEP_SECONDS)
        metrics.log_metrics(step, "train", {"reward/overall": step / 100, "timing_s/step": STEP_SECONDS})
        due = config.trainer.save_freq > 0 and step % config.trainer.save_freq == 0
        last = step == config.trainer.max_steps
        saved = step if due or last or asked_to_stop else saved
        _write_state(folder, config, "finished" if last else "interrupted" if asked_to_stop else "running", step, saved)
        if asked_to_stop:
            return 0 if last else 130
    return 0


def _read_saved(folder: Path) -> int:
    state = folder / "run.json"
    return int(json.loads(state.read_text())["last_checkpoint"]) if state.is_file() else 0


def _failure(config: Config) -> str | None:
    file, _ = split_function_spec(config.worker.reward.reward_function or "")
    return "no reward today" if "raise ValueError('no reward" in file.read_text() else None


def _write_state(folder: Path, config: Config, state: str, step: int, saved: int, reason: str | None = None) -> None:
    content = {
        "state": state, "step": step, "last_checkpoint": saved, "total_steps": config.trainer.max_steps,
        "exit_reason": reason,
    }  # fmt: skip
    (folder / "run.json.new").write_text(json.dumps(content))
    os.replace(folder / "run.json.new", folder / "run.json")


if __name__ == "__main__":
    sys.exit(main())
