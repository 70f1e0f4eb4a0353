"""A plan from a configuration to its words: phases, limits, what can't be planned."""

from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from gmpo_mm.config import load_config
from gmpo_mm.errors import ConfigError
from gmpo_mm.models.cards import CARDS, CONTEXT_BYTES, GIB, REACHED
from gmpo_mm.planning.counts import plan_run
from gmpo_mm.planning.forecast import KV_CACHE, OTHER_WEIGHTS, SAMPLER_WEIGHTS, SAMPLING, SYNC
from gmpo_mm.planning.micro_batch import (
    GRADIENTS,
    LOG_PROBS,
    MASTERS,
    MOMENTS,
    OPTIMIZER_STEP,
    REFERENCE,
    UPDATE,
    WEIGHTS,
)
from gmpo_mm.planning.model_files import SHIPPED, find_model_folder, read_model_config
from gmpo_mm.planning.report import CardPlan, make_plan, print_plan

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")
SMALL = (
    "worker.actor.model.model_path=bundled:qwen2_tiny",
    "data.max_prompt_length=64",
    "data.max_response_length=32",
    "worker.rollout.n=4",
    "data.rollout_batch_size=8",
    "worker.actor.global_batch_size=4",
    "trainer.max_steps=10",
    "worker.actor.dynamic_batching=false",
    "worker.actor.micro_batch_size_per_device_for_update=4",
)


def plan(*overrides: str, device: torch.device = GPU, card: str | None = "h100", **options: Any) -> CardPlan:
    config = load_config(None, [*SMALL, *overrides]).config
    made = make_plan(config, plan_run(config, None, None), device, CARDS[card] if card else None, **options)
    assert isinstance(made, CardPlan), made
    return made


def words(made: CardPlan) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_plan(made, console)
    return console.export_text()


def test_phases_hold_what_lives_in_them_and_the_peak_is_the_largest_not_the_sum() -> None:
    made = plan()
    memory = made.forecast.memory
    assert set(memory) == {SAMPLING, SYNC, LOG_PROBS, UPDATE, OPTIMIZER_STEP}
    for name, peak in memory.items():
        assert sum(peak.kinds.values()) == pytest.approx(peak.total, abs=2 * 2**20), name
        assert peak.kinds[WEIGHTS] == memory[UPDATE].kinds[WEIGHTS]
    parameters = made.measured.parameters
    blocks = 512 * 100  # of weights and buffers that are smaller than a block
    half = MASTERS in memory[UPDATE].kinds
    assert memory[UPDATE].kinds[WEIGHTS] == pytest.approx((2 if half else 4) * parameters, abs=blocks)
    if half:
        assert memory[UPDATE].kinds[MASTERS] == pytest.approx(4 * parameters, abs=blocks)
    assert memory[UPDATE].kinds[GRADIENTS] == pytest.approx(4 * parameters, abs=blocks)
    assert memory[UPDATE].kinds[MOMENTS] == pytest.approx(8 * parameters, abs=2 * blocks)
    assert memory[UPDATE].kinds[REFERENCE] == pytest.approx(2 * parameters, abs=blocks), "KL is on by default"
    assert GRADIENTS not in memory[SAMPLING].kinds
    name, total = made.forecast.peak
    assert total == max(p.total for p in memory.values()) == memory[name].total


def test_vllm_takes_its_share_of_the_card_and_offloading_makes_room() -> None:
    made = plan("worker.rollout.gpu_memory_utilization=0.5")
    kinds = made.forecast.memory[SAMPLING].kinds
    share = kinds[KV_CACHE] + kinds[SAMPLER_WEIGHTS] + kinds["sampler, asleep or at work"]
    assert share == pytest.approx(0.5 * CARDS["h100"].memory, rel=1e-6)
    assert kinds["CUDA context"] == CONTEXT_BYTES
    moved = plan("worker.actor.offload.offload_optimizer=true", "worker.rollout.gpu_memory_utilization=0.5")
    assert MOMENTS not in moved.forecast.memory[SAMPLING].kinds
    assert MOMENTS in moved.forecast.memory[UPDATE].kinds
    assert moved.forecast.seconds[SYNC] > made.forecast.seconds[SYNC], "the states cross PCIe twice"


def test_former_and_rounded_weights_are_counted_where_they_are() -> None:
    stale = "worker.rollout.staleness=2"
    on_cpu = plan(stale, device=CPU, card=None)
    for peak in on_cpu.forecast.memory.values():
        assert peak.kinds[OTHER_WEIGHTS] == 3 * 4 * on_cpu.measured.trained, "two, and one more while a step goes on"
    on_gpu = plan(stale, "worker.rollout.name=hf")
    held = {name: peak.kinds.get(OTHER_WEIGHTS, 0) for name, peak in on_gpu.forecast.memory.items()}
    assert held.pop(SAMPLING) == 4 * on_gpu.measured.trained and not any(held.values())
    rounded = plan("worker.rollout.emulate.weights=int8", "worker.rollout.name=hf")
    kinds = rounded.forecast.memory[SAMPLING].kinds
    assert kinds[OTHER_WEIGHTS] == kinds[WEIGHTS] and OTHER_WEIGHTS not in rounded.forecast.memory[UPDATE].kinds


def test_no_kl_no_reference_and_lora_trains_its_adapters_alone() -> None:
    made = plan("algorithm.disable_kl=true", "worker.actor.model.lora.rank=4")
    kinds = made.forecast.memory[UPDATE].kinds
    assert REFERENCE not in kinds
    assert made.measured.trained < 0.2 * made.measured.parameters
    assert kinds[MOMENTS] < 0.4 * kinds[WEIGHTS]


def test_one_micro_batch_an_update_has_no_gradients_before_it() -> None:
    several = plan().measured
    one = plan("worker.actor.micro_batch_size_per_device_for_update=16").measured
    assert (several.update.pieces, one.update.pieces) == (4, 1)
    assert several.update.responses == 4 and one.update.responses == 16
    assert one.tables[UPDATE].launches < several.tables[UPDATE].launches, (
        "nothing is added to gradients that aren't there"
    )


def test_the_largest_micro_batch_is_where_the_peak_meets_the_card() -> None:
    made = plan("worker.rollout.name=hf")
    limit = made.forecast.largest
    assert limit is not None and limit > 4
    per_sample = made.measured.update.tokens / made.measured.update.responses
    at_limit = made.forecast.memory[UPDATE].total + made.measured.slope * (
        limit * per_sample - made.measured.update.tokens
    )
    assert at_limit <= made.forecast.capacity < at_limit + 2 * made.measured.slope * per_sample


def test_the_slope_predicts_a_micro_batch_that_was_run() -> None:
    small, large = plan(), plan("worker.actor.micro_batch_size_per_device_for_update=8")
    grown = small.measured.peaks[UPDATE].total + small.measured.slope * (
        large.measured.update.tokens - small.measured.update.tokens
    )
    assert grown == pytest.approx(large.measured.peaks[UPDATE].total, rel=0.02)


def test_seconds_add_up_and_shorter_responses_take_less() -> None:
    made, short = plan(), plan(response=8)
    found = made.forecast
    table = made.measured.tables[UPDATE]
    assert found.seconds[UPDATE] == pytest.approx(2 * 4 * table.seconds), "2 mini-batches of 4 micro-batches"
    assert table.seconds >= table.launches * REACHED.launch_seconds
    assert found.step_seconds == pytest.approx(sum(found.seconds.values()))
    assert 0 < found.update_mfu < 1
    assert short.forecast.seconds[SAMPLING] < found.seconds[SAMPLING]
    text = words(made)
    hours = 10 * found.step_seconds / 3600
    assert f"10 steps: {hours:,.1f} hours" in text


def test_pictures_have_a_class_of_their_own_and_a_frozen_tower_costs_less() -> None:
    keys = ("worker.actor.model.model_path=bundled:qwen2_5_vl_tiny", "data.max_prompt_length=200")
    trained = plan(*keys).measured
    frozen = plan(*keys, "worker.actor.model.freeze_vision_tower=true").measured
    assert trained.tables[UPDATE].rows["vision"].flops > 1.5 * frozen.tables[UPDATE].rows["vision"].flops > 0
    assert plan(*keys, image=0).measured.tables[UPDATE].rows.get("vision") is None


def test_on_the_cpu_there_is_memory_and_no_time() -> None:
    made = plan(device=CPU, card=None)
    assert made.forecast.seconds == {}
    assert not made.measured.reads
    text = words(made)
    assert "Memory by phase" in text and "KV cache" in text
    assert "MFU" not in text and "No time is predicted" in text


def test_what_is_too_large_is_said_before_anything_is_run() -> None:
    config = load_config(None, [*SMALL, "worker.actor.model.model_path=Qwen/Qwen2.5-Math-7B"]).config
    counts = plan_run(config, None, None)
    said = make_plan(config, counts, GPU, CARDS["4090"], stop_early=True)
    assert isinstance(said, str)
    assert (
        "alone take" in said
        and "RTX 4090 24 GB. Train LoRA" in said
        and "worker.actor.model.lora.rank" in said
    )


def test_a_model_whose_config_is_not_here_is_not_planned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = load_config(None, [*SMALL, "worker.actor.model.model_path=nobody/has-this-model"]).config
    said = make_plan(config, plan_run(config, None, None), GPU, CARDS["h100"])
    assert isinstance(said, str)
    assert "hf download nobody/has-this-model config.json" in said


def test_lengths_that_do_not_fit_each_other_are_an_error() -> None:
    with pytest.raises(
        ConfigError, match=r"image of 40 tokens does not fit into a prompt of 30.*--prompt-tokens"
    ):
        plan("worker.actor.model.model_path=bundled:qwen2_5_vl_tiny", prompt=30, image=40)


def test_a_sampler_holds_merged_adapters() -> None:
    made = plan("worker.actor.model.lora.rank=4")
    base = made.measured.parameters - made.measured.trained
    assert made.measured.sampled == base
    assert made.forecast.memory[SAMPLING].kinds[SAMPLER_WEIGHTS] == 2 * base


def test_code_that_waits_for_values_of_the_gpu_is_not_planned_and_the_place_is_named() -> None:
    """Experts one by one take their tokens by what the router said."""
    keys = ("bundled:qwen3_moe_tiny", "worker.actor.model.override_config._experts_implementation=eager")
    config = load_config(None, [*SMALL, f"worker.actor.model.model_path={keys[0]}", keys[1]]).config
    said = make_plan(config, plan_run(config, None, None), GPU, CARDS["h100"])
    assert isinstance(said, str)
    assert said.startswith("Memory and time: not planned.") and "only a real device has" in said


def test_shipped_shapes_have_the_models_numbers_of_parameters() -> None:
    """As their pages on the hub say: billions of parameters, embeddings counted once where they are tied."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    known = {
        "Qwen/Qwen2.5-Math-1.5B": 1.5437,
        "Qwen/Qwen2.5-Math-7B": 7.6156,
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B": 7.6156,
        "Qwen/Qwen2.5-VL-3B-Instruct": 3.7546,
        "Qwen/Qwen2.5-VL-7B-Instruct": 8.2922,
    }
    assert {str(p.parent.relative_to(SHIPPED)) for p in SHIPPED.rglob("config.json")} == set(known)
    for name, billions in known.items():
        config = read_model_config(load_config(None, [f"worker.actor.model.model_path={name}"]).config)
        assert config is not None
        kind = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
        with torch.device("meta"):
            model = kind.from_config(config)
        assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(billions, abs=5e-4), name


def test_a_local_folder_goes_before_a_shipped_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_model_folder("Qwen/Qwen2.5-Math-1.5B") == SHIPPED / "Qwen" / "Qwen2.5-Math-1.5B"
    (tmp_path / "Qwen" / "Qwen2.5-Math-1.5B").mkdir(parents=True)
    assert find_model_folder("Qwen/Qwen2.5-Math-1.5B") == Path("Qwen/Qwen2.5-Math-1.5B")
    assert CARDS["h100"].memory / GIB == pytest.approx(79.2)
