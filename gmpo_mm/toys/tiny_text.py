"""Text models built from their configuration: a Qwen2 and a Qwen3-MoE of one to two million parameters, a Qwen3-MoE of 200.

All speak the bundled vision model's tokenizer and chat template. Weights are drawn and kept under the names of Qwen's own
checkpoints, an expert at a time: transformers 5 fuses experts in memory, 4.57 does not, and both read these.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM

from gmpo_mm.toys.tiny import INITIALIZER_RANGE, vocabulary, write_model_files

EXPERTS = 8
EXPERTS_PER_TOKEN = 1
_TINY: dict[str, Any] = {
    "hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 384,
    "initializer_range": INITIALIZER_RANGE,
}  # fmt: skip
_200M: dict[str, Any] = {
    "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 1920,
    "initializer_range": 0.02,
}  # fmt: skip


def text_config(name: str) -> dict[str, Any]:
    """`config.json` of `qwen2_tiny` (634,496 parameters), `qwen3_moe_tiny` (1,669,184) or `qwen3_moe_200m` (195,249,664)."""
    ids = vocabulary()
    shared: dict[str, Any] = {
        "vocab_size": len(ids),
        **(_200M if name == "qwen3_moe_200m" else _TINY),
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "use_sliding_window": False,
        "tie_word_embeddings": True,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "torch_dtype": "float32",
    }
    if name == "qwen2_tiny":
        return {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", **shared}
    assert name in ("qwen3_moe_tiny", "qwen3_moe_200m"), name
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "head_dim": shared["hidden_size"] // shared["num_attention_heads"],
        "moe_intermediate_size": shared["intermediate_size"] if name == "qwen3_moe_200m" else 160,
        "num_experts": EXPERTS,
        "num_experts_per_tok": EXPERTS_PER_TOKEN,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        # dividing by the sum over the chosen ones would make the one chosen expert's weight 1, without a gradient
        "norm_topk_prob": False,
        "router_aux_loss_coef": 0.01,
        "attention_bias": False,
        **shared,
    }


def weight_shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of a checkpoint, by its published name, in order of the names; the tied output layer has none."""
    width, head = config["hidden_size"], config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    is_dense = config["model_type"] == "qwen2"
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], width),
        "model.norm.weight": (width,),
    }
    for index in range(config["num_hidden_layers"]):
        layer = f"model.layers.{index}"
        shapes |= {f"{layer}.{name}.weight": (width,) for name in ("input_layernorm", "post_attention_layernorm")}
        for name, size in {"q": queries, "k": keys, "v": keys}.items():
            shapes[f"{layer}.self_attn.{name}_proj.weight"] = (size, width)
            if is_dense:
                shapes[f"{layer}.self_attn.{name}_proj.bias"] = (size,)
            elif name != "v":
                shapes[f"{layer}.self_attn.{name}_norm.weight"] = (head,)
        shapes[f"{layer}.self_attn.o_proj.weight"] = (width, queries)
        if is_dense:
            shapes |= _mlp_shapes(f"{layer}.mlp", width, config["intermediate_size"])
        else:
            shapes[f"{layer}.mlp.gate.weight"] = (config["num_experts"], width)
            for expert in range(config["num_experts"]):
                shapes |= _mlp_shapes(f"{layer}.mlp.experts.{expert}", width, config["moe_intermediate_size"])
    return dict(sorted(shapes.items()))


def _mlp_shapes(prefix: str, width: int, inner: int) -> dict[str, tuple[int, ...]]:
    shapes = {"gate_proj": (inner, width), "up_proj": (inner, width), "down_proj": (width, inner)}
    return {f"{prefix}.{name}.weight": shape for name, shape in shapes.items()}


def new_text_model(folder: Path, config: dict[str, Any], seed: int) -> nn.Module:
    """Write a model folder with weights drawn from the seed, and return the float32 model that transformers loads from it."""
    write_model_files(folder, config)
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, shape in weight_shapes(config).items():
        if name.endswith("bias"):
            tensors[name] = torch.zeros(shape)
        elif "norm" in name:
            tensors[name] = torch.ones(shape)
        else:
            tensors[name] = torch.randn(shape, generator=generator) * config["initializer_range"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def save_text_model(model: nn.Module, folder: Path, config: dict[str, Any]) -> None:
    """Save the weights as safetensors under the published names; the folder's other files stay as they were written."""
    model.save_pretrained(folder)  # type: ignore[operator]
    write_model_files(folder, config)
