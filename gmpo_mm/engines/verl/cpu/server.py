"""A sampling server as verl expects it beside each worker, with our own sampler in it. Imports no `verl`: it starts sooner."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from gmpo_mm.data.prompts import EncodedPrompt
from gmpo_mm.data.records import Record
from gmpo_mm.errors import TrainingError
from gmpo_mm.models.loading import end_token_ids, load_model, vision_token_ids
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.processing import load_processor
from gmpo_mm.rollout.hf import HFRollout
from gmpo_mm.rollout.protocol import SamplingParams
from gmpo_mm.rollout.seeds import prompt_seed

QUIET_SECONDS = 0.1
"""The requests of a step arrive one by one; sampling starts when none has come for so long, so that groups are whole."""


@dataclass
class SampledTokens:
    """What verl's agents read of a response; verl's own `TokenOutput` has the same fields (a canary compares them)."""

    token_ids: list[int]
    log_probs: list[float] | None = None
    routed_experts: Any = None
    stop_reason: str | None = None
    num_preempted: int | None = None
    extra_fields: dict[str, Any] = field(default_factory=dict)


@dataclass
class Request:
    """One response that is wanted."""

    prompt_ids: tuple[int, ...]
    images: Sequence[Any]
    params: SamplingParams
    answer: asyncio.Future[SampledTokens]

    def key(self) -> tuple[Any, ...]:
        """Equal for the requests of one group."""
        pictures = tuple(hashlib.sha256(np.asarray(image).tobytes()).hexdigest() for image in self.images)
        return self.prompt_ids, pictures, self.params


@dataclass(frozen=True)
class ServerSettings:
    """What a server needs of verl's configuration."""

    model_path: str
    tokenizer_path: str
    override_config: dict[str, Any]
    trust_remote_code: bool
    max_tokens: int
    ignore_eos: bool
    seed: int


class HFServer:
    """An actor of Ray's with the methods that verl calls on a sampling server."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        module = load_model(
            settings.model_path, trust_remote_code=settings.trust_remote_code, override_config=settings.override_config
        )
        shape: Any = module.config
        is_vision = hasattr(shape, "vision_config")
        self.processor = load_processor(
            settings.tokenizer_path, trust_remote_code=settings.trust_remote_code, is_vision=is_vision,
            image_token_id=getattr(shape, "image_token_id", None),
        )  # fmt: skip
        self.policy = PolicyModel(
            module.requires_grad_(False),
            forbidden_token_ids=vision_token_ids(self.processor.tokenizer, shape),
            eos_token_ids=end_token_ids(settings.model_path, self.processor.tokenizer),
        )
        self.sampler = HFRollout(self.policy)
        self.global_steps: int | None = None
        self.waiting: list[Request] = []
        self.arrived = 0
        self.sampling: asyncio.Task[None] | None = None
        self.seeded_step: int | None = None
        self.times: Counter[bytes] = Counter()

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
    ) -> SampledTokens:  # fmt: skip
        """Tokens and log-probabilities of one response."""
        if video_data:
            raise ValueError("videos can't be sampled from on the CPU")
        params = SamplingParams(
            n=1,
            temperature=float(sampling_params["temperature"]),
            top_p=float(sampling_params["top_p"]),
            top_k=int(sampling_params["top_k"]),
            max_tokens=int(sampling_params.get("max_tokens") or self.settings.max_tokens),
            ignore_eos=self.settings.ignore_eos,
            seed=self.settings.seed,
        )
        answer: asyncio.Future[SampledTokens] = asyncio.get_running_loop().create_future()
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

    def _generate(self, requests: list[Request]) -> list[SampledTokens]:
        """Each group's prompt is encoded once and its samples drawn together; groups of one size in one call."""
        groups: dict[tuple[Any, ...], list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(request.key(), []).append(place)
        outputs: list[SampledTokens | None] = [None] * len(requests)
        calls: dict[tuple[Any, ...], list[list[int]]] = {}
        for key, places in groups.items():
            calls.setdefault((len(places), key[2]), []).append(places)
        for (n, params), members in calls.items():
            firsts = [requests[places[0]] for places in members]
            prompts = [self._encoded(request) for request in firsts]
            seeds = [self._seed(request) for request in firsts]
            drawn = self.sampler.generate(prompts, replace(params, n=n), seeds)
            for places, responses in zip(members, drawn, strict=True):
                for place, response in zip(places, responses, strict=True):
                    outputs[place] = SampledTokens(
                        token_ids=response.token_ids_T.tolist(),
                        log_probs=response.log_probs_T.tolist(),
                        stop_reason="completed",
                        extra_fields={"global_steps": self.global_steps},
                    )
        if not all(outputs):
            raise TrainingError("the sampler left a request of verl's without a response")
        return outputs  # type: ignore[return-value]

    def _encoded(self, request: Request) -> EncodedPrompt:
        patches, grid = self.processor.cut(request.images) if request.images else (None, None)
        ids = list(request.prompt_ids)
        record = Record(problem="", images=(), answer="", answers=(), id="")
        return EncodedPrompt(record, "", torch.tensor(ids), ids, tuple(request.images), patches, grid)

    def _seed(self, request: Request) -> int:
        """From the run's seed, the weights' step and the prompt; a prompt that comes again at one step gets another."""
        digest = hashlib.sha256(repr(request.key()[:2]).encode()).digest()
        if self.seeded_step != self.global_steps:
            self.seeded_step, self.times = self.global_steps, Counter()
        self.times[digest] += 1
        part = int.from_bytes(digest[:8], "little")
        return prompt_seed(request.params.seed, self.global_steps or 0, part, self.times[digest])
