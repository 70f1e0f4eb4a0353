"""`gmpo-mm merge RUN --out DIR`: a stock folder whose card says how it was trained, without secrets and machine paths."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import gmpo_mm
from gmpo_mm.cli import app
from gmpo_mm.errors import ConfigError, DataError
from gmpo_mm.publish import visible
from tests.data.tools import run_tool


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("machine_name")
    run_tool("countdown.py", "--tiny", "--out", folder / "data")
    overrides = {
        "data.train_files": f"{folder}/data/train.parquet@train[:16]", "data.val_files": "", "trainer.val_freq": -1,
        "trainer.val_before_train": False, "data.rollout_batch_size": 2, "worker.actor.global_batch_size": 2,
        "worker.rollout.n": 2, "trainer.max_steps": 1, "trainer.save_freq": 1, "trainer.logger": ["console"],
        "trainer.run_dir": str(folder / "run"),
    }  # fmt: skip
    return gmpo_mm.train("countdown/gmpo_moe_tiny", overrides).path


def merge(*arguments: object):
    return CliRunner().invoke(app, ["merge", *map(str, arguments)])


def test_a_run_becomes_a_folder_that_transformers_loads_with_a_card(run: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    done = merge(run, "--out", tmp_path / "mine")
    assert done.exit_code == 0, done.exception
    AutoModelForCausalLM.from_pretrained(tmp_path / "mine")
    AutoTokenizer.from_pretrained(tmp_path / "mine")
    card = (tmp_path / "mine" / "README.md").read_text()
    for text in ("bundled:qwen3_moe_tiny", "`gmpo`", "train.parquet", "| steps | 1 of 1 |", "gmpo_mm.train"):
        assert text in card, card
    assert "machine_name" not in card and str(run.parent) not in card
    assert isinstance(merge(run, "--out", tmp_path / "mine").exception, DataError)


def test_nothing_is_pushed_unless_it_is_asked_for_and_offline_it_is_refused_first(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the hub was called")

    for name in ("create_repo", "upload_folder", "whoami"):
        monkeypatch.setattr(huggingface_hub.HfApi, name, refuse)
    assert merge(run, "--out", tmp_path / "quiet").exit_code == 0
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refused = merge(run, "--out", tmp_path / "pushed", "--push", "me/model")
    assert isinstance(refused.exception, ConfigError) and "offline mode is on" in str(refused.exception)
    assert not (tmp_path / "pushed").exists()
    assert "--out DIR" in str(merge(run, "--push", "me/model").exception)


def test_a_command_is_shown_without_secrets_and_machine_paths() -> None:
    command = [
        "/home/me/venv/bin/gmpo-mm", "train", "/home/me/x.yaml", "trainer.api_key=abc", "--token", "s3cret",
        "data.train_files=/data/me/train.parquet@train", "server=https://u:pw@host/v1?key=zzz", "x=hf_abcdefghijklmnopqrstuv",
        "worker.reward.reward_function=reward.py:compute_score",
    ]  # fmt: skip
    assert " ".join(visible(command)) == (
        "gmpo-mm train x.yaml trainer.api_key=[hidden] --token [hidden] data.train_files=train.parquet@train "
        "server=https://[hidden]@host/v1?[hidden] x=[hidden] worker.reward.reward_function=reward.py:compute_score"
    )
