"""The dry run's numbers: steps, samples and checkpoints are those of the loop; parameters are those of the real model."""

import json
import struct
from pathlib import Path

import pytest

from gmpo_mm.config import load_config
from gmpo_mm.errors import ConfigError
from gmpo_mm.memory_estimate import estimate_memory, find_model_files, read_model_shape, trained_parameters
from gmpo_mm.planning.counts import count_records, describe_plan, plan_run
from tests.config.conftest import Load

TINY = "bundled:qwen2_5_vl_tiny"


def test_counts_follow_from_batch_sizes_and_records(load: Load) -> None:
    config = load(
        "trainer.total_epochs=3",
        "trainer.val_freq=2",
        "trainer.save_freq=4",
        "worker.actor.ppo_epochs=2",
        "worker.rollout.val_override_config.n=16",
    ).config
    plan = plan_run(config, count_records(config, config.data.train_files), count_records(config, config.data.val_files))
    assert (plan.train_records, plan.val_records) == (8, 3)
    assert plan.steps == 8 // 4 * 3
    assert plan.samples_a_step == 4 * 4
    assert (plan.mini_batches, plan.updates_a_step) == (2, 4)
    assert plan.validations == 1 + 3, "before the first step, and after steps 2, 4 and 6"
    assert plan.checkpoints == 2, "after step 4 and after the last one"
    rows = dict(describe_plan(config, plan))
    assert rows["in total"] == "96 responses, 24 updates"
    assert "4 times: 3 problems of test.jsonl x 16 samples" in rows["validation"]
    assert "192 responses" in rows["validation"]


@pytest.mark.parametrize(
    ("overrides", "steps", "validations"),
    [
        (["trainer.max_steps=3", "trainer.val_freq=2"], 3, 3),
        (["trainer.val_only=true"], 0, 1),
        (["trainer.val_before_train=false"], 30, 1),
        (["data.mini_rollout_batch_size=2"], 30, 2),
    ],
)
def test_steps_and_validations_of_other_runs(load: Load, overrides: list[str], steps: int, validations: int) -> None:
    plan = plan_run(load(*overrides).config, 8, 3)
    assert (plan.steps, plan.validations) == (steps, validations)


def test_a_hub_data_set_is_not_counted_and_the_plan_says_so(load: Load) -> None:
    config = load("data.train_files=owner/name@train").config
    assert count_records(config, config.data.train_files) is None
    plan = plan_run(config, None, 3)
    assert plan.steps is None
    assert plan.checkpoints == 1, "save_freq is off, and the last step is saved whatever it is"
    rows = dict(describe_plan(config, plan))
    assert "not counted" in rows["training data"]
    assert "records // 4" in rows["steps"]
    assert "in total" not in rows


def test_fewer_records_than_a_batch_is_an_error_that_names_both(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"data\.rollout_batch_size = 4: train\.jsonl has only 3 records.*at most 3"):
        plan_run(load().config, 3, 3)


@pytest.fixture(scope="module")
def tiny() -> Path:
    folder = find_model_files(TINY)
    if folder is None or not list(folder.glob("*.safetensors")):
        pytest.skip("the bundled model is not built yet")
    return folder


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["worker.actor.model.freeze_vision_tower=true"],
        ["worker.actor.model.lora.rank=4"],
        ["worker.actor.model.lora.rank=4", "worker.actor.model.lora.exclude_modules=.*visual.*"],
        ["worker.actor.model.lora.rank=8", "worker.actor.model.lora.target_modules=q_proj,v_proj"],
    ],
)
def test_trained_parameters_from_file_headers_are_those_of_the_loaded_model(tiny: Path, overrides: list[str]) -> None:
    import torch

    from gmpo_mm.models.loading import load_policy

    config = load_config(None, [f"worker.actor.model.model_path={TINY}", *overrides]).config
    policy, _ = load_policy(config.worker.actor.model, device=torch.device("cpu"), compute_dtype=torch.float32)
    shape = read_model_shape(tiny)
    parameters = list(policy.module.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    assert trained_parameters(config, shape) == trained
    adapters = trained if config.worker.actor.model.lora.rank else 0
    assert shape.parameters == sum(p.numel() for p in parameters) - adapters


def test_memory_items_are_their_formulas(tiny: Path) -> None:
    shape = read_model_shape(tiny)
    config = load_config(None, ["data.max_prompt_length=64", "data.max_response_length=32", "worker.rollout.n=4"]).config
    items = {item.name: item.bytes for item in estimate_memory(config, shape, "float32", on_gpu=False)}
    count = shape.parameters
    assert (items["weights"], items["gradients"], items["AdamW states"]) == (4 * count, 4 * count, 8 * count)
    assert items["reference model"] == 4 * count
    a_token = 2 * 3 * 2 * 32  # keys and values, 3 layers, 2 heads, 32 dimensions
    assert items["KV cache while sampling"] == 4 * a_token * 256 * (64 + 32), "the sampler's limit of 256 rows"
    half = {item.name: item.bytes for item in estimate_memory(config, shape, "bfloat16", on_gpu=True)}
    assert half["reference model"] == 2 * count
    assert half["KV cache while sampling"] * 2 == items["KV cache while sampling"]
    frugal = load_config(None, ["algorithm.disable_kl=true", "worker.actor.model.lora.rank=4"]).config
    small = {item.name: item.bytes for item in estimate_memory(frugal, shape, "float32", on_gpu=False)}
    assert "reference model" not in small
    assert small["AdamW states"] < items["AdamW states"] / 4


def test_sharded_weights_are_counted_over_all_files(tmp_path: Path) -> None:
    config = {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2, "vocab_size": 10}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for index in (1, 2):
        header = json.dumps({"__metadata__": {}, f"w{index}.weight": {"dtype": "F32", "shape": [index, 5]}}).encode()
        (tmp_path / f"model-0000{index}-of-00002.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    shape = read_model_shape(tmp_path)
    assert shape.parameters == 5 + 10
    assert (shape.head_dim, shape.key_value_heads, shape.intermediate) == (4, 2, 32)


@pytest.mark.parametrize("content", [b"", b"\xff" * 8, struct.pack("<Q", 4) + b"{..}"])
def test_a_broken_weight_file_is_named(tmp_path: Path, content: bytes) -> None:
    config = {"num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2, "vocab_size": 10}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ConfigError, match="can't estimate memory"):
        read_model_shape(tmp_path)
