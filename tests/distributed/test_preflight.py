"""Before a worker starts: whose `verl`, which packages, whose directory, what the cluster holds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gmpo_mm.data import RecordKeys, load_records
from gmpo_mm.data.records import Record
from gmpo_mm.engines.easyr1.data_check import check_answer_column, check_nothing_dropped, dropped_report
from gmpo_mm.engines.easyr1.preflight import (
    Requirement,
    check_directory,
    check_installation,
    installed_packages,
    package_problems,
)
from gmpo_mm.engines.installed import find_verl
from gmpo_mm.engines.ray_cluster import check_cluster
from gmpo_mm.errors import ConfigError, DataError
from tests.config.conftest import Load, load, workplace  # noqa: F401  (fixtures)


def install(folder: Path, kind: str, version: str = "0.3.3.dev0") -> None:
    """A package `verl` whose import would end the process: preflight reads files."""
    (folder / "verl" / "trainer").mkdir(parents=True)
    (folder / "verl" / "__init__.py").write_text(f'raise SystemExit("imported")\n__version__ = "{version}"\n')
    if kind == "easyr1":
        (folder / "verl" / "trainer" / "config.py").write_text("")
    elif kind == "verl":
        (folder / "verl" / "trainer" / "config").mkdir()


HERE = (Requirement(("torch",), ">=2", "there in every test"),)


def test_easyr1_and_verl_are_told_apart_by_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("easyr1", "verl", "unknown"):
        install(tmp_path / kind, kind)
        with monkeypatch.context() as patched:
            patched.syspath_prepend(tmp_path / kind)
            found = find_verl()
        assert found is not None
        assert (found.engine, found.version, found.root) == (kind, "0.3.3.dev0", tmp_path / kind / "verl")


def test_an_installed_easyr1_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "easyr1")
    monkeypatch.syspath_prepend(tmp_path)
    assert check_installation(HERE) == "0.3.3.dev0"


@pytest.mark.parametrize(
    ("kind", "version", "said"),
    [
        ("verl", "0.9.1", [r"verl's own", r"0.9.1", r"git clone https://github.com/hiyouga/EasyR1"]),
        ("unknown", "7", ["of unknown origin"]),
        ("easyr1", "0.4.0", ["EasyR1 0.4.0 is installed; the engine is written for 0.3.x"]),
    ],
)
def test_another_verl_is_named_with_the_way_to_easyr1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, version: str, said: list[str]
) -> None:
    install(tmp_path, kind, version)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as raised:
        check_installation(HERE)
    for part in said:
        assert part in str(raised.value)


def test_missing_and_unfitting_packages_are_all_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "easyr1")
    (tmp_path / "vllm" / "lora").mkdir(parents=True)
    (tmp_path / "vllm" / "__init__.py").write_text('raise SystemExit("imported")')
    monkeypatch.syspath_prepend(tmp_path)
    asked = (
        Requirement(("torch",), "<1", "a test"),
        Requirement(("no-such-package",), ">=2.4.3", "its workers"),
    )
    with pytest.raises(ConfigError) as raised:
        check_installation(asked)
    message = str(raised.value)
    torch_version = installed_packages()["torch"]
    assert f"torch {torch_version} is installed, <1 is needed (a test)." in message
    assert "no-such-package is not installed (its workers); pip install 'no-such-package>=2.4.3'." in message
    assert "has no vllm.lora.models, which EasyR1 imports" in message
    for name in ("transformers", "flash-attn", "omegaconf", "vllm"):
        assert name in message.rpartition("Installed: ")[2]
    (tmp_path / "vllm" / "lora" / "models.py").write_text("")
    assert not any("lora" in text for text in package_problems(asked))


def test_without_easyr1_the_commands_say_where_to_get_it(workplace: Path) -> None:  # noqa: F811
    from tests.config.conftest import VALID

    if find_verl() is not None:
        pytest.skip("a verl is installed here")
    fitting = [*VALID, "worker.actor.micro_batch_size_per_device_for_update=1", "trainer.n_gpus_per_node=2"]
    module = [sys.executable, "-m", "gmpo_mm.engines.easyr1"]
    done = subprocess.run([*module, *fitting], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "EasyR1 is not installed" in done.stderr and "git clone" in done.stderr and "Traceback" not in done.stderr
    clip = ["worker.actor.clip_ratio_low=0", "worker.actor.clip_ratio_high=3"]
    cispo = ["worker.actor.loss_type=cispo", *clip, "trainer.threads=2"]
    done = subprocess.run([*module, *fitting, *cispo], capture_output=True, text=True, check=False)
    assert "Set, but without effect here:" in done.stdout and "trainer.threads=2" in done.stdout
    assert "Note: worker.actor.clip_ratio_low = 0 with loss_type=cispo raises every ratio" in done.stdout.replace("\n", " ")
    Path("file.yaml").write_text("engine: easyr1")
    done = subprocess.run(
        [sys.executable, "-m", "gmpo_mm.cli", "train", "file.yaml", *fitting],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "EasyR1 is not installed" in done.stderr
    mistyped = [*module, "config=file.yaml", "worker.actor.lss_type=gmpo"]
    done = subprocess.run(mistyped, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Did you mean worker.actor.loss_type?" in done.stderr
    done = subprocess.run([*module, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("usage: python -m gmpo_mm.engines.easyr1 config=FILE.yaml")
    done = subprocess.run(
        [sys.executable, "-m", "gmpo_mm.cli", "train", "file.yaml", "--dry-run", *fitting,
         "worker.actor.model.model_path=bundled:qwen2_tiny"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "1 node(s) x 2 GPUs" in done.stdout
    assert "easyr1: not on this machine" in done.stdout


@pytest.mark.parametrize("name", ["experiment_log.jsonl", "generations.log", "checkpoint_tracker.json", "global_step_7"])
def test_a_directory_with_a_run_of_easyr1_itself_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir() if name.startswith("global") else (tmp_path / name).write_text("{}\n")
    with pytest.raises(ConfigError) as raised:
        check_directory(tmp_path)
    assert name in str(raised.value) and "give another trainer.run_dir" in str(raised.value)
    assert ("trainer.resume=" in str(raised.value)) == name.startswith("global")
    (tmp_path / "run.json").write_text("{}")
    check_directory(tmp_path)  # ours: the run directory decides
    check_directory(tmp_path / "new")


def nodes(*gpus: int) -> list[dict[str, Any]]:
    resources = [{"GPU": float(count)} if count else {} for count in gpus]
    return [{"NodeManagerAddress": f"10.0.0.{i}", "Alive": True, "Resources": held} for i, held in enumerate(resources)]


@pytest.mark.parametrize(("gpus", "wanted"), [((8, 8), (2, 8)), ((16,), (2, 8)), ((4, 8, 4), (4, 4))])
def test_a_cluster_with_room_passes(gpus: tuple[int, ...], wanted: tuple[int, int]) -> None:
    check_cluster(nodes(*gpus), *wanted)
    one_machine = [node | {"NodeManagerAddress": "10.0.0.1"} for node in nodes(*gpus)]
    check_cluster(one_machine, *wanted)


@pytest.mark.parametrize(
    ("gpus", "wanted", "fix"),
    [
        ((8,), (2, 8), "trainer.nnodes=1"),
        ((4, 4), (1, 8), "trainer.n_gpus_per_node to at most 4"),
        ((0,), (1, 8), "engine=local"),
        ((), (1, 1), "no node"),
    ],
)
def test_a_placement_that_ray_would_wait_for_for_ever_is_an_error(
    gpus: tuple[int, ...], wanted: tuple[int, int], fix: str
) -> None:
    with pytest.raises(ConfigError, match=fix):
        check_cluster(nodes(*gpus), *wanted)
    dead = [node | {"Alive": False} for node in nodes(8, 8)]
    with pytest.raises(ConfigError, match="no node"):
        check_cluster(dead, 1, 8)


def test_easyr1_needs_the_answer_column_that_the_configuration_names(load: Load) -> None:  # noqa: F811
    config = load("engine=easyr1").config
    keys = RecordKeys.from_data_config(config.data)
    check_answer_column(config, "train.jsonl", load_records("train.jsonl", keys))
    Path("many.jsonl").write_text('{"problem": "1+1", "answers": ["2"]}\n')
    with pytest.raises(DataError, match=r"no column 'answer' \(data.answer_key\)"):
        check_answer_column(config, "many.jsonl", load_records("many.jsonl", keys))


def test_validation_problems_that_easyr1_would_leave_out_are_an_error() -> None:
    check_nothing_dropped("test.jsonl", [1, 2, 3], 3, 512)
    with pytest.raises(DataError, match=r"keeps 2 of 3 problems.*max_prompt_length = 512"):
        check_nothing_dropped("test.jsonl", [1, 2, 3], 2, 512)
    assert dropped_report([1, 2, 3], 2) == "2 training prompts, 1 over-long ones left out"


def test_cores_that_an_engine_reserves_count_too() -> None:
    """verl reserves three with each GPU; Ray would wait for ever where a node has fewer."""
    node = {"Alive": True, "NodeManagerAddress": "10.0.0.1", "Resources": {"GPU": 2.0, "CPU": 5.0}}
    check_cluster([node], 1, 2)
    check_cluster([node], 1, 1, 3)
    with pytest.raises(ConfigError, match=r"cores by node 10.0.0.1: 5, of which each GPU's process takes 3.* to at most 1"):
        check_cluster([node], 1, 2, 3)
    with pytest.raises(ConfigError, match="--num-cpus=6"):
        check_cluster([{**node, "Resources": {"GPU": 2.0, "CPU": 2.0}}], 1, 2, 3)


def test_verl_is_refused_by_what_is_missing_and_its_directory_is_left_alone(tmp_path: Path) -> None:
    """Without verl here; with it, the tests of tests/verl train."""
    from gmpo_mm.engines.verl import preflight as verl

    if find_verl() is None:
        with pytest.raises(ConfigError, match=r"verl is not installed.*gmpo-mm\[verl\]"):
            verl.check_installation(on_cpu=True)
    assert any("tested with 0.9.1" in problem for problem in verl.problems("0.8.0", on_cpu=True))
    assert len(list(verl.problems("0.9.1", on_cpu=False))) >= 2, "vllm and flash-attn are asked for on GPUs"
    (tmp_path / "global_step_3").mkdir()
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("3")
    with pytest.raises(ConfigError, match=r"a run of verl .*global_step_3"):
        verl.check_directory(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    verl.check_directory(tmp_path)


def test_a_tokenizer_with_code_and_rows_without_pictures_are_refused_for_verl(tmp_path: Path) -> None:
    from gmpo_mm.config import Config
    from gmpo_mm.engines.verl.data_check import check_pictures, check_remote_code

    (tmp_path / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["own.Tokenizer", null]}}')
    with pytest.raises(ConfigError, match="trust_remote_code"):
        check_remote_code(Config(), str(tmp_path))
    trusting = Config()
    trusting.worker.actor.model.trust_remote_code = True
    check_remote_code(trusting, str(tmp_path))

    class Qwen2_5_VLProcessor:
        pass

    with_picture = Record("<image>", ("a.png",), "1", ("1",), "a")
    without = Record("text", (), "1", ("1",), "b", where="train row 1")
    check_pictures([with_picture], [], Qwen2_5_VLProcessor(), "model")
    with pytest.raises(ConfigError, match=r"1 of 2 rows have no picture \(train row 1 is the first\)"):
        check_pictures([with_picture, without], [], Qwen2_5_VLProcessor(), "model")
    check_pictures([without], [], None, "model")
    with pytest.raises(ConfigError, match="would drop them"):
        check_pictures([without], [with_picture], None, "model")
