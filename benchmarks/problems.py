"""Problems and models of the benchmarks, made from the bundled model's task."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

from benchmarks.workload import REPOSITORY
from gmpo_mm.toys.synthetic_geometry import draw, make_problem

LONG_TEXT = (
    "The figure stands at the top of this page. It is drawn to scale and its numbers are lengths. Read them first, "
    "then say which formula holds, put the numbers in, and work the result out before you write it down. "
)
BUNDLED_MODEL = REPOSITORY / "gmpo_mm" / "toys" / "bundled" / "qwen2_5_vl_tiny"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "chat_template.jinja")


def write_problems(
    folder: Path, count: int, side_pixels: int | None = None, prompt_tokens: int | None = None, model: str = ""
) -> None:
    """`count` problems of the bundled task as `problems.jsonl` and PNG files.

    `side_pixels` enlarges the picture; `prompt_tokens` lengthens the question until the text part of the rendered
    prompt has about that many tokens of `model`'s tokenizer.
    """
    tokenizer = AutoTokenizer.from_pretrained(model) if prompt_tokens else None
    (folder / "images").mkdir()
    lines = []
    for index in range(count):
        problem = make_problem("train", index)
        picture = draw(problem)
        if side_pixels is not None:
            picture = picture.resize((side_pixels, side_pixels), Image.Resampling.NEAREST)
        name = f"images/{index}.png"
        picture.save(folder / name)
        text = problem.text
        if tokenizer is not None and prompt_tokens is not None:
            filler = tokenizer.encode(LONG_TEXT * (1 + prompt_tokens // 20))
            rendered = tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            )
            missing = prompt_tokens - len(tokenizer.encode(rendered.replace("<image>", "")))
            text += " " + tokenizer.decode(filler[: max(0, missing)])
        lines.append(json.dumps({"problem": text, "images": [name], "answer": problem.answer}))
    (folder / "problems.jsonl").write_text("\n".join(lines) + "\n")


def build_long_model(bundled: Path, folder: Path, seed: int = 0) -> int:
    """A Qwen2.5-VL of about 17 M random parameters with the bundled tokenizer; returns its number of parameters.

    Text: hidden 384, 8 layers; vision: depth 4, hidden 256, patch 14, merge 2, so that 448 x 448 pixels are 256 tokens.
    """
    config = AutoConfig.from_pretrained(bundled)
    text, vision = config.text_config, config.vision_config
    text.hidden_size, text.num_hidden_layers, text.intermediate_size = 384, 8, 1024
    text.num_attention_heads, text.num_key_value_heads = 6, 2
    text.layer_types = None
    text.rope_parameters = {**text.rope_parameters, "mrope_section": [8, 12, 12]}
    vision.depth, vision.hidden_size, vision.num_heads, vision.intermediate_size = 4, 256, 4, 512
    vision.out_hidden_size = text.hidden_size
    vision.fullatt_block_indexes = list(range(vision.depth))
    config = type(config).from_dict(config.to_dict())
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    model.generation_config.eos_token_id = config.text_config.eos_token_id
    model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        if (bundled / name).exists():
            shutil.copy(bundled / name, folder / name)
    return sum(parameter.numel() for parameter in model.parameters())
