"""Small random models of every supported family, built from their real configuration classes."""

from __future__ import annotations

import torch
import transformers

from gmpo_mm.data.patches import ImagePatches
from gmpo_mm.data.prompts import EncodedPrompt
from gmpo_mm.data.records import Record
from gmpo_mm.models.loading import use_packed_attention
from gmpo_mm.models.policy import PolicyModel

IMAGE, VIDEO, VISION_START, VISION_END, END = 90, 91, 92, 93, 2
VOCABULARY = 96
ENDS = [END, *range(3, 13)]  # enough of them that random models stop at different lengths
IS_V5 = int(transformers.__version__.split(".")[0]) >= 5


def _rope(sections: list[int] | None, interleaved: bool = False) -> dict:
    """Rotary settings in the form of this transformers version."""
    mrope = {"mrope_section": sections} if sections else {}
    if interleaved:
        mrope["mrope_interleaved"] = True
    if IS_V5:
        return {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, **mrope}}
    return {"rope_theta": 1e4, **({"rope_scaling": {"type": "mrope", "rope_type": "default", **mrope}} if sections else {})}


def _text(**extra: object) -> dict:
    return dict(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=False, initializer_range=0.2,
        bos_token_id=1, eos_token_id=END, pad_token_id=0, **extra,
    )  # fmt: skip


def _vl_tokens() -> dict:
    return dict(
        image_token_id=IMAGE, video_token_id=VIDEO, vision_start_token_id=VISION_START, vision_end_token_id=VISION_END
    )


def build_model(family: str) -> torch.nn.Module:
    """A random float32 model of `family` with packed attention."""
    torch.manual_seed(0)
    t = transformers
    if family == "qwen2":
        model = t.Qwen2ForCausalLM(t.Qwen2Config(**_text(), **_rope(None)))
    elif family == "qwen3":
        model = t.Qwen3ForCausalLM(t.Qwen3Config(**_text(head_dim=8), **_rope(None)))
    elif family == "qwen3_moe":
        config = t.Qwen3MoeConfig(
            **_text(head_dim=8), **_rope(None), num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24,
            decoder_sparse_step=1, norm_topk_prob=True,
        )  # fmt: skip
        model = t.Qwen3MoeForCausalLM(config)
    elif family in ("qwen2_vl", "qwen2_5_vl"):
        text = dict(_text(), **_rope([1, 1, 2]))
        if family == "qwen2_vl":
            vision = dict(depth=2, embed_dim=16, hidden_size=32, num_heads=2, mlp_ratio=2, patch_size=14)
            config = t.Qwen2VLConfig(text_config=text, vision_config=vision, **_vl_tokens())
            model = t.Qwen2VLForConditionalGeneration(config)
        else:
            vision = dict(
                depth=2, hidden_size=16, num_heads=2, intermediate_size=32, out_hidden_size=32, patch_size=14,
                fullatt_block_indexes=[0, 1],
            )  # fmt: skip
            config = t.Qwen2_5_VLConfig(text_config=text, vision_config=vision, **_vl_tokens())
            model = t.Qwen2_5_VLForConditionalGeneration(config)
    elif family == "qwen3_vl":
        vision = dict(
            depth=2, hidden_size=16, num_heads=2, intermediate_size=32, out_hidden_size=32, patch_size=14,
            deepstack_visual_indexes=[0, 1], num_position_embeddings=64,
        )  # fmt: skip
        text = dict(_text(head_dim=8), **_rope([2, 1, 1], interleaved=True))
        model = t.Qwen3VLForConditionalGeneration(
            t.Qwen3VLConfig(text_config=text, vision_config=vision, **_vl_tokens())
        )
    else:
        raise ValueError(family)
    for parameter in model.parameters():  # biases and norms start at 0 and 1, where some mistakes are invisible
        torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.15)
    return use_packed_attention(model).eval()


TEXT_FAMILIES = ["qwen2", "qwen3", "qwen3_moe"]
VISION_FAMILIES = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"]


def build_policy(family: str, **kwargs: object) -> PolicyModel:
    """The model as a policy that can't sample vision tokens and stops at any of ENDS."""
    forbidden = [IMAGE, VIDEO, VISION_START, VISION_END]
    return PolicyModel(build_model(family), forbidden_token_ids=forbidden, eos_token_ids=ENDS, **kwargs)


PIXEL_TABLE = torch.linspace(-1.8, 2.2, 256).repeat(3, 1)


def make_prompt(length: int, grids: list[tuple[int, int, int]] = (), seed: int = 0) -> EncodedPrompt:
    """A random prompt of text tokens and, between them, images of the given patch grids."""
    generator = torch.Generator().manual_seed(seed)
    ids, unexpanded = [], []
    for i in range(len(grids) + 1):
        words = torch.randint(3, 88, (max(2, length // (len(grids) + 1)),), generator=generator).tolist()
        ids += words
        unexpanded += words
        if i < len(grids):
            t, h, w = grids[i]
            ids += [VISION_START] + [IMAGE] * (t * h * w // 4) + [VISION_END]
            unexpanded += [VISION_START, IMAGE, VISION_END]
    patches = sum(t * h * w for t, h, w in grids)
    levels = torch.randint(0, 256, (patches, 3 * 14 * 14), generator=generator, dtype=torch.uint8)
    pixels = ImagePatches(levels, PIXEL_TABLE, frames=2) if grids else None
    record = Record(problem="?", images=(), answer="1", answers=("1",), id=str(seed), source=None, row=seed, extra={})
    return EncodedPrompt(
        record, "", torch.tensor(ids), unexpanded, (), pixels, torch.tensor(grids) if grids else None
    )


def make_response(length: int, seed: int) -> torch.Tensor:
    """Random response tokens."""
    return torch.randint(3, 88, (length,), generator=torch.Generator().manual_seed(1000 + seed))


def stock_log_probs(policy: PolicyModel, prompt: EncodedPrompt, response: torch.Tensor, temperature: float) -> torch.Tensor:
    """Log-probabilities of one response by transformers' own whole-model forward on an unpadded row, eager attention."""
    model = policy.module
    ids = torch.cat([prompt.input_ids_S, response])[None]
    # without a mask, transformers 4.57 takes the positions of pictures in Qwen3-VL for the borders of packed sequences
    inputs: dict = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if prompt.pixel_values is not None:
        inputs |= {"pixel_values": prompt.pixel_values, "image_grid_thw": prompt.image_grid_thw_N3}
        if IS_V5:
            inputs["mm_token_type_ids"] = (ids == IMAGE).int()
    if policy.vision is not None:
        policy.backbone.rope_deltas = None
    before = policy.decoder.config._attn_implementation
    policy.decoder.config._attn_implementation = "eager"
    try:
        logits = model(**inputs, use_cache=False).logits[0, len(prompt.input_ids_S) - 1 : -1] / temperature
    finally:
        policy.decoder.config._attn_implementation = before
    logits[:, policy.forbidden_token_ids] = float("-inf")
    return logits.log_softmax(-1).gather(1, response[:, None])[:, 0]
