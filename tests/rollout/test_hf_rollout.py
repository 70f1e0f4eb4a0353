"""The built-in sampler: its log-probabilities, its distribution, its stopping, and what it may not sample."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from gmpo_mm.models.packed import Group
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.rollout.hf import MIN_LINES, HFRollout, sample_tokens, truncate
from gmpo_mm.rollout.protocol import Response, SamplingParams
from tests.models.model_zoo import ENDS, IMAGE, TEXT_FAMILIES, VISION_FAMILIES, build_policy, make_prompt

PARAMS = SamplingParams(n=4, temperature=0.8, max_tokens=12)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Several threads cut a matrix product by its size, and small cuts sum in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def prompts_for(family: str) -> list:
    grids = [[(1, 4, 6)], [], [(1, 2, 4), (1, 4, 4)]] if family in VISION_FAMILIES else [[], [], []]
    return [make_prompt(6 + 4 * i, g, seed=i) for i, g in enumerate(grids)]


def generate(policy: PolicyModel, prompts: list, params: SamplingParams = PARAMS, **kwargs: int) -> list[list[Response]]:
    return HFRollout(policy, **kwargs).generate(prompts, params, [100 + i for i in range(len(prompts))])


@pytest.mark.parametrize("family", TEXT_FAMILIES + VISION_FAMILIES)
def test_sampled_log_probs_are_the_trainers_own(family: str) -> None:
    policy = build_policy(family)
    prompts = prompts_for(family)
    responses = generate(policy, prompts)
    groups = [Group(p, [r.token_ids_T for r in rs]) for p, rs in zip(prompts, responses, strict=True)]
    with torch.no_grad():
        output = policy.response_log_probs(groups, PARAMS.temperature)
    sampled = torch.cat([r.log_probs_T for rs in responses for r in rs])
    torch.testing.assert_close(sampled, output.log_probs_BT[output.mask_BT], atol=2e-5, rtol=1e-5)
    lengths = {len(r.token_ids_T) for rs in responses for r in rs}
    assert len(lengths) > 1  # rows left the batch at different steps


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen2", "qwen3"])
def test_responses_do_not_depend_on_the_rest_of_the_batch(family: str, one_thread: None) -> None:
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        # there a product of another height may round its last bit otherwise (seen for qwen3); the bits are promised for AVX2
        name = f"{__file__}::test_responses_do_not_depend_on_the_rest_of_the_batch[{family}]"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", name]
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout
        return
    policy = build_policy(family)
    prompts = prompts_for(family)
    together = generate(policy, prompts)
    alone = [HFRollout(policy).generate([p], PARAMS, [100 + i])[0] for i, p in enumerate(prompts)]
    in_small_batches = generate(policy, prompts, max_rows=1)
    fewer = HFRollout(policy).generate(prompts[:1], SamplingParams(n=2, temperature=0.8, max_tokens=12), [100])[0]
    for i in range(len(prompts)):
        for j in range(PARAMS.n):
            for other in (alone, in_small_batches):
                assert torch.equal(other[i][j].token_ids_T, together[i][j].token_ids_T)
                assert torch.equal(other[i][j].log_probs_T, together[i][j].log_probs_T)  # the same bits, not only close
    assert [r.token_ids_T.tolist() for r in fewer] == [r.token_ids_T.tolist() for r in together[0][:2]]


def test_equal_samples_pass_through_the_decoder_once() -> None:
    policy = build_policy("qwen2")
    lines = []
    policy.decoder.layers[0].mlp.register_forward_hook(lambda _, inputs, __: lines.append(inputs[0].shape[0]))
    prompt = make_prompt(8)
    HFRollout(policy).generate([prompt], SamplingParams(n=32, temperature=0.0, max_tokens=4, ignore_eos=True), [1])
    assert lines == [1, *[MIN_LINES] * 3]  # the prompt, then one line, brought to the least number that there is
    lines.clear()
    (responses,) = HFRollout(policy).generate([prompt], SamplingParams(n=32, temperature=1.0, max_tokens=6), [1])
    prefixes = [{tuple(r.token_ids_T[: t + 1].tolist()) for r in responses if len(r.token_ids_T) > t + 1} for t in range(5)]
    assert lines[1:] == [max(MIN_LINES, len(p)) for p in prefixes if p]
    assert MIN_LINES < lines[-1] < 32  # some samples were equal, and more than the least number were not


def test_seeds_decide_the_responses() -> None:
    policy = build_policy("qwen2")
    prompt = make_prompt(8)
    first, again, other = (HFRollout(policy).generate([prompt], PARAMS, [s])[0] for s in (1, 1, 2))
    ids = [[r.token_ids_T.tolist() for r in rs] for rs in (first, again, other)]
    assert ids[0] == ids[1] != ids[2]


def test_greedy_takes_the_most_likely_token() -> None:
    policy = build_policy("qwen2")
    prompt = make_prompt(8)
    params = SamplingParams(n=2, temperature=0.0, max_tokens=6)
    first, second = HFRollout(policy).generate([prompt], params, [1])[0]
    assert first.token_ids_T.tolist() == second.token_ids_T.tolist()
    ids = prompt.input_ids_S.tolist()
    for token in first.token_ids_T.tolist():
        logits = policy.module(torch.tensor([ids])).logits[0, -1]
        logits[policy.forbidden_token_ids] = float("-inf")
        assert int(logits.argmax()) == token
        ids.append(token)


def test_responses_end_with_the_end_token_or_at_the_limit() -> None:
    policy = build_policy("qwen2")
    responses = generate(policy, [make_prompt(8, seed=s) for s in range(6)])
    kinds = set()
    for response in (r for rs in responses for r in rs):
        ids = response.token_ids_T.tolist()
        kinds.add(response.stop_reason)
        assert not set(ENDS) & set(ids[:-1])
        assert (ids[-1] in ENDS) == (response.stop_reason == "stop")
        assert response.stop_reason == "stop" or len(ids) == PARAMS.max_tokens
    assert kinds == {"stop", "length"}


def test_ignore_eos_fills_every_response() -> None:
    params = SamplingParams(n=4, temperature=1.0, max_tokens=70, ignore_eos=True)  # more than one growth of the cache
    policy = build_policy("qwen2_5_vl")
    prompts = prompts_for("qwen2_5_vl")
    responses = generate(policy, prompts, params)
    assert {len(r.token_ids_T) for rs in responses for r in rs} == {70}
    groups = [Group(p, [r.token_ids_T for r in rs]) for p, rs in zip(prompts, responses, strict=True)]
    with torch.no_grad():
        output = policy.response_log_probs(groups)
    sampled = torch.cat([r.log_probs_T for rs in responses for r in rs])
    torch.testing.assert_close(sampled, output.log_probs_BT[output.mask_BT], atol=3e-5, rtol=1e-5)


def test_image_tokens_are_never_sampled_however_likely() -> None:
    policy = build_policy("qwen2_5_vl")
    with torch.no_grad():
        policy.lm_head.weight[IMAGE] = 100.0
        policy.lm_head.weight[IMAGE] *= torch.randn(policy.lm_head.weight.shape[1]).sign()
    responses = generate(policy, prompts_for("qwen2_5_vl"))
    tokens = torch.cat([r.token_ids_T for rs in responses for r in rs])
    assert not bool(torch.isin(tokens, torch.tensor(policy.forbidden_token_ids)).any())
    assert bool(torch.isfinite(torch.cat([r.log_probs_T for rs in responses for r in rs])).all())


def test_sampling_follows_the_distribution() -> None:
    logits = torch.tensor([2.0, float("-inf"), 0.5, -1.0, 1.0, float("-inf")])
    draws = 40_000
    noise = 1 - torch.rand(draws, generator=torch.Generator().manual_seed(0))
    tokens, log_probs = sample_tokens(logits[None], torch.zeros(draws, dtype=torch.long), noise, PARAMS)
    share = torch.bincount(tokens, minlength=6) / draws
    torch.testing.assert_close(share, logits.softmax(0), atol=0.01, rtol=0)
    torch.testing.assert_close(log_probs, logits.log_softmax(0)[tokens])


def test_truncated_samples_carry_the_log_probs_they_were_drawn_with() -> None:
    probs = torch.tensor([0.1, 0.5, 0.15, 0.25])
    params = SamplingParams(n=1, temperature=1.0, max_tokens=1, top_p=0.7)
    noise = 1 - torch.rand(1000, generator=torch.Generator().manual_seed(0))
    tokens, log_probs = sample_tokens(probs.log()[None], torch.zeros(1000, dtype=torch.long), noise, params)
    kept = torch.tensor([0.0, 2 / 3, 0.0, 1 / 3])
    assert set(tokens.tolist()) == {1, 3}
    torch.testing.assert_close(log_probs.exp(), kept[tokens])


@pytest.mark.parametrize("noise", [1.0, 2.0**-24])
def test_extreme_noise_never_picks_an_impossible_token(noise: float) -> None:
    logits = torch.tensor([[float("-inf"), 0.0, -80.0, 0.3, float("-inf")]])
    token, _ = sample_tokens(logits, torch.zeros(1, dtype=torch.long), torch.tensor([noise]), PARAMS)
    assert int(token) in (1, 2, 3)


def test_truncation_keeps_the_smallest_set_that_holds_top_p() -> None:
    probs = torch.tensor([[0.1, 0.5, 0.15, 0.25]])
    assert truncate(probs, 0.7, -1).nonzero()[:, 1].tolist() == [1, 3]
    assert truncate(probs, 0.76, -1).nonzero()[:, 1].tolist() == [1, 2, 3]
    assert truncate(probs, 1.0, 1).nonzero()[:, 1].tolist() == [1]
    assert truncate(probs, 0.01, -1).nonzero()[:, 1].tolist() == [1]
