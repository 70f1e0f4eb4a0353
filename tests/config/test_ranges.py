"""Every number of the schema has a range of its own, and what lies outside is an error that names it and the fix."""

from pathlib import Path

import pytest

from gmpo_mm.config import LoadedConfig, load_config
from gmpo_mm.config.bounds import RANGES, check_names, check_ranges
from gmpo_mm.config.keys import default_of, schema_keys
from gmpo_mm.config.ranges import Range, ranges_of
from gmpo_mm.config.schema import Config
from gmpo_mm.engines.checks import validate_for_training
from gmpo_mm.errors import ConfigError
from gmpo_mm.evaluation.settings import EvaluateSettings
from tests.config.conftest import Load


def _numbers() -> list[str]:
    return [key for key, hint in schema_keys().items() if hint in (int, float, int | None, float | None)]


def test_every_number_of_the_schema_and_of_an_evaluation_has_a_range_that_holds_its_default() -> None:
    assert set(_numbers()) == set(RANGES)
    assert all(default_of(key) is None or allowed.holds(default_of(key)) for key, allowed in RANGES.items())
    assert {"seed", "n", "temperature", "limit", "batch"} <= set(dict(ranges_of(EvaluateSettings)))


@pytest.mark.parametrize("value", [10**30, -(10**30), 1e300, -1e300])
def test_a_number_that_nobody_means_is_outside_every_range(value: float) -> None:
    for key, hint in schema_keys().items():
        if key in RANGES and (hint in (float, float | None) or isinstance(value, int)):
            config = load_config(None, [f"{key}={value}"])
            assert any(text.startswith(f"{key} = ") for text in check_ranges(config)), (key, value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("worker.actor.optim.lr=6e5", "Did you mean 6e-5?"),
        ("worker.rollout.temperature=1e-30", "at least 0.01"),
        ("worker.rollout.val_override_config.temperature=.inf", "val_override_config.temperature = inf: it must be at least"),
        ("worker.rollout.val_override_config.seed=-1", "val_override_config.seed = -1: it must be at least 0"),
        ("worker.rollout.seed=-1", "at least 0"),
        ("data.seed=-1", "at least 0"),
        ("trainer.max_try_make_batch=0", "at least 1 and at most 1,000,000,000, or -1 for no limit"),
        ("trainer.max_try_make_batch=-5", "or -1 for no limit"),
        ("data.mini_rollout_batch_size=-5", "at least 1"),
        ("worker.actor.gmpo.log_clip_high=1e300", "Set worker.actor.gmpo.clip=none"),
    ],
)
def test_a_value_outside_its_range_is_one_error(load: Load, override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validate_for_training(load(override))
    assert words in str(caught.value) and override.partition("=")[0] in str(caught.value)
    assert "\n\n" not in str(caught.value), "one mistake, one paragraph"


def test_a_warm_up_that_is_longer_than_the_run_is_an_error(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"lr_warmup_steps = 9: the run has 8 steps \(trainer.max_steps\)"):
        validate_for_training(load("worker.actor.optim.lr_warmup_steps=9", "trainer.max_steps=8"))
    validate_for_training(load("worker.actor.optim.lr_warmup_steps=8", "trainer.max_steps=8"))


@pytest.mark.parametrize("name", ["", "'  '", "../../../etc", "/etc", "~/x", "a//b", "a/./b", "'a\0b'", "x" * 300])
def test_a_name_that_leads_elsewhere_is_an_error(name: str) -> None:
    for key in ("trainer.experiment_name", "trainer.project_name"):
        loaded = load_config(None)
        setattr(loaded.config.trainer, key.partition(".")[2], name.strip("'"))
        assert [text for text in check_names(loaded) if text.startswith(f"{key} = ")]


def test_a_name_in_a_folder_of_its_own_is_fine() -> None:
    assert not list(check_names(load_config(None, ["trainer.experiment_name='lr 6e-5/größer'"])))


def _load_text(folder: Path, text: str) -> LoadedConfig:
    (folder / "run.yaml").write_text(text)
    return load_config(folder / "run.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trainer: {max_steps: 1:30}", "1:30 is the number 90 to YAML; write 90"),
        ("trainer:\n  max_steps: ???", "trainer.max_steps = ???"),
        ("trainer: {val_only: 2}", "trainer.val_only = 2"),
        ("trainer.max_steps: 3", "'trainer.max_steps'"),
        ("worker: {actor.optim: {lr: 1}}", "'worker.actor.optim'"),
        ("worker: {otpim: {lr: 1}}", "Did you mean worker.actor.optim.lr?"),
        ("hello", "sections are expected"),
        ("data: " + "[" * 3000 + "]" * 3000, "nested "),
        ("trainer: {max_steps: " + "9" * 5000 + "}", "run.yaml is not readable YAML"),
        ("worker: {rollout: {temperature: 1" + "0" * 400 + "}}", "worker.rollout.temperature"),
    ],
)
def test_what_yaml_reads_in_another_way_than_people_is_an_error(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        list(check_ranges(_load_text(tmp_path, text)))
    assert words in str(caught.value)


def test_one_and_zero_are_still_true_and_false(tmp_path: Path) -> None:
    config = _load_text(tmp_path, "trainer: {val_only: 1, val_before_train: 0, experiment_name: '1:30'}").config
    assert (config.trainer.val_only, config.trainer.val_before_train, config.trainer.experiment_name) == (True, False, "1:30")


def test_a_range_in_words() -> None:
    assert Range(0, 1, above=True).describe() == "above 0 and at most 1"
    assert Range(1, 5, off=-1, off_means="no limit").describe() == "at least 1 and at most 5, or -1 for no limit"
    assert not Range(0, 1).holds(float("nan"))
    assert dict(ranges_of(Config)) == RANGES
