"""A text model with experts: started after another engine was closed, sampled, synced."""

from __future__ import annotations

import pytest
import torch

from gmpo_mm.data.prompts import EncodedPrompt
from gmpo_mm.rollout.vllm import VLLMRollout
from tests.vllm.conftest import CPU, NEEDS_VLLM

pytestmark = NEEDS_VLLM


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=336, hidden_size=64, intermediate_size=64, moe_intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, head_dim=32, num_experts=4, num_experts_per_tok=2,
        max_position_embeddings=512, initializer_range=0.2, norm_topk_prob=True,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("moe")
    Qwen3MoeForCausalLM(config).save_pretrained(path)
    tiny.processor.tokenizer.save_pretrained(path)
    return path


def test_experts_and_an_untied_output_layer_are_sampled_and_synced(tiny, folder, sampling) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    prompts: list[EncodedPrompt] = [tiny.prompt("What is 2 + 3?"), tiny.prompt("area?")]
    for _ in range(2):  # a second engine in one process, after the first was closed
        backend = VLLMRollout(
            str(folder), dtype=torch.float32, device=CPU, seed=0, max_model_len=128,
            forbidden_token_ids=tiny.forbidden, eos_token_ids=tiny.ends,
        )  # fmt: skip
        try:
            before = backend.generate(prompts, sampling(), [1, 2])
            assert tiny.gap(AutoModelForCausalLM.from_pretrained(folder), prompts, before) < 1e-4
            with torch.no_grad():
                for weight in model.parameters():
                    weight += 0.05 * torch.randn_like(weight)
            assert tiny.gap(model, prompts, before) > 0.1
            backend.sync_weights(model)
            assert tiny.gap(model, prompts, backend.generate(prompts, sampling(), [1, 2])) < 1e-4
        finally:
            backend.close()
            backend.close()
