"""Models at real shapes with random weights, made on the device itself, and batches for them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from gmpo_mm.algorithms import PolicyLossConfig
from gmpo_mm.data.patches import LEVELS, ImagePatches
from gmpo_mm.data.prompts import EncodedPrompt
from gmpo_mm.data.records import Record
from gmpo_mm.models.loading import add_lora, store_weights, use_packed_attention
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.two_part_attention import REFERENCE, two_part_attention
from gmpo_mm.rollout.protocol import Response
from gmpo_mm.training.batch import Batch, CutLimits, SampledGroup
from gmpo_mm.training.update_config import UpdateConfig

Grid = tuple[int, int, int]
"""Frames, height and width of a picture, in patches."""


@dataclass(frozen=True)
class Shape:
    """A model's shape and the lengths of its update. `vision` is None for text; `lora` is the adapter's rank,
    0: train all.

    `prompt` counts text tokens, the picture comes on top (a quarter of its patches are tokens). Responses
    have `shortest` to `longest` tokens.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    key_heads: int
    inner: int
    vocabulary: int
    tied: bool = True
    vision: dict[str, Any] | None = None
    mrope: tuple[int, int, int] | None = None
    lora: int = 0
    planned: tuple[str, ...] = ()
    """The shipped configuration of this model and its overrides, from which the plan predicts memory."""
    prompt: int = 400
    grid: Grid | None = None
    shortest: int = 512
    longest: int = 1024
    groups: int = 2
    group_size: int = 8

    @property
    def image_tokens(self) -> int:
        """Tokens of the prompt's picture."""
        return 0 if self.grid is None else self.grid[0] * self.grid[1] * self.grid[2] // 4


_VISION = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "patch_size": 14,
    "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}  # fmt: skip
_LANGUAGE = "configs/language/table1_line2_gmpo_qwen2_5_math_1_5b.yaml"
_PICTURES = "configs/geometry3k/gmpo_qwen2_5_vl_7b.yaml"

TEXT_1_5B = Shape(
    "1.5B, all weights", 1536, 28, 12, 2, 8960, 151936,
    planned=(_LANGUAGE, "worker.actor.model.model_path=Qwen/Qwen2.5-Math-1.5B"),
)  # fmt: skip
VL_3B = Shape(
    "VL-3B, all weights", 2048, 36, 16, 2, 11008, 151936, vision=_VISION | {"out_hidden_size": 2048},
    mrope=(16, 24, 24), grid=(1, 64, 64),
    planned=(_PICTURES, "worker.actor.model.model_path=Qwen/Qwen2.5-VL-3B-Instruct"),
)  # fmt: skip
VL_7B_LORA = Shape(
    "VL-7B, LoRA of rank 64", 3584, 28, 28, 4, 18944, 152064, tied=False,
    vision=_VISION | {"out_hidden_size": 3584}, mrope=(16, 24, 24), grid=(1, 64, 64), lora=64,
    planned=(_PICTURES, "worker.actor.model.lora.rank=64", "worker.actor.optim.lr=1e-5"),
)  # fmt: skip

_TINY_VISION = {
    "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "patch_size": 14,
    "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 56,
    "fullatt_block_indexes": [1], "out_hidden_size": 64,
}  # fmt: skip
_TINY: dict[str, Any] = dict(hidden=64, layers=2, heads=4, key_heads=2, inner=96, vocabulary=400)
_TINY_BATCH: dict[str, Any] = dict(prompt=9, shortest=3, longest=8, group_size=4)
TINY_TEXT = Shape("1.5B, all weights (tiny)", **_TINY, **_TINY_BATCH)
TINY_VL = Shape(
    "VL-3B, all weights (tiny)", **_TINY, vision=_TINY_VISION, mrope=(2, 3, 3), grid=(1, 8, 12), **_TINY_BATCH
)
TINY_LORA = Shape(
    "VL-7B, LoRA (tiny)",
    **_TINY,
    tied=False,
    vision=_TINY_VISION,
    mrope=(2, 3, 3),
    grid=(1, 4, 6),
    lora=2,
    **_TINY_BATCH,
)


def special_tokens(shape: Shape) -> list[int]:
    """Ids of a picture's token, a video's, and the tokens before and after a picture: the vocabulary's last
    ones."""
    return [shape.vocabulary - i for i in (1, 2, 3, 4)]


def model_config(shape: Shape) -> Any:
    """The transformers configuration of a shape."""
    import transformers

    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 1e6 if shape.vision else 1e4}
    if shape.mrope:
        rope["mrope_section"] = list(shape.mrope)
    text = dict(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.inner,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.key_heads,
        max_position_embeddings=32768, tie_word_embeddings=shape.tied, rope_parameters=rope, bos_token_id=0,
        eos_token_id=1, pad_token_id=0, use_sliding_window=False,
    )  # fmt: skip
    if shape.vision is None:
        return transformers.Qwen2Config(**text)
    image, video, start, end = special_tokens(shape)
    return transformers.Qwen2_5_VLConfig(
        text_config=text, vision_config=dict(shape.vision), tie_word_embeddings=shape.tied,
        image_token_id=image, video_token_id=video, vision_start_token_id=start, vision_end_token_id=end,
    )  # fmt: skip


def build_model(shape: Shape, device: torch.device, dtype: torch.dtype) -> torch.nn.Module:
    """transformers' own model with random weights that were never anywhere but on the device."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    torch.manual_seed(0)
    kind = AutoModelForCausalLM if shape.vision is None else AutoModelForImageTextToText
    with torch.device(device):
        return kind.from_config(model_config(shape), dtype=dtype, attn_implementation="sdpa")


def build_policy(shape: Shape, device: torch.device, checkpointing: bool = True) -> PolicyModel:
    """A policy as `load_policy` makes it on a GPU: bfloat16 weights, float32 masters of those that are
    trained."""
    model: Any = use_packed_attention(build_model(shape, device, torch.bfloat16))
    if shape.lora:
        model = add_lora(model, shape.lora, 2 * shape.lora, "all-linear", None)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return as_on_gpu(model, device, forbidden_token_ids=special_tokens(shape), eos_token_ids=[1])


def as_on_gpu(model: torch.nn.Module, device: torch.device, **options: Any) -> PolicyModel:
    """Store a model's weights as on a GPU and take the GPU's path; on a CPU with the attention that is
    written out."""
    masters = store_weights(model, device, torch.bfloat16, sixteen_bit=True)
    policy = PolicyModel(model, compute_dtype=torch.bfloat16, masters=masters, **options)
    if device.type == "cpu":
        policy.use_varlen_path(partial(two_part_attention, kernel=REFERENCE), REFERENCE)
    return policy


COLOUR_TABLE = torch.linspace(-2.0, 2.0, LEVELS).expand(3, -1).contiguous()
"""What an image processor makes of each level of a colour: about as many standard deviations."""

# ---- prompts and batches -----------------------------------------------------------------------------------


def make_prompt(shape: Shape, seed: int) -> EncodedPrompt:
    """A random prompt: text, the picture if there is one, text."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(2, shape.vocabulary - 8, (shape.prompt,), generator=generator).tolist()
    record = Record(problem="", images=(), answer="", answers=("",), id=str(seed))
    if shape.grid is None:
        return EncodedPrompt(record, "", torch.tensor(words), words, (), None, None)
    image, _, start, end = special_tokens(shape)
    half = len(words) // 2
    ids = [*words[:half], start, *[image] * shape.image_tokens, end, *words[half:]]
    patches = shape.grid[0] * shape.grid[1] * shape.grid[2]
    colours = torch.randint(0, LEVELS, (patches, 3 * 14 * 14), generator=generator, dtype=torch.uint8)
    pixels = ImagePatches(colours, COLOUR_TABLE, frames=2)
    unexpanded = [*words[:half], start, image, end, *words[half:]]
    return EncodedPrompt(record, "", torch.tensor(ids), unexpanded, (), pixels, torch.tensor([shape.grid]))


def make_batch(shape: Shape, seed: int = 0, exact: bool = False) -> Batch:
    """Groups of random responses, half of them right; `exact` makes every response as long as the longest."""
    draws = random.Random(seed)
    groups = []
    for i in range(shape.groups):
        lengths = [
            shape.longest if exact else draws.randint(shape.shortest, shape.longest)
            for _ in range(shape.group_size)
        ]
        responses = [random_response(shape, n, 1000 * seed + 100 * i + j) for j, n in enumerate(lengths)]
        scores = [{"overall": float(j % 2)} for j in range(shape.group_size)]
        groups.append(
            SampledGroup(
                make_prompt(shape, seed * shape.groups + i), responses, [""] * len(responses), scores
            )
        )
    return with_advantages(Batch(groups))


def random_response(shape: Shape, length: int, seed: int) -> Response:
    """Random tokens that may be sampled."""
    ids = torch.randint(2, shape.vocabulary - 8, (length,), generator=torch.Generator().manual_seed(seed))
    return Response(ids, torch.full((length,), -1.0), "length")


def with_advantages(batch: Batch) -> Batch:
    """Advantages +1 and -1 by turns."""
    sign_B = torch.tensor([1.0 if i % 2 else -1.0 for i in range(len(batch))])
    batch.advantages_BT = sign_B[:, None] * batch.mask_BT
    return batch


def update_config(group_size: int, groups: int) -> UpdateConfig:
    """GMPO over all groups in one update, one group a micro-batch."""
    limits = CutLimits(samples=group_size)
    return UpdateConfig(
        loss=PolicyLossConfig("gmpo"),
        temperature=1.0,
        mini_batch_prompts=groups,
        update_limits=limits,
        forward_limits=limits,
    )


@dataclass(frozen=True)
class Optim:
    """The keys of `worker.actor.optim` that an optimizer reads."""

    lr: float = 1e-6
    betas: Sequence[float] = (0.9, 0.999)
    weight_decay: float = 1e-2
