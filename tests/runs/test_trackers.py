import html
import importlib.util
import json
import math
import subprocess
import sys

import pytest
import yaml
from PIL import Image

from gmpo_mm.errors import ConfigError
from gmpo_mm.runs import trackers as trackers_module
from gmpo_mm.runs.run_directory import RunDirectory, read_events, read_metrics
from gmpo_mm.runs.trackers import Trackers, check_trackers

CONFIG = {"trainer": {"project_name": "geometry", "experiment_name": "gmpo"}, "worker": {"rollout": {"n": 8, "top_k": None}}}


def write_model(folder):
    (folder / "config.json").write_text("{}")


def open_run(path):
    return RunDirectory.open(path, resume="auto", config=yaml.safe_dump(CONFIG), command=["train"])


def log_steps(path, names, steps, save=None):
    with open_run(path) as run:
        run.begin()
        with Trackers(names, CONFIG, run, warn=pytest.fail) as trackers:
            for step in steps:
                trackers.log(
                    step, "train", {"actor/pg_loss": step / 8, "val/pass@16": 1, "ratio/token_max": math.inf, "note": "x"}
                )
                if step == save:
                    run.save_checkpoint(step, model_files=write_model, tensors={}, state={})


def test_an_unknown_tracker_is_an_error_with_the_nearest_name():
    with pytest.raises(
        ConfigError, match=r"trainer.logger: unknown tracker 'tensorbord'; did you mean 'tensorboard'\? Known: console, file"
    ):
        check_trackers(["console", "tensorbord"])


def test_a_repeated_or_a_single_name_is_taken_once():
    assert check_trackers(["file", "console", "file"]) == ("file", "console")
    assert check_trackers("console") == ("console",)


def test_a_tracker_that_is_not_installed_is_an_error_before_anything_starts(tmp_path, monkeypatch):
    missing = [name for name in ("wandb", "mlflow", "swanlab") if importlib.util.find_spec(name) is None]
    if not missing:
        pytest.skip("every tracker is installed here")
    # A folder of the package's name, as wandb leaves one behind, is not the package.
    (tmp_path / missing[0]).mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        check_trackers(["console", missing[0]])
    text = str(caught.value)
    assert "trainer.logger" in text and f"package {missing[0]} is not installed" in text
    assert "pip install 'gmpo-mm[trackers]'" in text and "trainer.logger=[console,file]" in text


def test_metrics_go_to_the_file_whatever_is_asked_for(tmp_path):
    with open_run(tmp_path) as run:
        run.begin()
        with Trackers([], CONFIG, run) as trackers:
            assert not trackers.console
            trackers.log(1, "train", {"a": 0.5})
    assert read_metrics(tmp_path) == [{"step": 1, "kind": "train", "a": 0.5}]


def test_tensorboard_holds_every_number_once_also_after_a_resume(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log_steps(tmp_path, ["console", "tensorboard"], [1, 2, 3], save=2)
    log_steps(tmp_path, ["console", "tensorboard"], [3, 4])
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("actor/pg_loss")] == [
        (1, 0.125),
        (2, 0.25),
        (3, 0.375),
        (4, 0.5),
    ]
    assert board.Scalars("ratio/token_max")[0].value == math.inf
    assert "note" not in board.Tags()["scalars"]


class Failing:
    """A tracker whose server went away."""

    def __init__(self, config, run):
        pass

    def log(self, metrics, step):
        raise ConnectionError(f"no answer at step {step}")

    def finish(self):
        raise ConnectionError("no answer")


def test_a_failing_tracker_is_said_once_counted_and_ends_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers_module, "TensorBoard", Failing)
    said = []
    with open_run(tmp_path) as run:
        run.begin()
        with Trackers(["tensorboard"], CONFIG, run, warn=said.append) as trackers:
            for step in (1, 2, 3):
                trackers.log(step, "train", {"a": 1.0})
    assert len(said) == 1 and "tensorboard failed at step 1 (ConnectionError: no answer at step 1)" in said[0]
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3]
    first, last = read_events(tmp_path)
    assert (first["event"], first["tracker"], first["step"]) == ("tracker_failed", "tensorboard", 1)
    assert (last["event"], last["counts"]) == ("tracker_failures", {"tensorboard": 4})


def test_a_tracker_that_can_not_start_is_an_error_with_its_fix(tmp_path):
    with open_run(tmp_path) as run:
        (tmp_path / "tensorboard").write_text("in the way")
        with pytest.raises(ConfigError, match=r"trainer.logger: tensorboard can't start .*leave it out of trainer.logger"):
            Trackers(["tensorboard"], CONFIG, run)


def test_wandb_offline_keeps_one_identity_over_a_resume(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs the trackers extra")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log_steps(tmp_path, ["wandb"], [1, 2], save=2)
    log_steps(tmp_path, ["wandb"], [3])
    files = {path.name for path in (tmp_path / "wandb").rglob("run-*.wandb")}
    assert files == {f"run-{json.loads((tmp_path / 'trackers.json').read_text())['wandb']}.wandb"}
    assert len(list((tmp_path / "wandb").glob("offline-run-*"))) == 2


def test_mlflow_in_the_run_directory_continues_its_run(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs the trackers extra")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    log_steps(tmp_path, ["mlflow"], [1, 2], save=2)
    log_steps(tmp_path, ["mlflow"], [3])
    client = mlflow.MlflowClient((tmp_path / "mlflow").as_uri())
    identity = json.loads((tmp_path / "trackers.json").read_text())["mlflow"]
    assert [(m.step, m.value) for m in client.get_metric_history(identity, "actor/pg_loss")] == [
        (1, 0.125),
        (2, 0.25),
        (3, 0.375),
    ]
    assert client.get_run(identity).data.metrics["val/pass_16"] == 1.0
    experiment = client.get_experiment_by_name("geometry")
    assert [run.info.run_id for run in client.search_runs([experiment.experiment_id])] == [identity]


def test_swanlab_offline_writes_into_the_run_directory(tmp_path, monkeypatch):
    pytest.importorskip("swanlab", reason="needs the trackers extra")
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    monkeypatch.delenv("SWANLAB_DIR", raising=False)
    log_steps(tmp_path, ["swanlab"], [1, 2])
    identity = json.loads((tmp_path / "trackers.json").read_text())["swanlab"]
    assert list((tmp_path / "swanlog").rglob(f"*{identity}*"))


def test_the_modules_of_the_trackers_are_not_imported_without_need():
    names = "('wandb', 'mlflow', 'swanlab', 'tensorboard')"
    code = f"import gmpo_mm.runs.trackers, sys; print([name for name in {names} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# Tables of samples, in each tracker's own files

HOSTILE = "![x](http://127.0.0.1/leak.png) <script>alert(1)</script> | a\n| b `c` \x1b[31m\ud800 end"
ROWS = [
    {"id": "p0", "sample": 0, "problem": "<image>Find x.", "ground_truth": "5", "response": HOSTILE, "tokens": 7,
     "stop_reason": "stop", "overall": 1.0, "accuracy": 1.0, "advantage": 0.5},
    {"id": 1, "sample": 1, "problem": "Find y.", "ground_truth": "6", "response": "z" * 10_000, "tokens": 9,
     "stop_reason": "length", "overall": 0.1, "length": 2, "accuracy": 0.0, "advantage": -0.5, "log_ratio": None},
]  # fmt: skip
PICTURES = [[Image.new("RGB", (1024, 256), "red")], []]


def log_tables(path, name):
    with open_run(path) as run:
        run.begin()
        with Trackers([name], CONFIG, run, warn=pytest.fail) as trackers:
            trackers.log(3, "train", {"a": 1.0})
            trackers.log_samples(3, "train", ROWS, PICTURES)
            trackers.log_samples(3, "validation", ROWS[1:], [()])


def test_tensorboard_gets_a_table_whose_texts_are_not_obeyed_and_the_pictures(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugin_util import markdown_to_safe_html

    log_tables(tmp_path, "tensorboard")
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    (event,) = board.Tensors("samples/train/text_summary")
    text = event.tensor_proto.string_val[0]
    shown = markdown_to_safe_html(text)
    assert event.step == 3 and shown.count("<tr>") == 3 and shown.count("<td>") == 2 * 12
    assert "<img" not in shown and "<script" not in shown and "![x](http" in html.unescape(shown)
    for cell in ("Find y.", "advantage", "-0.5", "accuracy"):
        assert cell in html.unescape(shown)
    assert len(text) < 20_000
    (picture,) = board.Images("samples_train/row_0_picture_0")
    assert (picture.step, picture.width, picture.height) == (3, 512, 128)
    assert board.Tensors("samples/validation/text_summary")


def test_wandb_gets_a_table_with_pictures(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs the trackers extra")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "wandb_data"))
    log_tables(tmp_path, "wandb")
    assert len(list((tmp_path / "wandb").rglob("media/table/samples/*.table.json"))) == 2
    files = [file.read_bytes() for file in (tmp_path / "wandb_data").rglob("artifacts/staging/*")]
    tables = [json.loads(content) for content in files if content.startswith(b"{")]
    table = next(table for table in tables if len(table["data"]) == 2)  # as wandb's page shows it
    first, second = (dict(zip(table["columns"], row)) for row in table["data"])
    assert (first["ground_truth"], first["advantage"], second["length"], second["picture_0"]) == ("5", 0.5, 2, None)
    assert (first["picture_0"]["_type"], first["picture_0"]["width"], first["picture_0"]["height"]) == ("image-file", 512, 128)
    assert any(content.startswith(b"\x89PNG") for content in files)


def test_mlflow_gets_a_table_that_it_lists_and_pictures_and_a_resumed_run_replaces_it(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs the trackers extra")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    log_tables(tmp_path, "mlflow")
    log_tables(tmp_path, "mlflow")
    client = mlflow.MlflowClient((tmp_path / "mlflow").as_uri())
    identity = json.loads((tmp_path / "trackers.json").read_text())["mlflow"]
    listed = json.loads(client.get_run(identity).data.tags["mlflow.loggedArtifacts"])
    assert [item["path"] for item in listed] == ["samples/train_step_3.json", "samples/validation_step_3.json"]
    table = json.loads((tmp_path / next(tmp_path.rglob("train_step_3.json"))).read_text())
    first, second = (dict(zip(table["columns"], row)) for row in table["data"])
    assert (first["advantage"], second["problem"], second["picture_0"]) == (0.5, "Find y.", None)
    (picture,) = tmp_path.rglob("row_0_picture_0.png")
    assert str(picture).endswith(first["picture_0"]["filepath"]) and Image.open(picture).size == (512, 128)


def test_swanlab_gets_texts_and_pictures(tmp_path, monkeypatch):
    pytest.importorskip("swanlab", reason="needs the trackers extra")
    monkeypatch.setenv("SWANLAB_MODE", "offline")
    monkeypatch.delenv("SWANLAB_DIR", raising=False)
    log_tables(tmp_path, "swanlab")
    files = [file for file in (tmp_path / "swanlog").rglob("*") if file.is_file()]
    assert any(file.suffix == ".png" and Image.open(file).size == (512, 128) for file in files), files
    assert any(b"Find y." in file.read_bytes() for file in files), files
