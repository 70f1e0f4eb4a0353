"""Advantages from rewards, and the online filter on groups; vectorised, and independent of the order of rows."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gmpo_mm.algorithms.masked import place_on_last_token, zero_outside

_WHITEN_EPS = 1e-8


@dataclass(frozen=True)
class Groups:
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


def _groups(group_ids_B: Tensor) -> Groups:
    ids_G, index_B, count_G = torch.unique(group_ids_B, return_inverse=True, return_counts=True)
    return Groups(index_B, count_G, ids_G)


@dataclass(frozen=True)
class AdvantageInputs:
    """What an estimator is given, in float64: B responses, T tokens.

    ``scores_B`` are the responses' scores; for a group estimator every group has two or more of them, and the best of each
    group, ``best_B``, was taken off, so that equal rewards give exactly 0. ``token_rewards_BT`` and ``mask_BT`` are there for
    an estimator by token, ``mask_BT`` for one by length, ``baselines_B`` for one that needs them. ``parts_KB`` are K rewards
    of each response with ``weights_K``, for an estimator of several rewards; the best of each group was taken off as well.
    """

    scores_B: Tensor
    groups: Groups
    norm_by_std: bool
    eps: float
    gamma: float
    baselines_B: Tensor | None = None
    token_rewards_BT: Tensor | None = None
    mask_BT: Tensor | None = None
    best_B: Tensor | None = None
    parts_KB: Tensor | None = None
    weights_K: Tensor | None = None


EstimatorFunction = Callable[[AdvantageInputs], Tensor]


@dataclass(frozen=True)
class Estimator:
    """A registered estimator with what the frame around it has to know (see ``register_advantage_estimator``)."""

    function: EstimatorFunction
    groups: bool
    std: bool
    tokens: bool
    baselines: bool
    lengths: bool
    parts: bool


_REGISTRY: dict[str, Estimator] = {}


def register_advantage_estimator(
    name: str,
    *,
    groups: bool = False,
    std: bool = False,
    tokens: bool = False,
    baselines: bool = False,
    lengths: bool = False,
    parts: bool = False,
) -> Callable[[EstimatorFunction], EstimatorFunction]:
    """Make a function an estimator of advantages under ``name``, for `algorithm.adv_estimator`, the checks and the pages.

    Args:
        groups: it compares the responses of a group, which then has to have two or more.
        std: it divides by a standard deviation, which ``norm_by_std=False`` leaves out.
        tokens: it works token by token and returns (B, T); else (B,).
        baselines: it needs the rewards of the greedy responses.
        lengths: it needs the lengths of the responses.
        parts: it needs several rewards of each response in place of their sum.
    """

    def decorator(function: EstimatorFunction) -> EstimatorFunction:
        if name in _REGISTRY:
            raise ValueError(f"advantage estimator {name!r} is registered already; choose another name.")
        _REGISTRY[name] = Estimator(function, groups, std, tokens, baselines, lengths, parts)
        return function

    return decorator


def known_estimators(**having: bool) -> tuple[str, ...]:
    """Registered names, sorted; ``groups=True`` and the like leave only those that are so registered."""
    return tuple(sorted(n for n, e in _REGISTRY.items() if all(getattr(e, key) == want for key, want in having.items())))


@register_advantage_estimator("grpo", groups=True, std=True)
def grpo(inputs: AdvantageInputs) -> Tensor:
    """(r - mean) / (std + eps) over the group, unbiased std (arXiv 2402.03300)."""
    return _by_std(inputs, _centred_B(inputs))


@register_advantage_estimator("dr_grpo", groups=True, std=True)
def dr_grpo(inputs: AdvantageInputs) -> Tensor:
    """r - mean over the group (arXiv 2503.20783)."""
    return _centred_B(inputs)


@register_advantage_estimator("grpo_passk", groups=True, std=True)
def grpo_passk(inputs: AdvantageInputs) -> Tensor:
    """The group's single best response gets (best - second best) / (std + eps), all others and ties 0 (arXiv 2503.19595)."""
    groups, scores_B = inputs.groups, inputs.scores_B
    best_B = groups.max_G(scores_B)[groups.index_B]
    is_best_B = scores_B == best_B
    single_B = groups.sum_G(is_best_B.to(scores_B.dtype))[groups.index_B] == 1
    # In a group whose best is shared there may be no rest; it is not looked at then.
    second_B = groups.max_G(zero_outside(scores_B, ~is_best_B, float("-inf")))[groups.index_B]
    return _by_std(inputs, torch.where(is_best_B & single_B, best_B - second_B, torch.zeros_like(scores_B)))


@register_advantage_estimator("rloo", groups=True)
def rloo(inputs: AdvantageInputs) -> Tensor:
    """r minus the mean of the group's others (arXiv 2402.14740)."""
    groups, scores_B = inputs.groups, inputs.scores_B
    others_B = (groups.sum_G(scores_B)[groups.index_B] - scores_B) / (groups.count_G[groups.index_B] - 1)
    return scores_B - others_B


@register_advantage_estimator("opo", groups=True, lengths=True)
def opo(inputs: AdvantageInputs) -> Tensor:
    """r - b over the group, b = sum_i l_i r_i / sum_i l_i with l_i tokens of response i (OPO, arXiv 2505.23585).

    Where the squared norm of a response's gradient is proportional to its length, b is the baseline of least variance. In a
    group without a single token b is 0, and nothing is trained in any case.
    """
    assert inputs.mask_BT is not None
    groups, length_B = inputs.groups, inputs.mask_BT.sum(dim=-1).to(torch.float64)
    baseline_G = groups.sum_G(length_B * inputs.scores_B) / groups.sum_G(length_B).clamp(min=1)
    return inputs.scores_B - baseline_G[groups.index_B]


@register_advantage_estimator("max_rl", groups=True)
def max_rl(inputs: AdvantageInputs) -> Tensor:
    """(r - mean) / mean over the group, 0 where the mean is 0 (MaxRL, arXiv 2602.02710, for rewards of 0 and 1).

    The mean estimates the share of right responses, so that the gradient is that of its logarithm, of which GRPO without
    std has the first term. The authors' code adds 1e-6 to the mean, the paper and this function do not. Raises
    ValueError for a score below 0, with which the mean is no share.
    """
    assert inputs.best_B is not None
    mean_B = inputs.groups.mean_G(inputs.scores_B)[inputs.groups.index_B] + inputs.best_B
    lowest = float((inputs.scores_B + inputs.best_B).min())
    if lowest < 0:
        raise ValueError(
            f"algorithm.adv_estimator = 'max_rl': it divides by a group's mean score, and a response has the score {lowest:g}; "
            "use a reward of at least 0 (best 0 or 1), or adv_estimator=grpo or dr_grpo"
        )
    return torch.where(mean_B > 0, _centred_B(inputs) / mean_B, 0.0)


@register_advantage_estimator("gdpo", groups=True, std=True, parts=True)
def gdpo(inputs: AdvantageInputs) -> Tensor:
    """Each reward by itself through ``grpo``, their weighted sum, divided by its std over the batch (arXiv 2601.05242).

        S_i = sum_k w_k (r_ki - mean_k) / (std_k + eps) over the group, A_i = S_i / (std(S) + eps) over all responses

    The paper also subtracts the batch's mean of S, which is 0 as it is in every group. Its responses count once each; verl
    weighs them by their tokens.
    """
    assert inputs.parts_KB is not None
    assert inputs.weights_K is not None
    total_B = torch.zeros_like(inputs.scores_B)
    for part_B, weight in zip(inputs.parts_KB, inputs.weights_K, strict=True):
        total_B = total_B + weight * grpo(replace(inputs, scores_B=part_B))
    squares = total_B.square().sort().values.sum()  # sorted: whatever the order of the rows
    return total_B / ((squares / (len(total_B) - 1)).sqrt() + inputs.eps)


@register_advantage_estimator("remax", baselines=True)
def remax(inputs: AdvantageInputs) -> Tensor:
    """r minus the reward of the greedy response (arXiv 2310.10505)."""
    assert inputs.baselines_B is not None
    return inputs.scores_B - inputs.baselines_B.to(torch.float64)


@register_advantage_estimator("reinforce_plus_plus", tokens=True)
def reinforce_plus_plus(inputs: AdvantageInputs) -> Tensor:
    """Returns R_t = r_t + gamma R_{t+1} over the valid tokens, whitened over all of them (arXiv 2501.03262)."""
    assert inputs.token_rewards_BT is not None
    assert inputs.mask_BT is not None
    mask_BT = inputs.mask_BT
    rewards_BT = zero_outside(inputs.token_rewards_BT, mask_BT)
    returns_BT = torch.zeros_like(rewards_BT)
    running_B = rewards_BT.new_zeros(rewards_BT.shape[0])
    for t in reversed(range(rewards_BT.shape[1])):
        running_B = torch.where(mask_BT[:, t], rewards_BT[:, t] + inputs.gamma * running_B, running_B)
        returns_BT[:, t] = running_B
    n = mask_BT.sum()
    mean = zero_outside(returns_BT, mask_BT).sum() / n.clamp(min=1)
    centred_BT = zero_outside(returns_BT - mean, mask_BT)
    variance = centred_BT.square().sum() / (n - 1).clamp(min=1)
    return centred_BT * torch.rsqrt(variance + _WHITEN_EPS)


def _centred_B(inputs: AdvantageInputs) -> Tensor:
    return inputs.scores_B - inputs.groups.mean_G(inputs.scores_B)[inputs.groups.index_B]


def _by_std(inputs: AdvantageInputs, advantages_B: Tensor) -> Tensor:
    if not inputs.norm_by_std:
        return advantages_B
    groups = inputs.groups
    return advantages_B / (groups.std_G(inputs.scores_B)[groups.index_B] + inputs.eps)


@torch.no_grad()
def compute_advantages(
    estimator: str,
    rewards_B: Tensor,
    group_ids_B: Tensor,
    *,
    response_mask_BT: Tensor | None = None,
    token_rewards_BT: Tensor | None = None,
    baselines_B: Tensor | None = None,
    parts_KB: Tensor | None = None,
    weights_K: Sequence[float] | None = None,
    gamma: float = 1.0,
    norm_by_std: bool = True,
    eps: float = 1e-6,
) -> Tensor:
    """Advantages of B responses by a registered estimator; rows with equal group id answer the same prompt.

    Args:
        rewards_B: the score of each response.
        group_ids_B: integers of any value, in any order.
        response_mask_BT: if given, the result is (B, T) and 0 outside the mask; else (B,).
        token_rewards_BT: rewards by token (see ``apply_kl_to_rewards``), which then replace ``rewards_B``: their sum
            over the valid tokens is the score. A response without a valid token keeps its score of ``rewards_B``.
        baselines_B: for ``remax`` only.
        parts_KB: K rewards of each response, for ``gdpo`` only, which reads them in place of ``rewards_B``.
        weights_K: their weights; None for 1 each.
        gamma: discount, for ``reinforce_plus_plus`` only.
        norm_by_std: False leaves the division by the standard deviation out.

    Raises:
        ValueError: ``gae`` or an unknown estimator; a group of one where the estimator compares within the group; a
            missing tensor; ``norm_by_std=False``, baselines or parts for an estimator on which they have no effect.
    """
    _check_arguments(estimator, response_mask_BT, token_rewards_BT, baselines_B, norm_by_std)
    _check_parts(estimator, parts_KB, weights_K, token_rewards_BT)
    chosen = _REGISTRY[estimator]
    dtype = torch.promote_types(rewards_B.dtype, torch.float32)
    mask_BT = None if response_mask_BT is None else response_mask_BT.bool()
    scores_B = rewards_B.to(torch.float64)
    if token_rewards_BT is not None:
        assert mask_BT is not None
        token_rewards_BT = token_rewards_BT.to(torch.float64)
        scores_B = torch.where(mask_BT.any(dim=-1), zero_outside(token_rewards_BT, mask_BT).sum(dim=-1), scores_B)
    elif chosen.tokens:
        assert mask_BT is not None
        token_rewards_BT = place_on_last_token(rewards_B, mask_BT).to(torch.float64)
    groups = _groups(group_ids_B)
    best_B = None
    if chosen.groups:
        _check_groups(estimator, groups)
        # equal rewards have to give exactly 0, which the rounded mean of eight times 0.1 would not
        best_B = groups.max_G(scores_B)[groups.index_B]
        scores_B = scores_B - best_B
    if parts_KB is not None:
        parts_KB = parts_KB.to(torch.float64)
        parts_KB = parts_KB - torch.stack([groups.max_G(part_B)[groups.index_B] for part_B in parts_KB])
        weights_K = [1.0] * len(parts_KB) if weights_K is None else weights_K
    advantages = chosen.function(
        AdvantageInputs(
            scores_B, groups, norm_by_std, eps, gamma, baselines_B, token_rewards_BT, mask_BT, best_B, parts_KB,
            None if weights_K is None else torch.tensor(list(weights_K), dtype=torch.float64, device=scores_B.device),
        )
    ).to(dtype)  # fmt: skip
    if mask_BT is None or chosen.tokens:
        return advantages
    return zero_outside(advantages[:, None].expand(mask_BT.shape), mask_BT)


@torch.no_grad()
def filter_groups(scores_B: Tensor, group_ids_B: Tensor, low: float, high: float) -> Tensor:
    """Which rows online filtering keeps (DAPO, arXiv 2503.14476), bool (B,): groups with low < mean score < high.

    A group in which every response is right, or every one wrong, has advantage 0 throughout and teaches nothing.
    """
    groups = _groups(group_ids_B)
    mean_B = groups.mean_G(scores_B.to(torch.float64))[groups.index_B]
    return (mean_B > low) & (mean_B < high)


def _check_groups(estimator: str, groups: Groups) -> None:
    if bool((groups.count_G < 2).any()):
        alone = groups.ids_G[groups.count_G < 2].tolist()
        raise ValueError(
            f"{estimator} compares the responses of a group, but {len(alone)} group(s) hold only one "
            f"(group {alone[0]}{', ...' if len(alone) > 1 else ''}); set worker.rollout.n to 2 or more."
        )


def _check_arguments(
    estimator: str,
    response_mask_BT: Tensor | None,
    token_rewards_BT: Tensor | None,
    baselines_B: Tensor | None,
    norm_by_std: bool,
) -> None:
    known = known_estimators()
    if estimator == "gae":
        raise ValueError(
            "adv_estimator: 'gae' needs the values of a critic, and the local engine trains none: its methods take "
            f"their baseline from the group or the batch. Use one of {', '.join(known)}."
        )
    if estimator not in known:
        near = difflib.get_close_matches(estimator.lower(), known, n=1, cutoff=0.8)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"adv_estimator: {estimator!r} is unknown.{hint} Known: {', '.join(known)}.")
    chosen = _REGISTRY[estimator]
    if not norm_by_std and not chosen.std:
        raise ValueError(
            f"norm_by_std: False has no effect on {estimator!r}, only on {', '.join(known_estimators(std=True))}."
        )
    if chosen.baselines != (baselines_B is not None):
        need = "needs" if chosen.baselines else "does not read"
        raise ValueError(f"{estimator} {need} baselines_B, the rewards of the greedy responses.")
    if response_mask_BT is None and (chosen.tokens or token_rewards_BT is not None):
        what = "token_rewards_BT" if token_rewards_BT is not None else estimator
        raise ValueError(f"{what} needs response_mask_BT: it works token by token.")
    if response_mask_BT is None and chosen.lengths:
        raise ValueError(f"{estimator} needs response_mask_BT: it weighs responses by their lengths.")


def _check_parts(
    estimator: str, parts_KB: Tensor | None, weights_K: Sequence[float] | None, token_rewards_BT: Tensor | None
) -> None:
    wanted = _REGISTRY[estimator].parts
    if wanted != (parts_KB is not None):
        need = "needs" if wanted else "does not read"
        raise ValueError(f"{estimator} {need} parts_KB, several rewards of each response.")
    if weights_K is not None and (parts_KB is None or len(weights_K) != len(parts_KB)):
        raise ValueError(f"weights_K: {len(weights_K)} weights for {0 if parts_KB is None else len(parts_KB)} rewards.")
    if wanted and token_rewards_BT is not None:
        raise ValueError(f"{estimator} does not read token_rewards_BT: each of its rewards belongs to a whole response.")
