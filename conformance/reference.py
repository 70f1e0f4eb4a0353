"""The naive reference: every loss from its equation, in float64, token by token in plain Python.

Written to be compared with the papers, not to be fast: ratios where a paper has ratios, a product where it
has a product, a branch where it has a minimum. rho = pi / pi_old is a token's ratio, A its advantage, |o| the
number of valid tokens of a response. Bounds are those of the ratio (`ratio_min`, `ratio_max`) or of its
logarithm (`log_ratio_min`, `log_ratio_max`); null is no bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from conformance import corrections
from conformance.dual import Dual, absolute, exp, product, sigmoid, total
from conformance.tokens import Row, Shares, Token

Config = dict[str, Any]
Batch = dict[str, Any]
FLOOR = 1e-8  # what DPPO's authors add to the probability of "any other token"


@dataclass
class Result:
    """The loss of the batch, its gradient by the log-probabilities [B][T], and the shares of valid tokens by
    name."""

    loss: float
    grad: list[list[float]]
    clip_share: dict[str, float]


def evaluate(config: Config, batch: Batch) -> Result:
    """Loss, gradient and clip shares of the WHOLE batch, however it may be cut."""
    rows = _rows(batch)
    correction = config.get("correction")
    if correction:
        rows = corrections.weighted(correction, rows, batch["sampler_log_probs"])
    n_tokens = sum(len(row) for row in rows)
    names, of_sequence, function = LOSSES[config["loss"]]
    shares = Shares(names)
    if of_sequence:
        average = "sequences"
        of_response = corrections.of_response(function) if correction else function
        loss = total(of_response(config, row, shares) for row in rows if row) / len(rows)
    else:
        average = config["average"]
        losses = function(config, rows, shares)
        if correction:
            pairs = zip(losses, rows, strict=True)
            losses = [[x * token.weight for x, token in zip(*pair, strict=True)] for pair in pairs]
        loss = _average(losses, average, config)
    if config.get("kl"):
        kl = [[_kl(config["kl"]["kind"], token) for token in row] for row in rows]
        loss = loss + config["kl"]["coef"] * _average(kl, average, config)
    width = len(batch["mask"][0])
    grad = [[loss.slopes.get((i, t), 0.0) for t in range(width)] for i in range(len(rows))]
    if correction:  # whether a masked token counts as clipped is open
        names = ()
    return Result(loss.value, grad, {name: shares.counts.get(name, 0) / n_tokens for name in names})


def _rows(batch: Batch) -> list[Row]:
    rows = []
    for i, mask in enumerate(batch["mask"]):
        row = []
        for t, valid in enumerate(mask):
            if valid:
                log_prob = Dual(batch["log_probs"][i][t], {(i, t): 1.0})
                others = (batch[name][i][t] for name in ("old_log_probs", "ref_log_probs", "advantages"))
                row.append(Token(log_prob, *others))
        rows.append(row)
    return rows


def _average(losses: list[list[Dual]], how: str, config: Config) -> Dual:
    """`tokens`: over all valid tokens of the batch. `sequences`: over each response's tokens, then over all
    responses, an empty one counting as 0. `fixed`: the sum over B x `max_tokens` (Dr. GRPO, arXiv
    2503.20783)."""
    if how == "sequences":
        return total(total(row) / len(row) for row in losses if row) / len(losses)
    everything = total(number for row in losses for number in row)
    if how == "tokens":
        return everything / sum(len(row) for row in losses)
    assert how == "fixed"
    return everything / (len(losses) * config["max_tokens"])


def _kl(kind: str, token: Token) -> Dual:
    """Estimates of KL(pi || pi_ref) from one token (Schulman, "Approximating KL divergence", 2020)."""
    x = token.log_prob - token.ref
    if kind == "k1":
        return x
    if kind == "abs":
        return absolute(x)
    if kind == "k2":
        return x * x * 0.5
    assert kind == "k3"
    return exp(-x) + x - 1.0


def _pessimistic(ratio: Dual, a: float, low: float, high: float, shares: Shares, tokens: int = 1) -> Dual:
    """|min(ratio A, clip(ratio, low, high) A)| / |A|: where A > 0 only `high` can bind, where A < 0 only
    `low`."""
    if shares.add("high", a > 0 and ratio.value > high, tokens):
        return Dual(high)
    if shares.add("low", a < 0 and ratio.value < low, tokens):
        return Dual(low)
    return ratio


def _ratio_bounds(config: Config) -> tuple[float, float]:
    low, high = config["ratio_min"], config["ratio_max"]
    return (-math.inf if low is None else low), (math.inf if high is None else high)


def _exp_bounds(config: Config) -> tuple[float, float]:
    return math.exp(config["log_ratio_min"]), math.exp(config["log_ratio_max"])


def _ppo(ratio: Dual, a: float, config: Config, shares: Shares, tokens: int = 1) -> Dual:
    """-min(rho A, clip(rho) A) (arXiv 1707.06347); where A < 0 no more than -dual_clip A (1912.09729)."""
    used = _pessimistic(ratio, a, *_ratio_bounds(config), shares, tokens)
    dual = config["dual_clip"]
    if dual is not None and shares.add("dual", a < 0 and ratio.value > dual, tokens):
        used = Dual(dual)
    return -a * used


def ppo(config: Config, rows: list[Row], shares: Shares) -> list[list[Dual]]:
    """PPO's clip on each token's ratio, the loss of GRPO (arXiv 2402.03300)."""
    return [[_ppo(token.rho, token.a, config, shares) for token in row] for row in rows]


def gmpo(config: Config, row: Row, shares: Shares) -> Dual:
    """-A (prod_t rho_t)^(1/|o|), the ratios clipped (arXiv 2507.20673, equation 4); `clip` and `normalize`:
    Table 4."""
    a, low, high = row[0].a, *_exp_bounds(config)
    ratios = [token.rho for token in row]
    if config["clip"] == "token":
        ratios = [_pessimistic(ratio, a, low, high, shares) for ratio in ratios]
    whole = product(ratios)
    if config["clip"] == "sequence":
        whole = _pessimistic(whole, a, low, high, shares, len(row))
    return -a * whole ** (1 / len(row) if config["normalize"] else 1.0)


def power_mean(config: Config, row: Row, shares: Shares) -> Dual:
    """-A (mean_t rho_t^p)^(1/p), the geometric mean at p = 0 (arXiv 2601.22521; 2605.12058, equations 1, 2,
    11)."""
    a, p, low, high = row[0].a, config["p"], *_exp_bounds(config)
    ratios = [token.rho for token in row]
    if config["clip"] == "token":
        ratios = [_pessimistic(ratio, a, low, high, shares) for ratio in ratios]
    if p == 0:
        mean = product(ratios) ** (1 / len(row))
    else:
        mean = (total(ratio**p for ratio in ratios) / len(row)) ** (1 / p)
    if config["clip"] == "sequence":
        mean = _pessimistic(mean, a, low, high, shares, len(row))
    return -a * mean


def gspo(config: Config, row: Row, shares: Shares) -> Dual:
    """PPO's clip on one ratio a response, (prod_t rho_t)^(1/|o|) (arXiv 2507.18071)."""
    ratio = product(token.rho for token in row) ** (1 / len(row))
    return _ppo(ratio, row[0].a, config, shares, len(row))


def gspo_token(config: Config, rows: list[Row], shares: Shares) -> list[list[Dual]]:
    """GSPO-token: the response's ratio as value, each token's own gradient."""
    losses = []
    for row in rows:
        mean = math.prod(token.rho.value for token in row) ** (1 / max(len(row), 1))
        ratios = [mean * exp(token.log_prob - token.log_prob.value) for token in row]
        losses.append([_ppo(ratio, t.a, config, shares) for ratio, t in zip(ratios, row, strict=True)])
    return losses


def luspo(config: Config, row: Row, shares: Shares) -> Dual:
    """|o| times GSPO's loss (arXiv 2602.05261)."""
    return gspo(config, row, shares) * float(len(row))


def cispo(config: Config, rows: list[Row], shares: Shares) -> list[list[Dual]]:
    """-A clip(rho) log pi, the clipped ratio a constant (arXiv 2506.13585). Its shares do not ask for the
    sign of A."""
    low, high = _ratio_bounds(config)

    def one(token: Token) -> Dual:
        ratio = token.rho.value
        shares.add("high", ratio > high)
        shares.add("low", ratio < low)
        return -token.a * min(max(ratio, low), high) * token.log_prob

    return [[one(token) for token in row] for row in rows]


def sapo(config: Config, rows: list[Row], shares: Shares) -> list[list[Dual]]:
    """-A (4 / tau) sigmoid(tau (rho - 1)), tau by the sign of A (arXiv 2511.20347)."""

    def one(token: Token) -> Dual:
        tau = config["tau_negative"] if token.a < 0 else config["tau_positive"]
        return -token.a * 4 / tau * sigmoid(tau * (token.rho - 1.0))

    return [[one(token) for token in row] for row in rows]


def gpg(config: Config, rows: list[Row], shares: Shares) -> list[list[Dual]]:
    """-A log pi (arXiv 2504.02546), without the factor for groups of one reward."""
    return [[-token.a * token.log_prob for token in row] for row in rows]


def reinforce(config: Config, row: Row, shares: Shares) -> Dual:
    """-sum_t A log pi_t (Williams, 1992), a mean over responses."""
    return total(-token.a * token.log_prob for token in row)


def dppo(config: Config, rows: list[Row], shares: Shares) -> list[list[Dual]]:
    """-A M min(rho, cap) log pi, M and rho constants (arXiv 2602.04879). M is 0 where the update goes on in
    the direction in which the token went too far: by p - p_old (`dppo_tv`), or by the KL of "this token or
    another"."""

    def one(token: Token) -> Dual:
        p, old = math.exp(token.log_prob.value), math.exp(token.old)
        if config["loss"] == "dppo_tv":
            distance = abs(p - old)
        else:
            distance = old * math.log(old / p) + (1 - old) * math.log((1 - old + FLOOR) / (1 - p + FLOOR))
        over = shares.add("high", token.a > 0 and p > old and distance > config["max_rise"])
        under = shares.add("low", token.a < 0 and p < old and distance > config["max_fall"])
        if over or under:
            return Dual(0.0)
        return -token.a * min(p / old, config["ratio_cap"]) * token.log_prob

    return [[one(token) for token in row] for row in rows]


def m2po(config: Config, rows: list[Row], shares: Shares) -> list[list[Dual]]:
    """-A rho on the tokens that stay (arXiv 2510.01161): of those that a trust region concerns (A > 0 and rho
    > 1, or A < 0 and rho < 1), the largest (log rho)^2 are left out until the mean of the rest is within the
    budget."""
    concerned = [token for row in rows for token in row if token.a * token.log_ratio > 0]
    concerned.sort(key=lambda token: token.log_ratio**2)
    left_out = []
    while concerned and sum(t.log_ratio**2 for t in concerned) / len(concerned) > config["budget"]:
        left_out.append(concerned.pop())
    chosen = {id(token) for token in left_out}

    def one(token: Token) -> Dual:
        if id(token) in chosen:
            shares.add("high" if token.a > 0 else "low")
            return Dual(0.0)
        return -token.a * token.rho

    return [[one(token) for token in row] for row in rows]


def _covariances(rows: list[Row]) -> list[tuple[float, Token]]:
    """(A - mean A)(log pi - mean log pi) of each token, the means over all tokens of the batch (arXiv
    2505.22617)."""
    tokens = [token for row in rows for token in row]
    mean_a = sum(token.a for token in tokens) / len(tokens)
    mean_log_prob = sum(token.log_prob.value for token in tokens) / len(tokens)
    return [((t.a - mean_a) * (t.log_prob.value - mean_log_prob), t) for t in tokens]


def clip_cov(config: Config, rows: list[Row], shares: Shares) -> list[list[Dual]]:
    """PPO's clip, and 0 on tokens with a covariance between two bounds (arXiv 2505.22617 and its code, which
    leaves clipped tokens alone). At most the share of all tokens, drawn by chance: a vector has no more
    candidates than that, so that nothing is left to chance."""
    low, high = _ratio_bounds(config)
    covariances = _covariances(rows)
    candidates = set()
    for covariance, token in covariances:
        ratio = token.rho.value
        clipped = ratio > high if token.a > 0 else token.a < 0 and ratio < low
        if not clipped and config["cov_min"] < covariance < config["cov_max"]:
            candidates.add(id(token))
    assert len(candidates) <= max(int(config["share"] * len(covariances)), 1), "a draw by chance"

    def one(token: Token) -> Dual:
        used = _pessimistic(token.rho, token.a, low, high, shares)
        return Dual(0.0) if shares.add("chosen", id(token) in candidates) else -token.a * used

    return [[one(token) for token in row] for row in rows]


def kl_cov(config: Config, rows: list[Row], shares: Shares) -> list[list[Dual]]:
    """-A rho, and + coef |log rho| on the share of all tokens with the largest covariances (arXiv
    2505.22617)."""
    ordered = sorted(_covariances(rows), key=lambda pair: -pair[0])
    chosen = {id(token) for _, token in ordered[: max(int(config["share"] * len(ordered)), 1)]}

    def one(token: Token) -> Dual:
        plain = -token.a * token.rho
        if shares.add("chosen", id(token) in chosen):
            return plain + config["coef"] * absolute(token.log_prob - token.old)
        return plain

    return [[one(token) for token in row] for row in rows]


def vespo(config: Config, rows: list[Row], shares: Shares) -> list[list[Dual]]:
    """-A W^k exp(lambda (1 - W)) log pi, W = prod_t rho_t, its weight a constant (arXiv 2602.10693)."""

    def one(token: Token, w: float) -> Dual:
        sign = "negative" if token.a < 0 else "positive"
        k, decay = config[f"k_{sign}"], config[f"lambda_{sign}"]
        return -token.a * w**k * math.exp(decay * (1 - w)) * token.log_prob

    return [[one(token, math.prod(t.rho.value for t in row)) for token in row] for row in rows]


def fipo(config: Config, rows: list[Row], shares: Shares) -> list[list[Dual]]:
    """PPO's clip with A f_t, f_t = clip(exp(F_t)) a constant, F_t = sum over k >= t of 2^(-(k - t) /
    half_life) log rho_k (arXiv 2603.19835 and its README): tokens beyond the dual clip count 0, and with A <
    0 and rho > safe_ratio f is held in [0.8, 1]."""
    losses: list[list[Dual]] = []
    for row in rows:
        losses.append([])
        for t, token in enumerate(row):
            future = 0.0
            for k, other in enumerate(row[t:]):
                if math.exp(other.log_ratio) <= config["dual_clip"]:
                    future += 2 ** (-k / config["half_life"]) * other.log_ratio
            f = min(max(math.exp(future), config["weight_min"]), config["weight_max"])
            if token.a < 0 and token.rho.value > config["safe_ratio"]:
                f = min(max(f, 0.8), 1.0)
            losses[-1].append(_ppo(token.rho, token.a, config, shares) * f)
    return losses


CLIP = ("high", "low")
PPO_CLIP = (*CLIP, "dual")
LOSSES: dict[str, tuple[tuple[str, ...], bool, Callable[..., Any]]] = {
    # the shares that it has, whether it is one number a response (mean over responses), the function
    "ppo": (PPO_CLIP, False, ppo),
    "gmpo": (CLIP, True, gmpo),
    "power_mean": (CLIP, True, power_mean),
    "gspo": (PPO_CLIP, True, gspo),
    "gspo_token": (PPO_CLIP, False, gspo_token),
    "luspo": (PPO_CLIP, True, luspo),
    "cispo": (CLIP, False, cispo),
    "sapo": ((), False, sapo),
    "gpg": ((), False, gpg),
    "reinforce": ((), True, reinforce),
    "dppo_tv": (CLIP, False, dppo),
    "dppo_kl": (CLIP, False, dppo),
    "m2po": (CLIP, False, m2po),
    "clip_cov": ((*CLIP, "chosen"), False, clip_cov),
    "kl_cov": (("chosen",), False, kl_cov),
    "vespo": ((), False, vespo),
    "fipo": (PPO_CLIP, False, fipo),
}
RANKING = frozenset({"m2po", "clip_cov", "kl_cov"})
"""They compare the tokens of a batch with one another: cut into micro-batches they may give another
result."""
