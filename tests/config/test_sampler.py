"""Which sampler `auto` is, what makes room for it, and the one word that says so."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from gmpo_mm.config import choose_sampler, load_config, longest_response, to_yaml
from gmpo_mm.config import validate as validate_module
from gmpo_mm.engines.checks import ineffective_keys, validate_for_training
from gmpo_mm.engines.local import keys as local_keys
from gmpo_mm.errors import ConfigError
from tests.config.conftest import Load

OFFLOAD = "worker.actor.offload"
KEYS = {f"{OFFLOAD}.offload_params", f"{OFFLOAD}.offload_optimizer"}


@pytest.fixture
def with_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *_: object())


@pytest.fixture
def without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "vllm" else real(name, *rest)
    )


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine on which `trainer.device=auto` is a GPU."""
    for module in (validate_module, local_keys):
        monkeypatch.setattr(module, "sees_gpu", lambda device: device != "cpu")


@pytest.mark.parametrize(
    ("word", "params", "optimizer"), [("none", 0, 0), ("optimizer", 0, 1), ("all", 1, 1)]
)
def test_one_word_stands_for_the_section(workplace: Path, word: str, params: int, optimizer: int) -> None:
    (workplace / "file.yaml").write_text(f"worker:\n  actor:\n    offload: {word}\n")
    for loaded in (load_config(None, [f"{OFFLOAD}={word}"]), load_config("file.yaml")):
        found = loaded.config.worker.actor.offload
        assert (found.offload_params, found.offload_optimizer) == (bool(params), bool(optimizer))
        assert loaded.explicit_keys == KEYS
        (workplace / "resolved.yaml").write_text(to_yaml(loaded.config))
        assert load_config("resolved.yaml").config == loaded.config


def test_what_comes_later_wins_over_the_word_and_the_other_way_round() -> None:
    first = load_config(
        None, [f"{OFFLOAD}=all", f"{OFFLOAD}.offload_params=false"]
    ).config.worker.actor.offload
    assert (first.offload_params, first.offload_optimizer) == (False, True)
    then = load_config(
        None, [f"{OFFLOAD}.offload_params=true", f"{OFFLOAD}=none"]
    ).config.worker.actor.offload
    assert (then.offload_params, then.offload_optimizer) == (False, False)


@pytest.mark.parametrize("value", ["weights", "null", "true"])
def test_another_word_is_an_error_that_names_the_known_ones(value: str) -> None:
    with pytest.raises(ConfigError, match=rf"{OFFLOAD} = .*offload_params, offload_optimizer"):
        load_config(None, [f"{OFFLOAD}={value}"])


def test_the_word_belongs_to_the_actor() -> None:
    with pytest.raises(ConfigError, match=r"worker\.ref\.offload is a section"):
        load_config(None, ["worker.ref.offload=all"])


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["trainer.device=cpu"], "engine local: no GPU, so everything is in CPU memory"),
        (
            ["worker.rollout.name=hf"],
            "engine local: rollouts use hf, which samples with the trained weights themselves",
        ),
    ],
)
def test_offloading_says_where_it_has_no_effect(
    load: Load, gpu: None, overrides: list[str], why: str
) -> None:
    found = {key: reason for key, _, reason in ineffective_keys(load(f"{OFFLOAD}=all", *overrides))}
    assert found == {**dict.fromkeys(KEYS, why), **{k: r for k, r in found.items() if k not in KEYS}}
    unset = {key for key, _, _ in ineffective_keys(load(f"{OFFLOAD}=none", *overrides))}
    assert not unset & KEYS, "none claims nothing"


def test_offloading_has_an_effect_beside_vllm_on_a_gpu(load: Load, gpu: None, with_vllm: None) -> None:
    for overrides in ([], ["worker.rollout.name=vllm"], ["trainer.device=cuda:0"]):
        assert not {key for key, _, _ in ineffective_keys(load(f"{OFFLOAD}=all", *overrides))} & KEYS


def test_without_vllm_auto_offloads_nothing(load: Load, gpu: None, without_vllm: None) -> None:
    assert {key for key, _, _ in ineffective_keys(load(f"{OFFLOAD}=all"))} >= KEYS


def test_auto_is_hf_on_a_cpu_however_long_responses_are(load: Load, without_vllm: None) -> None:
    validate_for_training(load("data.max_response_length=3000", "trainer.device=cpu"))
    assert choose_sampler("auto", on_gpu=False, max_tokens=3000) == ("hf", "vLLM is not installed")


def test_auto_is_vllm_on_a_gpu_that_has_it(load: Load, gpu: None, with_vllm: None) -> None:
    assert choose_sampler("auto", on_gpu=True, max_tokens=3000)[0] == "vllm"
    assert choose_sampler("auto", on_gpu=False, max_tokens=3000) == ("hf", "no GPU")


def test_long_responses_on_a_gpu_without_vllm_have_to_be_asked_for(
    load: Load, gpu: None, without_vllm: None
) -> None:
    validate_for_training(load("data.max_response_length=256"))
    validate_for_training(load("data.max_response_length=3000", "worker.rollout.name=hf"))
    validate_for_training(load("data.max_response_length=3000", "trainer.device=cpu"))
    fix = (
        r"worker\.rollout\.name = 'auto': .*responses of {} tokens; "
        r"pip install 'gmpo-mm\[vllm\]', or set worker\.rollout\.name=hf"
    )
    with pytest.raises(ConfigError, match=fix.format(257)):
        validate_for_training(load("data.max_response_length=257"))
    with pytest.raises(ConfigError, match=fix.format(512)):  # of a validation
        validate_for_training(
            load("data.max_response_length=64", "worker.rollout.val_override_config={max_tokens: 512}")
        )


def test_another_key_is_named_where_another_key_was_set(without_vllm: None) -> None:
    with pytest.raises(ConfigError, match=r"backend = 'auto'.*set backend=hf"):
        choose_sampler("auto", on_gpu=True, max_tokens=3000, key="backend")


@pytest.mark.parametrize(
    ("override", "longest"), [({}, 64), ({"max_tokens": 32}, 64), ({"max_tokens": 128}, 128)]
)
def test_the_longest_response_counts(load: Load, override: dict, longest: int) -> None:
    config = load("data.max_response_length=64").config
    config.worker.rollout.val_override_config = override
    assert longest_response(config) == longest


@pytest.mark.parametrize(
    ("gpu", "dtype", "ineffective"), [(False, "auto", True), (True, "auto", False), (True, "float32", True)]
)
def test_the_type_of_logits_matters_beside_16_bit_weights_on_a_gpu(
    gpu: bool, dtype: str, ineffective: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gmpo_mm.engines.local.keys.sees_gpu", lambda device: gpu)
    loaded = load_config(
        None, ["worker.actor.logits_dtype=bfloat16", f"trainer.dtype={dtype}", "engine=local"]
    )
    assert ("worker.actor.logits_dtype" in {key for key, _, _ in ineffective_keys(loaded)}) == ineffective
