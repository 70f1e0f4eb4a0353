"""The hub is asked once, and not at all for what looks like a path; without it an error comes at once."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from gmpo_mm.config.hub import ask_hub, check_hub_model
from gmpo_mm.config.paths import DATA_SUFFIXES, MODEL_SUFFIXES, find_model, looks_like_path
from gmpo_mm.data.sources import read_rows
from gmpo_mm.errors import ConfigError, DataError
from gmpo_mm.evaluation.evaluate import evaluate
from gmpo_mm.evaluation.settings import TRAINING_KEYS
from gmpo_mm.runs.usable_model import usable_model
from tests.evaluation.evaluations import settings


class Hub(http.server.ThreadingHTTPServer):
    """A hub that answers every question with one status, and remembers what was asked of repositories."""

    status = 503

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), Answer)


class Answer(http.server.BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        if self.path.startswith(("/api/models", "/api/datasets")) or "/resolve/" in self.path:
            self.server.asked.append(self.path)
        self.send_response(self.server.status)
        if self.server.status == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(("status", "said"), [(503, "can't be reached"), (404, "has no model of that name")])
def test_a_model_that_the_hub_does_not_give_is_an_error_after_one_question(
    hub: Hub, status: int, said: str
) -> None:
    hub.status = status
    with pytest.raises(ConfigError, match=rf"model = 'owner/name': no such folder here, .*{said}"):
        usable_model("owner/name", "model")
    assert hub.asked == ["/api/models/owner/name"]


def test_a_model_in_the_cache_is_used_without_the_hub(hub: Hub, tmp_path: Path) -> None:
    model = tmp_path / "cache/models--owner--name"
    (model / "snapshots/1").mkdir(parents=True)
    (model / "snapshots/1/config.json").write_text("{}")
    (model / "refs").mkdir()
    (model / "refs/main").write_text("1")
    notes: list[str] = []
    check_hub_model("owner/name", "model", notes.append)
    assert "owner/name comes from the hub's cache" in notes[0] and constants.HF_HUB_OFFLINE


def test_data_that_the_hub_does_not_give_are_an_error_after_one_question(hub: Hub) -> None:
    with pytest.raises(
        DataError, match=r"owner/name@train: neither a file nor a folder here.*can't be reached"
    ):
        read_rows("owner/name@train")
    assert hub.asked == ["/api/datasets/owner/name"]


def test_offline_mode_is_told_and_asks_nothing(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in str(ask_hub("owner/name", "model")) and not hub.asked


@pytest.mark.parametrize(
    "name",
    ["runs/nope", "./nope", "../nope", "~/nope", "/nope", "a/b/c", "a b", "a/", "output/x", "Checkpoints/x", "step_20",
     "mine/global_step_3", "model.safetensors", "x/model.gguf", r"runs\nope", "checkpoint-200", "a/b--c", "sweeps/x"],
)  # fmt: skip
def test_a_path_like_model_is_never_asked_for(
    hub: Hub, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="there is no folder"):
        usable_model(name, "model")
    assert not hub.asked


def test_a_name_beside_runs_is_a_path_and_a_neighbour_is_named(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "study/gmpo_a").mkdir(parents=True)
    (tmp_path / "study/gmpo_a/run.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"no folder .*study/gmpo_b; correct the path. Did you mean study/gmpo_a\?"
    ):
        usable_model("study/gmpo_b", "model")
    assert not hub.asked


@pytest.mark.parametrize(
    "name", ["Qwen/Qwen2.5-VL-7B-Instruct", "gpt2", "hiyouga/geometry3k", "deepseek-ai/deepseek-llm-7b"]
)
def test_names_of_the_hub_are_no_paths(name: str) -> None:
    assert not looks_like_path(name, MODEL_SUFFIXES) and not looks_like_path(name, DATA_SUFFIXES)


@pytest.mark.parametrize("name", ["runs/nope.jsonl", "data/nope", "./nope@train", "a/b/c", "owner/x.parquet"])
def test_path_like_data_are_never_asked_for(
    hub: Hub, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="there is no file or folder"):
        read_rows(name)
    assert not hub.asked


def test_a_folder_without_a_model_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"model = .* holds no config.json, no adapter_config.json and no checkpoint"
    ):
        find_model(str(tmp_path), "model")


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"model": "runs/nope"}, "model = 'runs/nope'"), ({"device": "gpu"}, "device=gpu"), ({"dtype": "half"}, "dtype=half"),
     ({"model": "BROKEN"}, "model=")],
)  # fmt: skip
def test_an_evaluations_errors_speak_of_its_own_keys(
    tmp_path: Path, changes: dict[str, str], said: str
) -> None:
    if changes.get("model") == "BROKEN":
        (tmp_path / "config.json").write_text("{}")
        changes = {"model": str(tmp_path)}
    with pytest.raises(ConfigError) as caught:
        evaluate(settings(tmp_path / "out", **changes))
    assert said in str(caught.value) and not any(key in str(caught.value) for key in TRAINING_KEYS)
