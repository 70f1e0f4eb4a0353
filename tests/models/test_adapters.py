"""A LoRA adapter's folder is a model: the same weights as the trained policy's, wherever and by whomever it was written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gmpo_mm.config.paths import resolve_model_path
from gmpo_mm.config.schema import ModelConfig
from gmpo_mm.errors import ConfigError
from gmpo_mm.models.adapters import lineage
from gmpo_mm.models.loading import check_lora, load_model, load_policy, read_config
from gmpo_mm.runs.model_files import changing_weights, save_model
from gmpo_mm.runs.safetensors_file import SafetensorsWriter
from gmpo_mm.runs.usable_model import usable_model

BUNDLED = "bundled:qwen2_5_vl_tiny"
CPU = torch.device("cpu")


def options(path: str = BUNDLED, **changes: Any) -> ModelConfig:
    made = ModelConfig(
        model_path=path, freeze_vision_tower=True, enable_gradient_checkpointing=False, **changes
    )
    made.lora.rank, made.lora.alpha = 2, 8
    return made


def trained_adapter(
    folder: Path, path: str = BUNDLED, seed: int = 1, **changes: Any
) -> dict[str, torch.Tensor]:
    """Write an adapter as a run does, with B no longer 0; returns the whole model's weights as they are with it."""
    policy, processor = load_policy(options(path, **changes), device=CPU, compute_dtype=torch.float32)
    torch.manual_seed(seed)
    for name, parameter in policy.module.named_parameters():
        if parameter.requires_grad and ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.02)
    optimizer = torch.optim.AdamW([p for p in policy.module.parameters() if p.requires_grad])
    folder.mkdir(parents=True)
    save_model(policy, processor, folder, changing_weights(policy, optimizer), SafetensorsWriter())
    module: Any = policy.module
    return module.merge_and_unload().state_dict()


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.allclose(found[name], weight, atol=1e-6), name


def test_an_adapter_loads_as_its_base_with_the_trained_change(tmp_path: Path) -> None:
    trained = trained_adapter(tmp_path / "a")
    model = load_model(str(tmp_path / "a"))
    assert_same(model.state_dict(), trained)
    start = load_model(resolve_model_path(BUNDLED)).state_dict()
    assert any(not torch.equal(start[name], weight) for name, weight in trained.items())
    assert all(p.requires_grad for p in model.parameters()), "a new run can train all of it"


def test_an_adapter_on_an_adapter_loads_with_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained_adapter(tmp_path / "a")
    monkeypatch.chdir(tmp_path)
    trained = trained_adapter(tmp_path / "b", "a", seed=2)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # the base was named by a relative path
    assert lineage(str(tmp_path / "b")) == [
        str(tmp_path / "b"),
        str(tmp_path / "a"),
        resolve_model_path(BUNDLED),
    ]
    assert_same(load_model(str(tmp_path / "b")).state_dict(), trained)


def test_the_folder_says_all_of_the_model_and_holds_no_template_card(tmp_path: Path) -> None:
    trained_adapter(tmp_path / "a", override_config={"max_position_embeddings": 77})
    assert not (tmp_path / "a/README.md").exists()
    assert read_config(str(tmp_path / "a")).get_text_config().max_position_embeddings == 77
    policy, processor = load_policy(
        ModelConfig(model_path=str(tmp_path / "a")), device=CPU, compute_dtype=torch.float32
    )
    assert policy.config.max_position_embeddings == 77 and processor.is_vision and policy.eos_token_ids


def test_an_adapter_of_peft_alone_takes_configuration_and_tokenizer_from_its_base(tmp_path: Path) -> None:
    trained = trained_adapter(tmp_path / "a")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copyfile(tmp_path / "a" / name, bare / name)
    policy, processor = load_policy(
        ModelConfig(model_path=str(bare)), device=CPU, compute_dtype=torch.float32
    )
    assert_same(policy.module.state_dict(), trained)
    assert processor.is_vision and {file.name for file in policy.config_files} >= {"config.json"}


def test_whole_weights_for_other_loaders_are_merged_once_and_anew_for_another_adapter(tmp_path: Path) -> None:
    trained = trained_adapter(tmp_path / "a")
    notes: list[str] = []
    folder = Path(usable_model(str(tmp_path / "a"), "model", notes.append, whole=True))
    assert folder == tmp_path / "a/merged" and not list(tmp_path.glob("a/.merged*"))
    assert_same(load_model(str(folder)).state_dict(), trained)
    assert {"config.json", "generation_config.json", "tokenizer.json", "preprocessor_config.json"} <= {
        file.name for file in folder.iterdir()
    }
    assert (
        usable_model(str(tmp_path / "a"), "model", notes.append, whole=True) == str(folder)
        and len(notes) == 1
    )
    assert usable_model(str(tmp_path / "a"), "model") == str(tmp_path / "a"), (
        "loaders of ours merge in memory"
    )
    (folder / "config.json").write_text("{}")
    usable_model(str(tmp_path / "a"), "model", notes.append, whole=True)
    assert len(notes) == 2, "a file that was changed since"
    assert_same(load_model(str(folder)).state_dict(), trained)
    other = trained_adapter(tmp_path / "b", seed=5)
    shutil.copyfile(tmp_path / "b/adapter_model.safetensors", tmp_path / "a/adapter_model.safetensors")
    usable_model(str(tmp_path / "a"), "model", notes.append, whole=True)
    assert len(notes) == 3
    assert_same(load_model(str(folder)).state_dict(), other)


def test_a_bundled_base_is_found_where_the_package_lies_now(tmp_path: Path) -> None:
    trained_adapter(tmp_path / "a")
    change_config(tmp_path / "a", base_model_name_or_path="/gone/gmpo_mm/toys/bundled/qwen2_5_vl_tiny")
    assert lineage(str(tmp_path / "a"))[1] == resolve_model_path(BUNDLED)


def change_config(folder: Path, **changes: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("base", "said"),
    [("/gone/model", "was trained on /gone/model, and there is no such folder"), (None, "names no base model"),
     ("SELF", "is its own base")],
)  # fmt: skip
def test_a_base_that_is_not_there_is_named_with_the_file_to_correct(
    tmp_path: Path, base: str | None, said: str
) -> None:
    trained_adapter(tmp_path / "a")
    change_config(tmp_path / "a", base_model_name_or_path=str(tmp_path / "a") if base == "SELF" else base)
    with pytest.raises(ConfigError, match=said) as caught:
        load_model(str(tmp_path / "a"))
    assert "adapter_config.json" in str(caught.value)


def test_an_adapter_that_does_not_fit_its_base_is_an_error_and_never_half_loaded(tmp_path: Path) -> None:
    trained_adapter(tmp_path / "a")
    file = tmp_path / "a/adapter_model.safetensors"
    whole = load_file(file)
    one = next(name for name in whole if ".lora_A." in name)
    save_file({name: weight for name, weight in whole.items() if name != one}, file)
    with pytest.raises(ConfigError, match="can't be merged into its base.*missing"):
        load_model(str(tmp_path / "a"))
    save_file(whole | {one.replace("layers.0", "layers.99"): whole[one].clone()}, file)
    with pytest.raises(ConfigError, match=r"can't be merged into its base.*unexpected .*layers\.99"):
        load_model(str(tmp_path / "a"))
    save_file({name: weight[:, :-1].contiguous() for name, weight in whole.items()}, file)
    with pytest.raises(ConfigError, match="can't be merged into its base"):
        load_model(str(tmp_path / "a"))
    file.unlink()
    with pytest.raises(ConfigError, match="no adapter_model.safetensors"):
        load_model(str(tmp_path / "a"))


def test_an_adapter_of_a_weight_that_the_base_shares_is_refused(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    sizes = dict(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    base = Qwen2ForCausalLM(Qwen2Config(**sizes, num_key_value_heads=2, tie_word_embeddings=True))
    base.save_pretrained(tmp_path / "base")
    base.name_or_path = str(tmp_path / "base")
    get_peft_model(base, LoraConfig(r=2, target_modules=["lm_head"])).save_pretrained(tmp_path / "a")
    with pytest.raises(ConfigError, match="shares with another layer"):
        load_model(str(tmp_path / "a"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"target_modules": "qqq"},
            r"names 'qqq', and no module of Qwen2_5_VL.* Known: all-linear, down_proj",
        ),
        ({"target_modules": "q_proj, kproj"}, r"names 'kproj'.* Did you mean k_proj\?"),
        ({"target_modules": "q_proj,"}, "names ''"),
        ({"target_modules": "input_layernorm"}, "target_modules=input_layernorm"),
        ({"target_modules": "lm_head"}, "lm_head"),
        ({"target_modules": "qkv"}, "all in the vision tower"),
        ({"exclude_modules": "*visual"}, "exclude_modules=.* no regular expression"),
        ({"exclude_modules": ".*"}, "All modules were excluded"),
    ],
)
def test_targets_that_would_train_nothing_are_told_without_weights(
    changes: dict[str, str], said: str
) -> None:
    wrong = options()
    for key, value in changes.items():
        setattr(wrong.lora, key, value)
    with pytest.raises(ConfigError, match=said) as caught:
        check_lora(wrong, read_config(resolve_model_path(BUNDLED)))
    assert "worker.actor.model.lora." in str(caught.value)


@pytest.mark.parametrize("targets", ["all-linear", "q_proj,v_proj", "down_proj", "self_attn.q_proj"])
def test_targets_that_some_module_matches_pass(targets: str) -> None:
    right = options()
    right.lora.target_modules, right.lora.exclude_modules = targets, ".*visual.*"
    check_lora(right, read_config(resolve_model_path(BUNDLED)))
