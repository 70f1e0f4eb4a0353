"""Every mistake ends before a model is loaded, in a message that names key, value, nearest name and fix."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from gmpo_mm.algorithms import known_loss_types
from gmpo_mm.config import load_config, policy_loss_config, resume_choice, run_directory, to_yaml
from gmpo_mm.config.bounds import RANGES, choices
from gmpo_mm.config.ineffective import COUNTS
from gmpo_mm.config.keys import schema_keys, section_names
from gmpo_mm.config.paths import bundled_model_names, resolve_model_path, split_function_spec
from gmpo_mm.engines.checks import ineffective_keys, validate_for_training
from gmpo_mm.engines.local.keys import UNREAD, VLLM_ONLY
from gmpo_mm.errors import ConfigError
from tests.config.conftest import VALID, Load
from tests.config.easyr1_facts import MATH_CONFIG, SCRIPT_OVERRIDES


def problems(load: Load, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        validate_for_training(load(*overrides))
    return str(caught.value)


def test_a_complete_config_passes(load: Load) -> None:
    validate_for_training(load())


def test_its_resolved_yaml_passes_too(load: Load, workplace: Path) -> None:
    (workplace / "config.yaml").write_text(to_yaml(load().config))
    validate_for_training(load_config("config.yaml", []))


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("engine=locale", ["engine = 'locale'", "Did you mean local?"]),
        ("worker.actor.loss_type=gmppo", ["'gmppo'", "Did you mean 'gmpo'?", "Known: cispo, ", "path/to/file.py:name"]),
        ("worker.actor.loss_type=loss.py:mine", ["loss.py:mine", "no file"]),
        ("worker.actor.loss_avg_mode=token", ["worker.actor.loss_avg_mode = 'token'", "set it to seq"]),
        ("worker.actor.loss_avg_mode=tokens", ["worker.actor.loss_avg_mode", "'tokens'", "token or seq"]),
        ("worker.actor.dppo.tv_low=0.2", ["worker.actor.dppo.tv_low = 0.2", "it belongs to loss_type=dppo_tv."]),
        ("worker.actor.dppo.ratio_cap=2", ["worker.actor.dppo.ratio_cap = 2", "it belongs to loss_type=dppo_kl or dppo_tv."]),
        ("worker.actor.m2po.budget=0", ["worker.actor.m2po.budget = 0", "above 0"]),
        ("worker.actor.clip_ratio_low=0.2", ["worker.actor.clip_ratio_low = 0.2", "worker.actor.gmpo.log_clip_low"]),
        ("worker.actor.clip_ratio_dual=3.0", ["worker.actor.clip_ratio_dual = 3.0", "does not read"]),
        ("worker.actor.tau_negative=1.1", ["worker.actor.tau_negative = 1.1", "loss_type=sapo"]),
        (
            "trainer.compare_losses=[default, gsppo]",
            ["trainer.compare_losses = ['default', 'gsppo']: 'gsppo' is unknown. Did you mean 'gspo'?", "Known: cispo, "],
        ),
        ("trainer.compare_losses=[grpo]", ["trainer.compare_losses = ['grpo']: 'grpo' is unknown. Write default. Known: "]),
        ("trainer.compare_losses=[gspo, gspo]", ["trainer.compare_losses", "gspo", "named twice"]),
        ("trainer.compare_losses=[none.py:mine]", ["trainer.compare_losses", "none.py:mine", "no file"]),
        ("trainer.compare_losses_gradients_every=-1", ["trainer.compare_losses_gradients_every = -1", "at least 0"]),
        ("worker.actor.gmpo.clip=tokens", ["worker.actor.gmpo.clip", "'tokens'", "token, sequence, none"]),
        ("worker.actor.gmpo.log_clip_low=-0.4", ["worker.actor.gmpo.log_clip_low", "-0.4", "at least 0"]),
        ("worker.actor.gmpo.log_clip_high=.inf", ["log_clip_high = inf", "worker.actor.gmpo.clip=none"]),
        ("algorithm.adv_estimator=gae", ["algorithm.adv_estimator = 'gae'", "critic", "use grpo"]),
        ("algorithm.adv_estimator=grop", ["algorithm.adv_estimator = 'grop'", "Did you mean grpo?"]),
        ("algorithm.kl_penalty=full", ["algorithm.kl_penalty = 'full'", "low_var_kl"]),
        ("algorithm.kl_type=linear", ["algorithm.kl_type = 'linear'", "fixed, adaptive"]),
        ("algorithm.kl_coef=-1", ["algorithm.kl_coef = -1.0", "at least 0"]),
        ("worker.rollout.n=1", ["worker.rollout.n = 1", "at least 2", "worker.rollout.n=5"]),
        ("worker.rollout.n=0", ["worker.rollout.n = 0", "at least 1"]),
        ("data.rollout_batch_size=5", ["worker.actor.global_batch_size = 2", "= 5", "=1 or rollout_batch_size=4"]),
        ("data.mini_rollout_batch_size=3", ["data.mini_rollout_batch_size = 3", "= 4", "set it to 2"]),
        ("worker.rollout.temperature=0", ["worker.rollout.temperature = 0.0", "val_override_config.temperature=0"]),
        ("worker.rollout.top_p=0.9", ["worker.rollout.top_p = 0.9", "top_p=1.0", "correction=truncated"]),
        ("worker.rollout.top_k=50", ["worker.rollout.top_k = 50", "top_k=-1", "correction=truncated"]),
        ("worker.rollout.top_k=0", ["worker.rollout.top_k = 0", "-1 for no limit"]),
        ("worker.rollout.name=hff", ["worker.rollout.name = 'hff'", "Did you mean hf?"]),
        ("worker.rollout.val_override_config.temprature=0", ["temprature = 0", "Did you mean temperature?"]),
        ("worker.rollout.val_override_config.n=many", ["val_override_config.n = 'many'", "an integer"]),
        ("worker.rollout.val_override_config.top_p=2", ["val_override_config.top_p = 2", "at most 1"]),
        ("worker.actor.optim.strategy=adamw_bf16", ["'adamw_bf16'", "set it to adamw", "lora.rank"]),
        ("worker.actor.optim.strategy=sgd", ["worker.actor.optim.strategy = 'sgd'", "adamw"]),
        ("worker.actor.optim.lr_scheduler_type=cosin", ["'cosin'", "Did you mean cosine?"]),
        ("worker.actor.optim.lr=.nan", ["worker.actor.optim.lr = nan", "finite"]),
        ("worker.actor.optim.betas=[0.9]", ["worker.actor.optim.betas = [0.9]", "[0.9, 0.999]"]),
        ("data.max_pixels=100", ["data.min_pixels = 262144", "data.max_pixels = 100"]),
        ("worker.actor.model.model_path=null", ["worker.actor.model.model_path is not set", "bundled:NAME"]),
        ("worker.actor.model.model_path=./modle", ["worker.actor.model.model_path = './modle'", "Did you mean model?"]),
        ("worker.actor.model.model_path=train.jsonl", ["that is a file; a folder is expected"]),
        ("worker.actor.model.model_path=bundled:nothing", ["bundled:nothing", "Shipped:"]),
        ("data.train_files=''", ["data.train_files is empty", "owner/name@split"]),
        ("data.train_files=trian.jsonl", ["data.train_files = 'trian.jsonl'", "no file or folder"]),
        ("data.val_files=./nothing@test", ["data.val_files = './nothing@test'", "no file or folder"]),
        ("data.format_prompt=promt.jinja", ["data.format_prompt = 'promt.jinja'", "Did you mean prompt.jinja?"]),
        ("data.image_dir=pictures", ["data.image_dir = 'pictures'", "no folder"]),
        ("data.override_chat_template=chat.jinja", ["data.override_chat_template = 'chat.jinja'", "no file"]),
        ("worker.reward.reward_function=null", ["worker.reward.reward_function is not set", "rewards/math.py"]),
        ("worker.reward.reward_function=rewrad.py:f", ["'rewrad.py:f'", "no file", "Did you mean reward.py?"]),
        ("worker.reward.reward_function=reward.py:compute_scores", ["'compute_scores'", "Did you mean compute_score?"]),
        ("worker.reward.reward_function=reward.py", ["defines no 'main'", "default when no function is named"]),
        ("trainer.resume=sometimes", ["trainer.resume = 'sometimes'", "auto, never, must"]),
        ("trainer.resume=muts", ["trainer.resume = 'muts'", "Did you mean must?"]),
        ("trainer.load_checkpoint_path=old/step_5", ["trainer.load_checkpoint_path = 'old/step_5'", "no folder"]),
        ("trainer.logger=[consol]", ["trainer.logger = ['consol']", "Did you mean console?", "tensorboard"]),
        ("trainer.device=gpu", ["trainer.device = 'gpu'", "cuda:N"]),
        ("trainer.device=cuda:99", ["trainer.device = 'cuda:99'", "GPUs here"]),
        ("trainer.dtype=float16", ["trainer.dtype = 'float16'", "float32, bfloat16"]),
        ("trainer.max_steps=0", ["trainer.max_steps = 0", "at least 1"]),
        ("trainer.save_limit=0", ["trainer.save_limit = 0", "-1 for no limit"]),
    ],
)
def test_one_wrong_value_names_key_value_and_fix(load: Load, override: str, named: list[str]) -> None:
    message = problems(load, override)
    for text in named:
        assert text in message
    assert "\n\n" not in message, "one mistake, one paragraph"


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (
            ["trainer.val_only=true", "trainer.val_before_train=false"],
            ["trainer.val_only = true", "val_before_train=true"],
        ),
        (["trainer.run_dir=a", "trainer.save_checkpoint_path=b"], ["trainer.run_dir = 'a'", "'b'", "keep one"]),
        (
            ["trainer.resume=must", "trainer.load_checkpoint_path=./model"],
            ["trainer.resume = 'must'", "trainer.load_checkpoint_path = './model'", "keep one"],
        ),
        (["trainer.resume=must", "trainer.find_last_checkpoint=false"], ["find_last_checkpoint = false", "never"]),
        (
            ["worker.actor.gmpo.clip=none", "worker.actor.gmpo.log_clip_low=0.3"],
            ["worker.actor.gmpo.log_clip_low = 0.3", "gmpo.clip=none clips nothing", "gmpo.clip=token"],
        ),
        (
            ["worker.actor.loss_type=default", "worker.actor.gmpo.log_clip_low=0.3"],
            ["worker.actor.gmpo.log_clip_low = 0.3", "loss_type=default", "loss_type=gmpo"],
        ),
        (
            [f"worker.actor.{text}" for text in ("loss_type=power_mean", "power_mean.clip=none", "power_mean.log_clip_low=1")],
            ["power_mean.log_clip_low = 1", "power_mean.clip=none clips nothing", "power_mean.clip=token"],
        ),
        (
            ["worker.actor.loss_type=power_mean", "worker.actor.clip_ratio_low=0.3"],
            ["clip_ratio_low = 0.3", "worker.actor.power_mean.log_clip_low instead"],
        ),
        (["worker.actor.power_mean.p=0.3"], ["power_mean.p = 0.3", "loss_type=gmpo", "belongs to loss_type=power_mean"]),
        (
            ["worker.actor.loss_type=power_mean", "algorithm.adv_estimator=reinforce_plus_plus"],
            ["algorithm.use_kl_loss = false", "power_mean needs one advantage a sequence"],
        ),
        (
            ["worker.actor.loss_type=gspo", "worker.actor.loss_avg_mode=token"],
            ["loss_avg_mode = 'token'", "loss_type=gspo"],
        ),
        (
            ["worker.actor.dynamic_batching=false", "worker.actor.micro_batch_size_per_device_for_update=3"],
            ["micro_batch_size_per_device_for_update = 3", "2 x 4 = 8 samples", "set it to 2", "dynamic_batching=true"],
        ),
        (["algorithm.adv_estimator=dr_grpo", "algorithm.norm_adv_by_std=true"], ["norm_adv_by_std = true", "dr_grpo"]),
        (
            ["worker.rollout.correction=truncated", "worker.actor.old_log_probs=sampler"],
            ["correction = 'truncated'", "old_log_probs=auto"],
        ),
        (
            ["worker.rollout.correction=geometric_masked", "worker.actor.old_log_probs=sampler"],
            ["correction = 'geometric_masked'", "old_log_probs=auto"],
        ),
        (
            ["worker.rollout.correction=sequence_truncated", "worker.rollout.correction_floor=0.5"],
            ["correction_floor = 0.5", "sequence_truncated has no lower bound", "sequence_masked", "remove it"],
        ),
        (
            ["worker.rollout.correction=masked", "worker.rollout.correction_cap=0.4"],
            ["correction_floor = 0.5", "correction_cap = 0.4", "lower the floor"],
        ),
        (
            ["algorithm.drop_zero_advantage=true", "algorithm.use_kl_loss=true"],
            ["drop_zero_advantage = true", "set it to false"],
        ),
        (["algorithm.adv_estimator=rloo", "algorithm.norm_adv_by_std=false"], ["norm_adv_by_std = false", "rloo"]),
        (
            ["algorithm.adv_estimator=reinforce_plus_plus", "algorithm.use_kl_loss=true", "algorithm.gamma=0.9"],
            ["algorithm.gamma = 0.9", "equation 4", "algorithm.gamma=1"],
        ),
        (["algorithm.adv_estimator=reinforce_plus_plus"], ["algorithm.use_kl_loss = false", "disable_kl=true"]),
        (["algorithm.online_filtering=true", "algorithm.filter_low=0.99"], ["algorithm.filter_low = 0.99", "lower it"]),
    ],
)
def test_two_values_that_contradict_each_other_are_named(load: Load, overrides: list[str], named: list[str]) -> None:
    message = problems(load, *overrides)
    for text in named:
        assert text in message


def test_all_mistakes_are_told_at_once(load: Load) -> None:
    message = problems(load, "worker.rollout.n=1", "worker.actor.loss_type=gmppo", "data.format_prompt=nothing.jinja")
    assert message.count("\n\n") == 2


@pytest.mark.parametrize(
    "overrides",
    [
        ["worker.actor.loss_avg_mode=seq"],
        ["worker.rollout.top_p=0.9", "worker.rollout.correction=truncated"],
        ["worker.rollout.correction=masked", "worker.rollout.correction_floor=0.2", "worker.rollout.correction_cap=5"],
        ["worker.rollout.correction=sequence_masked", "worker.rollout.correction_floor=0.2"],
        ["worker.rollout.val_override_config={n: 16, temperature: 0, top_p: 0.7, top_k: -1, max_tokens: 64}"],
        ["worker.actor.gmpo.clip=none"],
        ["worker.actor.loss_type=power_mean", "worker.actor.power_mean.p=0", "worker.actor.power_mean.clip=none"],
        ["data.mini_rollout_batch_size=12", "algorithm.online_filtering=true"],
        ["worker.actor.micro_batch_size_per_device_for_update=3"],
        ["algorithm.adv_estimator=reinforce_plus_plus", "algorithm.use_kl_loss=true", "worker.rollout.n=1"],
        ["trainer.val_only=true", "worker.rollout.n=1", "data.train_files=''"],
        ["data.val_files=''", "trainer.val_before_train=false"],
        ["trainer.run_dir=a", "trainer.save_checkpoint_path=a"],
        ["worker.actor.model.model_path=Qwen/Qwen2.5-VL-7B-Instruct", "data.train_files=hiyouga/geometry3k@train"],
        ["algorithm.kl_penalty=full", "algorithm.disable_kl=true"],
        ["engine=local"],
    ],
)
def test_what_is_right_passes(load: Load, overrides: list[str]) -> None:
    validate_for_training(load(*overrides))


@pytest.mark.parametrize("loss_type", known_loss_types())
def test_every_loss_accepts_exactly_the_keys_that_it_reads(load: Load, loss_type: str) -> None:
    from gmpo_mm.algorithms import clip_keys_read_by

    values = {"clip_ratio_low": "0.1", "clip_ratio_dual": "4.0", "tau_positive": "1.5", "gmpo.normalize": "false"}
    values["power_mean.p"] = "0.25"
    read = clip_keys_read_by(loss_type)
    for key, value in values.items():
        overrides = [f"worker.actor.loss_type={loss_type}", f"worker.actor.{key}={value}"]
        if key in read:
            validate_for_training(load(*overrides))
        else:
            assert f"worker.actor.{key}" in problems(load, *overrides)


def test_a_loss_from_a_users_file_is_found_and_says_which_keys_it_reads(load: Load, workplace: Path) -> None:
    (workplace / "loss.py").write_text(
        "from gmpo_mm.algorithms import register_policy_loss\n"
        "@register_policy_loss('mine', reads=['clip_ratio_low'])\n"
        "def mine(log_probs_BT, old_log_probs_BT, advantages_BT, response_mask_BT, config):\n"
        "    return -log_probs_BT * advantages_BT\n"
    )
    validate_for_training(load("worker.actor.loss_type=loss.py:mine", "worker.actor.clip_ratio_low=0.1"))
    assert "has no 'yours'" in problems(load, "worker.actor.loss_type=loss.py:yours")
    assert "clip_ratio_high" in problems(load, "worker.actor.loss_type=loss.py:mine", "worker.actor.clip_ratio_high=0.1")


def test_a_key_that_only_a_compared_loss_reads_is_read_and_kept_in_the_resolved_file(load: Load, workplace: Path) -> None:
    low = "worker.actor.clip_ratio_low=0.1"
    assert "clip_ratio_low" in problems(load, low)
    assert "clip_ratio_low" in problems(load, low, "trainer.compare_losses=[sapo]")
    compared = load(low, "trainer.compare_losses=[default, gmpo, power_mean]")
    validate_for_training(compared)
    (workplace / "config.yaml").write_text(to_yaml(compared.config))
    again = load_config("config.yaml", [])
    validate_for_training(again)
    assert again.config == compared.config
    written = (workplace / "config.yaml").read_text()
    for key in ("clip_ratio_low", "clip_ratio_high", "clip_ratio_dual", "power_mean", "loss_avg_mode"):
        assert key in written
    assert "tau_positive" not in written


def test_the_advantages_fit_each_compared_loss_too(load: Load) -> None:
    trained, tokens = "worker.actor.loss_type=default", "algorithm.adv_estimator=reinforce_plus_plus"
    for reason in (("algorithm.gamma=0.9", "algorithm.use_kl_loss=true"), ("algorithm.use_kl_loss=false",)):
        found = problems(load, trained, tokens, *reason, "trainer.compare_losses=[gmpo, gspo]")
        assert "gmpo needs one advantage a sequence" in found and "leave gmpo out" in found
        validate_for_training(load(trained, tokens, *reason, "trainer.compare_losses=[gspo]"))
    validate_for_training(load(trained, tokens, "algorithm.use_kl_loss=true", "trainer.compare_losses=[gmpo]"))


def test_comparing_that_cannot_take_place_is_named(load: Load) -> None:
    every = "trainer.compare_losses_gradients_every"
    assert (every, 5, "trainer.compare_losses is empty") in ineffective_keys(load(f"{every}=5"))
    assert not ineffective_keys(load(f"{every}=5", "trainer.compare_losses=[gspo]"))
    found = ineffective_keys(load("trainer.compare_losses=[gspo]", "trainer.val_only=true"))
    reasons = {key: reason for key, _, reason in found}
    assert reasons["trainer.compare_losses"] == "trainer.val_only is true"


def test_a_reward_function_is_looked_up_without_running_its_file(load: Load, workplace: Path) -> None:
    (workplace / "loud.py").write_text("raise SystemExit('ran')\nif True:\n    from x import y as compute_score\n")
    validate_for_training(load("worker.reward.reward_function=loud.py:compute_score"))
    (workplace / "broken.py").write_text("def compute_score(:\n")
    assert "broken.py is not readable Python" in problems(load, "worker.reward.reward_function=broken.py:compute_score")


def test_a_packaged_file_is_found_from_any_working_directory(workplace: Path) -> None:
    path, function = split_function_spec("gmpo_mm/errors.py:ConfigError")
    assert path.is_file()
    assert function == "ConfigError"
    (workplace / "gmpo_mm").mkdir()
    (workplace / "gmpo_mm" / "errors.py").write_text("")
    assert split_function_spec("gmpo_mm/errors.py:f")[0] == Path("gmpo_mm/errors.py"), "a file of the user's goes first"


def test_bundled_models_resolve_to_folders_and_unknown_ones_list_what_ships() -> None:
    for name in bundled_model_names():
        assert (Path(resolve_model_path(f"bundled:{name}")) / "config.json").is_file()
    assert resolve_model_path("Qwen/Qwen2.5-VL-7B-Instruct") == "Qwen/Qwen2.5-VL-7B-Instruct"
    with pytest.raises(ConfigError, match=r"bundled:nope.*Shipped: "):
        resolve_model_path("bundled:nope")


@pytest.fixture
def easyr1_checkout(workplace: Path) -> Path:
    """The places that EasyR1's config.yaml names, in the working directory."""
    for name in (f"format_prompt/{name}.jinja" for name in ("math", "r1v", "dapo", "android_gui")):
        (workplace / "examples" / name).parent.mkdir(parents=True, exist_ok=True)
        (workplace / "examples" / name).write_text("{{ content }}")
    for name in ("math", "r1v", "dapo", "android_gui"):
        path = workplace / "examples" / "reward_function" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("def compute_score(reward_inputs, **_):\n    return [{'overall': 1.0} for _ in reward_inputs]\n")
    (workplace / "easyr1.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(MATH_CONFIG)))
    return workplace


EXPECTED_PROBLEMS = {
    "qwen3_14b_dapo17k_dapo": "adamw_bf16",
    "qwen2_5_vl_32b_geo3k_grpo": "adamw_bf16",
    "qwen3_vl_30b_geo3k_grpo": "adamw_bf16",
    "qwen2_5_vl_3b_android_gui_grpo": "worker.rollout.top_p = 0.95",
}


@pytest.mark.parametrize("script", SCRIPT_OVERRIDES)
def test_easyr1s_own_runs_validate_except_for_what_the_local_engine_can_not_do(easyr1_checkout: Path, script: str) -> None:
    loaded = load_config("easyr1.yaml", SCRIPT_OVERRIDES[script])
    if script in EXPECTED_PROBLEMS:
        with pytest.raises(ConfigError, match=EXPECTED_PROBLEMS[script]):
            validate_for_training(loaded)
    else:
        validate_for_training(loaded)


def test_easyr1s_config_with_gmpo_validates_and_tells_what_has_no_effect(easyr1_checkout: Path) -> None:
    loaded = load_config("easyr1.yaml", ["worker.actor.loss_type=gmpo"])
    validate_for_training(loaded)
    found = {key: reason for key, _, reason in ineffective_keys(loaded)}
    assert found["worker.actor.offload.offload_params"].startswith("engine local")
    assert found["worker.ref.fsdp.enable_cpu_offload"].startswith("engine local")
    assert found["worker.actor.model.lora.alpha"] == "worker.actor.model.lora.rank is 0: all weights are trained"
    assert found["algorithm.filter_low"] == "algorithm.online_filtering is false"
    assert "worker.actor.fsdp.enable_full_shard" not in found, "its default: nobody is told of it without the key either"
    for read in ("worker.actor.optim.lr", "data.seed", "algorithm.kl_coef", "worker.actor.fsdp.enable_cpu_offload"):
        assert read not in found


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["algorithm.disable_kl=true", "algorithm.use_kl_loss=true"], "algorithm.use_kl_loss"),
        (["algorithm.disable_kl=true", "algorithm.kl_coef=0.1"], "algorithm.kl_coef"),
        (["algorithm.kl_horizon=5"], "algorithm.kl_horizon"),
        (["algorithm.kl_type=adaptive", "algorithm.use_kl_loss=true"], "algorithm.kl_type"),
        (["algorithm.filter_low=0.2"], "algorithm.filter_low"),
        (["algorithm.lam=0.9"], "algorithm.lam"),
        (["algorithm.gamma=0.9"], "algorithm.gamma"),
        (["worker.rollout.correction_cap=3"], "worker.rollout.correction_cap"),
        (["worker.rollout.correction_floor=0.5"], "worker.rollout.correction_floor"),
        (["worker.actor.model.lora.alpha=8"], "worker.actor.model.lora.alpha"),
        (["worker.actor.optim.min_lr_ratio=0.1"], "worker.actor.optim.min_lr_ratio"),
        (
            ["worker.actor.optim.lr_warmup_steps=2", "worker.actor.optim.lr_warmup_ratio=0.1"],
            "worker.actor.optim.lr_warmup_ratio",
        ),
        (["trainer.max_steps=2", "trainer.total_epochs=3"], "trainer.total_epochs"),
        (["worker.rollout.name=hf", "worker.rollout.enforce_eager=true"], "worker.rollout.enforce_eager"),
        (["worker.critic.optim.lr=1e-5"], "worker.critic.optim.lr"),
        (["worker.actor.fsdp.torch_dtype=bf16"], "worker.actor.fsdp.torch_dtype"),
    ],
)
def test_a_key_without_effect_is_told_with_its_reason_when_it_is_set(load: Load, overrides: list[str], key: str) -> None:
    loaded = load(*overrides)
    validate_for_training(loaded)
    assert key in [found for found, _, reason in ineffective_keys(loaded) if reason]
    assert key not in [found for found, _, _ in ineffective_keys(load())], "told only when set"


def test_the_tables_name_keys_that_exist() -> None:
    named = {*choices(), *RANGES, *COUNTS, *(f"worker.rollout.{name}" for name in VLLM_ONLY)}
    assert named <= set(schema_keys())
    for prefix in UNREAD:
        assert prefix in schema_keys() or any(key.startswith(prefix) for key in schema_keys())
        assert not prefix.endswith(".") or prefix[:-1] in section_names()


def test_policy_loss_config_carries_every_value(load: Load) -> None:
    loss = policy_loss_config(load("worker.actor.gmpo.log_clip_low=0.3", "worker.actor.gmpo.normalize=false").config)
    assert (loss.loss_type, loss.gmpo.log_clip_low, loss.gmpo.log_clip_high) == ("gmpo", 0.3, 0.4)
    assert loss.gmpo.normalize is False
    assert loss.clip_ratio_high == 0.3


def test_easyr1s_names_of_run_directory_and_resume_mean_the_same(load: Load) -> None:
    assert run_directory(load().config) == Path("runs/easy_r1/demo")
    assert run_directory(load("trainer.save_checkpoint_path=out").config) == Path("out")
    assert run_directory(load("trainer.run_dir=mine").config) == Path("mine")
    assert resume_choice(load().config) == "auto"
    assert resume_choice(load("trainer.find_last_checkpoint=false").config) == "never"
    assert resume_choice(load("trainer.load_checkpoint_path=./model").config) == "./model"
    assert resume_choice(load("trainer.resume=must").config) == "must"


def test_validation_that_the_file_asks_for_needs_its_data_unless_val_files_is_set_to_nothing(load: Load) -> None:
    without = [key for key in VALID if "val_files" not in key]
    validate_for_training(load_config(None, without))
    with pytest.raises(ConfigError, match=r"data.val_files is empty, but trainer.val_freq = 5 .*set data.val_files= to train"):
        validate_for_training(load_config(None, [*without, "trainer.val_freq=5"]))
    loaded = load("data.val_files=", "trainer.val_freq=5", "trainer.val_before_train=true")
    validate_for_training(loaded)
    keys = {key: reason for key, _, reason in ineffective_keys(loaded)}
    assert keys["trainer.val_freq"] == "data.val_files is empty: no validation"
    with pytest.raises(ConfigError, match="trainer.val_only = true asks for validation"):
        validate_for_training(load("data.val_files=", "trainer.val_only=true", "trainer.val_before_train=true"))
