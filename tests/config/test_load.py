"""Loading: EasyR1's files load unchanged, and every wrong key, type or value is named with its fix."""

import ast
import os
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from gmpo_mm.config import Config, config_differences, load_config, run_directory, to_yaml
from gmpo_mm.config.keys import default_of, flatten, get_key, schema_keys
from gmpo_mm.errors import ConfigError
from tests.config.easyr1_facts import MATH_CONFIG, SCRIPT_OVERRIDES

EASYR1 = os.environ.get("EASYR1")


@pytest.fixture
def easyr1_yaml(tmp_path: Path) -> Path:
    path = tmp_path / "easyr1.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(MATH_CONFIG)))
    return path


def leaves(tree: dict, prefix: str = "") -> dict:
    found = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        found.update({key: value} if key in schema_keys() else leaves(value, f"{key}."))
    return found


def test_every_value_of_easyr1s_config_arrives_under_its_own_key(easyr1_yaml: Path) -> None:
    loaded = load_config(easyr1_yaml, [])
    expected = leaves(MATH_CONFIG)
    assert {key: get_key(loaded.config, key) for key in expected} == expected
    assert loaded.explicit_keys == frozenset(expected)


@pytest.mark.parametrize("script", SCRIPT_OVERRIDES)
def test_overrides_of_easyr1s_example_scripts_load_and_win_over_the_file(easyr1_yaml: Path, script: str) -> None:
    overrides = SCRIPT_OVERRIDES[script]
    loaded = load_config(easyr1_yaml, overrides)
    for text in overrides:
        key, _, written = text.partition("=")
        value, hint = get_key(loaded.config, key), schema_keys()[key]
        assert key in loaded.explicit_keys
        if isinstance(value, bool):
            assert str(value).lower() == written.lower()
        elif isinstance(value, (int, float)):
            assert value == float(written)
        elif isinstance(value, str):
            assert value == written
        elif hint == list[str]:
            assert value == [name.strip(" []\"'") for name in written.split(",")]
        else:
            assert value == ast.literal_eval(written)


def test_defaults_are_easyr1s_except_the_three_that_the_schema_names() -> None:
    stated = {"trainer.logger": ["console"], "worker.rollout.name": "auto"}
    assert {key: default_of(key) for key in stated} == stated
    assert default_of("worker.actor.model.trust_remote_code") is False
    easyr1 = {
        "data.prompt_key": "prompt",
        "data.max_prompt_length": 512,
        "data.rollout_batch_size": 512,
        "data.min_pixels": 262144,
        "algorithm.kl_coef": 1e-3,
        "algorithm.kl_penalty": "kl",
        "algorithm.kl_horizon": 10000.0,
        "worker.actor.global_batch_size": 256,
        "worker.actor.clip_ratio_low": 0.2,
        "worker.actor.clip_ratio_high": 0.3,
        "worker.actor.clip_ratio_dual": 3.0,
        "worker.actor.tau_negative": 1.05,
        "worker.actor.optim.betas": [0.9, 0.999],
        "worker.actor.optim.weight_decay": 1e-2,
        "worker.actor.model.lora.alpha": 64,
        "worker.rollout.n": 1,
        "worker.rollout.tensor_parallel_size": 2,
        "worker.critic.cliprange_value": 0.5,
        "trainer.total_epochs": 15,
        "trainer.max_try_make_batch": 20,
        "trainer.find_last_checkpoint": True,
    }
    assert {key: default_of(key) for key in easyr1} == easyr1


@pytest.mark.skipif(not EASYR1, reason="EASYR1 does not name an EasyR1 checkout")
def test_the_real_easyr1_checkout_loads_unchanged() -> None:
    examples = Path(str(EASYR1)) / "examples"
    assert leaves(OmegaConf.to_container(OmegaConf.load(examples / "config.yaml"))) == leaves(MATH_CONFIG)
    scripts = sorted(examples.rglob("*.sh"))
    assert {str(path.relative_to(examples).with_suffix("")) for path in scripts} == set(SCRIPT_OVERRIDES)
    for path in scripts:
        command = path.read_text().replace("\\\n", " ").split("verl.trainer.main", 1)[1]
        words = shlex.split(command.replace("${MODEL_PATH}", "org/model").replace("${EXPERIMENT_NAME}", "name"))
        overrides = [word for word in words if "=" in word and not word.startswith("config=")]
        loaded = load_config(examples / "config.yaml", overrides)
        stated = {text.partition("=")[0] for text in SCRIPT_OVERRIDES[str(path.relative_to(examples).with_suffix(""))]}
        assert {text.partition("=")[0] for text in overrides} == stated <= loaded.explicit_keys


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("worker.actor.optim.lrr=1", ["worker.actor.optim.lrr", "1", "Did you mean worker.actor.optim.lr?"]),
        ("worker.actor.lr=1e-6", ["worker.actor.lr", "1e-06", "Did you mean worker.actor.optim.lr?"]),
        ("wroker.actor.optim.lr=2", ["wroker.actor.optim.lr = 2", "Did you mean worker.actor.optim.lr?"]),
        ("loss_type=gmpo", ["loss_type = 'gmpo'", "Write worker.actor.loss_type=gmpo."]),
        ("gmpo.clip=none", ["gmpo.clip", "Did you mean worker.actor.gmpo.clip?"]),
        ("worker.actor.kl_coef=0.1", ["worker.actor.kl_coef", "Did you mean algorithm.kl_coef?"]),
        ("data.max_promt_length=7", ["data.max_promt_length", "7", "Did you mean data.max_prompt_length?"]),
        ("algorithm.zzz=1", ["algorithm.zzz", "Known in algorithm: gamma, lam, adv_estimator"]),
    ],
)
def test_an_unknown_key_is_named_in_full_with_its_value_and_the_nearest_known_key(override: str, named: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    for text in named:
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("worker.rollout.n=many", ["worker.rollout.n = 'many'", "an integer is expected, not a text"]),
        ("worker.rollout.n=2.5", ["worker.rollout.n = 2.5", "an integer is expected, not a number"]),
        ("worker.rollout.n=null", ["worker.rollout.n = null", "an integer is expected, not null"]),
        ("data.shuffle=perhaps", ["data.shuffle = 'perhaps'", "true or false is expected"]),
        ("data.min_pixels=big", ["data.min_pixels = 'big'", "an integer or null is expected"]),
        ("trainer.logger=console", ["trainer.logger = 'console'", "a list of texts is expected, not a text"]),
        ("trainer.logger=[[console]]", ["trainer.logger", "['console'] is none"]),
        ("worker.actor.optim.betas=[0.9,high]", ["worker.actor.optim.betas", "'high' is none"]),
        ("trainer.resume=no", ["trainer.resume = false", "quotes"]),
        ("worker.rollout=3", ["worker.rollout = 3", "is a section", "temperature"]),
        ("worker.rollout.val_override_config=3", ["val_override_config = 3", "a mapping"]),
        ("worker.rollout.n", ["'worker.rollout.n'", "key=value"]),
        ("data.image_dir=${nope}", ["data.image_dir", "nope"]),
    ],
)
def test_a_wrong_type_names_key_value_and_the_expected_type(override: str, named: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    for text in named:
        assert text in str(caught.value)


def test_a_wrong_key_in_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("worker:\n  rollout:\n    temprature: 0.7\n")
    with pytest.raises(ConfigError, match=r"worker\.rollout\.temprature = 0\.7 .*mine\.yaml.*worker\.rollout\.temperature"):
        load_config(path, [])


@pytest.mark.parametrize("text", ["data: [1, 2", "- a\n- b\n", "data:\n  seed: 1\n  seed: 2\n"])
def test_a_file_that_is_no_mapping_or_no_yaml_is_a_config_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"broken\.yaml"):
        load_config(path, [])


def test_a_missing_config_file_lists_the_yaml_files_beside_it(tmp_path: Path) -> None:
    (tmp_path / "there.yaml").write_text("engine: local\n")
    with pytest.raises(ConfigError, match=r"here\.yaml.*there\.yaml"):
        load_config(tmp_path / "here.yaml", [])


@pytest.mark.parametrize("content", ["", " \n", "\0\0\0"])
def test_an_empty_file_is_an_error_that_names_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "lost.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"config file \S+lost.yaml is empty"):
        load_config(path, ["worker.rollout.n=8"])


@pytest.mark.parametrize("content", ["{}", "# nothing yet\n"])
def test_a_file_without_keys_gives_the_defaults_and_no_explicit_keys(tmp_path: Path, content: str) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text(content)
    loaded = load_config(path, [])
    named = Config()
    named.trainer.experiment_name, named.trainer.run_dir = "empty", "runs/empty"
    assert loaded.config == named
    assert not loaded.explicit_keys


def test_two_loads_share_no_state() -> None:
    first = load_config(None, []).config
    first.trainer.logger.append("wandb")
    first.worker.rollout.val_override_config["n"] = 4
    assert load_config(None, []).config == Config()


def test_yaml_of_a_config_loads_back_to_the_same_config(tmp_path: Path, easyr1_yaml: Path) -> None:
    overrides = [
        *SCRIPT_OVERRIDES["qwen3_14b_dapo17k_dapo"],
        "worker.actor.loss_type=gmpo",
        "worker.actor.gmpo.log_clip_low=0.3",
        r"trainer.experiment_name='a \${b} #c: null'",
        "worker.actor.optim.lr=1e-7",
    ]
    config = load_config(easyr1_yaml, overrides).config
    assert config.trainer.experiment_name == "a ${b} #c: null"
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(to_yaml(config))
    assert load_config(resolved, []).config == config


def test_yaml_leaves_out_the_clip_keys_that_the_loss_does_not_read(tmp_path: Path) -> None:
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(to_yaml(load_config(None, ["worker.actor.loss_type=gmpo"]).config))
    explicit = load_config(resolved, []).explicit_keys
    left_out = set(flatten(Config())) - explicit
    assert "worker.actor.clip_ratio_low" in left_out
    assert "worker.actor.gmpo.log_clip_low" in explicit
    assert all(key.startswith("worker.actor.") for key in left_out)


def test_differences_name_each_changed_key_with_both_values() -> None:
    a = load_config(None, []).config
    b = load_config(None, ["worker.rollout.n=8", "data.seed=2"]).config
    assert config_differences(a, b) == [("data.seed", 1, 2), ("worker.rollout.n", 1, 8)]
    assert config_differences(a, a) == []


@pytest.mark.parametrize(
    ("text", "experiment", "directory"),
    [
        ("{}", "mine", "runs/mine"),
        ("trainer: {project_name: p}", "mine", "runs/p/mine"),
        ("trainer: {experiment_name: e}", "e", "runs/easy_r1/e"),
        ("trainer: {project_name: p, experiment_name: e}", "e", "runs/p/e"),
        ("trainer: {save_checkpoint_path: out}", "mine", "out"),
        ("trainer: {run_dir: out}", "mine", "out"),
    ],
)
def test_a_run_without_a_name_is_called_after_its_file(
    tmp_path: Path, text: str, experiment: str, directory: str
) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    config = load_config(tmp_path / "mine.yaml").config
    assert (config.trainer.experiment_name, run_directory(config)) == (experiment, Path(directory))
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert load_config(tmp_path / "config.yaml").config == config


@pytest.mark.parametrize("text", ["data: {val_files: }", "data: {val_files: null}", "data: {val_files: ''}"])
def test_no_validation_data_may_be_written_as_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    assert load_config(tmp_path / "mine.yaml").config.data.val_files == ""
    assert load_config(None, ["data.val_files=a.jsonl", "data.val_files="]).config.data.val_files == ""
    with pytest.raises(ConfigError, match="a text is expected, not null"):
        load_config(None, ["data.prompt_key="])
