"""A Qwen2.5-VL of about a million parameters: configuration, tokenizer and processor files, and freshly drawn weights.

The files are written by hand rather than by `save_pretrained`, because what transformers 5 saves does not load in 4.57.
These load in both through the stock Auto classes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

INITIALIZER_RANGE = 0.06
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
# What the bundled task says over and over becomes one token each; for Qwen's splitter a leading "<" or space is part of a word.
WHOLE_WORDS = (
    "user",
    "assistant",
    "system",
    "think",
    "<think",
    "</",
    ">\\",
    "boxed",
    "answer",
    "Find",
    " the",
    " area",
    " of",
    " rectangle",
    " triangle",
    " length",
    " segment",
    " is",
)
# The pattern by which Qwen2 cuts text into words; transformers 5 rebuilds the tokenizer with it whatever the file says.
_QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Qwen's turn format without its default system prompt; a picture is three tokens, the middle one widened by the processor.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message['role'] + '\\n' -}}
    {%- if message['content'] is string -%}
        {{- message['content'] -}}
    {%- else -%}
        {%- for part in message['content'] -%}
            {%- if part['type'] == 'image' or 'image' in part or 'image_url' in part -%}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
            {%- elif part['type'] == 'video' or 'video' in part -%}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
            {%- elif 'text' in part -%}
                {{- part['text'] -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def byte_symbols() -> list[str]:
    """The printable stand-in of each of the 256 bytes in a byte-level tokenizer (GPT-2's table)."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    spare = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(spare)) for byte in range(256)]


def whole_word_merges(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Byte-pair merges, in order of rank, after which each of the words is one token."""
    symbols = byte_symbols()
    merges: list[tuple[str, str]] = []
    for word in words:
        pieces = [symbols[byte] for byte in word.encode()]
        for pair in merges:
            pieces = _merge(pieces, pair)
        while len(pieces) > 1:
            merges.append((pieces[0], pieces[1]))
            pieces = _merge(pieces, merges[-1])
    return merges


def _merge(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged


def vocabulary() -> dict[str, int]:
    """Token to id: bytes first, then merged words, Qwen's special tokens last."""
    pieces = byte_symbols() + ["".join(pair) for pair in whole_word_merges(WHOLE_WORDS)] + list(SPECIAL_TOKENS)
    return {piece: index for index, piece in enumerate(pieces)}


def tokenizer_files() -> dict[str, Any]:
    """`tokenizer.json` and `tokenizer_config.json` of a byte-level BPE tokenizer that Qwen2's class loads."""
    ids = vocabulary()
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": ids[token], "content": token, **flags} for token in SPECIAL_TOKENS]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": _QWEN_SPLIT}, "behavior": "Isolated", "invert": False}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for token, index in ids.items() if token not in SPECIAL_TOKENS},
            "merges": [list(pair) for pair in whole_word_merges(WHOLE_WORDS)],
        },
    }
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "model_max_length": 4096,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "split_special_tokens": False,
        "bos_token": None,
        "unk_token": None,
        "errors": "replace",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "additional_special_tokens": [t for t in SPECIAL_TOKENS if t not in ("<|im_end|>", "<|endoftext|>")],
        "added_tokens_decoder": {str(entry["id"]): {k: v for k, v in entry.items() if k != "id"} for entry in added},
    }
    return {"tokenizer.json": tokenizer, "tokenizer_config.json": config}


def model_config() -> dict[str, Any]:
    """`config.json`: 3 text and 2 vision layers; rope keys in the form of transformers 4.57, which 5 still reads."""
    ids = vocabulary()
    text = {
        "model_type": "qwen2_5_vl_text",
        "vocab_size": len(ids),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "initializer_range": INITIALIZER_RANGE,
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "torch_dtype": "float32",
    }
    vision = {
        "model_type": "qwen2_5_vl",
        "depth": 2,
        "hidden_size": 96,
        "intermediate_size": 192,
        "num_heads": 3,
        "out_hidden_size": 128,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [0, 1],
        "hidden_act": "silu",
        "in_channels": 3,
        "in_chans": 3,
        "initializer_range": INITIALIZER_RANGE,
        "torch_dtype": "float32",
    }
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
        "text_config": text,
        "vision_config": vision,
    }


def processor_files() -> dict[str, Any]:
    """Image and video processor settings: white becomes 0 (mean 1), pictures hold 4 to 256 merged patches."""
    pixels = {"shortest_edge": 56 * 56, "longest_edge": 256 * 28 * 28}
    shared = {
        "processor_class": "Qwen2_5_VLProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [1.0, 1.0, 1.0],
        "image_std": [0.35, 0.35, 0.35],
        "min_pixels": pixels["shortest_edge"],
        "max_pixels": pixels["longest_edge"],
        "size": pixels,
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
    }
    return {
        "preprocessor_config.json": {"image_processor_type": "Qwen2VLImageProcessor", **shared},
        "video_preprocessor_config.json": {"video_processor_type": "Qwen2VLVideoProcessor", **shared},
    }


def write_model_files(folder: Path, config: dict[str, Any] | None = None) -> None:
    """Write all files of a model folder but its weights: the vision model's, or those of a text model's `config`."""
    ids = vocabulary()
    generation = {
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "do_sample": True,
        "temperature": 1.0,
    }
    files = {"config.json": config or model_config(), "generation_config.json": generation, **tokenizer_files()}
    if config is None:
        files |= processor_files()
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def new_model(folder: Path, seed: int) -> nn.Module:
    """A float32 model of the folder's config with weights drawn from the seed.

    Drawn here, in the order of the names, and not by transformers, whose order of drawing changes between versions.
    """
    model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if name.endswith("bias"):
                parameter.zero_()
            elif "norm" in name or "ln_q" in name:
                parameter.fill_(1.0)
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * INITIALIZER_RANGE)
    return model


def save_weights(model: nn.Module, path: Path) -> None:
    """Save as safetensors under the names of Qwen's own checkpoints, the tied output layer left out."""

    def published(name: str) -> str:
        return name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")

    tensors = {published(name): parameter.detach().contiguous() for name, parameter in model.named_parameters()}
    path.write_bytes(save(tensors, metadata={"format": "pt"}))
