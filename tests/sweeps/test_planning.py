"""Every configuration of a sweep is checked before anything starts or is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gmpo_mm.config import Config
from gmpo_mm.engines.installed import find_verl
from gmpo_mm.errors import ConfigError
from gmpo_mm.runs.progress import Progress
from gmpo_mm.sweeps.planning import PlannedRun, plan_evaluation, plan_sweep, variant_differences
from gmpo_mm.sweeps.processes import choose_jobs
from gmpo_mm.sweeps.sweep import _check_engines
from gmpo_mm.sweeps.sweep_file import load_sweep
from tests.engine.runs import ROOT
from tests.sweeps.sweeps import GMPO, NO_CLIP, run_sweep, write_sweep


def plan(file: Path) -> list[PlannedRun]:
    return plan_sweep(load_sweep(file), Path("out"), Progress())


def test_each_seed_sets_sampling_and_order_and_comes_with_all_variants(tmp_path: Path, data: Path) -> None:
    runs = plan(write_sweep(tmp_path, data, {**GMPO, **NO_CLIP}, seeds=[3, 5]))
    assert [(run.variant.name, run.seed) for run in runs] == [("gmpo", 3), ("no_clip", 3), ("gmpo", 5), ("no_clip", 5)]
    for run in runs:
        assert (run.config.worker.rollout.seed, run.config.data.seed) == (run.seed, run.seed)
        assert run.config.trainer.experiment_name == f"small_{run.variant.name}_seed_{run.seed}"
        assert run.config.trainer.run_dir == f"out/runs/{run.variant.name}/seed_{run.seed}"
        assert run.plan.steps == 2
    assert variant_differences(runs[0], runs[1]) == [("worker.actor.gmpo.clip", "token", "none")]


def test_a_variant_may_have_a_base_of_its_own(tmp_path: Path, data: Path) -> None:
    variants = {**GMPO, "grpo": {"base": str(ROOT / "configs/quickstart_grpo.yaml")}}
    runs = plan(write_sweep(tmp_path, data, variants))
    assert [run.config.worker.actor.loss_type for run in runs] == ["gmpo", "default"]
    assert all(run.config.trainer.max_steps == 2 for run in runs)  # the sweep's overrides hold for both


def test_a_folder_with_a_comma_and_a_brace_stays_one_folder(tmp_path: Path, data: Path) -> None:
    out = Path("a, {b: 1}")
    runs = plan_sweep(load_sweep(write_sweep(tmp_path, data, GMPO)), out, Progress())
    assert runs[0].config.trainer.run_dir == str(out / "runs/gmpo/seed_1")


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["worker.actor.gmpo.log_clip_lo=0.2"], ["variant bad:", "worker.actor.gmpo.log_clip_low"]),
        (["worker.actor.loss_type=grpo"], ["variant bad:", "Write worker.actor.loss_type=default"]),
        (["data.rollout_batch_size=1000"], ["variant bad:", "has only 24 records"]),
        (["trainer.resume=never"], ["variant bad:", "trainer.resume: never"]),
        (["trainer.logger=[consol]"], ["variant bad:", "consol"]),
        (["trainer.project_name=other"], ["variants.bad", "the same configuration as variants.gmpo"]),
        ([], ["variants.bad", "the same configuration as variants.gmpo"]),
    ],
)
def test_a_wrong_variant_is_named(tmp_path: Path, data: Path, overrides: list[str], named: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(write_sweep(tmp_path, data, {**GMPO, "bad": {"overrides": overrides}}))
    for text in named:
        assert text in str(caught.value)


def test_all_variants_mistakes_come_at_once_and_nothing_is_written(tmp_path: Path, data: Path) -> None:
    bad = {f"bad_{key}": {"overrides": [f"worker.actor.{key}=1"]} for key in ("lost_type", "loss_typ")}
    file = write_sweep(tmp_path, data, {**GMPO, **bad}, seeds=[1, 2])
    code, output = run_sweep(file, tmp_path / "out")
    assert code == 2 and "Traceback" not in output
    assert output.count("variant bad_lost_type: ") == output.count("variant bad_loss_typ: ") == 1  # not once a seed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("benchmarks: [synthetic_picture]", ["synthetic_picture", "did you mean synthetic_pictures?"]),
        ("benchmarks: [synthetic_pictures]\nserver: http://127.0.0.1:1/v1", ["it asks a server", "remove server"]),
        ("benchmarks: [synthetic_pictures]\noverwrite: true", ["overwrite=true", "remove it"]),
        ("benchmarks: [math500]\nrecords: {math500: nothing/here.parquet}", ["evaluation = ", "nothing/here.parquet"]),
    ],
)
def test_a_wrong_evaluation_is_found_before_training(tmp_path: Path, data: Path, content: str, named: list[str]) -> None:
    (tmp_path / "evaluation.yaml").write_text(content + "\n")
    sweep = load_sweep(write_sweep(tmp_path, data, GMPO, evaluation=str(tmp_path / "evaluation.yaml")))
    with pytest.raises(ConfigError) as caught:
        plan_evaluation(sweep, Progress())
    for text in named:
        assert text in str(caught.value)


def configs(**trainer: Any) -> list[Config]:
    config = Config()
    config.engine = trainer.pop("engine", "auto")
    for key, value in trainer.items():
        setattr(config.trainer, key, value)
    return [config]


def test_one_run_at_once_or_one_a_gpu_unless_more_is_asked_for() -> None:
    assert choose_jobs(None, configs(), ()) == 1
    assert choose_jobs(None, configs(), ("0", "1", "2")) == 3
    assert choose_jobs(None, configs(device="cpu"), ("0", "1", "2")) == 1
    assert choose_jobs(2, configs(), ()) == 2
    assert choose_jobs(None, configs(engine="easyr1"), ("0", "1")) == 1
    with pytest.raises(ConfigError, match="--jobs 2: engine=easyr1 takes all GPUs"):
        choose_jobs(2, configs(engine="easyr1"), ("0", "1"))
    with pytest.raises(ConfigError, match="trainer.device = 'cuda:1'"):
        choose_jobs(None, configs(device="cuda:1"), ("0", "1"))


@pytest.mark.skipif(find_verl() is not None, reason="a verl is installed here")
@pytest.mark.parametrize(("engine", "title"), [("easyr1", "EasyR1"), ("verl", "verl")])
def test_an_engine_that_is_not_installed_is_one_error_before_any_run(engine: str, title: str) -> None:
    _check_engines(configs(engine="auto"))
    with pytest.raises(ConfigError, match=f"engine={engine}: {title} is not installed"):
        _check_engines([*configs(engine="auto"), *configs(engine=engine), *configs(engine=engine, device="cpu")])
