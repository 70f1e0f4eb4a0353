"""Advantages from rewards, and the online filter on groups; vectorised, and independent of the order of rows."""

import difflib
from dataclasses import dataclass

import torch
from torch import Tensor

from gmpo_mm.algorithms.masked import place_on_last_token, zero_outside

ADVANTAGE_ESTIMATORS = ("dr_grpo", "grpo", "grpo_passk", "reinforce_plus_plus", "remax", "rloo")
GROUP_ESTIMATORS = ("dr_grpo", "grpo", "grpo_passk", "rloo")
# Estimators that know a standard deviation which norm_by_std=False can leave out.
_STD_ESTIMATORS = ("dr_grpo", "grpo", "grpo_passk")
_WHITEN_EPS = 1e-8


@dataclass(frozen=True)
class _Groups:
    """Group statistics G (one entry a group) in float64, in which sums of float32 rewards do not depend on order."""

    index_B: Tensor
    count_G: Tensor
    ids_G: Tensor

    def sum_G(self, values_B: Tensor) -> Tensor:
        return values_B.new_zeros(self.count_G.shape[0]).index_add(0, self.index_B, values_B)

    def max_G(self, values_B: Tensor) -> Tensor:
        lowest_G = values_B.new_full(self.count_G.shape, float("-inf"))
        return lowest_G.scatter_reduce(0, self.index_B, values_B, reduce="amax")

    def mean_G(self, values_B: Tensor) -> Tensor:
        return self.sum_G(values_B) / self.count_G

    def std_G(self, values_B: Tensor) -> Tensor:
        """Unbiased."""
        centred_B = values_B - self.mean_G(values_B)[self.index_B]
        return (self.sum_G(centred_B.square()) / (self.count_G - 1)).sqrt()


def _groups(group_ids_B: Tensor) -> _Groups:
    ids_G, index_B, count_G = torch.unique(group_ids_B, return_inverse=True, return_counts=True)
    return _Groups(index_B, count_G, ids_G)


@torch.no_grad()
def compute_advantages(
    estimator: str,
    rewards_B: Tensor,
    group_ids_B: Tensor,
    *,
    response_mask_BT: Tensor | None = None,
    token_rewards_BT: Tensor | None = None,
    baselines_B: Tensor | None = None,
    gamma: float = 1.0,
    norm_by_std: bool = True,
    eps: float = 1e-6,
) -> Tensor:
    """Advantages of B responses; rows with equal group id answer the same prompt.

    - ``grpo`` (arXiv 2402.03300): (r - mean) / (std + eps) over the group, unbiased std.
    - ``dr_grpo`` (2503.20783), or ``grpo`` with ``norm_by_std=False``: r - mean.
    - ``grpo_passk`` (2503.19595): the group's single best response gets (best - second best) / (std + eps), all
      others 0; a tie for the best gives 0.
    - ``rloo`` (2402.14740): r minus the mean of the group's others.
    - ``remax`` (2310.10505): r minus ``baselines_B``, the reward of the greedy response.
    - ``reinforce_plus_plus`` (2501.03262): discounted returns of each token, whitened over all valid tokens.

    Args:
        rewards_B: the score of each response.
        group_ids_B: integers of any value, in any order.
        response_mask_BT: if given, the result is (B, T) and 0 outside the mask; else (B,).
        token_rewards_BT: rewards by token (see ``apply_kl_to_rewards``), which then replace ``rewards_B``: their sum
            over the valid tokens is the score. A response without a valid token keeps its score of ``rewards_B``.
        baselines_B: for ``remax`` only.
        gamma: discount, for ``reinforce_plus_plus`` only.
        norm_by_std: False leaves the division by the standard deviation out.

    Raises:
        ValueError: ``gae`` or an unknown estimator; a group of one where the estimator compares within the group; a
            missing tensor; ``norm_by_std=False`` or baselines for an estimator on which they have no effect.
    """
    _check_arguments(estimator, response_mask_BT, token_rewards_BT, baselines_B, norm_by_std)
    dtype = torch.promote_types(rewards_B.dtype, torch.float32)
    if estimator == "reinforce_plus_plus":
        assert response_mask_BT is not None
        mask_BT = response_mask_BT.bool()
        token_BT = place_on_last_token(rewards_B, mask_BT) if token_rewards_BT is None else token_rewards_BT
        return _reinforce_plus_plus(token_BT.to(torch.float64), mask_BT, gamma).to(dtype)

    scores_B = rewards_B.to(torch.float64)
    if token_rewards_BT is not None:
        assert response_mask_BT is not None
        mask_BT = response_mask_BT.bool()
        sums_B = zero_outside(token_rewards_BT.to(torch.float64), mask_BT).sum(dim=-1)
        scores_B = torch.where(mask_BT.any(dim=-1), sums_B, scores_B)
    if estimator == "remax":
        assert baselines_B is not None
        advantages_B = scores_B - baselines_B.to(torch.float64)
    else:
        advantages_B = _group_advantages(estimator, scores_B, group_ids_B, norm_by_std, eps)
    advantages_B = advantages_B.to(dtype)
    if response_mask_BT is None:
        return advantages_B
    return zero_outside(advantages_B[:, None].expand(response_mask_BT.shape), response_mask_BT.bool())


@torch.no_grad()
def filter_groups(scores_B: Tensor, group_ids_B: Tensor, low: float, high: float) -> Tensor:
    """Which rows online filtering keeps (DAPO, arXiv 2503.14476), bool (B,): groups with low < mean score < high.

    A group in which every response is right, or every one wrong, has advantage 0 throughout and teaches nothing.
    """
    groups = _groups(group_ids_B)
    mean_B = groups.mean_G(scores_B.to(torch.float64))[groups.index_B]
    return (mean_B > low) & (mean_B < high)


def _group_advantages(
    estimator: str, scores_B: Tensor, group_ids_B: Tensor, norm_by_std: bool, eps: float
) -> Tensor:
    groups = _groups(group_ids_B)
    if bool((groups.count_G < 2).any()):
        alone = groups.ids_G[groups.count_G < 2].tolist()
        raise ValueError(
            f"{estimator} compares the responses of a group, but {len(alone)} group(s) hold only one "
            f"(group {alone[0]}{', ...' if len(alone) > 1 else ''}); set worker.rollout.n to 2 or more."
        )
    index_B = groups.index_B
    # equal rewards have to give exactly 0, which the rounded mean of eight times 0.1 would not
    scores_B = scores_B - groups.max_G(scores_B)[index_B]
    if estimator == "rloo":
        others_B = (groups.sum_G(scores_B)[index_B] - scores_B) / (groups.count_G[index_B] - 1)
        return scores_B - others_B
    if estimator == "grpo_passk":
        best_B = groups.max_G(scores_B)[index_B]
        is_best_B = scores_B == best_B
        single_B = groups.sum_G(is_best_B.to(scores_B.dtype))[index_B] == 1
        # In a group whose best is shared there may be no rest; it is not looked at then.
        second_B = groups.max_G(zero_outside(scores_B, ~is_best_B, float("-inf")))[index_B]
        advantages_B = torch.where(is_best_B & single_B, best_B - second_B, torch.zeros_like(scores_B))
    else:
        advantages_B = scores_B - groups.mean_G(scores_B)[index_B]
    if norm_by_std and estimator != "dr_grpo":
        advantages_B = advantages_B / (groups.std_G(scores_B)[index_B] + eps)
    return advantages_B


def _reinforce_plus_plus(token_rewards_BT: Tensor, mask_BT: Tensor, gamma: float) -> Tensor:
    """Returns R_t = r_t + gamma R_{t+1} over the valid tokens, then whitened over all of them (unbiased variance)."""
    rewards_BT = zero_outside(token_rewards_BT, mask_BT)
    returns_BT = torch.zeros_like(rewards_BT)
    running_B = rewards_BT.new_zeros(rewards_BT.shape[0])
    for t in reversed(range(rewards_BT.shape[1])):
        running_B = torch.where(mask_BT[:, t], rewards_BT[:, t] + gamma * running_B, running_B)
        returns_BT[:, t] = running_B
    n = mask_BT.sum()
    mean = zero_outside(returns_BT, mask_BT).sum() / n.clamp(min=1)
    centred_BT = zero_outside(returns_BT - mean, mask_BT)
    variance = centred_BT.square().sum() / (n - 1).clamp(min=1)
    return centred_BT * torch.rsqrt(variance + _WHITEN_EPS)


def _check_arguments(
    estimator: str,
    response_mask_BT: Tensor | None,
    token_rewards_BT: Tensor | None,
    baselines_B: Tensor | None,
    norm_by_std: bool,
) -> None:
    known = ", ".join(ADVANTAGE_ESTIMATORS)
    if estimator == "gae":
        raise ValueError(
            "adv_estimator: 'gae' needs the values of a critic, and the local engine trains none: its methods take "
            f"their baseline from the group or the batch. Use one of {known}."
        )
    if estimator not in ADVANTAGE_ESTIMATORS:
        near = difflib.get_close_matches(estimator.lower(), ADVANTAGE_ESTIMATORS, n=1, cutoff=0.8)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"adv_estimator: {estimator!r} is unknown.{hint} Known: {known}.")
    if not norm_by_std and estimator not in _STD_ESTIMATORS:
        raise ValueError(f"norm_by_std: False has no effect on {estimator!r}, only on {', '.join(_STD_ESTIMATORS)}.")
    if (estimator == "remax") != (baselines_B is not None):
        need = "needs" if estimator == "remax" else "does not read"
        raise ValueError(f"{estimator} {need} baselines_B, the rewards of the greedy responses.")
    if response_mask_BT is None and (estimator == "reinforce_plus_plus" or token_rewards_BT is not None):
        what = "token_rewards_BT" if token_rewards_BT is not None else estimator
        raise ValueError(f"{what} needs response_mask_BT: it works token by token.")
