"""What vLLM samples and what it says about it, against transformers forward passes of the same weights."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from gmpo_mm.errors import ConfigError
from tests.vllm.conftest import NEEDS_VLLM

pytestmark = NEEDS_VLLM


def same(first, second) -> bool:
    return all(
        torch.equal(a.token_ids_T, b.token_ids_T)
        for left, right in zip(first, second, strict=True)
        for a, b in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_log_probs_are_the_models_at_the_sampling_temperature(tiny, rollout, sampling, temperature) -> None:
    prompts = tiny.prompts()
    groups = rollout.generate(prompts, sampling(temperature=temperature), [1, 2, 3, 4, 5])
    assert tiny.gap(tiny.fresh_model(), prompts, groups, temperature) < 1e-4
    # the test can fail: the raw log-probabilities, vLLM's default, are those of temperature 1
    if temperature != 1.0:
        assert tiny.gap(tiny.fresh_model(), prompts, groups, 1.0) > 0.05


def test_every_prompt_gets_n_responses_that_end_as_they_say(tiny, rollout, sampling) -> None:
    params = sampling(n=16, max_tokens=6, temperature=2.0)
    groups = rollout.generate(tiny.prompts(), params, [1, 2, 3, 4, 5])
    assert [len(group) for group in groups] == [16] * 5
    kinds = set()
    for response in (r for group in groups for r in group):
        ids = response.token_ids_T.tolist()
        kinds.add(response.stop_reason)
        assert response.log_probs_T.shape == response.token_ids_T.shape
        assert response.log_probs_T.dtype == torch.float32
        assert 1 <= len(ids) <= 6
        assert not set(ids[:-1]) & set(tiny.ends)
        if response.stop_reason == "stop":
            assert ids[-1] in tiny.ends
        else:
            assert len(ids) == 6
            assert ids[-1] not in tiny.ends
    assert kinds == {"stop", "length"}


def test_ignore_eos_goes_on_after_an_end_token(tiny, rollout, sampling) -> None:
    params = sampling(n=16, max_tokens=40, temperature=2.0, ignore_eos=True)
    (group,) = rollout.generate([tiny.prompt("area?")], params, [3])
    assert {len(r.token_ids_T) for r in group} == {40}
    assert {r.stop_reason for r in group} == {"length"}
    assert any(set(r.token_ids_T[:-1].tolist()) & set(tiny.ends) for r in group)


def test_vision_tokens_are_never_sampled_however_likely_the_model_finds_them(tiny, rollout, sampling) -> None:
    boosted = tiny.fresh_model()
    with torch.no_grad():
        weight_VC = boosted.lm_head.weight  # tied: the embedding too
        hidden_C = boosted.model.language_model.norm.weight.abs()
        weight_VC[tiny.forbidden] = 50.0 * torch.sign(weight_VC[tiny.ends[0]]) * hidden_C
    rollout.sync_weights(boosted)
    prompts = [tiny.prompt("area?"), tiny.prompt("sum?")]
    groups = rollout.generate(prompts, sampling(n=8), [1, 2])
    sampled = torch.cat([r.token_ids_T for group in groups for r in group])
    assert not torch.isin(sampled, torch.tensor(tiny.forbidden)).any()
    ids = torch.cat([prompts[0].input_ids_S, groups[0][0].token_ids_T])
    with torch.no_grad():
        p_SV = boosted(input_ids=ids[None]).logits[0].softmax(-1)
    assert p_SV[:, tiny.forbidden].sum(-1).max() > 0.99  # they would have been sampled
    assert tiny.gap(boosted, prompts, groups) < 1e-3


def test_greedy_takes_the_likeliest_token_for_all_samples(tiny, rollout, sampling) -> None:
    prompts, model = tiny.prompts(), tiny.fresh_model()
    groups = rollout.generate(prompts, sampling(temperature=0.0, n=3), [1, 2, 3, 4, 5])
    assert same(groups, [[group[0]] * 3 for group in groups])
    assert tiny.gap(model, prompts, groups) < 1e-4  # those of temperature 1
    ids_T = groups[1][0].token_ids_T
    ids_S = torch.cat([prompts[1].input_ids_S, ids_T])
    with torch.no_grad():
        logits_SV = model(input_ids=ids_S[None]).logits[0]
    logits_SV[:, tiny.forbidden] = float("-inf")
    assert torch.equal(logits_SV[len(prompts[1].input_ids_S) - 1 : -1].argmax(-1), ids_T)


def test_truncated_sampling_reports_the_truncated_distribution(tiny, rollout, sampling) -> None:
    prompts = [tiny.prompt("area?")]
    (group,) = rollout.generate(prompts, sampling(top_k=1), [1])
    assert all(torch.equal(r.log_probs_T, torch.zeros_like(r.log_probs_T)) for r in group)
    (greedy,) = rollout.generate(prompts, sampling(temperature=0.0), [1])
    assert same([group], [greedy])
    (half,) = rollout.generate(prompts, sampling(top_p=0.5), [1])
    for response in half:
        assert (response.log_probs_T >= tiny.log_probs(tiny.fresh_model(), prompts[0], response, 1.0) - 1e-4).all()


def test_same_seed_same_responses_in_any_batch(tiny, rollout, sampling) -> None:
    prompts, seeds = tiny.prompts(), [11, 12, 13, 14, 15]
    groups = rollout.generate(prompts, sampling(), seeds)
    assert same(groups, rollout.generate(prompts, sampling(), seeds))
    alone = [rollout.generate([p], sampling(), [s])[0] for p, s in zip(prompts, seeds, strict=True)]
    assert same(groups, alone)
    assert same(list(reversed(groups)), rollout.generate(prompts[::-1], sampling(), seeds[::-1]))
    assert not same(groups, rollout.generate(prompts, sampling(), [21, 22, 23, 24, 25]))


def test_neighbouring_seeds_share_no_noise(tiny, rollout, sampling) -> None:
    prompt = tiny.prompt("area?")
    first, second = rollout.generate([prompt, prompt], sampling(n=8, temperature=2.0), [1, 2])
    texts = [tuple(r.token_ids_T.tolist()) for r in (*first, *second)]
    assert len(set(texts)) == 16


def test_more_prompt_tokens_than_an_engine_step_holds(tiny, rollout, sampling) -> None:
    # vLLM would cut a prompt between two steps, and its CPU sampler fails when it does
    prompts = [tiny.prompt("area?", [(448, 448)], seed=i) for i in range(24)]
    assert sum(len(p.input_ids_S) for p in prompts) > 4096
    seeds = list(range(24))
    groups = rollout.generate(prompts, sampling(n=2, max_tokens=3), seeds)
    assert [len(group) for group in groups] == [2] * 24
    assert tiny.gap(tiny.fresh_model(), prompts[::8], groups[::8]) < 1e-4


def test_more_samples_than_one_request_may_hold(tiny, rollout, sampling) -> None:
    prompt = tiny.prompt("area?", [(448, 448)])
    many = -(-4096 // len(prompt.input_ids_S)) + 3
    params = {"max_tokens": 8, "temperature": 2.0, "ignore_eos": True}
    (group,) = rollout.generate([prompt], sampling(n=many, **params), [5])
    (fewer,) = rollout.generate([prompt], sampling(n=4, **params), [5])
    assert len({tuple(r.token_ids_T.tolist()) for r in group}) == many  # no noise is used twice
    assert same([group[:4]], [fewer])


def test_sampling_leaves_the_process_as_it_was(tiny, rollout, sampling) -> None:
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state(), torch.get_num_threads()
    set_threads = torch.set_num_threads
    rollout.generate([tiny.prompt("area?")], sampling(), [1])
    assert random.getstate() == before[0]
    assert np.random.get_state()[1].tolist() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])
    assert torch.get_num_threads() == before[3]
    assert torch.set_num_threads is set_threads
    assert set_threads.__module__ != "vllm.v1.worker.cpu_worker"


def test_progress_is_told_and_an_error_in_it_leaves_no_request_behind(tiny, rollout, sampling, monkeypatch) -> None:
    monkeypatch.setattr("gmpo_mm.rollout.vllm.PROGRESS_SECONDS", 0.0)
    said: list[str] = []
    prompts = [tiny.prompt("area?"), tiny.prompt("sum?")]
    groups = rollout.generate(prompts, sampling(), [1, 2], progress=said.append)
    assert said[-1].startswith("vLLM: 8 of 8 responses")

    def refuse(text: str) -> None:
        raise RuntimeError(text)

    with pytest.raises(RuntimeError, match="vLLM: "):
        rollout.generate(prompts, sampling(), [1, 2], progress=refuse)
    assert same(groups, rollout.generate(prompts, sampling(), [1, 2]))


@pytest.mark.parametrize("temperature", [0.001, 2.5, -1.0])
def test_a_temperature_that_vllm_would_change_is_refused(tiny, rollout, sampling, temperature) -> None:
    with pytest.raises(ConfigError, match=r"worker\.rollout\.temperature"):
        rollout.generate([tiny.prompt("area?")], sampling(temperature=temperature), [1])


def test_a_response_that_does_not_fit_is_refused_instead_of_cut(tiny, rollout, sampling) -> None:
    with pytest.raises(ConfigError, match=r"worker\.rollout\.max_model_len=1024"):
        rollout.generate([tiny.prompt("area?")], sampling(max_tokens=1020), [1])


def test_a_prompt_that_the_two_encode_differently_is_refused(tiny, rollout, sampling) -> None:
    import dataclasses

    prompt = tiny.prompt("area?", [(56, 56)])
    longer = dataclasses.replace(prompt, input_ids_S=torch.cat([prompt.input_ids_S, torch.tensor([5])]))
    with pytest.raises(ConfigError, match="processor files"):
        rollout.generate([longer], sampling(), [1])
