"""The evaluation file, overrides and options: what is merged, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from gmpo_mm.errors import ConfigError
from gmpo_mm.evaluation.settings import load_settings
from tests.evaluation.evaluations import ROOT

GOOD = {"model": "bundled:qwen2_5_vl_tiny", "benchmarks": "synthetic_pictures"}


def test_options_go_before_overrides_and_overrides_before_the_file(tmp_path: Path) -> None:
    (tmp_path / "e.yaml").write_text("model: a/b\nbenchmarks: [math500, amc]\nn: 2\ntemperature: 0.5\nseed: 3\n")
    settings = load_settings(str(tmp_path / "e.yaml"), ["n=4", "seed=5", "records.amc=x.parquet"], {"model": "c/d"})
    assert (settings.model, settings.n, settings.temperature, settings.seed) == ("c/d", 4, 0.5, 5)
    assert settings.benchmarks == ["math500", "amc"] and settings.records == {"amc": "x.parquet"}


def test_benchmarks_may_be_a_text_with_commas() -> None:
    assert load_settings(None, [], {**GOOD, "benchmarks": "math500, amc"}).benchmarks == ["math500", "amc"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("temprature=1", "Did you mean temperature"),
        ("n=many", "n='many' .* an integer or null is expected"),
        ("n", "write it as key=value"),
        ("backend=sglang", "use one of auto, hf, vllm, server"),
        ("limit=0", "at least 1 and"),
        ("batch=0", "at least 1 and"),
        ("backend=server", "needs server=URL"),
        ("grade_timeout=0", "above 0 and"),
        ("unevaluated=maybe", "use accept or reject"),
        ("model=", "a text is expected"),
    ],
)
def test_a_wrong_key_or_value_names_the_fix(override: str, message: str) -> None:
    options = {key: value for key, value in GOOD.items() if not override.startswith(f"{key}=")}
    with pytest.raises(ConfigError, match=message):
        load_settings(None, [override], options)


def test_a_server_with_another_backend_is_an_error() -> None:
    with pytest.raises(ConfigError, match="has no effect with backend=hf"):
        load_settings(None, ["backend=hf"], {**GOOD, "server": "http://127.0.0.1:1/v1"})


def test_a_training_configuration_is_told_how_to_evaluate_its_run() -> None:
    with pytest.raises(ConfigError, match="configures a training .* --model RUN_DIRECTORY"):
        load_settings(str(ROOT / "configs/quickstart.yaml"), [], {})


def test_no_benchmark_lists_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match=r"benchmarks: none given; name some of aime24, amc"):
        load_settings(None, [], {"model": "x"})


def test_shipped_evaluation_files_load() -> None:
    files = sorted((ROOT / "configs/evaluate").glob("*.yaml"))
    assert files
    for file in files:
        assert load_settings(str(file), [], {}).benchmarks


def test_no_model_and_no_server_is_an_error() -> None:
    with pytest.raises(ConfigError, match="model: none given; name a folder"):
        load_settings(None, [], {"benchmarks": "math500"})


def test_the_template_no_is_a_text_and_not_false(tmp_path: Path) -> None:
    assert load_settings(None, ["template=no"], GOOD).template == "no"
    (tmp_path / "e.yaml").write_text("model: a/b\nbenchmarks: [math500]\ntemplate: no\n")
    with pytest.raises(ConfigError, match=r"template=false .* put it in quotes"):
        load_settings(str(tmp_path / "e.yaml"), [], {})
