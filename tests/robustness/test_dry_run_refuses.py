"""What the start of a training refuses, its dry run refuses too, naming key and fix, and it leaves no trace."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from gmpo_mm.config import load_config
from gmpo_mm.config.paths import BUNDLED_MODELS
from gmpo_mm.engines.checks import validate_for_training
from gmpo_mm.engines.run_setup import configured_reward
from gmpo_mm.errors import GMPOError
from gmpo_mm.planning.dry_run import print_dry_run
from tests.engine.runs import arguments, run_here, write_data

REWARD = "worker.reward.reward_function"
KWARGS = f"{REWARD}_kwargs"


def quick(count: int, cases: Sequence[Any]) -> list[Any]:
    """The first `count` cases as they are, the others marked slow."""
    slow = pytest.mark.slow
    rest = [pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=slow) for case in cases[count:]]
    return [*cases[:count], *rest]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def begun(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one step."""
    return run_here(arguments(data, tmp_path_factory.mktemp("runs") / "begun", "trainer.max_steps=1"))


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    mount = tmp_path / "disk"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,ro", "tmpfs", str(mount)], capture_output=True, text=True)
    if made.returncode != 0:
        pytest.skip(f"mounting a small file system needs root: {made.stderr.strip()}")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def dry_run(args: list[str], overwrite: bool = False) -> None:
    loaded = load_config(args[0], args[1:])
    validate_for_training(loaded, prepared=False)
    print_dry_run(loaded, overwrite=overwrite)


def listing(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


def refused(args: list[str], *words: str) -> None:
    """By the dry run and by the training, with the same words."""
    for start in (dry_run, run_here):
        with pytest.raises(GMPOError) as error:
            start(args)
        assert all(word in str(error.value) for word in words), (start.__name__, str(error.value))


def a_file(folder: Path) -> Path:
    (folder / "file").write_text("x")
    return folder / "file"


def a_dangling_link(folder: Path) -> Path:
    (folder / "link").symlink_to(folder / "nowhere" / "at all")
    return folder / "link"


def a_circle(folder: Path) -> Path:
    (folder / "circle").symlink_to(folder / "circle")
    return folder / "circle"


def with_a_file_for_samples(folder: Path) -> Path:
    (folder / "run").mkdir()
    (folder / "run/samples").write_text("x")
    return folder / "run"


@pytest.mark.parametrize(
    "place",
    quick(3, [
        a_file, lambda folder: a_file(folder) / "run", lambda folder: folder / ("x" * 300),
        lambda folder: folder / "new" / ("é" * 200) / "run", a_dangling_link, a_circle, with_a_file_for_samples,
        lambda folder: Path("/dev/null/run"),
    ]),
    ids=["file", "below a file", "long name", "long name in bytes", "dangling link", "circle", "samples", "device"],
)  # fmt: skip
def test_run_directory_that_can_not_be(data: Path, tmp_path: Path, place: Callable[[Path], Path]) -> None:
    run = place(tmp_path)
    before = listing(tmp_path)
    with pytest.raises(GMPOError, match=r"trainer\.run_dir"):
        dry_run(arguments(data, run))
    assert listing(tmp_path) == before
    refused(arguments(data, run), "trainer.run_dir")


def test_read_only_run_directory(data: Path, read_only: Path) -> None:
    refused(arguments(data, read_only / "run"), "trainer.run_dir", "Read-only")


def test_run_of_another_configuration_unless_it_is_replaced(data: Path, begun: Path) -> None:
    before = listing(begun)
    other = arguments(data, begun, "trainer.max_steps=1", "worker.actor.optim.lr=5e-5")
    refused(other, "worker.actor.optim.lr", "5e-05", "--overwrite")
    dry_run(other, overwrite=True)
    refused(arguments(data, begun, "trainer.max_steps=1", "trainer.resume=never"), "trainer.resume=never")
    assert listing(begun) == before


def test_resume_without_a_checkpoint(data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(arguments(data, tmp_path / "new", "trainer.resume=must"), "trainer.resume=must")
    refused(arguments(data, tmp_path / "new", f"trainer.resume={tmp_path}/empty"), "trainer.resume", "no checkpoint")
    assert not (tmp_path / "new").exists() or not listing(tmp_path / "new")[1:]


def test_dry_run_of_a_good_run_leaves_nothing(data: Path, tmp_path: Path) -> None:
    dry_run(arguments(data, tmp_path / "deep" / "run"))
    assert not listing(tmp_path)


def test_damaged_run_files(data: Path, begun: Path, tmp_path: Path) -> None:
    for name in ("config.yaml", "run.json"):
        run = Path(shutil.copytree(begun, tmp_path / name))
        for file in ("config.yaml", name):
            (run / file).write_text("[")
        refused(arguments(data, run, "trainer.max_steps=2"), str(run))


@pytest.mark.parametrize(
    ("kwargs", "words"),
    quick(2, [
        ("nonsense=1", ("nonsense", "known")), ("format_weight=abc", ("format_weight",)),
        ("format_weight=[1]", ("format_weight",)), ("format_weight=true", ("format_weight",)), ("timeout=-1", ("timeout",)),
        ("grader=5", ("grader",)), ("grader=nobody", ("grader",)), ("format={a: 1}", ("format",)),
        ("format_weight=null", ("format_weight",)),
    ]),
)  # fmt: skip
def test_reward_arguments(data: Path, tmp_path: Path, kwargs: str, words: tuple[str, ...]) -> None:
    own = arguments(data, tmp_path / "run", f"{REWARD}=gmpo_mm/rewards/math.py:compute_score", f"{KWARGS}.{kwargs}")
    refused(own, words[0])


@pytest.mark.parametrize(
    ("signature", "kwargs", "word"),
    quick(3, [
        ("rows, scale=1.0", "scale=abc", "scale"), ("rows, flag=False", "flag=[1]", "flag"), ("rows, *, scale", None, "scale"),
        ("rows, scale: 'Missing' = 1.0", "scale={a: 1}", "scale"), ("rows, names: list[int] = ()", "names=[a]", "names"),
        ("rows, **more", None, None), ("rows, scale: float = 1.0", "scale=2", None),
        ("rows, pair: tuple = ()", "pair=[1]", None),
        ("rows, scale=1.0, **more", "other=abc", None), ("rows, scale: float | None = None", "scale=null", None),
    ]),
)  # fmt: skip
def test_arguments_of_a_reward_of_the_users(
    data: Path, tmp_path: Path, signature: str, kwargs: str | None, word: str | None
) -> None:
    file = tmp_path / "reward.py"
    file.write_text(f"def compute_score({signature}):\n    return [{{'overall': 1.0}} for _ in rows]\n")
    args = arguments(data, tmp_path / "run", f"{REWARD}={file}:compute_score", f"{KWARGS}={{}}",
                     *([] if kwargs is None else [f"{KWARGS}.{kwargs}"]))  # fmt: skip
    if word is None:
        configured_reward(load_config(args[0], args[1:]).config)
        return
    refused(args, KWARGS, word)


def test_reward_whose_prepare_raises(data: Path, tmp_path: Path) -> None:
    file = tmp_path / "reward.py"
    file.write_text("def prepare():\n    raise OSError('no table')\n\ndef compute_score(rows):\n    return []\n")
    refused(arguments(data, tmp_path / "run", f"{REWARD}={file}:compute_score", f"{KWARGS}={{}}"), REWARD, "no table")


@pytest.mark.parametrize(
    "template",
    quick(2, ["{% for", "{{ messages[7].content }}", "{{ raise_exception('no') }}", "", "{{ 1 // 0 }}", "{{ x() }}", "hello"]),
)
def test_chat_template(data: Path, tmp_path: Path, template: str) -> None:
    (tmp_path / "chat.jinja").write_text(template)
    args = arguments(data, tmp_path / "run", f"data.override_chat_template={tmp_path}/chat.jinja")
    refused(args, "template")


def test_chat_template_of_the_model(data: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(BUNDLED_MODELS / "qwen2_5_vl_tiny", tmp_path / "model"))
    (model / "chat_template.jinja").write_text("{{ nothing.at.all }}")
    refused(arguments(data, tmp_path / "run", f"worker.actor.model.model_path={model}"), "chat template")


@pytest.mark.parametrize(
    "template", quick(2, ["{% for", "{{ content.nothing.more }}", "{{ content[0] }}", "{{ content }}{{ other }}", "x"])
)
def test_format_prompt(data: Path, tmp_path: Path, template: str) -> None:
    (tmp_path / "format.jinja").write_text(template)
    refused(arguments(data, tmp_path / "run", f"data.format_prompt={tmp_path}/format.jinja"), "data.format_prompt")


def test_image_column_that_no_row_has(data: Path, tmp_path: Path) -> None:
    refused(arguments(data, tmp_path / "run", "data.image_key=pictures"), "data.image_key", "pictures")


def test_rows_far_down_are_looked_at(data: Path, tmp_path: Path) -> None:
    rows = [{"problem": "1 + 1?", "answer": "2"}] * 60 + [{"problem": "1 + 1?", "answer": None}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    refused(arguments(data, tmp_path / "run", f"data.train_files={tmp_path}/rows.jsonl"), "row 60")


def test_lora_modules_that_are_not_there(data: Path, tmp_path: Path) -> None:
    lora = "worker.actor.model.lora"
    refused(arguments(data, tmp_path / "run", f"{lora}.rank=4", f"{lora}.target_modules=nowhere"), "target_modules", "nowhere")


def test_cut_weights(data: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(BUNDLED_MODELS / "qwen2_5_vl_tiny", tmp_path / "model"))
    file = next(model.glob("*.safetensors"))
    os.truncate(file, file.stat().st_size - 3)
    refused(arguments(data, tmp_path / "run", f"worker.actor.model.model_path={model}"), "model_path", file.name)


def test_damaged_tokenizer(data: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(BUNDLED_MODELS / "qwen2_5_vl_tiny", tmp_path / "model"))
    (model / "tokenizer.json").write_text('{"model": 3}')
    refused(arguments(data, tmp_path / "run", f"worker.actor.model.model_path={model}"), "tokenizer")
