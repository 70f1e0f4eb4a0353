"""A run in small whose weights and moments say which step they belong to."""

from __future__ import annotations

import io

import torch
from safetensors.torch import load_file

from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.processing import Processor
from gmpo_mm.runs.checkpoint import checkpoint_steps, load_checkpoint
from gmpo_mm.runs.checkpoint_saver import CheckpointSaver
from gmpo_mm.runs.progress import Progress
from gmpo_mm.runs.run_directory import RunDirectory
from tests.models.model_zoo import build_model


class Training:
    """A run whose step adds 1 to every weight and moment."""

    def __init__(self, path, module=None, **options):
        self.module = module or build_model("qwen2")
        self.output = io.StringIO()
        self.progress = Progress(self.output, live=False)
        optimizer = torch.optim.AdamW(self.module.parameters())
        for parameter in self.module.parameters():
            zeros = torch.zeros_like(parameter)
            optimizer.state[parameter] = {
                "step": torch.tensor(0.0),
                "exp_avg": zeros,
                "exp_avg_sq": zeros.clone(),
            }
        self.optimizer = optimizer
        torch.nn.init.zeros_(self.module.lm_head.weight)
        self.run = RunDirectory.open(path, resume="auto", config="a: 1", command=["train"])
        self.run.begin()
        self.saver = CheckpointSaver(
            self.run, PolicyModel(self.module), Processor(None, None, None), optimizer, self.progress,
            **{"keep": 2, "model_only": False, **options},
        )  # fmt: skip

    def step(self, number):
        with torch.no_grad():
            for parameter in self.module.parameters():
                parameter.add_(1)
                for value in self.optimizer.state[parameter].values():
                    value.add_(1)
        self.run.log_metrics(number, "train", {"x": number})

    def save(self, number, background=True, state=None, protect=()):
        self.saver.save(number, state or {"value": number}, protect, background=background)


def steps_of(training):
    return checkpoint_steps(training.run.checkpoints_dir)


def assert_holds(checkpoints, step):
    """The checkpoint is whole and holds the values of its own step."""
    data = load_checkpoint(checkpoints / f"step_{step}")
    assert data.state["value"] == step
    assert set(load_file(data.model_dir / "model.safetensors")["lm_head.weight"].unique().tolist()) == {
        float(step)
    }
    assert {float(value) for tensor in data.tensors("optimizer").values() for value in tensor.unique()} == {
        float(step)
    }
