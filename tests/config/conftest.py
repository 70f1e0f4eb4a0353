"""A small config that trains, whose files exist; tests break one thing at a time."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gmpo_mm.config import LoadedConfig, load_config

Load = Callable[..., LoadedConfig]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a data file, a reward function, a prompt template and a model folder."""
    (tmp_path / "train.jsonl").write_text('{"problem": "1+1", "answer": "2"}\n' * 8)
    (tmp_path / "test.jsonl").write_text('{"problem": "2+2", "answer": "4"}\n' * 3)
    reward = "def compute_score(reward_inputs):\n    return [{'overall': 1.0} for _ in reward_inputs]\n"
    (tmp_path / "reward.py").write_text(reward)
    (tmp_path / "prompt.jinja").write_text("{{ content }}")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


VALID = [
    "data.train_files=train.jsonl",
    "data.val_files=test.jsonl",
    "data.prompt_key=problem",
    "data.format_prompt=prompt.jinja",
    "data.rollout_batch_size=4",
    "worker.actor.global_batch_size=2",
    "worker.actor.model.model_path=./model",
    "worker.actor.loss_type=gmpo",
    "worker.rollout.n=4",
    "worker.reward.reward_function=reward.py:compute_score",
]


@pytest.fixture
def load(workplace: Path) -> Load:
    """Load the valid config with further overrides."""
    return lambda *overrides: load_config(None, [*VALID, *overrides])
