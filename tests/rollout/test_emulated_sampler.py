"""`worker.rollout.emulate`: noise on the logits and a nucleus that the trainer does not know of."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from gmpo_mm.config import load_config
from gmpo_mm.engines.run_setup import training_params, validation_params
from gmpo_mm.models.packed import Group
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.rollout.hf import HFRollout, gaussian_noise
from gmpo_mm.rollout.protocol import Response, SamplingParams
from tests.models.model_zoo import VOCABULARY, build_policy, make_prompt

PARAMS = SamplingParams(n=3, temperature=0.7, max_tokens=6, logits_noise=0.8)
PROMPTS = [make_prompt(5 + 3 * i, [], seed=i) for i in range(3)]
SEEDS = [11, 12, 13]


def generate(policy: PolicyModel, params: SamplingParams, prompts: slice = slice(None), **more: int) -> list[list[Response]]:
    return HFRollout(policy, **more).generate(PROMPTS[prompts], params, SEEDS[prompts])


def distribution(policy: PolicyModel, prompt: int, prefix: list[int]) -> list[float]:
    """The trainer's log-probability of every token after a prefix, each by a pass of its own response."""
    responses = [torch.tensor([*prefix, token]) for token in range(VOCABULARY)]
    with torch.no_grad():
        output = policy.response_log_probs([Group(PROMPTS[prompt], responses)], PARAMS.temperature)
    return output.log_probs_BT[:, len(prefix)].double().tolist()


def naive_log_prob(log_probs: list[float], noise: list[float], params: SamplingParams, token: int) -> float:
    """log q(token), q proportional to exp((logit + s z) / T) on the smallest set of tokens that holds `hidden_top_p`."""
    shifted = [a + params.logits_noise * z / params.temperature for a, z in zip(log_probs, noise, strict=True)]
    whole = math.fsum(math.exp(value) for value in shifted)
    held, kept = 0.0, []
    for each in sorted(range(len(shifted)), key=lambda index: -shifted[index]):
        if held < params.hidden_top_p:
            kept.append(each)
        held += math.exp(shifted[each]) / whole
    assert token in kept, "nothing outside the nucleus is drawn"
    return shifted[token] - math.log(math.fsum(math.exp(shifted[each]) for each in kept))


@pytest.mark.parametrize(("noise", "top_p"), [(0.8, 1.0), (0.0, 0.6), (0.8, 0.6)])
def test_reported_log_probs_are_those_of_the_disturbed_distribution(noise: float, top_p: float) -> None:
    policy = build_policy("qwen2")
    params = replace(PARAMS, logits_noise=noise, hidden_top_p=top_p, max_tokens=3)
    moved = 0.0
    for i, responses in enumerate(generate(policy, params)):
        for j, response in enumerate(responses):
            ids = response.token_ids_T.tolist()
            for t, token in enumerate(ids):
                clean = distribution(policy, i, ids[:t])
                z = gaussian_noise(SEEDS[i], j, t, VOCABULARY).tolist()
                expected = naive_log_prob(clean, z, params, token)
                assert float(response.log_probs_T[t]) == pytest.approx(expected, abs=2e-4)
                moved = max(moved, abs(clean[token] - expected))
    assert moved > 0.1, "the trainer's own log-probabilities are others"


def test_noise_is_reproducible_and_independent_of_the_batch() -> None:
    policy = build_policy("qwen2")
    together = generate(policy, PARAMS)
    others = [generate(policy, PARAMS), generate(policy, PARAMS, max_rows=1)]
    others.append([generate(policy, PARAMS, slice(i, i + 1))[0] for i in range(3)])
    for other in others:
        for group, again in zip(together, other, strict=True):
            for a, b in zip(group, again, strict=True):
                assert torch.equal(a.token_ids_T, b.token_ids_T)
                torch.testing.assert_close(a.log_probs_T, b.log_probs_T, atol=1e-5, rtol=0)
    fewer = generate(policy, replace(PARAMS, n=2))
    assert [[r.token_ids_T.tolist() for r in g] for g in fewer] == [
        [r.token_ids_T.tolist() for r in g[:2]] for g in together
    ]
    plain = generate(policy, replace(PARAMS, logits_noise=0.0))
    assert any(not torch.equal(a.log_probs_T, b.log_probs_T) for a, b in zip(together[0], plain[0], strict=True))


def test_noise_is_standard_normal_and_another_one_for_each_seed_sample_and_position() -> None:
    drawn = [gaussian_noise(seed, j, t, 500) for seed in (1, 2) for j in range(10) for t in range(10)]
    flat = np.concatenate(drawn).astype(np.float64)
    assert abs(flat.mean()) < 4 / math.sqrt(flat.size) and abs(flat.std() - 1) < 4 / math.sqrt(2 * flat.size)
    correlation = np.corrcoef(np.stack(drawn)) - np.eye(len(drawn))
    assert np.abs(correlation).max() < 6 / math.sqrt(500)
    assert np.array_equal(gaussian_noise(2, 3, 4, 50), gaussian_noise(2, 3, 4, 50))


def test_validation_samples_from_the_model_itself() -> None:
    config = load_config("quickstart", ["worker.rollout.emulate={logits_noise: 0.5, top_p: 0.9}"]).config
    training, validation = training_params(config), validation_params(config)
    assert (training.logits_noise, training.hidden_top_p) == (0.5, 0.9) and not training.is_truncated
    assert (validation.logits_noise, validation.hidden_top_p) == (0.0, 1.0)
