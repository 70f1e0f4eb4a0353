"""One vLLM engine for the tests of a file; each test starts from the bundled model's own weights.

Where vLLM is not installed every test here is skipped: `make test-vllm` makes an environment that has it.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gmpo_mm
from gmpo_mm.data.images import ImageSource
from gmpo_mm.data.prompts import EncodedPrompt, build_prompt
from gmpo_mm.data.records import Record
from gmpo_mm.models.loading import end_token_ids, load_model, vision_token_ids
from gmpo_mm.models.processing import Processor, load_processor
from gmpo_mm.rollout.protocol import Response, SamplingParams
from gmpo_mm.rollout.vllm import VLLMRollout

MODEL = Path(gmpo_mm.__file__).parent / "toys" / "bundled" / "qwen2_5_vl_tiny"
CPU = torch.device("cpu")
NEEDS_VLLM = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed here; run `make test-vllm`"
)


class Tiny:
    """The bundled model with what samples from it."""

    def __init__(self) -> None:
        self.processor: Processor = load_processor(str(MODEL), is_vision=True, image_token_id=334)
        self.model = load_model(str(MODEL))
        self.forbidden = vision_token_ids(self.processor.tokenizer, self.model.config)
        self.ends = end_token_ids(str(MODEL), self.processor.tokenizer)

    def fresh_model(self) -> torch.nn.Module:
        """The stock transformers model, as loaded from disk."""
        from transformers import AutoModelForImageTextToText

        return AutoModelForImageTextToText.from_pretrained(str(MODEL), dtype=torch.float32).eval()

    def prompt(self, problem: str, sizes: Sequence[tuple[int, int]] = (), seed: int = 0) -> EncodedPrompt:
        """A prompt with noise pictures of these (width, height)."""
        rng = np.random.default_rng(seed)
        images = []
        for width, height in sizes:
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            images.append(ImageSource(picture=Image.fromarray(pixels)))
        record = Record("<image>" * len(sizes) + problem, tuple(images), "24", ("24",), "test")
        return build_prompt(record, self.processor)

    def prompts(self) -> list[EncodedPrompt]:
        """One picture, text alone, an odd-sized one that has to be resized, two, and one that fills a block of vLLM's cache."""
        return [
            self.prompt("area?", [(56, 56)], seed=1),
            self.prompt("What is 2 + 3?"),
            self.prompt("sum?", [(90, 61)], seed=2),
            self.prompt("both?", [(56, 84), (120, 75)], seed=3),
            self.prompt("large?", [(448, 252)], seed=4),
        ]

    def log_probs(self, model: torch.nn.Module, prompt: EncodedPrompt, response: Response, temperature: float) -> torch.Tensor:
        """Log-probabilities (T,) by a stock transformers forward pass of this one sequence."""
        ids_S = torch.cat([prompt.input_ids_S, response.token_ids_T])
        length = len(prompt.input_ids_S)
        extra = {}
        if prompt.pixel_values is not None:
            kinds_S = (ids_S == self.processor.image_token_id).int()
            extra = {
                "pixel_values": prompt.pixel_values,
                "image_grid_thw": prompt.image_grid_thw_N3,
                "mm_token_type_ids": kinds_S[None],
            }
        with torch.no_grad():
            logits_SV = model(input_ids=ids_S[None], attention_mask=torch.ones_like(ids_S)[None], **extra).logits[0]
        logits_TV = logits_SV[length - 1 : -1] / temperature
        logits_TV[:, self.forbidden] = float("-inf")
        return logits_TV.log_softmax(-1).gather(1, response.token_ids_T[:, None])[:, 0]

    def gap(
        self,
        model: torch.nn.Module,
        prompts: Sequence[EncodedPrompt],
        groups: Sequence[Sequence[Response]],
        temperature: float = 1.0,
    ) -> float:
        """Largest difference in nats between the sampler's log-probabilities and the model's."""
        return max(
            float((self.log_probs(model, prompt, response, temperature) - response.log_probs_T).abs().max())
            for prompt, group in zip(prompts, groups, strict=True)
            for response in group
        )


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    return Tiny()


@pytest.fixture(scope="module")
def engine(tiny: Tiny) -> Iterator[VLLMRollout]:
    backend = VLLMRollout(
        str(MODEL),
        dtype=torch.float32,
        device=CPU,
        seed=0,
        max_model_len=1024,
        forbidden_token_ids=tiny.forbidden,
        eos_token_ids=tiny.ends,
    )
    yield backend
    backend.close()


@pytest.fixture
def rollout(engine: VLLMRollout, tiny: Tiny) -> VLLMRollout:
    engine.sync_weights(tiny.model)
    return engine


@pytest.fixture(scope="session")
def sampling() -> Callable[..., SamplingParams]:
    """Sampling parameters with short defaults."""

    def make(**changes: object) -> SamplingParams:
        return SamplingParams(**({"n": 4, "temperature": 1.0, "max_tokens": 12} | changes))  # type: ignore[arg-type]

    return make
