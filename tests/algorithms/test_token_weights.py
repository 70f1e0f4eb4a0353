"""What each loss does to each token, against the papers' equations, written out token by token in float64."""

import math
from collections.abc import Callable

import pytest
import torch

from gmpo_mm.algorithms import (
    GMPOConfig,
    PolicyLossConfig,
    PowerMeanConfig,
    count_units,
    known_loss_types,
)
from gmpo_mm.algorithms.config import ClipCovKeys, DPPOKeys, FIPOKeys, KLCovKeys, M2POKeys, VESPOKeys
from gmpo_mm.algorithms.token_weights import relative_weights, token_weights
from tests.algorithms.naive import Batch, make_batch

Row = Callable[[list[float], list[float], list[float], PolicyLossConfig], list[float]]
"""One sequence: log-probs, old ones and advantages of its valid tokens -> -d(loss of the sequence's tokens)/dlog p of each,
before the division by units (and by the length, where a loss of tokens is averaged by sequence)."""

SEQUENCE = {"gmpo", "gspo", "power_mean", "reinforce", "luspo"}


# ---- closed forms: no loss and no autograd, only the derivative by hand ------------------------------------------------


def default_row(log_probs, old, advantages, config):
    """Equation 5: rho A, and 0 beyond the bound that can bind (and beyond the dual clip where A < 0)."""
    return [a * _ppo_ratio(math.exp(p - o), a, config) for p, o, a in zip(log_probs, old, advantages, strict=True)]


def gmpo_row(log_probs, old, advantages, config):
    """Equation 6: A / n times the geometric mean of the clipped ratios, and 0 for a token that is clipped."""
    a, n, options = advantages[0], len(old), config.gmpo
    ratios = [math.exp(p - o) for p, o in zip(log_probs, old, strict=True)]
    low, high = math.exp(-options.log_clip_low), math.exp(options.log_clip_high)

    def beyond(ratio):
        return (a > 0 and ratio > high) or (a < 0 and ratio < low)

    def held(ratio):
        return min(max(ratio, low), high) if beyond(ratio) else ratio

    power = 1 / n if options.normalize else 1.0
    if options.clip == "token":
        value = math.prod(held(ratio) for ratio in ratios) ** power
        return [0.0 if beyond(ratio) else a * power * value for ratio in ratios]
    product = math.prod(ratios)
    if options.clip == "sequence" and beyond(product):
        return [0.0] * n
    return [a * power * product**power] * n


def gspo_row(log_probs, old, advantages, config):
    """GSPO: A s / n, s the geometric mean, of every token or of none."""
    n = len(old)
    s = math.exp(sum(p - o for p, o in zip(log_probs, old, strict=True)) / n)
    return [sum(a * _ppo_ratio(s, a, config) for a in advantages) / n / n] * n


def luspo_row(log_probs, old, advantages, config):
    return [len(old) * w for w in gspo_row(log_probs, old, advantages, config)]


def gspo_token_row(log_probs, old, advantages, config):
    s = math.exp(sum(p - o for p, o in zip(log_probs, old, strict=True)) / len(old))
    return [a * _ppo_ratio(s, a, config) for a in advantages]


def cispo_row(log_probs, old, advantages, config):
    lower, upper = 1 - config.clip_ratio_low, 1 + config.clip_ratio_high
    return [a * min(max(math.exp(p - o), lower), upper) for p, o, a in zip(log_probs, old, advantages, strict=True)]


def sapo_row(log_probs, old, advantages, config):
    """SAPO: A rho 4 s (1 - s), s = sigmoid(tau (rho - 1)), which is A at rho = 1."""
    weights = []
    for p, o, a in zip(log_probs, old, advantages, strict=True):
        tau, ratio = config.tau_negative if a < 0 else config.tau_positive, math.exp(p - o)
        s = 1 / (1 + math.exp(-tau * (ratio - 1)))
        weights.append(a * ratio * 4 * s * (1 - s))
    return weights


def plain_row(log_probs, old, advantages, config):
    return list(advantages)


def power_mean_row(log_probs, old, advantages, config):
    """A M_p^(1 - p) exp(p c_t) / n; M_p^(1-p) (1/n) sum ... ^(1/p - 1)."""
    a, n, options, p = advantages[0], len(old), config.power_mean, config.power_mean.p
    low, high = math.exp(-options.log_clip_low), math.exp(options.log_clip_high)
    ratios = [math.exp(x - o) for x, o in zip(log_probs, old, strict=True)]

    def beyond(ratio):
        return (a > 0 and ratio > high) or (a < 0 and ratio < low)

    held = [(high if a > 0 else low) if beyond(r) and options.clip == "token" else r for r in ratios]
    mean = math.prod(held) ** (1 / n) if p == 0 else (sum(r**p for r in held) / n) ** (1 / p)
    weights = [a * mean ** (1 - p) * r**p / n for r in held]
    if options.clip == "token":
        return [0.0 if beyond(r) else w for r, w in zip(ratios, weights, strict=True)]
    return [0.0] * n if options.clip == "sequence" and beyond(mean) else weights


def dppo_tv_row(log_probs, old, advantages, config):
    return _dppo(log_probs, old, advantages, config, lambda p, q: (p - q > config.dppo.tv_high, q - p > config.dppo.tv_low))


def dppo_kl_row(log_probs, old, advantages, config):
    def outside(p, q):
        kl = q * math.log(q / p) + (1 - q) * math.log((1 - q + 1e-8) / (1 - p + 1e-8))
        return p > q and kl > config.dppo.kl_high, p < q and kl > config.dppo.kl_low

    return _dppo(log_probs, old, advantages, config, outside)


def vespo_row(log_probs, old, advantages, config):
    w, keys = math.exp(sum(p - o for p, o in zip(log_probs, old, strict=True))), config.vespo
    weights = []
    for a in advantages:
        k, lam = (keys.k_negative, keys.lambda_negative) if a < 0 else (keys.k_positive, keys.lambda_positive)
        weights.append(a * w**k * math.exp(lam * (1 - w)))
    return weights


def fipo_row(log_probs, old, advantages, config):
    """PPO's weight with A f for A."""
    keys, d = config.fipo, [p - o for p, o in zip(log_probs, old, strict=True)]
    counted = [0.0 if math.exp(x) > config.clip_ratio_dual else x for x in d]
    weights = []
    for t, (x, a) in enumerate(zip(d, advantages, strict=True)):
        future = sum(2 ** (-(k - t) / keys.half_life) * counted[k] for k in range(t, len(d)))
        f = min(max(math.exp(future), 1.0 if keys.clip_high_only else 1 - keys.clip), 1 + keys.clip)
        if a < 0 and math.exp(x) > keys.safe_ratio:
            f = min(max(f, 0.8), 1.0)
        weights.append(a * f * _ppo_ratio(math.exp(x), a, config))
    return weights


def _ppo_ratio(ratio, a, config):
    if a > 0:
        return 0.0 if ratio > 1 + config.clip_ratio_high else ratio
    return 0.0 if ratio < 1 - config.clip_ratio_low or ratio > config.clip_ratio_dual else ratio


def _dppo(log_probs, old, advantages, config, outside):
    weights = []
    for p, o, a in zip(log_probs, old, advantages, strict=True):
        high, low = outside(math.exp(p), math.exp(o))
        left_out = (a > 0 and high) or (a < 0 and low)
        weights.append(0.0 if left_out else a * min(math.exp(p - o), config.dppo.ratio_cap))
    return weights


# ---- losses that rank the tokens of a call ----------------------------------------------------------------------------


def m2po_weights(tokens, config):
    """Of the tokens that went the way of their advantage, the farthest are left out until the mean square is in budget."""
    concerned = sorted((p - o) ** 2 for p, o, a in tokens if a * (p - o) > 0)
    while concerned and sum(concerned) / len(concerned) > config.m2po.budget:
        concerned.pop()
    largest = concerned[-1] if concerned else -1.0
    return [0.0 if a * (p - o) > 0 and (p - o) ** 2 > largest else a * math.exp(p - o) for p, o, a in tokens]


def kl_cov_weights(tokens, config):
    """A rho, and -coef sign(d) on the tokens of largest covariance."""
    n = len(tokens)
    mean_a, mean_p = sum(a for _, _, a in tokens) / n, sum(p for p, _, _ in tokens) / n
    number = max(int(config.kl_cov.share * n), 1)
    candidates = [i for i, (_, _, a) in enumerate(tokens) if a != 0]
    chosen = sorted(candidates, key=lambda i: -(tokens[i][2] - mean_a) * (tokens[i][0] - mean_p))[:number]
    return [
        a * math.exp(p - o) - (math.copysign(config.kl_cov.coef, p - o) if i in chosen else 0.0)
        for i, (p, o, a) in enumerate(tokens)
    ]


ROWS: dict[str, Row] = {
    "default": default_row, "gmpo": gmpo_row, "gspo": gspo_row, "luspo": luspo_row, "gspo_token": gspo_token_row,
    "cispo": cispo_row, "sapo": sapo_row, "gpg": plain_row, "reinforce": plain_row, "power_mean": power_mean_row,
    "dppo_tv": dppo_tv_row, "dppo_kl": dppo_kl_row, "vespo": vespo_row, "fipo": fipo_row,
}  # fmt: skip
CALLS = {"m2po": m2po_weights, "kl_cov": kl_cov_weights}


def tokens(seed: int, spread: float) -> Batch:
    """A batch whose probabilities are below 1."""
    batch = make_batch(seed, spread=spread)
    batch.log_probs = batch.log_probs.clamp(max=-0.01)
    return batch


def configs() -> list[PolicyLossConfig]:
    """Each loss, with bounds that differ from each other and bind on these tokens."""
    found = [PolicyLossConfig(loss_type=name, loss_avg_mode=mode, clip_ratio_dual=1.8, tau_positive=0.6, tau_negative=1.9,
                              dppo=DPPOKeys(tv_low=0.05, tv_high=0.09, kl_low=0.004, kl_high=0.01, ratio_cap=1.7),
                              vespo=VESPOKeys(1.5, 2.5, 2.0, 1.0), fipo=FIPOKeys(3.0, 0.4, False, 1.5))
             for name in sorted({*ROWS, *CALLS} - {"gmpo", "power_mean"}) for mode in ("token", "seq")
             if not (name in SEQUENCE and mode == "seq")]  # fmt: skip
    for clip in ("token", "sequence", "none"):
        for normalize in (True, False):
            gmpo = GMPOConfig(clip=clip, normalize=normalize, log_clip_low=0.3, log_clip_high=0.7)
            found.append(PolicyLossConfig(loss_type="gmpo", gmpo=gmpo))
        for p in (0.0, 0.5, -1.5):
            power = PowerMeanConfig(p=p, clip=clip, log_clip_low=0.3, log_clip_high=0.7)
            found.append(PolicyLossConfig(loss_type="power_mean", power_mean=power))
    found += [PolicyLossConfig(loss_type="m2po", m2po=M2POKeys(budget=0.2))]
    found += [PolicyLossConfig(loss_type="kl_cov", kl_cov=KLCovKeys(share=0.2, coef=0.7))]
    return found


def name_of(config: PolicyLossConfig) -> str:
    options = {"gmpo": config.gmpo, "power_mean": config.power_mean}.get(config.loss_type)
    own = "" if options is None else "-".join(str(x) for x in vars(options).values())
    return f"{config.loss_type}-{own or config.loss_avg_mode}"


def closed_form(batch: Batch, config: PolicyLossConfig, corrections=None) -> torch.Tensor:
    """-dL/dlog p of every token, L the loss of the whole batch over its units; `corrections` are a loss of tokens' own."""
    weights = torch.zeros(batch.mask.shape, dtype=torch.float64)
    by_sequence = config.loss_type in SEQUENCE or config.loss_avg_mode == "seq"
    places = [[(i, t) for t in range(batch.mask.shape[1]) if batch.mask[i, t]] for i in range(batch.mask.shape[0])]
    units = len(places) if by_sequence else sum(len(row) for row in places)
    triples = [
        [tuple(x[i, t].item() for x in (batch.log_probs, batch.old, batch.advantages)) for i, t in row] for row in places
    ]
    called = iter(CALLS[config.loss_type]([x for row in triples for x in row], config)) if config.loss_type in CALLS else None
    for row, values in zip(places, triples, strict=True):
        if not row:
            continue
        columns = [list(column) for column in zip(*values, strict=True)]
        own = ROWS[config.loss_type](*columns, config) if called is None else [next(called) for _ in row]
        for (i, t), weight in zip(row, own, strict=True):
            length = len(row) if by_sequence and config.loss_type not in SEQUENCE else 1
            weights[i, t] = weight / length / units * (1.0 if corrections is None else corrections[i, t].item())
    return weights


@pytest.mark.parametrize("config", configs(), ids=name_of)
def test_weights_of_every_loss_equal_the_derivative_of_its_equation(config):
    for seed in range(3):
        batch = tokens(seed, 0.5)
        units = count_units(batch.mask, config)
        expected = closed_form(batch, config)
        weights = token_weights(batch.log_probs, batch.old, batch.advantages, batch.mask, config, units)
        torch.testing.assert_close(weights, expected, rtol=1e-10, atol=1e-12)
        single = batch.to(torch.float32)
        weights = token_weights(single.log_probs, single.old, single.advantages, single.mask, config, units)
        torch.testing.assert_close(weights.double(), expected, rtol=1e-5, atol=1e-6)


def test_the_closed_forms_cover_every_loss_but_the_one_that_draws():
    """`clip_cov` leaves out tokens by lot; elsewhere it is PPO's weight, which the next test looks at."""
    assert {*ROWS, *CALLS, "clip_cov"} == {name for name in known_loss_types() if ":" not in name}


def test_clip_cov_has_ppo_weights_but_on_tokens_that_it_drew():
    config = PolicyLossConfig(loss_type="clip_cov", clip_ratio_dual=1e6, clip_cov=ClipCovKeys(0.2, 0.1, 50.0))
    batch = tokens(1, 0.5)
    units = count_units(batch.mask, config)
    expected = closed_form(batch, PolicyLossConfig(clip_ratio_dual=1e6))
    weights = token_weights(batch.log_probs, batch.old, batch.advantages, batch.mask, config, units)
    kept = weights != 0
    torch.testing.assert_close(weights[kept], expected[kept], rtol=1e-12, atol=0)
    assert ((expected != 0) & ~kept).sum() == int(batch.mask.sum() * 0.2)


def test_a_positive_advantage_pulls_up_and_a_negative_one_down():
    for config in configs():
        if config.loss_type == "kl_cov":  # its penalty has a sign of its own
            continue
        batch = tokens(4, 0.3)
        weights = token_weights(batch.log_probs, batch.old, batch.advantages, batch.mask, config, 1)
        signs = torch.where(batch.mask, batch.advantages, 0.0).sign()
        assert (weights * signs >= 0).all(), name_of(config)
        assert (weights > 0).any() and (weights < 0).any(), name_of(config)


def test_relative_weight_is_the_ratio_for_grpo_and_the_geometric_mean_for_gmpo():
    batch = tokens(2, 0.1)  # nothing is clipped
    wide = GMPOConfig(log_clip_low=9.0, log_clip_high=9.0)
    grpo = PolicyLossConfig(clip_ratio_low=1.0, clip_ratio_high=50.0, clip_ratio_dual=100.0)
    d = torch.where(batch.mask, batch.log_probs - batch.old, 0.0)
    geometric = (d.sum(1) / batch.mask.sum(1).clamp(min=1)).exp()[:, None].expand_as(d)
    counts = batch.mask & (batch.advantages != 0)
    for config, expected in ((grpo, d.exp()), (PolicyLossConfig(loss_type="gmpo", gmpo=wide), geometric)):
        relative = relative_weights(batch.log_probs, batch.old, batch.advantages, batch.mask, config)
        torch.testing.assert_close(relative[counts], expected[counts], rtol=1e-10, atol=0)
        assert relative[~counts].isnan().all()


@pytest.mark.parametrize("config", configs(), ids=name_of)
def test_relative_weight_is_one_on_policy_and_zero_where_clipped(config):
    batch = tokens(3, 0.6)
    counts = batch.mask & (batch.advantages != 0)
    on_policy = relative_weights(batch.log_probs, batch.log_probs, batch.advantages, batch.mask, config)
    torch.testing.assert_close(on_policy[counts], torch.ones_like(on_policy[counts]), rtol=1e-12, atol=0)
    weights = token_weights(batch.log_probs, batch.old, batch.advantages, batch.mask, config, 7)
    relative = relative_weights(batch.log_probs, batch.old, batch.advantages, batch.mask, config)
    assert torch.equal(relative[counts] == 0, weights[counts] == 0)


def test_corrections_multiply_the_weights_and_what_they_mask_has_none():
    batch = tokens(6, 0.5)
    corrections = torch.rand(batch.mask.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    corrections[:, 1::3] = 0.0
    corrections = torch.where(batch.mask, corrections, 1.0)
    counts = batch.mask & (batch.advantages != 0)
    for name in ("default", "cispo", "sapo", "gpg"):
        config = PolicyLossConfig(loss_type=name, clip_ratio_dual=1.8)
        expected = closed_form(batch, config, corrections)
        rest = (batch.mask, config)
        units = count_units(batch.mask, config)
        weights = token_weights(batch.log_probs, batch.old, batch.advantages, *rest, units, corrections)
        torch.testing.assert_close(weights, expected, rtol=1e-10, atol=1e-12)
        relative = relative_weights(batch.log_probs, batch.old, batch.advantages, *rest, corrections)
        assert relative[counts].isfinite().all()
        assert (relative[counts & (corrections == 0)] == 0).all()


def test_gmpo_with_a_correction_equals_the_sequence_without_the_masked_tokens():
    """A masked token leaves the geometric mean and keeps its place in n; the sequence has the mean of the weights."""
    batch = tokens(6, 0.2)
    config = PolicyLossConfig(loss_type="gmpo", gmpo=GMPOConfig(log_clip_low=9.0, log_clip_high=9.0))
    corrections = torch.where(batch.mask, 2.0, 1.0).double()
    corrections[:, 2] = 0.0
    weights = token_weights(batch.log_probs, batch.old, batch.advantages, batch.mask, config, 1, corrections)
    for i in range(batch.mask.shape[0]):
        valid = [t for t in range(batch.mask.shape[1]) if batch.mask[i, t]]
        kept = [t for t in valid if corrections[i, t] != 0]
        for t in valid:
            d = sum((batch.log_probs[i, k] - batch.old[i, k]).item() for k in kept) / len(valid)
            mean = 2.0 ** (len(kept) / len(valid))
            expected = batch.advantages[i, t].item() * math.exp(d) / len(valid) * mean if t in kept else 0.0
            assert weights[i, t].item() == pytest.approx(expected, rel=1e-10, abs=1e-15)


def test_weights_leave_the_inputs_alone_and_work_without_gradients():
    batch = tokens(0, 0.8)
    log_probs = batch.log_probs.clone().requires_grad_()
    with torch.no_grad():
        weights = token_weights(log_probs, batch.old, batch.advantages, batch.mask, PolicyLossConfig(), 3)
    assert log_probs.grad is None and not weights.requires_grad
    half = batch.to(torch.bfloat16)
    assert token_weights(half.log_probs, half.old, half.advantages, half.mask, PolicyLossConfig(), 3).dtype == torch.float32
