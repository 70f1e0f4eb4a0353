"""Advantages against a loop over groups, and the faults of a user named."""

import itertools
import math
import statistics

import pytest
import torch

from gmpo_mm.algorithms import compute_advantages, filter_groups, known_estimators

IDS = torch.tensor([7, -3, 7, 900000000000, -3, 7, 900000000000, -3])
LENGTHS = [3, 1, 4, 1, 5, 9, 2, 6]
REWARDS = torch.tensor([1.0, 0.1, 0.0, 0.9, 0.3, 0.4, 0.9, 0.1])


def naive(estimator, rewards, ids, norm_by_std=True, eps=1e-6):
    result = []
    for reward, group in zip(rewards, ids, strict=True):
        members = [r for r, other in zip(rewards, ids, strict=True) if other == group]
        scale = statistics.stdev(members) + eps if norm_by_std else 1.0
        if estimator == "rloo":
            others = list(members)
            others.remove(reward)
            result.append(reward - statistics.fmean(others))
        elif estimator == "opo":
            lengths = [length for length, other in zip(itertools.cycle(LENGTHS), ids, strict=False) if other == group]
            result.append(reward - sum(n * r for n, r in zip(lengths, members, strict=True)) / sum(lengths))
        elif estimator == "max_rl":
            mean = statistics.fmean(members)
            result.append((reward - mean) / mean if mean else 0.0)
        elif estimator == "grpo_passk":
            second, best = sorted(members)[-2:]
            result.append((best - second) / scale if reward == best and members.count(best) == 1 else 0.0)
        else:
            result.append((reward - statistics.fmean(members)) / (1.0 if estimator == "dr_grpo" else scale))
    if estimator == "gdpo":  # one reward
        spread = statistics.stdev(result)
        result = [value / (spread + eps) for value in result]
    return result


def mask_of(lengths):
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def group_advantages(estimator, rewards, ids, lengths=None, **more):
    """One advantage a response, with what the estimator needs beside the rewards: lengths, or rewards in parts."""
    if estimator == "gdpo":
        more["parts_KB"] = rewards[None]
    if estimator != "opo":
        return compute_advantages(estimator, rewards, ids, **more)
    lengths = lengths or list(itertools.islice(itertools.cycle(LENGTHS), len(rewards)))
    return compute_advantages(estimator, rewards, ids, response_mask_BT=mask_of(lengths), **more)[:, 0]


@pytest.mark.parametrize("estimator", known_estimators(groups=True))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_group_estimators_equal_a_loop(estimator, dtype):
    rewards = REWARDS.to(dtype)
    got = group_advantages(estimator, rewards, IDS)
    assert got.dtype == dtype
    assert got.tolist() == pytest.approx(naive(estimator, rewards.tolist(), IDS.tolist()), rel=1e-6, abs=1e-7)


def test_grpo_by_hand():
    got = compute_advantages("grpo", torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.zeros(4, dtype=torch.long))
    std = math.sqrt(1 / 3)  # unbiased
    assert got.tolist() == pytest.approx([0.5 / std, -0.5 / std, -0.5 / std, 0.5 / std], rel=1e-5)


def test_grpo_without_std_is_dr_grpo():
    without = compute_advantages("grpo", REWARDS, IDS, norm_by_std=False)
    assert torch.equal(without, compute_advantages("dr_grpo", REWARDS, IDS))
    assert not torch.equal(without, compute_advantages("grpo", REWARDS, IDS))


def test_passk_without_std_gives_the_single_best_its_lead_and_a_tie_nothing():
    got = compute_advantages("grpo_passk", REWARDS, IDS, norm_by_std=False)
    assert got.tolist() == pytest.approx([0.6, 0, 0, 0, 0.2, 0, 0, 0], abs=1e-7)


@pytest.mark.parametrize("estimator", known_estimators(groups=True))
@pytest.mark.parametrize("reward", [0.0, 0.1, 1.0, 0.30000001192092896])
def test_group_of_equal_rewards_has_advantage_exactly_zero(estimator, reward):
    got = group_advantages(estimator, torch.full((7,), reward), torch.full((7,), 5))
    assert torch.equal(got, torch.zeros(7))


@pytest.mark.parametrize("estimator", known_estimators(groups=True))
def test_row_order_and_group_numbering_do_not_matter(estimator):
    g = torch.Generator().manual_seed(0)
    rewards, ids = torch.rand(64, generator=g), torch.arange(8).repeat(8)
    order = torch.randperm(64, generator=g)
    lengths = (torch.arange(64) % 11 + 1).tolist()
    base = group_advantages(estimator, rewards, ids, lengths)
    moved = group_advantages(estimator, rewards[order], ids[order], [lengths[i] for i in order])
    assert torch.equal(moved, base[order])
    assert torch.equal(group_advantages(estimator, rewards, 1000 - 37 * ids, lengths), base)


@pytest.mark.parametrize("estimator", known_estimators(groups=True))
def test_group_of_one_is_an_error_that_names_the_group(estimator):
    with pytest.raises(ValueError, match=f"{estimator} compares .*group 42.*rollout.n"):
        group_advantages(estimator, REWARDS[:3], torch.tensor([1, 42, 1]))


def test_mask_gives_each_valid_token_the_advantage_of_its_sequence():
    mask = torch.tensor([[True, True, False], [False, False, False], [True, False, False]])
    got = compute_advantages("dr_grpo", torch.tensor([3.0, 0.0, 0.0]), torch.zeros(3), response_mask_BT=mask)
    assert got.tolist() == [[2.0, 2.0, 0.0], [0.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]


def test_token_rewards_replace_the_score_by_their_sum_and_an_empty_response_keeps_its_score():
    mask = torch.tensor([[True, True], [False, False]])
    token_rewards = torch.tensor([[-0.5, 1.0], [float("nan"), 9.0]])
    got = compute_advantages(
        "dr_grpo", torch.tensor([1.0, 0.25]), torch.zeros(2), response_mask_BT=mask, token_rewards_BT=token_rewards
    )
    assert got.tolist() == [[0.125, 0.125], [0.0, 0.0]]


def test_remax_subtracts_the_greedy_reward():
    got = compute_advantages("remax", torch.tensor([1.0, 0.0]), torch.arange(2), baselines_B=torch.tensor([0.25, 1.0]))
    assert got.tolist() == [0.75, -1.0]


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_reinforce_plus_plus_equals_a_loop(gamma):
    rewards = torch.tensor([1.0, 0.0, 0.5, 0.7])
    mask = torch.tensor([[True] * 4, [True] * 2 + [False] * 2, [True] + [False] * 3, [False] * 4])
    returns = {}
    for i in range(4):
        n = int(mask[i].sum())
        for t in range(n):
            returns[i, t] = rewards[i].item() * gamma ** (n - 1 - t)
    mean, variance = statistics.fmean(returns.values()), statistics.variance(returns.values())
    expected = torch.zeros(4, 4)
    for (i, t), value in returns.items():
        expected[i, t] = (value - mean) / math.sqrt(variance + 1e-8)
    got = compute_advantages("reinforce_plus_plus", rewards, torch.zeros(4), response_mask_BT=mask, gamma=gamma)
    torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-7)


def test_reinforce_plus_plus_discounts_token_rewards():
    token_rewards = torch.tensor([[0.1, -0.2, 1.0], [0.3, 5.0, float("nan")]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    values = torch.tensor([0.1 + 0.5 * (-0.2 + 0.5), -0.2 + 0.5, 1.0, 0.3], dtype=torch.float64)
    white = (values - values.mean()) * torch.rsqrt(values.var() + 1e-8)
    got = compute_advantages(
        "reinforce_plus_plus",
        torch.zeros(2, dtype=torch.float64),
        torch.zeros(2),
        response_mask_BT=mask,
        token_rewards_BT=token_rewards,
        gamma=0.5,
    )
    torch.testing.assert_close(got[mask], white, rtol=1e-12, atol=0)
    assert got[1, 1:].tolist() == [0.0, 0.0]


def test_reinforce_plus_plus_without_discount_gives_gmpo_one_advantage_a_sequence():
    mask = torch.ones(2, 50, dtype=torch.bool)
    got = compute_advantages("reinforce_plus_plus", torch.tensor([0.1, 0.7]), torch.zeros(2), response_mask_BT=mask)
    assert (got == got[:, :1]).all() and got[0, 0] < 0 < got[1, 0]


def test_gae_is_an_error_that_says_why():
    with pytest.raises(ValueError, match="'gae' needs the values of a critic, and the local engine trains none"):
        compute_advantages("gae", REWARDS, IDS)


def test_unknown_estimator_names_the_nearest_and_the_known():
    with pytest.raises(ValueError, match="Did you mean 'grpo_passk'") as error:
        compute_advantages("grpo_pask", REWARDS, IDS)
    assert all(name in str(error.value) for name in known_estimators())


@pytest.mark.parametrize(
    ("estimator", "kwargs", "message"),
    [
        ("rloo", {"norm_by_std": False}, "no effect on 'rloo'"),
        ("remax", {}, "remax needs baselines_B"),
        ("grpo", {"baselines_B": REWARDS}, "grpo does not read baselines_B"),
        ("reinforce_plus_plus", {}, "reinforce_plus_plus needs response_mask_BT"),
        ("grpo", {"token_rewards_BT": torch.zeros(8, 2)}, "token_rewards_BT needs response_mask_BT"),
        ("opo", {}, "opo needs response_mask_BT: it weighs responses by their lengths"),
        ("opo", {"norm_by_std": False}, "no effect on 'opo'"),
        ("gdpo", {}, "gdpo needs parts_KB"),
        ("grpo", {"parts_KB": REWARDS[None]}, "grpo does not read parts_KB"),
        ("gdpo", {"parts_KB": REWARDS[None], "weights_K": [1.0, 2.0]}, "2 weights for 1 rewards"),
        ("grpo", {"weights_K": [1.0]}, "1 weights for 0 rewards"),
        (
            "gdpo",
            {"parts_KB": REWARDS[None], "token_rewards_BT": torch.zeros(8, 2), "response_mask_BT": torch.ones(8, 2)},
            "gdpo does not read token_rewards_BT",
        ),
    ],
)
def test_missing_tensors_and_options_without_effect_are_errors(estimator, kwargs, message):
    with pytest.raises(ValueError, match=message):
        compute_advantages(estimator, REWARDS, IDS, **kwargs)


def test_online_filter_keeps_groups_whose_mean_is_strictly_inside():
    scores = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.5, 0.0, 1.0, 0.0])
    ids = torch.tensor([4, 9, 4, 9, -1, -1, 2, 2])
    assert filter_groups(scores, ids, 0.01, 0.99).tolist() == [False, False, False, False, True, True, True, True]
    assert filter_groups(scores, ids, 0.25, 0.99).tolist() == [False] * 6 + [True] * 2
    assert filter_groups(scores, ids, 0.01, 0.5).tolist() == [False] * 4 + [True] * 2 + [False] * 2


@pytest.mark.parametrize("estimator", known_estimators(groups=True))
@pytest.mark.parametrize("reward", [0.1, 0.9])
@pytest.mark.parametrize("size", [3, 6, 8, 16])
def test_equal_rewards_that_floats_can_not_hold_give_exactly_zero(estimator: str, reward: float, size: int) -> None:
    rewards_B = torch.full((size,), reward, dtype=torch.float64)
    assert bool((group_advantages(estimator, rewards_B, torch.zeros(size, dtype=torch.long)) == 0).all())


def test_opo_has_the_baseline_of_least_variance_where_gradients_grow_with_the_length() -> None:
    rewards, lengths = [1.0, 0.0, 0.0, 1.0, 0.0], [9, 2, 7, 1, 4]
    got = group_advantages("opo", torch.tensor(rewards, dtype=torch.float64), torch.zeros(5), lengths)
    baselines = [rewards[0] - got[0].item() + step for step in (-1e-3, 0.0, 1e-3)]
    variances = [sum(n * (r - b) ** 2 for n, r in zip(lengths, rewards, strict=True)) for b in baselines]
    assert variances[1] < min(variances[0], variances[2])
    assert got.tolist() == pytest.approx([r - 10 / 23 for r in rewards], rel=1e-12)


def test_opo_lets_an_empty_response_have_no_part_in_the_baseline() -> None:
    mask = torch.tensor([[True, True], [False, False], [True, False]])
    got = compute_advantages("opo", torch.tensor([1.0, 5.0, 0.0]), torch.zeros(3), response_mask_BT=mask)
    assert got.tolist() == [[pytest.approx(1 / 3)] * 2, [0.0, 0.0], [pytest.approx(-2 / 3), 0.0]]
    nothing = compute_advantages("opo", torch.ones(2), torch.zeros(2), response_mask_BT=torch.zeros(2, 3))
    assert torch.equal(nothing, torch.zeros(2, 3))


def test_max_rl_averages_right_responses_over_their_number_and_a_group_without_any_teaches_nothing() -> None:
    rewards = torch.tensor([1.0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0])
    got = compute_advantages("max_rl", rewards, torch.arange(3).repeat_interleave(4))
    assert got.tolist() == pytest.approx([3, -1, -1, -1, 1 / 3, 1 / 3, 1 / 3, -1, 0, 0, 0, 0])


def test_max_rl_refuses_a_score_below_0() -> None:
    with pytest.raises(ValueError, match=r"'max_rl': it divides by a group's mean score, and a response has the score -0\.5"):
        compute_advantages("max_rl", torch.tensor([1.0, -0.5]), torch.zeros(2))


def naive_gdpo(parts, weights, ids, norm_by_std=True, eps=1e-6):
    totals = [0.0] * len(ids)
    for part, weight in zip(parts, weights, strict=True):
        for i, group in enumerate(ids):
            members = [r for r, other in zip(part, ids, strict=True) if other == group]
            scale = statistics.stdev(members) + eps if norm_by_std else 1.0
            totals[i] += weight * (part[i] - statistics.fmean(members)) / scale
    mean, spread = statistics.fmean(totals), statistics.stdev(totals)
    return [(total - mean) / (spread + eps) for total in totals]


@pytest.mark.parametrize("norm_by_std", [True, False])
@pytest.mark.parametrize("weights", [None, [1.0, 0.25, -2.0]])
def test_gdpo_equals_a_loop_over_rewards_and_groups(weights, norm_by_std) -> None:
    g = torch.Generator().manual_seed(1)
    parts = torch.rand(3, 8, generator=g, dtype=torch.float64)
    parts[1] = parts[1].round()
    got = compute_advantages("gdpo", parts[0], IDS, parts_KB=parts, weights_K=weights, norm_by_std=norm_by_std)
    expected = naive_gdpo(parts.tolist(), weights or [1.0] * 3, IDS.tolist(), norm_by_std)
    assert got.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_gdpo_tells_rewards_apart_that_their_sum_does_not() -> None:
    parts = torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0]])  # the second group satisfies both
    ids = torch.tensor([0, 0, 1, 1])
    summed = compute_advantages("grpo", parts.sum(0), ids, eps=1e-12)
    assert summed[1] == pytest.approx(summed[3].item(), rel=1e-6)
    got = compute_advantages("gdpo", parts.sum(0), ids, parts_KB=parts)
    assert got[3] == pytest.approx(2 * got[1].item(), rel=1e-4) and got[1] > 0
