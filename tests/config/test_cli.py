"""The real command line in processes of its own: output and exit codes; and what doctor finds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gmpo_mm import __version__
from gmpo_mm.config import cautions, load_config
from gmpo_mm.doctor import diagnose, print_report
from gmpo_mm.engines.checks import ineffective_keys, validate_for_training
from tests.config.conftest import VALID

ROOT = Path(__file__).parents[2]
TINY = "bundled:qwen2_5_vl_tiny"


def run(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "250", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "gmpo_mm.cli", *arguments]
    return subprocess.run(command, cwd=cwd, env=env | environment, capture_output=True, text=True, timeout=240, check=False)


def write_config(folder: Path) -> None:
    """The valid config of conftest as a file."""
    from gmpo_mm.config import to_yaml

    (folder / "run.yaml").write_text(to_yaml(load_config(None, VALID).config))


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout.strip()) == (0, f"gmpo-mm {__version__}")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['gmpo-mm', '--help']\n"
        "from gmpo_mm.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'omegaconf', 'numpy', 'datasets', 'PIL'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "train" in done.stdout
    assert "doctor" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "nothing.yaml"], ["nothing.yaml", "no such file"]),
        (["train", "run.yaml", "worker.rollout.temprature=1"], ["worker.rollout.temprature", "worker.rollout.temperature"]),
        (["train", "run.yaml", "worker.actor.loss_type=gmppo", "--dry-run"], ["'gmppo'", "Did you mean 'gmpo'?"]),
        (["train", "run.yaml", "data.rollout_batch_size=16", "--dry-run"], ["train.jsonl has only 8 records"]),
        (["train", "run.yaml", "data.prompt_key=question", "--dry-run"], ["question", "problem"]),
    ],
)
def test_a_mistake_is_one_message_without_traceback_and_exit_code_2(
    workplace: Path, arguments: list[str], named: list[str]
) -> None:
    write_config(workplace)
    done = run(*arguments, cwd=workplace)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    for text in named:
        assert text in done.stderr
    assert not (workplace / "runs").exists()


def test_a_dry_run_prints_what_would_happen_and_writes_nothing(workplace: Path) -> None:
    write_config(workplace)
    before = sorted(workplace.rglob("*"))
    done = run("train", "run.yaml", "trainer.max_steps=5", f"worker.actor.model.model_path={TINY}", "--dry-run", cwd=workplace)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("What would happen"), "the plan comes first"
    assert "loss_type: gmpo" not in done.stdout, "the YAML stands behind --print-config"
    assert "5 (trainer.max_steps)" in done.stdout
    assert "4 prompts x 4 samples = 16 responses" in done.stdout
    assert "0.001 billion parameters" in done.stdout
    assert "Memory by phase" in done.stdout
    assert "Checked against a real card: no number yet." in done.stdout
    assert "trainer.max_steps goes before it: trainer.total_epochs=15" in done.stdout
    assert sorted(workplace.rglob("*")) == before


def test_a_plan_for_a_gpu_needs_neither_it_nor_the_data(workplace: Path) -> None:
    write_config(workplace)
    (workplace / "train.jsonl").unlink()
    keys = [f"worker.actor.model.model_path={TINY}", "trainer.max_steps=5"]
    done = run("plan", "run.yaml", *keys, "--gpu", "a100", "--image-tokens", "16", cwd=workplace)
    assert done.returncode == 0, done.stderr
    words = " ".join(done.stdout.split())
    for text in ("Plan for A100 SXM 80 GB", "fits in the 79.20 GiB", "MFU of updates", "5 steps: ", "GPU-hours on one GPU"):
        assert text in words
    assert not (workplace / "runs").exists()
    wrong = run("plan", "run.yaml", "--gpu", "a1000", cwd=workplace)
    assert wrong.returncode == 2
    assert "--gpu a1000: no such card is known; known are h100" in " ".join(wrong.stderr.split())


@pytest.mark.parametrize("name", ["gmpo", "grpo"])
def test_the_papers_geometry3k_configs_pass_a_dry_run_without_the_hub(name: str) -> None:
    path = f"configs/geometry3k/{name}_qwen2_5_vl_7b.yaml"
    done = run("train", path, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "not counted here" in done.stdout
    words = " ".join(done.stdout.split())
    # 16 bytes for each of 8.29 billion parameters; a machine that has them gets the whole plan
    assert "optimizer states alone take 123." in words or "Memory by phase" in words


def test_the_geometry3k_arms_differ_in_the_loss_and_the_name_and_easyr1s_in_its_mean_and_dual_clip(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from gmpo_mm.config import config_differences
    from gmpo_mm.config.loss import loss_unit_of

    monkeypatch.chdir(ROOT)
    names = ("gmpo", "grpo", "grpo_eq1", "gspo")
    arms = [load_config(f"configs/geometry3k/{name}_qwen2_5_vl_7b.yaml", []) for name in names]
    for arm in arms:
        validate_for_training(arm)
        assert not cautions(arm)
        assert not [key for key, _, _ in ineffective_keys(arm) if key.startswith("worker.actor.clip")]
    loss = ("loss_type", "loss_avg_mode", "clip_ratio_low", "clip_ratio_high", "clip_ratio_dual")
    allowed = {*(f"worker.actor.{name}" for name in loss), "trainer.experiment_name"}
    for arm in arms[1:]:
        assert {key for key, _, _ in config_differences(arms[0].config, arm.config)} <= allowed
    assert [loss_unit_of(arm.config) for arm in arms] == ["seq", "token", "seq", "seq"]
    actors = [arm.config.worker.actor for arm in arms]
    assert [(a.clip_ratio_low, a.clip_ratio_high, a.clip_ratio_dual) for a in actors[1:]] == [
        (0.2, 0.3, 3.0), (0.2, 0.2, 1e6), (3e-4, 4e-4, 1e6),
    ]  # fmt: skip
    val = arms[0].config.worker.rollout.val_override_config
    assert val == {"temperature": 0.5, "top_p": 1.0, "n": 16}, "the paper's protocol"


def test_doctor_reports_this_machine_in_json_and_in_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    done = run("doctor", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert torch.__version__ in report["torch"]["torch"]
    assert report["engines"]["local"].startswith("ready")
    assert report["rollouts"]["hf"].startswith("ready")
    assert set(report["trackers"]) == {"console", "file", "tensorboard", "wandb", "mlflow", "swanlab"}
    print_report(report)
    table = capsys.readouterr().out
    assert all(section in table for section in report)
    assert torch.__version__ in table


def test_doctor_tells_whose_verl_is_installed_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "verl"
    (package / "trainer").mkdir(parents=True)
    (package / "__init__.py").write_text('raise SystemExit("imported")\n__version__ = "0.3.3.dev0"\n')
    (package / "trainer" / "config.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    engines = diagnose()["engines"]
    assert "0.3.3.dev0" in engines["easyr1"]
    assert "EasyR1's" in engines["verl"]
    (package / "trainer" / "config.py").unlink()
    (package / "trainer" / "config").mkdir()
    engines = diagnose()["engines"]
    assert "0.3.3.dev0" in engines["verl"]
    assert engines["easyr1"].startswith("not installed: `verl` at")


def test_doctor_says_why_an_installed_vllm_can_not_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vllm").mkdir()
    (tmp_path / "vllm" / "__init__.py").write_text('raise ImportError("libcudart.so.12: cannot open shared object file")\n')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert "libcudart.so.12" in diagnose()["rollouts"]["vllm"]
