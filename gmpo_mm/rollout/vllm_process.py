"""What vLLM needs of this process, what it does to it, and what it doesn't say aloud about a reload of its weights."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from gmpo_mm.errors import ConfigError

log = logging.getLogger(__name__)

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine in this process: weights reach it without a copy through a pipe
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",  # its warnings are about serving; what matters here is checked here
}
CPU_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the trainer shares these cores
}
OLDEST = (0, 32)
"""The first vLLM version that this backend was tested with."""


def prepare_environment(device: torch.device) -> dict[str, str]:
    """Set the variables that vLLM reads when it is imported, only where unset; returns and logs what was set."""
    wanted = ENVIRONMENT | (CPU_ENVIRONMENT if device.type == "cpu" else {})
    added = {key: value for key, value in wanted.items() if key not in os.environ}
    os.environ.update(added)
    if added:
        log.info("environment set for vLLM: %s", " ".join(f"{key}={value}" for key, value in added.items()))
    return added


def import_vllm(device: torch.device) -> Any:
    """Import vLLM in a prepared environment; ConfigError when it is missing, broken, old, or built for another device."""
    prepare_environment(device)
    fix = "install it (pip install 'gmpo-mm[vllm]') or set worker.rollout.name=hf"
    try:
        import vllm
        from vllm.platforms import current_platform
    except Exception as error:  # a broken install raises anything: OSError of a library, RuntimeError of torchvision
        raise ConfigError(
            f"worker.rollout.name=vllm: vLLM can't be imported ({type(error).__name__}: {error}); {fix}"
        ) from error
    version = vllm.__version_tuple__[:2]
    if (0, 0) < version < OLDEST:  # (0, 0) is a build from source without a tag
        raise ConfigError(
            f"worker.rollout.name=vllm: vLLM {vllm.__version__} is installed, but {OLDEST[0]}.{OLDEST[1]} or later is needed, "
            "which takes weights from memory; upgrade it or set worker.rollout.name=hf"
        )
    if current_platform.device_type != device.type:
        raise ConfigError(
            f"worker.rollout.name=vllm: the installed vLLM {vllm.__version__} is built for "
            f"{current_platform.device_type or 'no device it can find here'}, but trainer.device is {device.type}; "
            "install the build for that device or set worker.rollout.name=hf"
        )
    return vllm


def repack_cpu_weights(model: torch.nn.Module) -> None:
    """Renew the packed copies that layers on a CPU multiply with, where a reload leaves them stale; nothing on a GPU.

    Linear layers that a reload reaches are packed anew, but a tied output layer is not among them: it shares the
    embedding's weight and keeps the packed copy of the old one. (Layers whose plain weight was dropped after packing have
    been renewed.) Experts are packed when they are loaded first and left unpacked, to be read as packed, by every reload.
    """
    modules: list[Any] = list(model.modules())
    for module in modules:
        if hasattr(module, "cpu_linear") and module.weight.numel() > 0:
            from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

            dispatch_cpu_unquantized_gemm(module, False)
        kernel = getattr(getattr(module, "quant_method", None), "moe_kernel", None)
        if kernel is not None and module.w13_weight.device.type == "cpu":
            kernel.fused_experts.process_weights_after_loading(module)


@contextmanager
def loading_complaints() -> Iterator[list[str]]:
    """Collect the weights that vLLM did not find in a reload, about which it only warns."""
    complaints: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = record.getMessage()
            if "not loaded" in text:
                complaints.append(text)
            elif "Failed to load weights" not in text:  # said of every layer that has buffers only, or tied weights
                log.warning("vLLM: %s", text)

    logger = logging.getLogger("vllm.model_executor.model_loader.reload")
    level, propagate, handler = logger.level, logger.propagate, Collect(logging.WARNING)
    logger.addHandler(handler)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    try:
        yield complaints
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


@contextmanager
def globals_kept(device: torch.device) -> Iterator[None]:
    """Put the process's random states and thread settings back: vLLM seeds, draws from and replaces them."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    set_threads, threads = torch.set_num_threads, torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_num_threads = set_threads
        torch.set_num_threads(threads)
