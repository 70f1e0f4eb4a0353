"""Weights under checkpoint names, adapters merged; needs no vLLM."""

from __future__ import annotations

import pytest
import torch
import transformers
from safetensors.torch import load_file

from gmpo_mm.errors import ConfigError
from gmpo_mm.models.loading import add_lora
from gmpo_mm.rollout.merged_weights import merged_weights
from tests.vllm.conftest import MODEL

pytestmark = pytest.mark.skipif(transformers.__version__ < "5", reason="vLLM needs transformers 5")


def test_names_and_values_are_those_of_the_checkpoint_on_disk(tiny) -> None:
    stored = load_file(MODEL / "model.safetensors")
    found = dict(merged_weights(tiny.fresh_model()))
    assert {name: w.shape for name, w in found.items()} == {name: w.shape for name, w in stored.items()}
    assert all(torch.equal(found[name], stored[name]) for name in stored)


def test_lora_is_added_as_peft_merges_it_and_the_model_stays_as_it_was(tiny) -> None:
    torch.manual_seed(0)
    model = add_lora(tiny.fresh_model(), rank=4, alpha=8, target_modules="all-linear", exclude_modules=None)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    found = dict(merged_weights(model))
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    expected = dict(merged_weights(model.merge_and_unload()))
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-6)
    plain = dict(merged_weights(tiny.fresh_model()))
    assert not torch.equal(found["visual.blocks.0.attn.qkv.weight"], plain["visual.blocks.0.attn.qkv.weight"])


def test_an_adapter_that_can_not_be_merged_is_refused(tiny) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny.fresh_model(), LoraConfig(r=4, target_modules=["q_proj"], use_dora=True))
    with pytest.raises(ConfigError, match=r"worker\.actor\.model\.lora"):
        list(merged_weights(model))


def test_fused_experts_come_apart_under_their_checkpoint_names(tmp_path) -> None:
    from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

    torch.manual_seed(0)
    config = Qwen3MoeConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, moe_intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, num_experts=4, num_experts_per_tok=2,
    )  # fmt: skip
    model = Qwen3MoeForCausalLM(config)
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert "model.layers.0.mlp.experts.3.up_proj.weight" in stored
    found = dict(merged_weights(model))
    assert found.keys() == stored.keys()
    assert all(torch.equal(found[name], stored[name]) for name in stored)
