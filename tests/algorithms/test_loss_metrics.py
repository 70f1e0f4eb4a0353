"""What a run logs about its loss is what a loop over the tokens finds."""

import math

import pytest
import torch

from gmpo_mm.algorithms import (
    GMPOConfig,
    Metric,
    PolicyLossConfig,
    compute_policy_loss,
    finalize_metrics,
    merge_metrics,
)
from tests.algorithms.naive import config_name, every_config, make_batch

CONFIGS = every_config()
RATIO_LOSSES = ("default", "gspo", "gspo_token")


def metrics_of(batch, config):
    return finalize_metrics(
        compute_policy_loss(batch.log_probs, batch.old, batch.advantages, batch.mask, config).metrics
    )


@pytest.mark.parametrize("config", CONFIGS, ids=config_name)
def test_ratio_range_kl_and_entropy_equal_a_loop(config):
    batch = make_batch(21)
    rows = [(batch.log_probs - batch.old)[i][batch.mask[i]].tolist() for i in range(10) if batch.mask[i].any()]
    tokens = [d for row in rows for d in row]
    means, sums = [sum(row) / len(row) for row in rows], [sum(row) for row in rows]
    got = metrics_of(batch, config)
    expected = {
        "actor/ppo_kl": -sum(tokens) / len(tokens),
        "actor/entropy_loss": -batch.log_probs[batch.mask].mean().item(),
        "ratio/token_min": math.exp(min(tokens)),
        "ratio/token_max": math.exp(max(tokens)),
        "ratio/seq_geo_mean_min": math.exp(min(means)),
        "ratio/seq_geo_mean_max": math.exp(max(means)),
        "ratio/seq_product_log_min": min(sums),
        "ratio/seq_product_log_max": max(sums),
    }
    assert {name: got[name] for name in expected} == pytest.approx(expected, rel=1e-12)


def naive_clip_fractions(batch, config):
    """high, low, EasyR1's higher (any clip) and lower (the dual clip), each over valid tokens."""
    high = low = dual = n = 0
    in_log_space = config.loss_type == "gmpo"
    upper = math.exp(config.gmpo.log_clip_high) if in_log_space else 1 + config.clip_ratio_high
    lower = math.exp(-config.gmpo.log_clip_low) if in_log_space else 1 - config.clip_ratio_low
    for i in range(batch.mask.shape[0]):
        d = (batch.log_probs - batch.old)[i][batch.mask[i]].tolist()
        a = batch.advantages[i, 0].item()
        for d_t in d:
            of_sequence = sum(d) if in_log_space and config.gmpo.clip == "sequence" else sum(d) / len(d)
            by_token = config.loss_type in ("default", "cispo") or (in_log_space and config.gmpo.clip == "token")
            ratio = math.exp(d_t if by_token else of_sequence)
            either = config.loss_type == "cispo"
            high += ratio > upper and (a > 0 or either)
            low += ratio < lower and (a < 0 or either)
            dual += a < 0 and ratio > config.clip_ratio_dual
            n += 1
    return high / n, low / n, (high + low) / n, dual / n


@pytest.mark.parametrize("config", CONFIGS, ids=config_name)
@pytest.mark.parametrize("seed", [22, 23])
def test_clip_fractions_equal_a_loop(config, seed):
    batch = make_batch(seed, sequences=30, spread=1.5)
    got = metrics_of(batch, config)
    high, low, easyr1_higher, easyr1_lower = naive_clip_fractions(batch, config)
    if config.loss_type == "sapo" or (config.loss_type == "gmpo" and config.gmpo.clip == "none"):
        assert not [name for name in got if "clip" in name]
        return
    assert got["clip/high_frac"] == pytest.approx(high) and high > 0
    has_lower_bound = config.loss_type == "gmpo" or config.clip_ratio_low < 1
    assert got["clip/low_frac"] == pytest.approx(low) and (low > 0) == has_lower_bound
    if config.loss_type in RATIO_LOSSES:
        assert got["actor/pg_clipfrac_higher"] == pytest.approx(easyr1_higher)
        assert got["actor/pg_clipfrac_lower"] == pytest.approx(easyr1_lower)
    else:
        assert "actor/pg_clipfrac_higher" not in got


def test_dual_clip_fraction_counts_negative_advantages_only():
    far = torch.full((2, 1), 2.0)
    got = compute_policy_loss(far, 0 * far, torch.tensor([1.0, -1.0]), far.bool(), PolicyLossConfig())
    assert finalize_metrics(got.metrics)["actor/pg_clipfrac_lower"] == 0.5


def test_pg_loss_is_the_mean_per_unit():
    batch = make_batch(24)
    for config in CONFIGS:
        loss = compute_policy_loss(batch.log_probs, batch.old, batch.advantages, batch.mask, config)
        of_sequences = config.loss_type in ("gmpo", "gspo") or config.loss_avg_mode == "seq"
        units = 10 if of_sequences else int(batch.mask.sum())
        assert finalize_metrics(loss.metrics)["actor/pg_loss"] == pytest.approx(loss.sum.item() / units, rel=1e-12)


def test_a_fully_masked_row_does_not_enter_the_extremes():
    """Its log-ratio sum of 0 and its geometric mean of 1 would be the extremes here."""
    log_ratios = torch.tensor([[0.5, 0.7], [0.0, 0.0]])
    mask = torch.tensor([[True, True], [False, False]])
    loss = compute_policy_loss(log_ratios, 0 * log_ratios, torch.ones(2), mask, PolicyLossConfig(loss_type="gmpo"))
    got = finalize_metrics(loss.metrics)
    assert got["ratio/seq_geo_mean_min"] == pytest.approx(math.exp(0.6))
    assert got["ratio/seq_product_log_min"] == pytest.approx(1.2)
    assert got["ratio/token_min"] == pytest.approx(math.exp(0.5))


def test_metrics_carry_no_graph():
    batch = make_batch(25)
    log_probs = batch.log_probs.clone().requires_grad_()
    for config in CONFIGS:
        loss = compute_policy_loss(log_probs, batch.old, batch.advantages, batch.mask, config)
        assert not [name for name, metric in loss.metrics.items() if metric.value.requires_grad]


def number(kind, value, count):
    return Metric(kind, torch.tensor(value), torch.tensor(count))


def test_merging_weights_means_by_count_and_keeps_extremes():
    parts = [
        {"a": number("mean", 6.0, 3), "b": number("min", 2.0, 3), "c": number("max", 2.0, 3)},
        {"a": number("mean", 10.0, 1), "b": number("min", -1.0, 1), "c": number("max", -1.0, 1)},
        {"d": number("mean", 1.0, 2)},
    ]
    assert finalize_metrics(merge_metrics(parts)) == {"a": 4.0, "b": -1.0, "c": 2.0, "d": 0.5}


def test_metric_that_counted_nothing_is_left_out_and_a_nan_is_shown():
    got = finalize_metrics(
        {"none": number("mean", 0.0, 0), "no_max": number("max", -float("inf"), 0), "bad": number("mean", math.nan, 1)}
    )
    assert list(got) == ["bad"] and math.isnan(got["bad"])
    assert finalize_metrics({}) == {}


def test_kinds_are_checked():
    with pytest.raises(ValueError, match="'mean' metric cannot be merged with a 'max'"):
        merge_metrics([{"a": number("mean", 1.0, 1)}, {"a": number("max", 1.0, 1)}])
    with pytest.raises(ValueError, match="metric kind 'sum'"):
        number("sum", 1.0, 1)


def test_extreme_ratios_saturate_rather_than_overflow_in_the_log():
    far = torch.full((1, 2), 1e4)
    config = PolicyLossConfig(loss_type="gmpo", gmpo=GMPOConfig(clip="none"))
    got = finalize_metrics(compute_policy_loss(far, 0 * far, torch.ones(1), far.bool(), config).metrics)
    assert got["ratio/token_max"] == pytest.approx(math.exp(80), rel=1e-5)
    assert got["ratio/seq_product_log_max"] == 2e4
