"""The losses of `trust_region.py`: values, gradients and signs against a slow float64 loop, extremes, cuts, metrics, keys.

The reference is written from the papers' equations, in probabilities and ratios, one token at a time; it shares no line with
the product code.
"""

import dataclasses
import itertools
import math
import struct

import pytest
import torch
from torch._subclasses import FakeTensorMode

from gmpo_mm.algorithms import PolicyLossConfig, compute_policy_loss, count_units, finalize_metrics
from gmpo_mm.algorithms.config import ClipCovKeys, DPPOKeys, FIPOKeys, KLCovKeys, M2POKeys, VESPOKeys
from tests.algorithms.naive import Batch, make_batch
from tests.algorithms.test_policy_loss_extremes import run
from tests.algorithms.test_policy_loss_invariance import cut, mean_loss
from tests.algorithms.test_policy_loss_reference import ours

CONFIGS = {
    "dppo_tv": PolicyLossConfig("dppo_tv"),
    "dppo_tv-other": PolicyLossConfig("dppo_tv", dppo=DPPOKeys(tv_low=0.05, tv_high=0.3, ratio_cap=1.5), loss_avg_mode="seq"),
    "dppo_kl": PolicyLossConfig("dppo_kl"),
    "dppo_kl-other": PolicyLossConfig("dppo_kl", dppo=DPPOKeys(kl_low=0.01, kl_high=0.2, ratio_cap=1.5), loss_avg_mode="seq"),
    "m2po": PolicyLossConfig("m2po"),
    "m2po-other": PolicyLossConfig("m2po", m2po=M2POKeys(budget=0.4), loss_avg_mode="seq"),
    "clip_cov": PolicyLossConfig("clip_cov", clip_cov=ClipCovKeys(share=0.1, cov_low=0.2)),
    "clip_cov-other": PolicyLossConfig(
        "clip_cov", clip_cov=ClipCovKeys(cov_low=-0.5, cov_high=0.5), clip_ratio_low=1.0, clip_ratio_high=0.6,
        loss_avg_mode="seq",
    ),
    "kl_cov": PolicyLossConfig("kl_cov"),
    "kl_cov-other": PolicyLossConfig("kl_cov", kl_cov=KLCovKeys(share=0.2, coef=0.3), loss_avg_mode="seq"),
    "vespo": PolicyLossConfig("vespo"),
    "vespo-other": PolicyLossConfig("vespo", vespo=VESPOKeys(0.5, 1.5, 0.7, 0.2), loss_avg_mode="seq"),
    "fipo": PolicyLossConfig("fipo"),
    "fipo-other": PolicyLossConfig(
        "fipo", fipo=FIPOKeys(2.0, 0.9, False, 1.5), clip_ratio_low=0.4, clip_ratio_high=0.1, clip_ratio_dual=2.0,
        loss_avg_mode="seq",
    ),
}  # fmt: skip
RANKING = ("m2po", "clip_cov", "kl_cov")
"""They compare the tokens of a call with one another."""
every = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
drawing_none = pytest.mark.parametrize(
    "config", [config for name, config in CONFIGS.items() if name != "clip_cov-other"], ids=lambda config: config.loss_type
)
"""Without the one whose range of covariances holds 0: it leaves a token out even where nothing moved."""
not_ranking = [name for name, config in CONFIGS.items() if config.loss_type not in RANKING]


def lot(log_prob: float) -> int:
    """The number that a token draws: 32 bits, mixed."""
    x = int.from_bytes(struct.pack("<f", log_prob), "little")
    for _ in range(2):
        x = ((x ^ (x >> 16)) * 0x45D9F3B) % 2**32
    return x ^ (x >> 16)


def chosen_by_covariance(batch: Batch, config: PolicyLossConfig, tokens: list[tuple[int, int]]) -> set[tuple[int, int]]:
    keys = config.clip_cov if config.loss_type == "clip_cov" else config.kl_cov
    lp = {it: batch.log_probs[it].item() for it in tokens}
    a = {it: batch.advantages[it].item() for it in tokens}
    mean_lp, mean_a = sum(lp.values()) / len(tokens), sum(a.values()) / len(tokens)
    cov = {it: (lp[it] - mean_lp) * (a[it] - mean_a) for it in tokens}
    wanted = max(int(keys.share * len(tokens)), 1)
    if config.loss_type == "kl_cov":
        return set(sorted((it for it in tokens if a[it] != 0), key=lambda it: -cov[it])[:wanted])
    free = []
    for it in tokens:
        ratio = math.exp(lp[it] - batch.old[it].item())
        clipped = ratio > 1 + config.clip_ratio_high if a[it] > 0 else ratio < 1 - config.clip_ratio_low and a[it] < 0
        if not clipped and keys.cov_low < cov[it] < keys.cov_high:
            free.append(it)
    return set(sorted(free, key=lambda it: lot(lp[it]))[:wanted])


def left_out_by_m2po(batch: Batch, config: PolicyLossConfig, tokens: list[tuple[int, int]]) -> set[tuple[int, int]]:
    """Take away the largest square until the mean of the rest is within the budget."""
    squares = {}
    for it in tokens:
        d, a = (batch.log_probs[it] - batch.old[it]).item(), batch.advantages[it].item()
        if (a > 0 and d > 0) or (a < 0 and d < 0):
            squares[it] = d * d
    out = set()
    while squares and sum(squares.values()) / len(squares) > config.m2po.budget:
        worst = max(squares, key=squares.__getitem__)
        out.add(worst)
        del squares[worst]
    return out


def naive(log_probs: torch.Tensor, batch: Batch, config: PolicyLossConfig) -> tuple[torch.Tensor, dict[str, float]]:
    """(sum over units, shares of tokens); ``log_probs`` is ``batch.log_probs`` with a gradient."""
    rows, width = batch.mask.shape
    tokens = [(i, t) for i in range(rows) for t in range(width) if batch.mask[i, t]]
    name = config.loss_type
    chosen: set[tuple[int, int]] = set()
    if name in ("clip_cov", "kl_cov"):
        chosen = chosen_by_covariance(batch, config, tokens)
    elif name == "m2po":
        chosen = left_out_by_m2po(batch, config, tokens)
    counts = dict.fromkeys(("clip/high_frac", "clip/low_frac"), 0)
    losses: dict[tuple[int, int], torch.Tensor] = {}
    for i, t in tokens:
        p, p_old = math.exp(log_probs[i, t].item()), math.exp(batch.old[i, t].item())
        a, rho, lp = batch.advantages[i, t].item(), torch.exp(log_probs[i, t] - batch.old[i, t]), log_probs[i, t]
        over = under = False
        if name.startswith("dppo"):
            if name == "dppo_tv":
                over = a > 0 and p > p_old and p - p_old > config.dppo.tv_high
                under = a < 0 and p < p_old and p_old - p > config.dppo.tv_low
            else:
                other, old_other = 1 - p + 1e-8, 1 - p_old + 1e-8
                kl = p_old * math.log(p_old / p) + (1 - p_old) * math.log(old_other / other) if other > 0 else math.inf
                over = a > 0 and p > p_old and kl > config.dppo.kl_high
                under = a < 0 and p < p_old and kl > config.dppo.kl_low
            loss = 0 * lp if over or under else -a * min(p / p_old, config.dppo.ratio_cap) * lp
        elif name == "m2po":
            over, under = (i, t) in chosen and a > 0, (i, t) in chosen and a < 0
            loss = 0 * lp if (i, t) in chosen else -a * rho
        elif name == "clip_cov":
            over, under = a > 0 and rho.item() > 1 + config.clip_ratio_high, a < 0 and rho.item() < 1 - config.clip_ratio_low
            bound = 1 + config.clip_ratio_high if over else 1 - config.clip_ratio_low
            loss = torch.full_like(lp, -a * bound) if over or under else -a * rho
            loss = 0 * lp if (i, t) in chosen else loss
        elif name == "kl_cov":
            loss = -a * rho
            if (i, t) in chosen:
                loss = loss + config.kl_cov.coef * torch.log(rho).abs()
        elif name == "vespo":
            w = math.prod(math.exp((log_probs[i, k] - batch.old[i, k]).item()) for k in range(width) if batch.mask[i, k])
            keys = config.vespo
            k, decay = (keys.k_negative, keys.lambda_negative) if a < 0 else (keys.k_positive, keys.lambda_positive)
            loss = -a * w**k * math.exp(decay * (1 - w)) * lp
        else:
            future = 0.0
            for k in range(t, width):
                d = (log_probs[i, k] - batch.old[i, k]).item() if batch.mask[i, k] else 0.0
                if math.exp(d) <= config.clip_ratio_dual:
                    future += 2 ** (-(k - t) / config.fipo.half_life) * d
            low = 1 if config.fipo.clip_high_only else 1 - config.fipo.clip
            f = min(max(math.exp(future), low), 1 + config.fipo.clip)
            if a < 0 and rho.item() > config.fipo.safe_ratio:
                f = min(max(f, 0.8), 1.0)
            over, under = a > 0 and rho.item() > 1 + config.clip_ratio_high, a < 0 and rho.item() < 1 - config.clip_ratio_low
            loss = -a * f * rho
            if over or under:
                loss = torch.full_like(lp, -a * f * (1 + config.clip_ratio_high if over else 1 - config.clip_ratio_low))
            elif a < 0 and rho.item() > config.clip_ratio_dual:
                loss = torch.full_like(lp, -a * f * config.clip_ratio_dual)
        counts["clip/high_frac"] += over
        counts["clip/low_frac"] += under
        losses[i, t] = loss
    total = torch.zeros((), dtype=torch.float64)
    for i in range(rows):
        of_row = [loss for (row, _), loss in losses.items() if row == i]
        if of_row:
            total = total + sum(of_row) / (len(of_row) if config.loss_avg_mode == "seq" else 1)
    if name in ("kl_cov", "vespo"):
        counts = {}
    if name in ("clip_cov", "kl_cov"):
        counts["cov/chosen_frac"] = len(chosen)
    return total, {key: value / len(tokens) for key, value in counts.items()}


def reference(batch: Batch, config: PolicyLossConfig) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
    log_probs = batch.log_probs.clone().requires_grad_()
    total, shares = naive(log_probs, batch, config)
    total.backward()
    return total.detach(), torch.nan_to_num(log_probs.grad), shares


@every
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("per_token", [False, True], ids=["one_advantage", "by_token"])
def test_value_and_gradient_equal_the_slow_loop(config, seed, per_token):
    batch = make_batch(seed, sequences=12, per_token=per_token)
    expected, expected_gradient, _ = reference(batch, config)
    value, gradient = ours(batch, config)
    torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-12)
    assert gradient.abs().sum() > 0


@every
@pytest.mark.parametrize("seed", [22, 23])
def test_shares_in_the_log_equal_the_slow_loop(config, seed):
    batch = make_batch(seed, sequences=30, spread=1.5)
    _, _, expected = reference(batch, config)
    loss = compute_policy_loss(batch.log_probs, batch.old, batch.advantages, batch.mask, config)
    got = finalize_metrics(loss.metrics)
    shares = {name: value for name, value in got.items() if name.startswith(("clip/", "cov/"))}
    assert shares == pytest.approx(expected, rel=1e-12)
    has_no_lower_bound = config.loss_type in ("clip_cov", "fipo") and config.clip_ratio_low == 1
    assert all(value > 0 for name, value in shares.items() if not (name == "clip/low_frac" and has_no_lower_bound))


@every
def test_float32_agrees_with_float64(config):
    batch = make_batch(2)
    batch = batch.to(torch.float32).to(torch.float64)  # the same numbers, and so the same lots
    value64, gradient64 = ours(batch, config)
    value32, gradient32 = ours(batch.to(torch.float32), config)
    torch.testing.assert_close(value32.double(), value64, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient32.double(), gradient64, rtol=1e-4, atol=1e-5)


@every
@pytest.mark.parametrize("size", [50.0, 1e4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_extreme_log_ratios_give_finite_loss_gradient_and_metrics(config, size, dtype):
    rows = [[size] * 3, [-size] * 3, [size, -size, 0.0], [size, 0.1, -0.1], [-size, 0.1, -0.1], [90.0, 80.0, 100.0], [0.0] * 3]
    advantages = [a for a in (2.0, -2.0, 0.0) for _ in rows]
    value, gradient, metrics = run(rows * 3, advantages, config, dtype)
    assert math.isfinite(value)
    assert gradient.isfinite().all()
    assert all(math.isfinite(number) for number in metrics.values())


@every
def test_certain_and_impossible_tokens_give_finite_loss_and_gradient(config):
    """Probabilities of 1 and near 0, as samplers with top-p = 0 and broken engines have them."""
    log_probs = torch.tensor([[0.0, -90.0, 0.0], [-90.0, 0.0, 0.0]], requires_grad=True)
    old = torch.tensor([[0.0, 0.0, -90.0], [0.0, -90.0, 0.0]])
    loss = compute_policy_loss(log_probs, old, torch.tensor([1.0, -1.0]), old <= 0, config)
    loss.sum.backward()
    assert loss.sum.isfinite() and log_probs.grad.isfinite().all()


@every
def test_advantage_zero_gives_loss_and_gradient_exactly_zero(config):
    value, gradient, _ = run([[1e4, 0.3], [-1e4, 0.2], [0.1, 0.1]], [0.0, 0.0, -0.0], config)
    assert value == 0.0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@every
def test_advantage_zero_beside_others_gets_no_gradient(config):
    _, gradient, _ = run([[0.4, 0.3], [-0.5, 0.2], [0.1, 0.1]], [0.0, 1.0, -3.0], config)
    assert torch.equal(gradient[0], torch.zeros(2))


@drawing_none
def test_the_sign_of_the_advantage_is_the_direction_of_the_update(config):
    """On the policy itself (ratio 1) a token with A > 0 is made more probable, one with A < 0 less."""
    _, gradient, _ = run([[0.0] * 3, [0.0] * 3], [1.0, -1.0], config, torch.float64)
    assert (gradient[0] < 0).all() and (gradient[1] > 0).all()


@drawing_none
def test_one_token_that_was_not_moved_has_the_gradient_of_reinforce(config):
    value, gradient, _ = run([[0.0]], [1.5], config, torch.float64)
    assert gradient.item() == pytest.approx(-1.5, rel=1e-12)
    assert math.isfinite(value)


@every
def test_fully_masked_rows_add_nothing_and_a_batch_of_them_gives_zero(config):
    batch = make_batch(0)
    mask = torch.zeros_like(batch.mask)
    log_probs = torch.full_like(batch.log_probs, float("nan")).requires_grad_()
    loss = compute_policy_loss(log_probs, batch.old, batch.advantages[:, 0], mask, config)
    loss.sum.backward()
    assert loss.sum.item() == 0.0
    assert torch.equal(log_probs.grad, torch.zeros_like(log_probs))
    full = Batch(*(x[1:] for x in (batch.log_probs, batch.old, batch.advantages, batch.mask)))
    assert not batch.mask[0].any()
    assert ours(batch, config)[0].item() == pytest.approx(ours(full, config)[0].item(), rel=1e-12)
    for shape in ((0, 4), (3, 0), (0, 0)):
        empty = torch.zeros(shape)
        assert compute_policy_loss(empty, empty, empty, empty.bool(), config).sum.item() == 0.0


@every
def test_nan_on_a_valid_token_is_not_hidden(config):
    value, _, _ = run([[0.1, float("nan")], [0.1, 0.1]], [1.0, 1.0], config)
    assert math.isnan(value)


@every
def test_rubbish_under_the_mask_padding_and_row_order_change_nothing(config):
    batch = make_batch(9)
    value, (gradient,), metrics = mean_loss([batch], config)
    clean = Batch(*(torch.where(batch.mask, x, 0.0) for x in (batch.log_probs, batch.old, batch.advantages)), batch.mask)
    assert torch.equal(mean_loss([clean], config)[0], value)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(0))
    moved, (moved_gradient,), moved_metrics = mean_loss([batch.rows(order)], config)
    torch.testing.assert_close(moved, value, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(moved_gradient, gradient[order], rtol=1e-11, atol=1e-12)
    assert moved_metrics == pytest.approx(metrics, rel=1e-10, abs=1e-12)
    wide = (torch.nn.functional.pad(x, (4, 5), value=float("nan")) for x in (batch.log_probs, batch.old, batch.advantages))
    padded = Batch(*wide, torch.nn.functional.pad(batch.mask, (4, 5), value=False))
    padded_value, (padded_gradient,), padded_metrics = mean_loss([padded], config)
    torch.testing.assert_close(padded_value, value, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(padded_gradient[:, 4:-5], gradient, rtol=1e-11, atol=1e-12)
    assert padded_metrics == pytest.approx(metrics, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("name", not_ranking)
@pytest.mark.parametrize("sizes", [[1] * 10, [3, 7]], ids=str)
def test_micro_batch_cut_changes_nothing(name, sizes):
    batch = make_batch(7)
    whole, (gradient,), metrics = mean_loss([batch], CONFIGS[name])
    total, gradients, merged = mean_loss(cut(batch, sizes), CONFIGS[name])
    torch.testing.assert_close(total.double(), whole.double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(torch.cat(gradients), gradient, rtol=1e-11, atol=1e-12)
    assert merged == pytest.approx(metrics, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize("name", [f"{loss}-other" for loss in RANKING])
def test_losses_that_rank_tokens_do_so_over_the_rows_of_one_call(name):
    """What the documentation warns of: each micro-batch by itself equals the reference on it, and not the whole's."""
    batch, config = make_batch(7), CONFIGS[name]
    parts = cut(batch, [3, 7])
    for part in parts:
        expected, expected_gradient, _ = reference(part, config)
        value, gradient = ours(part, config)
        torch.testing.assert_close(value, expected, rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(gradient, expected_gradient, rtol=1e-10, atol=1e-12)
    apart = torch.cat([ours(part, config)[1] for part in parts])
    assert not torch.allclose(apart, ours(batch, config)[1])


KEYS = {
    "dppo_tv": {"dppo.tv_low": 0.02, "dppo.tv_high": 0.02, "dppo.ratio_cap": 1.1},
    "dppo_kl": {"dppo.kl_low": 0.001, "dppo.kl_high": 0.001, "dppo.ratio_cap": 1.1},
    "m2po": {"m2po.budget": 2.0},
    "clip_cov": {
        "clip_cov.share": 0.3, "clip_cov.cov_low": -0.1, "clip_cov.cov_high": 0.3, "clip_ratio_low": 0.01,
        "clip_ratio_high": 0.01,
    },
    "kl_cov": {"kl_cov.share": 0.3, "kl_cov.coef": 0.2},
    "vespo": {
        "vespo.k_positive": 0.1, "vespo.k_negative": 0.1, "vespo.lambda_positive": 0.1, "vespo.lambda_negative": 0.1,
    },
    "fipo": {
        "fipo.half_life": 1.0, "fipo.clip": 0.5, "fipo.clip_high_only": False, "fipo.safe_ratio": 1.01,
        "clip_ratio_low": 0.01, "clip_ratio_high": 0.01, "clip_ratio_dual": 1.3,
    },
}  # fmt: skip


def with_key(config: PolicyLossConfig, key: str, value: object) -> PolicyLossConfig:
    section, _, name = key.rpartition(".")
    if section:
        return dataclasses.replace(config, **{section: dataclasses.replace(getattr(config, section), **{name: value})})
    return dataclasses.replace(config, **{name: value})


@pytest.mark.parametrize(("loss", "key"), [(loss, key) for loss, keys in KEYS.items() for key in keys])
def test_each_key_changes_the_gradient(loss, key):
    batch = make_batch(11, sequences=20)
    base = CONFIGS[loss]
    assert not torch.equal(ours(batch, base)[1], ours(batch, with_key(base, key, KEYS[loss][key]))[1])


def test_the_keys_that_each_loss_says_it_reads_are_those():
    from gmpo_mm.algorithms import clip_keys_read_by

    for loss, keys in KEYS.items():
        assert clip_keys_read_by(loss) == {*keys, "loss_avg_mode"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("dppo.tv_high", -0.1), ("dppo.tv_low", 1.5), ("dppo.kl_high", math.nan), ("dppo.ratio_cap", 0.5), ("m2po.budget", 0.0),
        ("clip_cov.share", 0.0), ("kl_cov.share", 1.1), ("kl_cov.coef", -1.0), ("vespo.k_positive", -1.0),
        ("vespo.lambda_negative", 0.0), ("fipo.half_life", 0.0), ("fipo.clip", 1.1), ("clip_cov.cov_low", 5.0),
    ],
)  # fmt: skip
def test_values_outside_their_range_are_errors_that_name_the_key(key, value):
    with pytest.raises(ValueError, match=key):
        with_key(PolicyLossConfig(), key, value)


def test_m2po_within_its_budget_is_the_plain_ratio_and_beyond_it_leaves_out_the_largest_first():
    squares_mean = (0.1**2 + 0.5**2) / 2  # the token that did not move is of no concern
    for budget, kept in ((1.0001 * squares_mean, 3), (0.9999 * squares_mean, 2), (0.9999 * 0.1**2, 1)):
        config = PolicyLossConfig("m2po", m2po=M2POKeys(budget=budget))
        _, gradient, _ = run([[0.0, 0.1, 0.5]], [1.0], config, torch.float64)
        expected = [-math.exp(d) if k < kept else 0.0 for k, d in enumerate((0.0, 0.1, 0.5))]
        assert gradient[0].tolist() == pytest.approx(expected, rel=1e-12)


def test_m2po_treats_tokens_of_equal_size_alike():
    log_ratios = [[0.5, 0.5, 0.5, 0.01]]
    _, gradient, metrics = run(log_ratios, [1.0], PolicyLossConfig("m2po", m2po=M2POKeys(budget=0.1)), torch.float64)
    assert gradient[0, :3].tolist() == [0.0] * 3 and gradient[0, 3] < 0
    assert metrics["clip/high_frac"] == 0.75


def test_clip_cov_draws_without_pattern_and_the_same_each_time():
    """About as many tokens from each tenth of the row, and no number of torch's random state is used up."""
    old = -3 * torch.rand(1, 20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    advantages = torch.ones_like(old)
    advantages[:, ::2] = -1.0
    config = PolicyLossConfig("clip_cov", clip_cov=ClipCovKeys(share=0.1, cov_low=-10.0, cov_high=10.0))
    state = torch.get_rng_state()
    batch = Batch(old.clone(), old, advantages, torch.ones_like(old).bool())
    _, gradient = ours(batch, config)
    assert torch.equal(torch.get_rng_state(), state)
    chosen = (gradient == 0)[0]
    assert chosen.sum() == 2000
    by_place = chosen.view(10, -1).sum(1)
    by_size = chosen[old[0].argsort()].view(10, -1).sum(1)
    assert (by_place > 140).all() and (by_place < 260).all()  # 200 in the mean, four standard deviations
    assert (by_size > 140).all() and (by_size < 260).all()
    assert torch.equal(ours(batch, config)[1], gradient)


def test_kl_cov_pulls_the_chosen_tokens_back():
    log_ratios = [[0.3, -0.2, 0.1], [0.1, 0.1, 0.1]]
    plain = run(log_ratios, [1.0, -1.0], PolicyLossConfig("kl_cov", kl_cov=KLCovKeys(coef=0.0)), torch.float64)[1]
    _, gradient, metrics = run(log_ratios, [1.0, -1.0], PolicyLossConfig("kl_cov"), torch.float64)
    assert (gradient - plain).flatten().tolist() == pytest.approx([1.0, 0, 0, 0, 0, 0])
    assert metrics["cov/chosen_frac"] == pytest.approx(1 / 6)


@pytest.mark.parametrize(("advantage", "k", "decay"), [(1.0, 2.0, 3.0), (-1.0, 3.0, 2.0)])
def test_vespo_weighs_by_the_product_of_the_ratios_not_their_mean(advantage, k, decay):
    for d in (-0.5, 0.0, 0.3, 1.0, 50.0, -50.0):
        _, gradient, _ = run([[d / 2, d / 2]], [advantage], PolicyLossConfig("vespo"), torch.float64)
        w = math.exp(d)
        expected = -advantage * w**k * math.exp(decay * (1 - w))
        assert gradient[0].tolist() == pytest.approx([expected] * 2, rel=1e-9, abs=1e-300)


def test_vespo_with_a_large_exponent_stays_finite_and_keeps_zero_at_zero():
    config = PolicyLossConfig("vespo", vespo=VESPOKeys(1e3, 1e3, 1e-3, 1e-3))
    value, gradient, _ = run([[5.0], [5.0], [5.0]], [1.0, -1.0, 0.0], config)
    assert math.isfinite(value) and gradient.isfinite().all()
    assert gradient[2] == 0 and gradient[0] < 0 < gradient[1]


def test_fipo_without_a_clip_range_is_the_default_loss():
    batch = make_batch(4)
    plain = ours(batch, PolicyLossConfig("default"))
    fipo = ours(batch, PolicyLossConfig("fipo", fipo=FIPOKeys(clip=0.0, safe_ratio=1e6)))
    assert torch.equal(plain[0], fipo[0]) and torch.equal(plain[1], fipo[1])


def test_fipo_looks_ahead_and_not_back():
    """Only the first token's weight sees the second token's log-ratio."""
    config = PolicyLossConfig("fipo", fipo=FIPOKeys(half_life=1.0, clip=1.0, clip_high_only=False))
    _, gradient, _ = run([[0.0, 0.2, 0.0]], [1.0], config, torch.float64)
    expected = [-math.exp(0.2 / 2), -math.exp(0.2) * math.exp(0.2), -1.0]
    assert gradient[0].tolist() == pytest.approx(expected, rel=1e-12)


@every
def test_nothing_is_read_back_from_the_device(config):
    """A tensor without contents cannot be read, so a read is an error here."""
    batch = make_batch(0).to(torch.float32)
    with FakeTensorMode() as mode:
        log_probs, old, advantages, mask = map(
            mode.from_tensor, (batch.log_probs, batch.old, batch.advantages, batch.mask)
        )
        log_probs.requires_grad_()
        compute_policy_loss(log_probs, old, advantages, mask, config).sum.backward()
    assert log_probs.grad is not None


def test_old_log_probs_and_advantages_get_no_gradient():
    batch = make_batch(2)
    for config in CONFIGS.values():
        inputs = [x.clone().requires_grad_() for x in (batch.log_probs, batch.old, batch.advantages)]
        loss = compute_policy_loss(*inputs, batch.mask, config)
        loss.sum.backward()
        assert inputs[0].grad is not None and inputs[1].grad is None and inputs[2].grad is None
        assert not any(metric.value.requires_grad for metric in loss.metrics.values())
        assert int(count_units(batch.mask, config)) == (10 if config.loss_avg_mode == "seq" else int(batch.mask.sum()))


def test_configs_are_hashable_and_equal_by_value():
    for one, two in itertools.pairwise(CONFIGS.values()):
        assert hash(one) == hash(dataclasses.replace(one)) and one != two
