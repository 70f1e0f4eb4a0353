"""vLLM as the sampler: its engine runs in this process, and the trained weights are copied into it before each round.

Tested for real with vLLM's CPU build (`make test-vllm`). The CUDA path uses the same calls, plus CUDA graphs, chunked
prefill and sleep mode, and has not been run by us: the log-probability gap that a run measures after its first sync
judges it, and a test with a stand-in for the engine checks the order of the calls that free and take memory.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image

from gmpo_mm.config import resolve_model_path
from gmpo_mm.data.prompts import EncodedPrompt
from gmpo_mm.errors import ConfigError, TrainingError
from gmpo_mm.rollout.merged_weights import merged_weights
from gmpo_mm.rollout.protocol import Response, RolloutRequest, SamplingParams
from gmpo_mm.rollout.vllm_logits import forbid_tokens
from gmpo_mm.rollout.vllm_process import globals_kept, import_vllm, loading_complaints, repack_cpu_weights

CPU_TOKENS_PER_STEP = 4096
PROGRESS_SECONDS = 2.0
PARTS = frozenset(("weights", "kv_cache"))
"""What vLLM keeps on a GPU, by the names that its sleep mode has for them."""


@dataclass(frozen=True)
class _Request:
    """Samples `first` to `first + count - 1` of one prompt: what vLLM is asked for at once."""

    prompt: int
    first: int
    count: int
    tokens: int  # prompt tokens that the engine may have to compute in its first step
    blocks: int  # key-value cache blocks that the samples can fill


class VLLMRollout:
    """Samples with vLLM from a copy of the weights.

    `log_probs_T` are those of vLLM's own forward pass at the sampling temperature, with forbidden tokens left out of
    the softmax: the trainer's distribution, up to kernels and compute type, so they are never exact. At temperature 0
    they are those of temperature 1. With top_p < 1 or top_k > 0 vLLM reports the truncated, renormalised distribution
    instead.

    A response depends on the prompt's seed, its own number and the weights; batches of other compositions round matrix
    products otherwise, so two nearly equal choices can fall the other way. vLLM's older model runner on a GPU
    (VLLM_USE_V2_MODEL_RUNNER=0, or no Triton) would draw request by request for that, so it gets one seed for a whole
    call of `generate`: a response then depends on all prompts of the call. A resumed run asks for the same seeds as the
    run that was not killed in every case. On a CPU it gets the same responses; on a GPU kernels may add up in another
    order, so the responses are as likely but need not be equal.

    On a GPU the engine shares the memory with the trainer: weights and cache are there from `sync_weights` (the cache from
    the first `generate`) until `free_memory`.
    """

    name = "vllm"
    exact_log_probs = False
    samples_in_place = False

    def __init__(
        self,
        model_path: str,
        *,
        dtype: torch.dtype,
        device: torch.device,
        seed: int,
        max_model_len: int,
        forbidden_token_ids: Sequence[int],
        eos_token_ids: Sequence[int],
        tokenizer_path: str | None = None,
        limit_images: int = 0,
        tensor_parallel_size: int = 1,
        gpu_memory_utilization: float = 0.6,
        max_num_batched_tokens: int | None = None,
        enforce_eager: bool = False,
        sleep_between_rounds: bool = True,
        trust_remote_code: bool = False,
    ) -> None:
        """Start the engine from the checkpoint at `model_path`; `max_model_len` counts prompt and response tokens.

        `limit_images` is the most images of a prompt (0: no limit), `max_num_batched_tokens` the tokens of one engine step.
        `gpu_memory_utilization`, `enforce_eager` and `sleep_between_rounds` (weights and cache leave the GPU now and with
        `free_memory`) matter on a GPU only. Raises ConfigError for what vLLM can't do here.
        """
        if tensor_parallel_size != 1:
            raise ConfigError(
                f"worker.rollout.tensor_parallel_size={tensor_parallel_size}: the local engine is one process on one "
                "device; set it to 1"
            )
        if device.type == "cuda" and device.index not in (None, 0):
            raise ConfigError(
                f"trainer.device={device}: vLLM takes the first visible GPU; set CUDA_VISIBLE_DEVICES={device.index} "
                "and trainer.device=cuda:0"
            )
        self.device = device
        self.eos_token_ids = list(eos_token_ids)
        self.max_model_len = max_model_len
        self._sleeps = sleep_between_rounds and device.type == "cuda"
        self._asleep: set[str] = set()  # of "weights" and "kv_cache"
        self._vllm = import_vllm(device)
        self._patch_size = _patch_size(model_path, trust_remote_code)
        options: dict[str, Any] = {
            "model": model_path,
            "tokenizer": tokenizer_path,
            "dtype": dtype,
            "seed": seed,
            "max_model_len": max_model_len,
            "trust_remote_code": trust_remote_code,
            "use_tqdm_on_load": False,
            "generation_config": "vllm",  # the end tokens are given with each request, as the trainer knows them
            "logprobs_mode": "processed_logprobs",
            "logits_processors": [forbid_tokens(forbidden_token_ids)] if forbidden_token_ids else None,
        }
        if self._patch_size is not None:
            options["limit_mm_per_prompt"] = {"video": 0} | ({"image": limit_images} if limit_images else {})
        if device.type == "cpu":
            step = max(max_num_batched_tokens or CPU_TOKENS_PER_STEP, max_model_len)
            options |= {"enforce_eager": True, "max_num_batched_tokens": step}
        else:
            options |= {
                "enforce_eager": enforce_eager,
                "gpu_memory_utilization": gpu_memory_utilization,
                "max_num_batched_tokens": max_num_batched_tokens,
                "enable_sleep_mode": self._sleeps,
            }
        with globals_kept(device), self._eager():
            self._llm: Any = self._vllm.LLM(**options)
        self._count = 0
        # the CPU build and the newer runner of the GPU build give each request its noise at no cost
        self._seeds_requests = device.type == "cpu" or self._llm.llm_engine.vllm_config.use_v2_model_runner
        if self._sleeps:
            self.free_memory()  # until the first sync

    # ---- sampling ----------------------------------------------------------------------------------------------------

    def generate(
        self,
        prompts: Sequence[EncodedPrompt],
        params: SamplingParams,
        prompt_seeds: Sequence[int],
        progress: Callable[[str], None] | None = None,
    ) -> list[list[Response]]:
        """See RolloutBackend.generate. `progress` is called every two seconds, between engine steps."""
        self._check(prompts, params)
        self._wake("weights", "kv_cache")
        # greedy samples of a prompt are all the same, and vLLM refuses to make more than one
        n = params.n if params.temperature > 0 else 1
        found: list[list[Response | None]] = [[None] * n for _ in prompts]
        with globals_kept(self.device), self._eager():
            if not self._seeds_requests:
                torch.manual_seed(spread_seed(*prompt_seeds))  # the state is put back afterwards
            requests = self._requests(prompts, params, n)
            for request, output in self._run(requests, prompts, params, prompt_seeds, progress):
                self._check_expansion(prompts[request.prompt], output)
                for sample in output.outputs:
                    found[request.prompt][request.first + sample.index] = _response(sample)
        complete = [[response for response in responses if response is not None] for responses in found]
        if any(len(responses) != n for responses in complete):
            raise TrainingError(f"vLLM answered with another number of responses than the {n} a prompt that were asked for")
        return complete if n == params.n else [responses * params.n for responses in complete]

    def _check(self, prompts: Sequence[EncodedPrompt], params: SamplingParams) -> None:
        if params.temperature != 0 and not 0.01 <= params.temperature <= 2.0:
            raise ConfigError(
                f"worker.rollout.temperature={params.temperature}: vLLM samples at 0 (greedy) or from 0.01 to 2; "
                "change it or set worker.rollout.name=hf"
            )
        longest = max((len(prompt.input_ids_S) for prompt in prompts), default=0)
        if longest + params.max_tokens > self.max_model_len:
            raise ConfigError(
                f"worker.rollout.max_model_len={self.max_model_len}: a prompt of {longest} tokens and "
                f"{params.max_tokens} response tokens don't fit; set it to at least {longest + params.max_tokens}"
            )

    def _requests(self, prompts: Sequence[EncodedPrompt], params: SamplingParams, n: int) -> deque[_Request]:
        """Cut each prompt's samples so that a request's prompts fit one engine step, and all of them into the cache."""
        config = self._llm.llm_engine.vllm_config
        scheduler, block = config.scheduler_config, config.cache_config.block_size
        requests: deque[_Request] = deque()
        for i, prompt in enumerate(prompts):
            length = len(prompt.input_ids_S)
            blocks = -(-(length + params.max_tokens) // block)
            most = n
            if self.device.type == "cpu":
                fitting = min(scheduler.max_num_batched_tokens // length, self._cache_blocks() // blocks)
                most = max(1, min(n, fitting, scheduler.max_num_seqs))
            for first in range(0, n, most):
                count = min(most, n - first)
                requests.append(_Request(i, first, count, tokens=length * count, blocks=blocks * count))
        return requests

    def _cache_blocks(self) -> int:
        return self._llm.llm_engine.vllm_config.cache_config.num_gpu_blocks - 1  # vLLM keeps one to itself

    def _run(
        self,
        waiting: deque[_Request],
        prompts: Sequence[EncodedPrompt],
        params: SamplingParams,
        prompt_seeds: Sequence[int],
        progress: Callable[[str], None] | None,
    ) -> Iterator[tuple[_Request, Any]]:
        """Feed the engine and step it until every request is finished; yields each with its output."""
        engine = self._llm.llm_engine
        running: dict[str, _Request] = {}
        total, done, steps, said = sum(r.count for r in waiting), 0, 0, time.monotonic()
        try:
            while waiting or running:
                fresh = 0
                while waiting and self._has_room(waiting[0], list(running.values()), fresh):
                    request = waiting.popleft()
                    fresh += request.tokens
                    self._count += 1
                    running[name := f"gmpo-{self._count}"] = request
                    engine.add_request(
                        name,
                        self._engine_prompt(prompts[request.prompt]),
                        self._engine_params(params, prompt_seeds[request.prompt], request),
                    )
                steps += 1
                for output in engine.step():
                    if output.finished:
                        request = running.pop(output.request_id)
                        done += request.count
                        yield request, output
                if progress is not None and time.monotonic() - said > PROGRESS_SECONDS:
                    said = time.monotonic()
                    progress(f"vLLM: {done} of {total} responses finished after {steps} engine steps")
        finally:
            if running:
                engine.abort_request(list(running))

    def _has_room(self, request: _Request, running: list[_Request], fresh: int) -> bool:
        """Whether the engine can compute the request's whole prompt in its next step and never has to evict it.

        vLLM cuts a prompt that doesn't fit a step, and then rewinds the sample's random generator, which on a CPU fails
        with "CPU Generator does not use offset". On a GPU it may cut, so everything is handed over at once.
        """
        if self.device.type != "cpu":
            return True
        scheduler = self._llm.llm_engine.vllm_config.scheduler_config
        samples = sum(r.count for r in running)
        return (
            samples + fresh + request.tokens <= scheduler.max_num_batched_tokens
            and samples + request.count <= scheduler.max_num_seqs
            and sum(r.blocks for r in running) + request.blocks <= self._cache_blocks()
        ) or not running

    def _engine_prompt(self, prompt: EncodedPrompt) -> dict[str, Any]:
        if not prompt.images:
            return {"prompt_token_ids": prompt.unexpanded_ids}
        grids = prompt.image_grid_thw_N3
        images = [
            image if grids is None else fit_to_grid(image, grids[i].tolist(), self._patch_size)
            for i, image in enumerate(prompt.images)
        ]
        return {"prompt_token_ids": prompt.unexpanded_ids, "multi_modal_data": {"image": images}}

    def _engine_params(self, params: SamplingParams, prompt_seed: int, request: _Request) -> Any:
        return self._vllm.SamplingParams(
            n=request.count,
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=max(params.top_k, 0),
            max_tokens=params.max_tokens,
            # vLLM adds the sample's number within the request
            seed=spread_seed(prompt_seed) + request.first if self._seeds_requests else None,
            logprobs=0,
            ignore_eos=True,  # switches vLLM's own end tokens off; the next line has the trainer's
            stop_token_ids=[] if params.ignore_eos else self.eos_token_ids,
            detokenize=False,
            output_kind=self._vllm.sampling_params.RequestOutputKind.FINAL_ONLY,
        )

    def _check_expansion(self, prompt: EncodedPrompt, output: Any) -> None:
        if output.prompt_token_ids != prompt.input_ids_S.tolist():
            raise ConfigError(
                f"worker.rollout.name=vllm: vLLM made {len(output.prompt_token_ids)} tokens of a prompt that the "
                f"trainer encodes as {len(prompt.input_ids_S)}; the model folder's processor files say different "
                "things to the two. Fix them or set worker.rollout.name=hf"
            )

    def _eager(self) -> AbstractContextManager:
        """On a CPU keep vLLM from compiling a helper for 13 s, with a C++ compiler that may not be there."""
        return torch.compiler.set_stance("force_eager") if self.device.type == "cpu" else nullcontext()

    # ---- weights and memory ------------------------------------------------------------------------------------------

    def sync_weights(self, model: torch.nn.Module) -> None:
        """Copy the trained weights in, LoRA merged, and forget everything computed from the old ones.

        On a GPU only vLLM's weights come back for it; the cache stays away until the first `generate`. Raises TrainingError
        when vLLM leaves a weight unloaded. Whether the copy is right only a measured log-probability gap can tell.
        """
        self._wake("weights")
        with torch.no_grad(), loading_complaints() as complaints:
            self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": merged_weights(model)})
        if complaints:
            raise TrainingError("vLLM did not take over all weights: " + "; ".join(complaints))
        self._llm.apply_model(repack_cpu_weights)
        self._drop_caches()

    def free_memory(self) -> None:
        """Drop what was computed of pictures and, on a GPU, take vLLM's weights and cache off it. See RolloutBackend."""
        self._drop_caches()
        if self._sleeps and self._asleep != PARTS:
            # Level 2 would not copy the weights to the CPU, but leaves what is no named buffer of the model undefined.
            self._llm.sleep(level=1)
            self._asleep |= PARTS

    def _drop_caches(self) -> None:
        engine = self._llm.llm_engine
        if not engine.reset_prefix_cache():
            raise TrainingError("vLLM kept its prefix cache: requests are still running")
        engine.reset_mm_cache()
        engine.reset_encoder_cache()  # without it: "Encoder cache miss"

    def _wake(self, *parts: str) -> None:
        for part in parts:
            if part in self._asleep:
                torch.cuda.empty_cache()  # vLLM maps memory beside torch's allocator, which keeps what is free to itself
                self._llm.wake_up(tags=[part])
                self._asleep.remove(part)

    def close(self) -> None:
        """Stop the engine and free its memory; a second call does nothing."""
        if self._llm is None:
            return
        from vllm.distributed.parallel_state import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        self._llm = None
        cleanup_dist_env_and_memory()


def spread_seed(*prompt_seeds: int) -> int:
    """56 bits far from those of the next seed: vLLM gives sample j seed + j, and prompts 1 and 2 would share noise."""
    text = " ".join(map(str, prompt_seeds))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "little")


def fit_to_grid(image: Image.Image, grid_thw: Sequence[int], patch_size: int | None) -> Image.Image:
    """Resize to the trainer's patch grid as its image processor does, so that vLLM's has nothing to resize.

    Left to itself torchvision's bicubic filter rounds differently: 2e-4 nats of gap on a tiny model.
    """
    if patch_size is None:
        return image
    size = (grid_thw[2] * patch_size, grid_thw[1] * patch_size)
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def _patch_size(model_path: str, trust_remote_code: bool) -> int | None:
    """Pixels of a vision patch's side; None for a text model."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model_path, trust_remote_code=trust_remote_code)
    return config.vision_config.patch_size if hasattr(config, "vision_config") else None


def _response(sample: Any) -> Response:
    ids = list(sample.token_ids)
    log_probs = [table[token].logprob for token, table in zip(ids, sample.logprobs, strict=True)]
    return Response(torch.tensor(ids), torch.tensor(log_probs, dtype=torch.float32), sample.finish_reason)


def build(request: RolloutRequest) -> VLLMRollout:
    """The backend `vllm`: it takes files of the model and ids of tokens, no loaded weights.

    Raises ConfigError for what vLLM can't do.
    """
    config = request.config
    rollout, model = config.worker.rollout, config.worker.actor.model
    if model.override_config:
        raise ConfigError(
            "worker.actor.model.override_config changes the trained model, and vLLM would sample from the "
            "unchanged one; set worker.rollout.name=hf, or write the changes into the model's config.json"
        )
    return VLLMRollout(
        resolve_model_path(model.model_path or ""),
        dtype=request.dtype,
        device=request.device,
        seed=rollout.seed,
        max_model_len=rollout.max_model_len
        or config.data.max_prompt_length + config.data.max_response_length,
        forbidden_token_ids=request.forbidden_token_ids,
        eos_token_ids=request.eos_token_ids,
        tokenizer_path=model.tokenizer_path and resolve_model_path(model.tokenizer_path),
        limit_images=rollout.limit_images,
        gpu_memory_utilization=rollout.gpu_memory_utilization,
        max_num_batched_tokens=rollout.max_num_batched_tokens,
        enforce_eager=rollout.enforce_eager,
        sleep_between_rounds=request.trains,
        trust_remote_code=model.trust_remote_code,
    )
