"""Each internal of verl that the engine leans on, by name: when verl moves, the test that fails says what to look at."""

from __future__ import annotations

import dataclasses
import inspect
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from verl.models.transformers import qwen2_vl
from verl.trainer.ppo.v1 import replay_buffer, trainer_base, trainer_sync
from verl.utils import distributed
from verl.workers import engine_workers
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp import transformer_impl
from verl.workers.rollout import base as rollout_base
from verl.workers.rollout import replica
from verl.workers.utils import losses

from gmpo_mm.engines.verl.cpu import plugin
from gmpo_mm.engines.verl.cpu.server import HFServer, SampledTokens
from gmpo_mm.engines.verl.launch import CPU_ENVIRONMENT
from gmpo_mm.engines.verl.trainer import GMPOTrainer
from gmpo_mm.engines.verl.translate import HF_ROLLOUT


def test_every_replaced_internal_has_a_canary_here() -> None:
    here = Path(__file__).read_text()
    assert len(plugin.TOUCHED) == 3
    for name in plugin.TOUCHED:
        assert f"canary: {name}" in here, name


def test_the_rollout_table() -> None:
    """canary: verl.workers.rollout.base._ROLLOUT_REGISTRY"""
    assert ("vllm", "async") in rollout_base._ROLLOUT_REGISTRY
    assert rollout_base.get_rollout_class(HF_ROLLOUT).__name__ == "HFServerAdapter"
    assert replica.get_rollout_replica_class(HF_ROLLOUT).__name__ == "HFReplica"


def test_the_process_group() -> None:
    """canary: verl.workers.engine_workers.initialize_global_process_group_ray"""
    assert "initialize_global_process_group_ray(timeout_second=None)" in inspect.getsource(engine_workers.TrainingWorker)
    assert engine_workers.initialize_global_process_group_ray is plugin._gloo_only
    assert 'f"cpu:gloo,{get_device_name()}' in inspect.getsource(distributed.initialize_global_process_group_ray)
    with pytest.raises(Exception, match="cpu"):  # what verl asks for on the CPU is refused: the reason for the replacement
        dist.init_process_group("cpu:gloo,cpu:gloo", rank=0, world_size=1, store=dist.HashStore())
    if dist.is_initialized():
        dist.destroy_process_group()


def test_the_offload_of_a_forward_only_model() -> None:
    """canary: verl.workers.engine.fsdp.transformer_impl.CPUOffloadPolicy"""
    source = inspect.getsource(transformer_impl.FSDPEngine._build_fsdp_module)
    assert "CPUOffloadPolicy(pin_memory=True)" in source and "self._uses_fsdp2_cpu_offload_policy = True" in source
    assert transformer_impl.CPUOffloadPolicy is not None


def test_the_engine_is_found_for_the_cpu_only() -> None:
    found = EngineRegistry._engines["language_model"]["fsdp2"]
    assert found["cpu"] is plugin.CPUEngine
    assert found["cuda"] is transformer_impl.FSDPEngineWithLMHead


def test_the_places_of_our_filter_and_of_our_frozen_tower() -> None:
    source = inspect.getsource(trainer_base.PPOTrainer._build_replay_buffer)
    assert "load_extern_type(custom_sampler.path, custom_sampler.name)" in source and "refill_fn=" in source
    for name in ("_sync_metadata_from_transfer_queue", "_clear_groups", "_materialize_batch"):
        assert callable(getattr(replay_buffer.ReplayBuffer, name))
    assert "vendor_key in registry" in inspect.getsource(EngineRegistry.get_engine_cls)
    assert "_build_module" in inspect.getsource(transformer_impl.FSDPEngine._build_model_optimizer)


def test_a_sampled_response_has_the_fields_of_verls() -> None:
    assert {f.name for f in dataclasses.fields(SampledTokens)} == set(replica.TokenOutput.model_fields)


def test_the_servers_methods_are_those_that_a_replica_calls() -> None:
    source = inspect.getsource(replica.RolloutReplica)
    for name in ("wake_up", "sleep", "clear_kv_cache", "release_kv_cache", "resume_kv_cache", "start_profile", "stop_profile"):
        assert f"server.{name}.remote" in source and callable(getattr(HFServer, name))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("_step_once", ["metrics", "timing_raw", "sample_batch_size"]),
        ("_balance_batch", ["batch", "metrics", "logging_prefix", "keep_minibatch"]),
        ("_compute_advantage", ["batch", "metrics"]),
        ("_save_checkpoint", []),
        ("_validate", []),
        ("_init_dataloader", []),
        ("_setup", []),
        ("_dump_generations", ["inputs", "outputs", "gts", "scores", "reward_extra_infos_dict", "dump_path"]),
    ],
)
def test_the_trainers_methods_that_we_extend(name: str, parameters: list[str]) -> None:
    assert list(inspect.signature(getattr(trainer_base.PPOTrainer, name)).parameters)[1:] == parameters
    assert getattr(GMPOTrainer, name) is not getattr(trainer_sync.PPOTrainerSync, name)


def test_what_the_trainer_reads_of_verl() -> None:
    fit, step = (inspect.getsource(getattr(trainer_base.PPOTrainer, name)) for name in ("fit", "_step_once"))
    assert "self.logger = Tracking(" in fit and "self.logger.log(data=metrics, step=self.global_steps)" in fit
    assert fit.index("self._save_checkpoint()") < fit.index("self.logger.log(data=metrics"), "why a checkpoint waits"
    assert step.index("self.replay_buffer.sample(") < step.index("self._balance_batch(")
    assert "create_rl_dataset(" in inspect.getsource(trainer_base.PPOTrainer._init_dataloader)
    assert "poll_interval" in inspect.signature(replay_buffer.ReplayBuffer.__init__).parameters
    assert list(inspect.signature(losses.ppo_loss).parameters) == ["config", "model_output", "data", "dp_group"]


def test_verl_still_trains_on_without_failed_responses_which_is_why_we_count_them() -> None:
    assert "By default, failed groups remain sampleable and missing trajectories are" in str(replay_buffer.ReplayBuffer.__doc__)


def test_verl_still_fails_on_a_qwen2_vl_batch_without_pictures_which_is_why_we_refuse_it() -> None:
    source = inspect.getsource(qwen2_vl)
    assert "image_embeds = model.visual(pixel_values, grid_thw=image_grid_thw)\n        inputs_embeds = inputs_embeds" in source


def _platform(**environment: str) -> str:
    plain = {name: value for name, value in os.environ.items() if name not in CPU_ENVIRONMENT}
    code = "from verl.plugin.platform import get_platform; print(get_platform().device_name)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**plain, **environment}, capture_output=True, text=True, check=True
    )
    return done.stdout.split()[-1]


def test_the_cpu_is_a_platform_only_where_it_is_asked_for() -> None:
    loaded = {"VERL_USE_EXTERNAL_MODULES": CPU_ENVIRONMENT["VERL_USE_EXTERNAL_MODULES"]}
    assert _platform(**loaded) == "cuda", "registered, but never found by itself"
    assert _platform(**CPU_ENVIRONMENT) == "cpu"


def test_the_platform_answers_what_verl_asks_of_a_device() -> None:
    from verl.plugin.platform import get_platform

    device: Any = get_platform().device_module
    assert get_platform().device_name == "cpu" and device.max_memory_allocated() == 0
    assert device.current_device() == torch.device("cpu") and device.get_device_name() == "CPU"
