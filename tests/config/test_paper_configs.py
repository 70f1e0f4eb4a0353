"""Every run of the paper has a file that loads, passes on both engines, and differs from its twin as its name says."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from gmpo_mm.config import Config, config_differences, load_config, policy_loss_config
from gmpo_mm.engines.checks import validate_for_training
from gmpo_mm.evaluation.benchmark import load_template
from gmpo_mm.planning.counts import count_records, describe_plan, plan_run
from gmpo_mm.toys.tiny import write_model_files
from gmpo_mm.toys.tiny_text import text_config

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    str(path.relative_to(ROOT)) for folder in ("language", "moe") for path in (ROOT / "configs" / folder).glob("table*.yaml")
)

SMOKE_RUN = "configs/language/smollm2_135m_cpu.yaml"
REAL_WEIGHTS = [f"configs/language/smollm2_135m_{algorithm}.yaml" for algorithm in ("gmpo", "grpo")]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configurations beside prepared data, small."""
    folder = tmp_path_factory.mktemp("work")
    shutil.copytree(ROOT / "configs", folder / "configs")
    model = folder / "models" / "qwen3_moe_200m"
    write_model_files(model, text_config("qwen3_moe_200m"))
    save_file({"model.norm.weight": torch.ones(512)}, model / "model.safetensors")  # a dry run reads no weights
    for name, rows in (
        ("math/train", 256), ("deepscaler/train", 256), ("eval_suite/math500", 5), ("countdown_short/train", 512),
        ("countdown_short/test", 5),
    ):  # fmt: skip
        path = folder / "data" / f"{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist([{"problem": f"{i} + 1", "answer": str(i + 1)} for i in range(rows)]), path)
    return folder


def config(name: str, *overrides: str) -> Config:
    return load_config(name, list(overrides)).config


@pytest.mark.parametrize("name", FILES)
def test_it_passes_on_both_engines(workplace: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(workplace)
    validate_for_training(load_config(name))
    gpus = ["trainer.nnodes=4"] if "deepscaler" in name else []
    validate_for_training(load_config(name, ["engine=easyr1", "trainer.n_gpus_per_node=8", *gpus]))


@pytest.mark.parametrize("name", FILES)
def test_the_plan_of_each_counts_the_papers_rounds(workplace: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(workplace)
    found = config(name)
    counts = plan_run(found, count_records(found, found.data.train_files), count_records(found, found.data.val_files))
    rows = dict(describe_plan(found, counts))
    prompts, tokens = (256, "64") if "_countdown" in name else (128, "3,000")
    assert rows["a step"] == f"{prompts} prompts x 8 samples = {prompts * 8:,} responses of up to {tokens} tokens"
    updates = 2 if "moe" in name else 8
    assert rows["updates a step"].startswith(f"{updates} ({updates} mini-batches of {prompts // updates} prompts x 8 samples")


@pytest.mark.parametrize("name", FILES)
def test_its_name_says_what_it_trains(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(ROOT)
    found = config(name)
    loss = policy_loss_config(found)
    expected = {
        "_grpo_": ("default", "seq", 0.2), "_drgrpo_": ("default", "token", 0.2), "_clip_0_2_": ("gmpo", "token", 0.2),
        "_clip_0_8_": ("gmpo", "token", 0.8), "_no_clip_": ("gmpo", "none", None), "_seq_clip_": ("gmpo", "sequence", 0.4),
        "_no_norm_": ("gmpo", "token", 0.4), "_gmpo_": ("gmpo", "token", 0.4),
    }  # fmt: skip
    kind = next(value for key, value in expected.items() if key in name)
    if loss.loss_type == "gmpo":
        bound = None if loss.gmpo.clip == "none" else loss.gmpo.log_clip_high
        assert (loss.loss_type, loss.gmpo.clip, bound) == kind
        assert loss.gmpo.log_clip_low == loss.gmpo.log_clip_high
        assert loss.gmpo.normalize == ("_no_norm_" not in name)
    else:
        assert (loss.loss_type, loss.loss_avg_mode, loss.clip_ratio_low) == kind
        assert loss.clip_ratio_low == loss.clip_ratio_high
    assert found.algorithm.adv_estimator == ("dr_grpo" if "_drgrpo_" in name else "grpo")
    assert found.trainer.experiment_name == Path(name).stem


def test_twins_differ_in_the_loss_and_the_name_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    loss = r"worker\.actor\.(loss_type|loss_avg_mode|clip_ratio_\w+|gmpo\.\w+)"
    allowed = re.compile(rf"{loss}|algorithm\.adv_estimator|trainer\.experiment_name")
    for model in ("qwen2_5_math_1_5b", "qwen2_5_math_7b", "r1_distill_qwen_7b", "moe_deepscaler", "moe_200m_countdown"):
        arms = [config(name) for name in FILES if name.endswith(f"{model}.yaml")]
        assert len(arms) >= 2
        for arm in arms[1:]:
            for key, _, _ in config_differences(arms[0], arm):
                assert allowed.fullmatch(key), key


def test_the_table_of_the_readme_names_every_file_and_no_other() -> None:
    text = (ROOT / "docs/guides/paper_runs.md").read_text()
    named = {f"configs/{name}" for name in re.findall(r"`((?:language|moe)/\S+\.yaml)`", text)}
    assert named == {*FILES, SMOKE_RUN, *REAL_WEIGHTS}


def test_the_smoke_run_on_real_text_is_valid_where_its_model_and_data_are(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(workplace)
    write_model_files(workplace / "models" / "smollm2-135m", text_config("qwen2_tiny"))
    save_file({"model.norm.weight": torch.ones(128)}, workplace / "models" / "smollm2-135m" / "model.safetensors")
    validate_for_training(load_config(SMOKE_RUN))


def test_the_prompt_is_the_one_that_the_evaluation_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    from jinja2 import Template

    trained = Path("configs/prompts/qwen_math_chat.jinja").read_text()
    evaluated = load_template("qwen_math").chat_template
    assert evaluated is not None
    messages = [{"role": "user", "content": "What is 1 + 1?"}]
    assert Template(trained).render(messages=messages) == Template(evaluated).render(messages=messages)
