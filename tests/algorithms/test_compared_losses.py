"""The numbers of a `compare` line against loops over tokens, from weights that are derivatives written by hand."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from gmpo_mm.algorithms import (
    PolicyLossConfig,
    StepTokens,
    UpdateRows,
    compare_losses,
    compared_configs,
)
from gmpo_mm.algorithms.config import ClipCovKeys, M2POKeys
from tests.algorithms.naive import Batch
from tests.algorithms.test_token_weights import closed_form, tokens

CUT = ((0, 1, 2, 3, 4, 5), (6, 7, 8, 9))
CONFIG = PolicyLossConfig(loss_type="gmpo", clip_ratio_dual=1.8, m2po=M2POKeys(budget=0.2))
NAMES = ("default", "gspo", "cispo", "power_mean", "sapo", "gpg")


def step(batch: Batch, **more) -> StepTokens:
    updates = [UpdateRows.counted(rows, batch.mask) for rows in CUT]
    values = dict(log_probs_BT=batch.log_probs, old_log_probs_BT=batch.old, advantages_BT=batch.advantages,
                  mask_BT=batch.mask, updates=updates)  # fmt: skip
    return StepTokens(**(values | more))


class Token:
    """One token that counts: its ratio, advantage, place and, for each loss, its weight and relative weight."""

    def __init__(self, batch: Batch, i: int, t: int, weights: dict, at_one: dict, entropy: torch.Tensor) -> None:
        valid = [k for k in range(batch.mask.shape[1]) if batch.mask[i, k]]
        self.ratio = math.exp(batch.log_probs[i, t].item() - batch.old[i, t].item())
        self.advantage = batch.advantages[i, t].item()
        self.tenth = 10 * valid.index(t) // len(valid)
        self.entropy = entropy[i, t].item()
        self.weights = {name: w[i, t].item() for name, w in weights.items()}
        self.relative = {name: w[i, t].item() / at_one[name][i, t].item() for name, w in weights.items()}


def naive_tokens(batch: Batch, configs: dict[str, PolicyLossConfig], entropy: torch.Tensor) -> list[Token]:
    """In the order of rows; each mini-batch divided by its own units."""
    same = Batch(batch.log_probs, batch.log_probs, batch.advantages, batch.mask)
    weights, at_one = ({name: torch.zeros(batch.mask.shape, dtype=torch.float64) for name in configs} for _ in range(2))
    for rows in map(list, CUT):
        for name, config in configs.items():
            weights[name][rows] = closed_form(batch.rows(rows), config)
            at_one[name][rows] = closed_form(same.rows(rows), config)
    return [
        Token(batch, i, t, weights, at_one, entropy)
        for i in range(batch.mask.shape[0])
        for t in range(batch.mask.shape[1])
        if batch.mask[i, t] and batch.advantages[i, t] != 0
    ]


def line(seen: StepTokens, configs: dict[str, PolicyLossConfig], trained: str) -> str:
    """As text, in which NaN equals NaN."""
    return json.dumps(compare_losses(seen, configs, trained))


def cut(values: list) -> list[list]:
    n = len(values)
    return [values[part * n // 10 : (part + 1) * n // 10] for part in range(10)]


def test_every_number_of_the_line_equals_a_loop_over_the_tokens():
    for seed in range(3):
        batch = tokens(seed, 0.5)
        entropy = torch.rand(batch.mask.shape, generator=torch.Generator().manual_seed(seed))
        configs = compared_configs(CONFIG, NAMES)
        found = compare_losses(step(batch, entropy_BT=entropy), configs, "gmpo")
        every = naive_tokens(batch, configs, entropy)
        by_ratio = sorted(every, key=lambda token: token.ratio)
        by_entropy = sorted(every, key=lambda token: token.entropy)
        edges = [part[0].ratio for part in cut(by_ratio)] + [by_ratio[-1].ratio]

        assert found["compare/trained"] == "gmpo" and found["compare/losses"] == ["gmpo", *NAMES]
        assert found["compare/ratio_edges"] == pytest.approx(edges, rel=1e-12)
        some_are_clipped = False
        for name in configs:
            w = [token.weights[name] for token in every]
            own = [token.weights["gmpo"] for token in every]
            norms = math.sqrt(sum(x * x for x in w)) * math.sqrt(sum(x * x for x in own))
            clipped = [token for token in every if token.weights[name] == 0]
            expected = {
                "ess_frac": sum(map(abs, w)) ** 2 / (len(w) * sum(x * x for x in w)),
                "cosine": sum(x * y for x, y in zip(w, own, strict=True)) / norms,
                "clipped_frac": len(clipped) / len(every),
            }
            if clipped:
                some_are_clipped = True
                expected["clipped_positive_frac"] = sum(token.advantage > 0 for token in clipped) / len(clipped)
            for key in ("ess_frac", "cosine", "clipped_frac", "clipped_positive_frac"):
                value = found.get(f"compare/{name}/{key}", "undefined")
                assert value == (pytest.approx(expected[key], rel=1e-9) if key in expected else "undefined"), (name, key)
            parts = [[token.relative[name] for token in part] for part in cut(by_ratio)]
            means = [sum(part) / len(part) for part in parts]
            spreads = [
                math.sqrt(sum((x - mean) ** 2 for x in part) / len(part)) for part, mean in zip(parts, means, strict=True)
            ]
            assert found[f"compare/{name}/weight_by_ratio"] == pytest.approx(means, rel=1e-9)
            assert found[f"compare/{name}/spread_by_ratio"] == pytest.approx(spreads, rel=1e-6, abs=1e-7)
            share = [sum(token.weights[name] == 0 for token in part) / len(part) for part in cut(by_entropy)]
            assert found[f"compare/{name}/clipped_by_entropy"] == pytest.approx(share)
            tenths = [[token for token in every if token.tenth == tenth] for tenth in range(10)]
            share = [sum(token.weights[name] == 0 for token in part) / len(part) if part else math.nan for part in tenths]
            assert found[f"compare/{name}/clipped_by_position"] == pytest.approx(share, nan_ok=True)
        assert some_are_clipped

        points = found["compare/points"]
        assert len(by_ratio) <= 128
        assert points["ratio"] == pytest.approx([token.ratio for token in by_ratio])
        assert points["advantage"] == pytest.approx([token.advantage for token in by_ratio])
        for name in configs:
            assert points[name] == pytest.approx([token.relative[name] for token in by_ratio], rel=1e-9)


def test_at_most_128_points_run_evenly_from_the_smallest_to_the_largest_ratio():
    d = torch.linspace(-1, 1, 1000, dtype=torch.float64).reshape(10, 100)
    ones = torch.ones(10, 100, dtype=torch.float64)
    batch = Batch(d - 3, -3 * ones, ones, ones.bool())
    ratios = compare_losses(step(batch), compared_configs(CONFIG, ["gpg"]), "gmpo")["compare/points"]["ratio"]
    assert len(ratios) == 128
    assert ratios[0] == pytest.approx(math.exp(-1)) and ratios[-1] == pytest.approx(math.e)
    steps = [math.log(b) - math.log(a) for a, b in pairwise(ratios)]
    assert max(steps) < 1.3 * min(steps)


def test_an_on_policy_step_has_relative_weights_of_1_and_nothing_clipped():
    batch = tokens(1, 0.5)
    found = compare_losses(step(batch, old_log_probs_BT=batch.log_probs), compared_configs(CONFIG, NAMES), "gmpo")
    assert found["compare/ratio_edges"] == [1.0] * 11
    for name in ("gmpo", *NAMES):
        assert found[f"compare/{name}/weight_by_ratio"] == pytest.approx([1.0] * 10)
        assert found[f"compare/{name}/clipped_frac"] == 0.0
        assert f"compare/{name}/clipped_positive_frac" not in found
        assert f"compare/{name}/clipped_by_entropy" not in found  # no entropies were given
    assert found["compare/gmpo/cosine"] == pytest.approx(1.0)


def test_units_are_those_of_all_that_counts_not_of_what_was_passed_through_the_model():
    """Rows left out of the forward pass (no advantage in their group) count in the mean."""
    batch = tokens(2, 0.5)
    batch.advantages[8:] = 0.0
    passed = batch.mask.clone()
    passed[8:] = False
    all_rows, some_rows = (
        compare_losses(
            step(batch, mask_BT=passed, updates=[UpdateRows.counted(rows, counted) for rows in CUT]),
            compared_configs(CONFIG, ["default"]), "gmpo",
        )
        for counted in (batch.mask, passed)
    )  # fmt: skip
    whole = compare_losses(step(batch), compared_configs(CONFIG, ["default"]), "gmpo")
    for key in ("ess_frac", "cosine"):
        assert all_rows[f"compare/default/{key}"] == pytest.approx(whole[f"compare/default/{key}"], rel=1e-12)
        assert some_rows[f"compare/default/{key}"] != pytest.approx(whole[f"compare/default/{key}"], rel=1e-6)


def test_rows_of_no_update_are_left_out():
    batch = tokens(2, 0.5)
    first = list(CUT[0])
    part = batch.rows(first)
    alone = StepTokens(part.log_probs, part.old, part.advantages, part.mask, [UpdateRows.counted(first, part.mask)])
    of_all = step(batch, updates=[UpdateRows.counted(first, batch.mask)])
    configs = compared_configs(CONFIG, NAMES)
    assert line(of_all, configs, "gmpo") == line(alone, configs, "gmpo")


@pytest.mark.parametrize("loss", ["m2po", "kl_cov", "clip_cov"])
def test_a_loss_that_ranks_tokens_ranks_those_of_one_call_as_in_training(loss):
    batch = tokens(0, 0.6)
    config = PolicyLossConfig(loss_type=loss, m2po=M2POKeys(budget=0.1), clip_cov=ClipCovKeys(0.1, 0.0, 50.0))
    halves = [(rows[:3], rows[3:]) for rows in CUT]
    called = [UpdateRows.counted(rows, batch.mask, calls) for rows, calls in zip(CUT, halves, strict=True)]
    each = [UpdateRows(call, 6, int(batch.mask[list(rows)].sum())) for rows, calls in zip(CUT, halves, strict=True)
            for call in calls]  # fmt: skip
    configs = compared_configs(config, [])
    cut_up = line(step(batch, updates=called), configs, loss)
    assert cut_up == line(step(batch, updates=each), configs, loss)
    assert cut_up != line(step(batch), configs, loss)


def test_corrections_enter_the_weights_of_every_loss():
    batch = tokens(1, 0.5)
    corrections = torch.where(batch.mask, 0.5, 1.0).double()
    corrections[:, 0] = 0.0
    found = compare_losses(step(batch, token_weights_BT=corrections), compared_configs(CONFIG, NAMES), "gmpo")
    counted = batch.mask & (batch.advantages != 0)
    masked = int((counted & (corrections == 0)).sum()) / int(counted.sum())
    assert found["compare/gpg/clipped_frac"] == pytest.approx(masked)
    assert found["compare/gpg/ess_frac"] < compare_losses(step(batch), compared_configs(CONFIG, NAMES), "gmpo")[
        "compare/gpg/ess_frac"
    ]
    assert not any(math.isnan(x) for name in ("gmpo", *NAMES) for x in found[f"compare/{name}/weight_by_ratio"])


def test_few_tokens_leave_deciles_empty_and_no_tokens_leave_no_numbers():
    batch = tokens(2, 0.5)
    batch.advantages[:2] = batch.advantages[3:] = 0.0
    batch.mask[2, 4:] = False
    found = compare_losses(step(batch), compared_configs(CONFIG, ["default"]), "gmpo")
    assert sum(not math.isnan(x) for x in found["compare/default/weight_by_ratio"]) == 4
    batch.advantages[:] = 0.0
    found = compare_losses(step(batch), compared_configs(CONFIG, ["default"]), "gmpo")
    assert found == {"compare/trained": "gmpo", "compare/losses": ["gmpo", "default"]}


def test_extreme_ratios_give_finite_numbers():
    batch = tokens(2, 0.5)
    batch.log_probs = batch.log_probs.float()
    batch.old = torch.where(batch.mask, batch.log_probs - 200.0, batch.old.float())
    batch.old[5:] = batch.log_probs[5:] + 200.0
    found = compare_losses(step(batch), compared_configs(CONFIG, [*NAMES, "vespo"]), "gmpo")
    for name, value in found.items():
        if isinstance(value, float):
            assert math.isfinite(value), name


OWN = """
from gmpo_mm.algorithms import register_policy_loss

@register_policy_loss("half")
def half(log_probs_BT, old_BT, advantages_BT, mask_BT, config):
    return -0.5 * advantages_BT * (log_probs_BT - old_BT).exp()
"""


def test_a_loss_of_the_users_own_is_compared_under_its_functions_name(tmp_path: Path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    batch = tokens(0, 0.3)
    wide = PolicyLossConfig(clip_ratio_low=1.0, clip_ratio_high=50.0, clip_ratio_dual=1e5)
    found = compare_losses(step(batch), compared_configs(wide, [f"{file}:half"]), "default")
    assert found["compare/losses"] == ["default", "half"]
    assert found["compare/half/cosine"] == pytest.approx(1.0)
    assert found["compare/half/weight_by_ratio"] == pytest.approx(found["compare/default/weight_by_ratio"])
    other = tmp_path / "other.py"
    other.write_text(OWN)
    with pytest.raises(ValueError, match="have the same name"):
        compared_configs(wide, [f"{file}:half", f"{other}:half"])
    with pytest.raises(ValueError, match="'gsppo' is unknown"):
        compared_configs(wide, ["gsppo"])
