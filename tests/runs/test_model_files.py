"""A model's files from given tensors: transformers' own bytes, whatever the family, and float32 masters for
16-bit weights."""

from __future__ import annotations

import functools
import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

from gmpo_mm.models.loading import add_lora
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.processing import Processor
from gmpo_mm.runs.checkpoint import load_optimizer_tensors, optimizer_tensors
from gmpo_mm.runs.model_files import changing_weights, frozen_weights, load_weights, save_model
from gmpo_mm.runs.safetensors_file import SafetensorsWriter
from gmpo_mm.runs.snapshot import HostCopies
from tests.models.model_zoo import TEXT_FAMILIES, VISION_FAMILIES, build_model

PROCESSOR = Processor(None, None, None)


def policy_of(module, freeze="visual"):
    for name, parameter in module.named_parameters():
        if freeze in name:
            parameter.requires_grad_(False)
    return PolicyModel(module)


def tied_model():
    sizes = dict(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    return transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(**sizes, num_key_value_heads=2, tie_word_embeddings=True)
    )


def adam(policy):
    return torch.optim.AdamW([p for p in policy.module.parameters() if p.requires_grad], lr=0.1)


def save(policy, optimizer, folder, copies=None):
    folder.mkdir()
    weights = changing_weights(policy, optimizer)
    if copies is not None:
        weights = copies.copy(weights)
    save_model(policy, PROCESSOR, folder, {**frozen_weights(policy), **weights}, SafetensorsWriter())


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("reuse", [None, False, True])
@pytest.mark.parametrize("shard", ["1GB", "20KB"])
@pytest.mark.parametrize("family", [*TEXT_FAMILIES, *VISION_FAMILIES, "tied", "lora"])
def test_a_snapshots_files_are_those_of_save_pretrained(tmp_path, monkeypatch, family, shard, reuse):
    module = tied_model() if family == "tied" else build_model("qwen2" if family == "lora" else family)
    if family == "lora":
        module = add_lora(module, 4, 8, "q_proj,v_proj", None)
    policy = policy_of(module)
    options = {} if family == "lora" else {"max_shard_size": shard}
    module.save_pretrained(tmp_path / "theirs", **options)
    monkeypatch.setattr(module, "save_pretrained", functools.partial(module.save_pretrained, **options))
    save(
        policy, adam(policy), tmp_path / "ours", None if reuse is None else HostCopies(reuse=reuse, pin=False)
    )
    ours, theirs = bytes_of(tmp_path / "ours"), bytes_of(tmp_path / "theirs")
    if family == "lora":
        assert "README.md" not in ours and theirs.pop("README.md"), "a template of a card, with this machine's paths"
        assert ours.pop("config.json") and ours.pop("generation_config.json"), "so that the adapter's changes stay with it"
        assert ours.pop("adapter_config.json") and theirs.pop("adapter_config.json")  # peft writes sets in no fixed order
    assert ours.keys() == theirs.keys()
    assert ours == theirs
    assert ("model.safetensors.index.json" in ours) == (shard == "20KB" and family != "lora")


def test_frozen_weights_are_not_copied_on_the_cpu_and_an_adapter_writes_none():
    policy = policy_of(build_model("qwen2_5_vl"))
    state = policy.module.state_dict()
    frozen, changing = frozen_weights(policy), changing_weights(policy, adam(policy))
    assert frozen and all(
        "visual" in name and state[name].data_ptr() == value.data_ptr() for name, value in frozen.items()
    )
    assert frozen.keys() | changing.keys() == state.keys() and not frozen.keys() & changing.keys()
    adapter = PolicyModel(add_lora(build_model("qwen2"), 4, 8, "q_proj", None))
    assert frozen_weights(adapter) == {}
    assert all("lora_" in name for name in changing_weights(adapter, adam(adapter)))


def with_masters(policy):
    """An optimizer after a step: float32 masters that bfloat16 can't hold, and the weights rounded from
    them."""
    optimizer = adam(policy)
    torch.manual_seed(1)
    for parameter in policy.module.parameters():
        if parameter.requires_grad:
            master = parameter.detach().float() + 1e-4 * torch.randn(parameter.shape)
            moments = {key: torch.rand(parameter.shape) for key in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": torch.tensor(3.0), **moments, "master": master}
            parameter.data.copy_(master)
    return optimizer


@pytest.mark.parametrize("tie", [False, True])
def test_masters_stand_in_for_bfloat16_weights_and_come_back(tmp_path, tie):
    def build():
        return policy_of(
            (tied_model() if tie else build_model("qwen2_5_vl")).bfloat16(), "layers.1." if tie else "visual"
        )

    policy = build()
    optimizer = with_masters(policy)
    masters = {
        name: optimizer.state[p]["master"] for name, p in policy.module.named_parameters() if p.requires_grad
    }
    assert any(not torch.equal(m, m.bfloat16().float()) for m in masters.values())
    save(policy, optimizer, tmp_path / "saved", HostCopies(reuse=True, pin=False))
    tensors = {
        name: tensor.clone()
        for name, tensor in optimizer_tensors(optimizer, policy.module.named_parameters()).items()
    }

    wide = policy.module.float()  # the same model as if it had been float32 all along
    wide.load_state_dict(masters, strict=False)
    wide.config.dtype = torch.float32
    wide.save_pretrained(tmp_path / "wide")
    ours, theirs = bytes_of(tmp_path / "saved"), bytes_of(tmp_path / "wide")
    assert {n: b for n, b in ours.items() if n.endswith("safetensors")} == {
        n: b for n, b in theirs.items() if n.endswith("safetensors")
    }
    assert {value.dtype for value in load_file(tmp_path / "saved/model.safetensors").values()} == {
        torch.float32
    }
    assert "float16" not in (tmp_path / "saved/config.json").read_text()
    assert json.loads((tmp_path / "saved/config.json").read_text())["dtype"] == "float32"
    assert not [name for name in tensors if name.startswith("master")]

    back = build()
    fresh = adam(back)
    weights = load_weights(back, tmp_path / "saved")
    load_optimizer_tensors(fresh, list(back.module.named_parameters()), tensors, weights)
    for name, parameter in back.module.named_parameters():
        if parameter.requires_grad:
            state = fresh.state[parameter]
            assert torch.equal(state["master"], masters[name]) and torch.equal(
                parameter, masters[name].bfloat16()
            )
            assert torch.equal(state["exp_avg"], tensors[f"exp_avg/{name}"])
            assert state["master"].data_ptr() != weights[name].data_ptr()
