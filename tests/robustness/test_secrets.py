"""A secret that is put in by any way is used, and is in nothing that is written or printed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from gmpo_mm import credentials
from gmpo_mm.config import load_config, to_yaml
from gmpo_mm.config.keys import schema_keys
from gmpo_mm.errors import ConfigError, print_error
from gmpo_mm.evaluation.settings import RANGES, load_settings
from gmpo_mm.planning.dry_run import print_dry_run
from gmpo_mm.reports.report import write_report
from gmpo_mm.sweeps.sweep_file import load_sweep
from tests.engine.runs import arguments, run_here, write_data
from tests.robustness.forked import Commands, Request
from tests.sweeps.sweeps import start_sweep, write_sweep

MARK = "s3cr3t-"
"""Begins every secret of these tests."""
KWARGS = "worker.reward.reward_function_kwargs."
REWARD = f"""
def compute_score(inputs, token, api_key, url, headers, note):
    assert token == "{MARK}env" and api_key == "{MARK}literal" and "{MARK}user" in url and "{MARK}nested" in headers["X-Auth"]
    assert note == "from {MARK}neutral"
    return [{{"overall": 0.5, "format": 0.0, "accuracy": 0.5}} for _ in inputs]
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", f"{MARK}env")
    monkeypatch.setenv("NEUTRAL", f"{MARK}neutral")
    monkeypatch.setattr(credentials, "_known", set())


def secret_overrides(folder: Path) -> list[str]:
    (folder / "reward.py").write_text(REWARD)
    return [
        f"worker.reward.reward_function={folder / 'reward.py'}:compute_score", f"{KWARGS}token=${{oc.env:TOKEN}}",
        f"{KWARGS}api_key={MARK}literal", f"{KWARGS}url='https://me:{MARK}user@example.com/x?access_token={MARK}query&n=1'",
        f"{KWARGS}headers={{X-Auth: {MARK}nested}}", f"{KWARGS}note='from ${{oc.env:NEUTRAL}}'",
        "trainer.logger=[console,tensorboard]", "trainer.max_steps=1", "trainer.save_freq=1",
    ]  # fmt: skip


def leaks(folder: Path) -> list[str]:
    return [str(file) for file in folder.rglob("*") if file.is_file() and MARK.encode() in file.read_bytes()]


def test_training_uses_secrets_and_writes_and_prints_none(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides, run = secret_overrides(tmp_path), tmp_path / "run"
    args = arguments(data, run, *overrides)
    print_dry_run(load_config(args[0], args[1:]), print_config=True)
    run_here(args)
    write_report([run], tmp_path / "run" / "report")
    assert leaks(run) == []
    saved = (run / "config.yaml").read_text()
    assert "token: ${oc.env:TOKEN}" in saved and "api_key: <hidden>" in saved and "note: from ${oc.env:NEUTRAL}" in saved
    assert f"{KWARGS}api_key=<hidden>" in json.loads((run / "run.json").read_text())["command"]

    run_here([*args, f"{KWARGS}api_key={MARK}literal", "trainer.max_steps=2"])  # it goes on
    assert json.loads((run / "run.json").read_text())["step"] == 2 and leaks(run) == []

    monkeypatch.setenv("NEUTRAL", f"{MARK}other")
    with pytest.raises(ConfigError, match=rf"{KWARGS}note: 'another value") as refused:
        run_here(args)
    assert MARK not in str(refused.value)
    printed = capfd.readouterr()
    assert MARK not in printed.out + printed.err


def test_hidden_value_has_to_be_given_anew_and_may_be_another_one(data: Path, tmp_path: Path) -> None:
    saved = tmp_path / "config.yaml"
    args = arguments(data, tmp_path / "run", *secret_overrides(tmp_path))
    loaded = load_config(args[0], args[1:])
    saved.write_text(to_yaml(loaded.config, loaded.written))
    with pytest.raises(ConfigError, match="reward_function_kwargs: a value in it was hidden"):
        load_config(saved)
    again = load_config(saved, [f"{KWARGS}api_key=new", f"{KWARGS}url=x", f"{KWARGS}headers={{X-Auth: y}}"])
    assert again.config.worker.reward.reward_function_kwargs["token"] == f"{MARK}env"


def test_sweep_writes_no_secret_and_its_runs_use_them(data: Path, tmp_path: Path) -> None:
    file = write_sweep(tmp_path, data, {"gmpo": {"overrides": secret_overrides(tmp_path)}}, trainer="x")
    content = yaml.safe_load(file.read_text())
    del content["trainer"]
    file.write_text(yaml.safe_dump(content))
    out = tmp_path / "out"
    process = start_sweep(file, out, "title=${oc.env:TOKEN}")
    printed, _ = process.communicate(timeout=200)
    assert process.returncode == 0, printed
    assert leaks(out) == [] and MARK not in printed
    assert yaml.safe_load((out / "sweep.yaml").read_text())["title"] == "${oc.env:TOKEN}"
    again, _ = start_sweep(file, out, "title=${oc.env:TOKEN}").communicate(timeout=200)
    assert "1 are finished and kept" in again and MARK not in again


def test_refused_evaluation_prints_no_secret(tmp_path: Path) -> None:
    with Commands() as commands:
        ended = commands.run(Request(
            argv=["evaluate", "--model", "bundled:qwen2_5_vl_tiny", "--benchmark", "synthetic_pictures", "limit=2", "n=1",
                  "threads=1", "max_tokens=4", "out=out", "template=${oc.decode:boxed}", f"records.api_key={MARK}a"],
            cwd=str(tmp_path), log=str(tmp_path / "log.txt"), seconds=200,
        ))  # fmt: skip
    assert ended.status == 2 and leaks(tmp_path) == []


@pytest.mark.parametrize("override", [
    f"trainer.wandb_api_key={MARK}a", f"{KWARGS}token=[{MARK}a", f"{KWARGS}password={{a: {MARK}a",
    "trainer.max_steps=${oc.env:TOKEN}",
    f"worker.rollout.n={{token: {MARK}a}}", f"trainer.api_key={MARK}a: b", f"worker.reward.hf_token={MARK}a",
    f"data.train_files=https://u:{MARK}a@h/x", f"data.seed=https://u:{MARK}a@h/x?key={MARK}b",
])  # fmt: skip
def test_errors_quote_no_secret(override: str, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for load in (
        lambda: load_config("configs/quickstart.yaml", [override]), lambda: load_settings(None, [override], {}),
        lambda: load_sweep(write_sweep(tmp_path, tmp_path, {"a": {"overrides": [override]}}), [override]),
    ):  # fmt: skip
        try:
            load()
        except ConfigError as error:
            print_error(str(error))
    printed = capfd.readouterr()
    assert MARK not in printed.out + printed.err


def test_a_broken_file_is_told_without_its_secret(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(f"worker:\n  reward:\n    api_key: [{MARK}a\n")
    with pytest.raises(ConfigError) as told:
        load_config(file)
    assert MARK not in str(told.value)


def test_no_key_of_ours_looks_like_a_credential() -> None:
    assert [key for key in (*schema_keys(), *RANGES) if credentials.is_credential(key)] == []


@pytest.mark.parametrize("key", [
    "token", "a.hf_token", "API_KEY", "apiKey", "x-api-key", "OPENAI_API_KEY", "password", "db_passwd", "client_secret", "auth",
    "Authorization", "bearer", "private_key", "access_key_id", "credentials", "token_2",
])  # fmt: skip
def test_names_of_credentials(key: str) -> None:
    assert credentials.is_credential(key)


@pytest.mark.parametrize("key", ["eos_token", "max_tokens", "tokenizer_path", "answer_key", "author", "pad_token_id"])
def test_names_of_other_things(key: str) -> None:
    assert not credentials.is_credential(key)


def test_without_interpolation_and_secret_nothing_changes() -> None:
    loaded = load_config("configs/quickstart.yaml")
    assert loaded.written == {} and loaded.interpolated == {}
    assert "${" not in to_yaml(loaded.config) and credentials.HIDDEN not in to_yaml(loaded.config)


def test_default_inside_an_interpolation_is_hidden() -> None:
    loaded = load_config("configs/quickstart.yaml", [f"{KWARGS}token=${{oc.env:NOT_THERE,{MARK}a}}"])
    assert MARK not in to_yaml(loaded.config, loaded.written)


def test_paths_are_no_secrets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("PWD", "OLDPWD", "GIT_SECRET_PLACE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("SERVICE_PASSWORD", "correct-horse-battery")
    assert credentials.clean(f"{tmp_path}/run.yaml and correct-horse-battery") == f"{tmp_path}/run.yaml and <hidden>"
