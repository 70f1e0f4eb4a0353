"""What is refused before an engine starts; each message names the key and the fix."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

from gmpo_mm.errors import ConfigError
from gmpo_mm.rollout.vllm import VLLMRollout
from gmpo_mm.rollout.vllm_process import import_vllm, prepare_environment
from tests.vllm.conftest import CPU, MODEL, NEEDS_VLLM

INSTALLED = importlib.util.find_spec("vllm") is not None


def start(**changes: object) -> VLLMRollout:
    options = {"dtype": torch.float32, "device": CPU, "seed": 0, "max_model_len": 64}
    return VLLMRollout(str(MODEL), forbidden_token_ids=[], eos_token_ids=[], **(options | changes))  # type: ignore[arg-type]


@pytest.mark.skipif(INSTALLED, reason="vLLM is installed here")
def test_without_vllm_the_error_says_how_to_get_it_or_do_without() -> None:
    with pytest.raises(ConfigError, match=r"worker\.rollout\.name=vllm.*pip install 'gmpo-mm\[vllm\]'.*rollout\.name=hf"):
        start()


@NEEDS_VLLM
def test_a_build_for_another_device_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"worker\.rollout\.name=vllm.*built for cpu, but trainer\.device is cuda"):
        import_vllm(torch.device("cuda"))


def test_more_than_one_gpu_for_one_model_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"worker\.rollout\.tensor_parallel_size=2.*set it to 1"):
        start(tensor_parallel_size=2)


def test_a_gpu_that_is_not_the_first_visible_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.device=cuda:1.*CUDA_VISIBLE_DEVICES=1"):
        start(device=torch.device("cuda:1"))


def test_the_users_environment_goes_first(monkeypatch) -> None:
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "3")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND")
    added = prepare_environment(CPU)
    assert added["VLLM_CPU_OMP_THREADS_BIND"] == os.environ["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert os.environ["VLLM_CPU_KVCACHE_SPACE"] == "3"
    assert not {"VLLM_CPU_KVCACHE_SPACE", "VLLM_LOGGING_LEVEL"} & added.keys()
    assert prepare_environment(CPU) == {}
