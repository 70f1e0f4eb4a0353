"""vLLM's part on the CPU: a server beside each worker that samples with our own sampler, fed by verl's weight sync."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
import torch
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, TokenOutput

from gmpo_mm.data.prompts import EncodedPrompt
from gmpo_mm.data.records import Record
from gmpo_mm.engines.verl.translate import HF_ROLLOUT
from gmpo_mm.models.loading import end_token_ids, load_model, vision_token_ids
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.processing import load_processor
from gmpo_mm.rollout.hf import HFRollout
from gmpo_mm.rollout.protocol import SamplingParams
from gmpo_mm.training.sampling import prompt_seed

QUIET_SECONDS = 0.1
"""The requests of a step arrive one by one; sampling starts when none has come for so long, so that groups are whole."""


@dataclass
class Request:
    """One response that is wanted."""

    prompt_ids: tuple[int, ...]
    images: Sequence[Any]
    params: SamplingParams
    answer: asyncio.Future[TokenOutput]

    def key(self) -> tuple[Any, ...]:
        """Equal for the requests of one group."""
        pictures = tuple(hashlib.sha256(np.asarray(image).tobytes()).hexdigest() for image in self.images)
        return self.prompt_ids, pictures, self.params


class HFServer:
    """An actor of Ray's with the methods that verl calls on a sampling server."""

    def __init__(self, config: Any, model_config: Any) -> None:
        self.config = config
        override = {k: v for k, v in dict(model_config.override_config or {}).items() if k != "attn_implementation"}
        module = load_model(
            model_config.path, trust_remote_code=model_config.trust_remote_code, override_config=override
        )
        shape: Any = module.config
        is_vision = hasattr(shape, "vision_config")
        self.processor = load_processor(
            model_config.tokenizer_path, trust_remote_code=model_config.trust_remote_code, is_vision=is_vision,
            image_token_id=getattr(shape, "image_token_id", None),
        )  # fmt: skip
        self.policy = PolicyModel(
            module.requires_grad_(False),
            forbidden_token_ids=vision_token_ids(self.processor.tokenizer, shape),
            eos_token_ids=end_token_ids(model_config.path, self.processor.tokenizer),
        )
        self.sampler = HFRollout(self.policy)
        self.global_steps: int | None = None
        self.waiting: list[Request] = []
        self.arrived = 0
        self.sampling: asyncio.Task[None] | None = None

    # ---- what verl calls ----------------------------------------------------------------------------------------------

    async def ready(self) -> None:
        """Answers once the model is loaded."""

    async def load_weights(self, weights: dict[str, torch.Tensor], global_steps: int | None) -> None:
        """Take over the trained weights; every one of them has to be there."""
        self.policy.module.load_state_dict(weights, strict=True)
        self.policy.forget_images()
        self.global_steps = global_steps

    async def generate(
        self, request_id: str, prompt_ids: list[int], sampling_params: dict[str, Any], image_data: Any = None,
        video_data: Any = None, **others: Any,
    ) -> TokenOutput:  # fmt: skip
        """Tokens and log-probabilities of one response."""
        if video_data:
            raise ValueError("videos can't be sampled from on the CPU")
        params = SamplingParams(
            n=1,
            temperature=float(sampling_params["temperature"]),
            top_p=float(sampling_params["top_p"]),
            top_k=int(sampling_params["top_k"]),
            max_tokens=int(sampling_params.get("max_tokens") or self.config.response_length),
            ignore_eos=bool(self.config.ignore_eos),
            seed=int(self.config.seed),
        )
        answer: asyncio.Future[TokenOutput] = asyncio.get_running_loop().create_future()
        self.waiting.append(Request(tuple(prompt_ids), image_data or [], params, answer))
        self.arrived += 1
        if self.sampling is None or self.sampling.done():
            self.sampling = asyncio.create_task(self._sample())
        return await answer

    async def sleep(self) -> None:
        """Weights stay where they are: there is no device memory to free."""

    async def wake_up(self, tags: list[str] | None = None) -> None:
        """Nothing: see `sleep`."""

    async def clear_kv_cache(self) -> None:
        """Nothing: no cache outlives a call."""

    release_kv_cache = resume_kv_cache = wait_for_requests_to_drain = start_profile = stop_profile = clear_kv_cache

    # ---- sampling -----------------------------------------------------------------------------------------------------

    async def _sample(self) -> None:
        while self.waiting:
            seen = -1
            while seen != self.arrived:
                seen = self.arrived
                await asyncio.sleep(QUIET_SECONDS)
            requests, self.waiting = self.waiting, []
            try:
                outputs = await asyncio.to_thread(self._generate, requests)
            except Exception as error:  # whatever it is, nobody may wait for a response that does not come
                for request in requests:
                    request.answer.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))
            else:
                for request, output in zip(requests, outputs, strict=True):
                    request.answer.set_result(output)

    def _generate(self, requests: list[Request]) -> list[TokenOutput]:
        """Each group's prompt is encoded once and its samples drawn together; groups of one size in one call."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(request.key(), []).append(place)
        outputs: list[TokenOutput | None] = [None] * len(requests)
        calls: dict[tuple[Any, ...], list[list[int]]] = {}
        for key, places in groups.items():
            calls.setdefault((len(places), key[2]), []).append(places)
        for (n, params), members in calls.items():
            firsts = [requests[places[0]] for places in members]
            prompts = [self._encoded(request) for request in firsts]
            seeds = [self._seed(request) for request in firsts]
            wanted = SamplingParams(**{**params.__dict__, "n": n})
            for places, responses in zip(members, self.sampler.generate(prompts, wanted, seeds), strict=True):
                for place, response in zip(places, responses, strict=True):
                    outputs[place] = TokenOutput(
                        token_ids=response.token_ids_T.tolist(),
                        log_probs=response.log_probs_T.tolist(),
                        stop_reason="completed",
                        extra_fields={"global_steps": self.global_steps},
                    )
        assert all(outputs)
        return outputs  # type: ignore[return-value]

    def _encoded(self, request: Request) -> EncodedPrompt:
        pixels = grid = None
        if request.images:
            arrays = [np.asarray(image) for image in request.images]
            features = self.processor.image_processor(  # type: ignore[misc]
                images=arrays, return_tensors="pt", input_data_format="channels_last"
            )
            pixels, grid = features["pixel_values"], features["image_grid_thw"]
        ids = list(request.prompt_ids)
        record = Record(problem="", images=(), answer="", answers=(), id="")
        return EncodedPrompt(record, "", torch.tensor(ids), ids, tuple(request.images), pixels, grid)

    def _seed(self, request: Request) -> int:
        """From the run's seed, the weights' step and the prompt; a prompt that comes again at one step gets another."""
        digest = hashlib.sha256(repr(request.key()[:2]).encode()).digest()
        if getattr(self, "_seeded_step", None) != self.global_steps:
            self._seeded_step, self._times = self.global_steps, Counter[bytes]()
        self._times[digest] += 1
        return prompt_seed(
            request.params.seed, self.global_steps or 0, int.from_bytes(digest[:8], "little"), self._times[digest]
        )


class HFReplica(RolloutReplica):
    """One server for one worker, on the worker's node."""

    async def launch_servers(self) -> None:
        """Start the server and wait until its model is loaded."""
        assert len(self.workers) == self.world_size == 1, "tensor_parallel_size is 1 on the CPU"
        node = await self.workers[0].__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id())
        affinity = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id=node, soft=False)
        name = server_name(self.replica_rank)
        actor: Any = ray.remote(HFServer).options(
            scheduling_strategy=affinity, name=name, max_concurrency=self.max_concurrency, num_cpus=0
        )
        model = self.model_config
        server = actor.remote(config=self.config, model_config=model)
        await server.ready.remote()
        self.servers.append(server)
        self._server_handle, self._server_address = server, name


class HFServerAdapter(BaseRollout):
    """In the worker: hands the trained weights to the server beside it."""

    async def resume(self, tags: list[str]) -> None:
        """Nothing: the server never sleeps."""

    async def release(self) -> None:
        """Nothing: the server never sleeps."""

    async def update_weights(self, weights: Any, global_steps: int | None = None, **others: Any) -> None:
        """Every rank takes part in gathering, and gives its own server all of the weights."""
        whole = {name: weight.detach().clone() for name, weight in weights}
        server = ray.get_actor(server_name(torch.distributed.get_rank()))
        await server.load_weights.remote(whole, global_steps)


def server_name(rank: int) -> str:
    """Ray's name of the server beside a worker."""
    return f"{HF_ROLLOUT}_server_{rank}"
