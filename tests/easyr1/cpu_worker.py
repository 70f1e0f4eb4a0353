"""EasyR1 on CPUs, for tests: gloo for nccl, transformers' sampler for vLLM, sdpa for flash-attention.

Everything else is real: Ray, the worker groups, FSDP with its sharding, the reference model, the checkpoints, the reward
actors, the trainer. What a CPU can't show is not shown: vLLM, flash-attention, padding-free, CUDA.
"""

from __future__ import annotations

import itertools
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist
from tensordict import TensorDict
from torch.distributed.checkpoint.state_dict import get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
from verl.protocol import DataProto
from verl.single_controller.base import Worker
from verl.single_controller.base.decorator import Dispatch, register
from verl.utils import torch_functional as VF
from verl.utils.dataset import process_image
from verl.workers import fsdp_workers

from gmpo_mm.engines.easyr1.actor import SAMPLER_LOG_PROBS
from gmpo_mm.engines.easyr1.worker import GMPOWorker
from gmpo_mm.models.loading import vision_token_ids


def stand_in_for_cuda() -> None:
    """Answers to what EasyR1 asks torch.cuda about its device."""
    torch.set_num_threads(1)
    cuda: Any = torch.cuda
    cuda.current_device = lambda: torch.device("cpu")
    cuda.get_device_name = lambda device=None: "CPU"
    cuda.mem_get_info = lambda device=None: (1 << 34, 1 << 34)
    cuda.memory_allocated = cuda.memory_reserved = lambda device=None: 0
    cuda.max_memory_allocated = cuda.max_memory_reserved = lambda device=None: 0
    cuda.get_rng_state = lambda device="cuda": torch.zeros(1, dtype=torch.uint8)
    cuda.set_rng_state = lambda state, device="cuda": None
    cuda.empty_cache = lambda: None


def cpu_mesh(device_type: str, *args: Any, **kwargs: Any) -> Any:
    """A device mesh of processes that meet through gloo."""
    return init_device_mesh("cpu", *args, **kwargs)


class _OnCPU:
    """An Auto class that loads the model as EasyR1 asks, but with sdpa and without a device map."""

    def __init__(self, auto: Any) -> None:
        self.auto = auto
        self._model_mapping = auto._model_mapping

    def from_pretrained(self, path: str, **kwargs: Any) -> Any:
        kwargs.pop("device_map")
        return self.auto.from_pretrained(path, **(kwargs | {"attn_implementation": "sdpa"}))


class _Base(Worker):
    """EasyR1 makes a process's own worker from this class too, so the device has to be stood in for before its `__init__`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        stand_in_for_cuda()
        super().__init__(*args, **kwargs)


class CPUWorker(_Base, GMPOWorker):
    """`GMPOWorker` with the four places replaced that name CUDA."""

    def __init__(self, config: Any, role: str) -> None:
        if not dist.is_initialized():
            dist.init_process_group(backend="gloo")
        with patch.object(fsdp_workers, "init_device_mesh", cpu_mesh):
            super().__init__(config=config, role=role)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self) -> None:
        with ExitStack() as stack:
            for name, auto in (
                ("AutoModelForCausalLM", AutoModelForCausalLM),
                ("AutoModelForImageTextToText", AutoModelForImageTextToText),
            ):
                stack.enter_context(patch.object(fsdp_workers, name, _OnCPU(auto)))
            super().init_model()
        if self._has_actor and (folder := os.environ.get("GMPO_TEST_MINI_BATCHES")):
            self._keep_mini_batches(Path(folder))

    def _keep_mini_batches(self, folder: Path) -> None:
        """Each mini-batch that the actor gets is put aside, numbered through the run."""
        accumulate, number = self.actor._accumulate, itertools.count()

        def keeping(mini_batch: DataProto, temperature: float) -> Any:
            kept = {name: tensor.clone() for name, tensor in mini_batch.batch.items()}
            torch.save(kept, folder / f"{next(number)}_of_rank_{self.rank}.pt")
            return accumulate(mini_batch, temperature)

        self.actor._accumulate = keeping

    def _build_rollout(self) -> None:
        self.rollout = HFRollout(self)
        self.rollout_sharding_manager = self.rollout


class HFRollout:
    """vLLM's part: a whole copy of the model that samples, given the trained weights at every step."""

    freed_bytes = 0

    def __init__(self, worker: CPUWorker) -> None:
        self.worker, self.config = worker, worker.config.rollout
        auto = AutoModelForImageTextToText if hasattr(worker.model_config, "vision_config") else AutoModelForCausalLM
        path = worker.config.actor.model.model_path
        self.model = auto.from_pretrained(path, torch_dtype=torch.float32, attn_implementation="sdpa").eval()
        self.forbidden = vision_token_ids(worker.tokenizer, self.model.config)
        self.calls = 0

    def load_vllm_and_sync_weights(self) -> None:
        state = get_model_state_dict(self.worker.fsdp_module)
        whole = {name: w.full_tensor() if isinstance(w, DTensor) else w for name, w in state.items()}
        self.model.load_state_dict(whole)

    def offload_vllm(self) -> None:
        pass

    def preprocess_data(self, data: DataProto) -> DataProto:
        return data

    postprocess_data = preprocess_data

    @torch.no_grad()
    def generate_sequences(self, prompts: DataProto) -> DataProto:
        """What EasyR1's vLLM rollout returns: prompts and responses in one row, masks, positions."""
        meta, config = prompts.meta_info, self.config
        n = meta.get("n", config.n)
        temperature = meta.get("temperature", config.temperature)
        rows = prompts.batch["input_ids"].shape[0]
        multi_modal = prompts.non_tensor_batch.pop("multi_modal_data", None)
        prompts.non_tensor_batch.pop("raw_prompt_ids")
        batch = {key: value.repeat_interleave(n, 0) for key, value in prompts.batch.items()}
        if multi_modal is not None:
            multi_modal = np.repeat(multi_modal, n)
        self.calls += 1
        torch.manual_seed(1000 * self.calls + self.worker.rank)  # no two ranks may draw the same
        sampled = self.model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            **self._pictures(multi_modal, meta),
            do_sample=temperature > 0,
            temperature=temperature or None,
            top_p=meta.get("top_p", config.top_p),
            top_k=0,
            max_new_tokens=config.response_length,
            eos_token_id=meta["eos_token_id"],
            pad_token_id=self.worker.tokenizer.pad_token_id,
            suppress_tokens=self.forbidden or None,
            return_dict_in_generate=True,
            output_scores=True,
        )
        scores, sampled = torch.stack(sampled.scores, 1), sampled.sequences
        responses = sampled[:, batch["input_ids"].shape[1] :]
        log_probs = scores.float().log_softmax(-1).gather(-1, responses[..., None])[..., 0]
        width = config.response_length - responses.shape[1]
        responses = torch.nn.functional.pad(responses, (0, width), value=self.worker.tokenizer.pad_token_id)
        mask = VF.get_response_mask(responses, meta["eos_token_id"], dtype=batch["attention_mask"].dtype)
        onward = torch.arange(1, config.response_length + 1)
        positions = batch["position_ids"]
        response_positions = positions[..., -1:] + onward.expand(*positions.shape[:-1], -1)
        tensors = {
            "prompts": batch["input_ids"],
            "responses": responses,
            "input_ids": torch.cat((batch["input_ids"], responses), 1),
            "attention_mask": torch.cat((batch["attention_mask"], mask), 1),
            "response_mask": mask,
            "position_ids": torch.cat((positions, response_positions), -1),
        }
        if self.worker.config.actor.correction != "none":  # as GMPORollout's
            tensors[SAMPLER_LOG_PROBS] = torch.nn.functional.pad(log_probs, (0, width))
        others = {} if multi_modal is None else {"multi_modal_data": multi_modal}
        return DataProto(TensorDict(tensors, batch_size=rows * n), others, meta)

    def _pictures(self, multi_modal: Any, meta: dict[str, Any]) -> dict[str, torch.Tensor]:
        if multi_modal is None:
            return {}
        pictures = [process_image(i, meta["min_pixels"], meta["max_pixels"]) for row in multi_modal for i in row["images"]]
        return dict(self.worker.processor.image_processor(images=pictures, return_tensors="pt")) if pictures else {}


def ray_options(gpus: int) -> dict[str, Any]:
    """Arguments of `ray.init` for a test, with GPUs declared that are not there."""
    return {
        "num_cpus": 8,  # EasyR1 reserves one for each worker and each reward actor; nothing is computed at the same time
        "num_gpus": gpus,
        "include_dashboard": False,
        "log_to_driver": os.environ.get("GMPO_TEST_RAY_LOGS") == "1",
        "runtime_env": {
            "env_vars": {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": os.pathsep.join(_paths())},
        },
    }


def _paths() -> list[str]:
    import sys

    return [path for path in sys.path if path and os.path.isdir(path)]
