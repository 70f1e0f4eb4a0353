"""Symbolic links, pipes and devices in the places of our own files: nothing outside is written, emptied or removed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gmpo_mm.errors import GMPOError
from gmpo_mm.evaluation.grade_file import GradeFileSettings, grade_file
from gmpo_mm.runs.checkpoint import remove_leftovers, save_checkpoint
from gmpo_mm.runs.progress import Progress
from gmpo_mm.runs.run_directory import RunDirectory
from tests.evaluation.evaluations import settings
from tests.evaluation.http_server import HTTPServer

CONFIG = "trainer: {max_steps: 4, save_freq: 1, resume: auto, save_limit: 1}\n"
RUN_FILES = (
    ".lock", "run.json", ".run.json.tmp", "config.yaml", ".config.yaml.tmp", ".environment.json.tmp", "metrics.jsonl",
    "run.log", "samples/.step_1_train.jsonl.tmp", "samples/step_1_train.jsonl",
)  # fmt: skip
RUN_FOLDERS = ("samples", "checkpoints", ".replaced", ".removing", "tensorboard")


def write_model(folder: Path) -> None:
    (folder / "config.json").write_text("{}")


class Outside:
    """A folder of somebody else's with a run's names in it; `untouched` tells whether it is as it was."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "outside"
        for name in ("step_1", ".step_7.tmp-12", ".step_8.removing-3", "step_3", "nested"):
            (self.folder / name).mkdir(parents=True)
            (self.folder / name / "weights").write_text("precious")
        for name in ("file", "config.yaml", "run.json", "metrics.jsonl", "samples.jsonl", "page.html"):
            (self.folder / name).write_text("{}" if name == "run.json" else "precious")
        self.before = self.seen()

    def seen(self) -> dict[str, bytes | None]:
        return {str(f.relative_to(self.folder)): f.read_bytes() if f.is_file() else None for f in self.folder.rglob("*")}


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    found = Outside(tmp_path)
    yield found
    assert found.seen() == found.before


def train_in_small(path: Path) -> None:
    """What a run writes, without a model."""
    with RunDirectory.open(path, resume="auto", config=CONFIG, command=["x"]) as run:
        with Progress(open(os.devnull, "w")) as progress:
            progress.log_to(path / "run.log")
            progress.log("hello")
            run.begin(total_steps=2)
            for step in (1, 2):
                run.log_metrics(step, "train", {"value": step})
                run.write_samples(step, "train", [{"a": 1}])
                run.save_checkpoint(step, model_files=write_model, tensors={}, state={}, keep=1)
        run.finish()


def borne(work: Callable[[], object]) -> str | None:
    """None when it went well, else the text of an error of our own."""
    try:
        work()
    except GMPOError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", RUN_FILES)
@pytest.mark.parametrize("kind", ["link", "dangling", "pipe", "zero"])
def test_a_run_follows_no_link_in_a_files_place(tmp_path: Path, outside: Outside, name: str, kind: str) -> None:
    place = tmp_path / "run" / name
    place.parent.mkdir(parents=True)
    if kind == "pipe":
        os.mkfifo(place)
    else:
        targets = {"link": outside.folder / "file", "dangling": outside.folder / "new", "zero": Path("/dev/zero")}
        place.symlink_to(targets[kind])
    said = borne(lambda: train_in_small(tmp_path / "run"))
    assert said is None or name.removeprefix(".").partition(".tmp")[0] in said or "already holds" in said, said


@pytest.mark.parametrize("name", RUN_FOLDERS)
def test_a_run_follows_no_link_in_a_folders_place(tmp_path: Path, outside: Outside, name: str) -> None:
    place = tmp_path / "run" / name
    place.parent.mkdir(parents=True)
    place.symlink_to(outside.folder)
    said = borne(lambda: train_in_small(tmp_path / "run"))
    assert said is not None and str(place) in said and "symbolic link" in said


@pytest.mark.parametrize("name", [".step_2.tmp-PID", ".step_2.old-PID", ".step_9.removing-1", "step_1", "step_2"])
def test_a_link_among_the_checkpoints_is_removed_and_not_what_it_leads_to(
    tmp_path: Path, outside: Outside, name: str
) -> None:
    place = tmp_path / "run/checkpoints" / name.replace("PID", str(os.getpid()))
    place.parent.mkdir(parents=True)
    place.symlink_to(outside.folder)
    for _ in range(2):
        save_checkpoint(place.parent, 2, model_files=write_model, tensors={}, state={}, keep=1)
        remove_leftovers(place.parent)
    assert [item.name for item in place.parent.iterdir()] == ["step_2"] and not (place.parent / "step_2").is_symlink()


def test_a_run_directory_that_is_a_link_itself_is_what_the_user_named(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    train_in_small(tmp_path / "run")
    assert (tmp_path / "disk/checkpoints/step_2").is_dir()


@pytest.mark.parametrize(
    "name", [".lock", "samples.jsonl", "pictures", ".evaluation.json.tmp", ".problems.jsonl.tmp", ".page.html.tmp"]
)
def test_an_evaluation_follows_no_link(
    serve: Callable[..., HTTPServer], tmp_path: Path, outside: Outside, name: str
) -> None:
    from gmpo_mm.evaluation.evaluate import evaluate

    server = serve()
    asked = settings(tmp_path / "out", model="", server=server.url, limit=1, n=1)
    (result,) = evaluate(asked, command=["x"])
    shutil.rmtree(result.path)
    result.path.mkdir()
    (result.path / name).symlink_to(outside.folder / "file" if name != "pictures" else outside.folder / "nested")
    said = borne(lambda: evaluate(asked, command=["x"]))
    assert said is None or "symbolic link" in said or "out:" in said


def test_a_pictures_place_that_is_a_link_is_made_anew(
    serve: Callable[..., HTTPServer], tmp_path: Path, outside: Outside
) -> None:
    from gmpo_mm.evaluation.evaluate import evaluate

    asked = settings(tmp_path / "out", model="", server=serve().url, limit=1, n=1)
    (result,) = evaluate(asked, command=["x"])
    picture = next((result.path / "pictures").iterdir())
    picture.unlink()
    picture.symlink_to(outside.folder / "file")
    for name in ("evaluation.json", "problems.jsonl", "samples.jsonl", "summary.json", "page.html"):
        (result.path / name).unlink()
    assert borne(lambda: evaluate(asked, command=["x"])) is None
    assert not picture.is_symlink()


def test_grading_follows_no_link_beside_its_output(tmp_path: Path, outside: Outside) -> None:
    (tmp_path / "in.jsonl").write_text('{"response": "\\\\boxed{1}", "answer": "1"}\n')
    (tmp_path / ".out.jsonl.tmp").symlink_to(outside.folder / "file")
    grade_file(GradeFileSettings(file=str(tmp_path / "in.jsonl"), out=str(tmp_path / "out.jsonl")))
    assert (tmp_path / "out.jsonl").is_file()
