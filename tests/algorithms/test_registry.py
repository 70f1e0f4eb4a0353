"""A loss of one's own is one function with one decorator, and what is wrong with it is said plainly."""

import pytest
import torch

from gmpo_mm.algorithms import (
    PolicyLossConfig,
    clip_keys_read_by,
    compute_policy_loss,
    count_units,
    finalize_metrics,
    known_loss_types,
    load_policy_loss,
    loss_unit,
    register_policy_loss,
)
from tests.algorithms.naive import make_batch

USER_FILE = '''
import torch
from gmpo_mm.algorithms import LossTerms, register_policy_loss

@register_policy_loss("mine", reads=["clip_ratio_high"])
def mine(log_probs_BT, old_BT, advantages_BT, mask_BT, config):
    ratio = (log_probs_BT - old_BT).exp()
    return LossTerms(-advantages_BT * ratio.clamp(max=1 + config.clip_ratio_high), {"mine/big": ratio > 1})

@register_policy_loss("by_sequence", unit="sequence", sequence_advantages=True)
def by_sequence(log_probs_BT, old_BT, advantages_B, mask_BT, config):
    return -advantages_B * log_probs_BT.sum(dim=1)

@register_policy_loss("constant", unit="sequence")
def constant(log_probs_BT, old_BT, advantages_BT, mask_BT, config):
    return log_probs_BT.new_ones(log_probs_BT.shape[0])

@register_policy_loss("wrong_shape")
def wrong_shape(log_probs_BT, old_BT, advantages_BT, mask_BT, config):
    return log_probs_BT.sum()

def undecorated(*args):
    return None

number = 3
'''


@pytest.fixture
def user_file(tmp_path):
    path = tmp_path / "my losses.py"
    path.write_text(USER_FILE)
    return path


def test_known_losses():
    assert {"cispo", "default", "gmpo", "gspo", "gspo_token", "sapo"} <= set(known_loss_types())
    assert {"gpg", "luspo", "power_mean", "reinforce"} <= set(known_loss_types())
    assert {"clip_cov", "dppo_kl", "dppo_tv", "fipo", "kl_cov", "m2po", "vespo"} <= set(known_loss_types())
    assert list(known_loss_types()) == sorted(known_loss_types())


def test_keys_that_each_loss_reads():
    ratio = {"clip_ratio_low", "clip_ratio_high"}
    assert clip_keys_read_by("gmpo") == {"gmpo.clip", "gmpo.normalize", "gmpo.log_clip_low", "gmpo.log_clip_high"}
    assert clip_keys_read_by("default") == ratio | {"clip_ratio_dual", "loss_avg_mode"}
    assert clip_keys_read_by("gspo") == ratio | {"clip_ratio_dual"}
    assert clip_keys_read_by("gspo_token") == ratio | {"clip_ratio_dual", "loss_avg_mode"}
    assert clip_keys_read_by("cispo") == ratio | {"loss_avg_mode"}
    assert clip_keys_read_by("sapo") == {"tau_positive", "tau_negative", "loss_avg_mode"}


def test_loss_from_a_users_file_trains_with_masking_sum_and_metrics_done_for_it(user_file):
    batch = make_batch(0)
    config = PolicyLossConfig(loss_type=f"{user_file}:mine", clip_ratio_high=0.5)
    log_probs = batch.log_probs.clone().requires_grad_()
    loss = compute_policy_loss(log_probs, batch.old, batch.advantages, batch.mask, config)
    loss.sum.backward()
    ratio = (batch.log_probs - batch.old)[batch.mask].exp()
    expected = -(batch.advantages[batch.mask] * ratio.clamp(max=1.5)).sum()
    assert loss.sum.item() == pytest.approx(expected.item(), rel=1e-12)
    assert log_probs.grad.isfinite().all()
    assert finalize_metrics(loss.metrics)["mine/big"] == pytest.approx((ratio > 1).double().mean().item())
    assert clip_keys_read_by(config.loss_type) == {"clip_ratio_high", "loss_avg_mode"}
    assert loss_unit(config) == "token"


def test_sequence_loss_from_a_users_file_gets_one_advantage_a_sequence_and_counts_sequences(user_file):
    batch = make_batch(0)
    config = PolicyLossConfig(loss_type=f"{user_file}:by_sequence")
    loss = compute_policy_loss(batch.log_probs, batch.old, batch.advantages, batch.mask, config)
    expected = -(torch.where(batch.mask, batch.log_probs * batch.advantages, 0.0)).sum()
    assert loss.sum.item() == pytest.approx(expected.item(), rel=1e-12)
    assert count_units(batch.mask, config) == 10


def test_fully_masked_sequence_gives_zero_whatever_the_users_loss_says(user_file):
    batch = make_batch(0)  # nine of its ten sequences have tokens
    config = PolicyLossConfig(loss_type=f"{user_file}:constant")
    assert compute_policy_loss(batch.log_probs, batch.old, batch.advantages, batch.mask, config).sum.item() == 9.0


def test_names_in_a_users_file_stay_out_of_the_registry_so_two_files_may_share_one(user_file, tmp_path):
    other = tmp_path / "other.py"
    other.write_text(USER_FILE.replace("max=1 +", "max=2 +"))
    first, second = load_policy_loss(f"{user_file}:mine"), load_policy_loss(f"{other}:mine")
    assert first.function is not second.function
    assert "mine" not in known_loss_types()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", r"has no 'missing'; policy losses in it: \['by_sequence', 'constant', 'mine', 'wrong_shape'\]"),
        ("number", "'number' is not a function"),
        ("undecorated", "'undecorated' is a function that is not marked as a policy loss; put @register_policy_loss"),
        ("", "write path/to/file.py:name"),
    ],
)
def test_wrong_name_in_a_users_file_is_named(user_file, name, message):
    with pytest.raises(ValueError, match=message):
        load_policy_loss(f"{user_file}:{name}")


def test_missing_file_path_without_name_and_failing_file_are_named(tmp_path):
    with pytest.raises(ValueError, match="there is no file .*nowhere.py"):
        compute_policy_loss(*[torch.zeros(1, 1)] * 4, PolicyLossConfig(loss_type=str(tmp_path / "nowhere.py:f")))
    with pytest.raises(ValueError, match="write path/to/file.py:name"):
        count_units(torch.ones(1, 1), PolicyLossConfig(loss_type="losses.py"))
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    with pytest.raises(ValueError, match="broken.py raised ZeroDivisionError: division by zero"):
        load_policy_loss(f"{broken}:f")


def test_a_loss_that_returns_the_wrong_shape_is_named(user_file):
    config = PolicyLossConfig(loss_type=f"{user_file}:wrong_shape")
    with pytest.raises(ValueError, match=r"'wrong_shape' returned shape \(\), not \(2, 3\)"):
        compute_policy_loss(*[torch.ones(2, 3)] * 4, config)


def test_taken_name_unknown_unit_and_unknown_key_are_errors():
    with pytest.raises(ValueError, match="'gmpo' is registered already"):
        register_policy_loss("gmpo")(lambda *args: args[0])
    with pytest.raises(ValueError, match="unit 'batch'"):
        register_policy_loss("x", unit="batch")
    with pytest.raises(ValueError, match="reads clip_low; known keys: .*clip_ratio_low"):
        register_policy_loss("x", reads=["clip_low"])
    assert "x" not in known_loss_types()


def test_advantages_that_differ_within_a_sequence_are_an_error_for_gmpo_that_names_the_row():
    batch = make_batch(0, per_token=True)
    with pytest.raises(ValueError, match=r"first row: 2.*one advantage a sequence"):
        compute_policy_loss(
            batch.log_probs, batch.old, batch.advantages, batch.mask, PolicyLossConfig(loss_type="gmpo")
        )


@pytest.mark.parametrize("which", range(4))
def test_shapes_that_do_not_fit_are_errors(which):
    tensors = [torch.ones(2, 3)] * 4
    tensors[which] = torch.ones(2, 4)
    with pytest.raises(ValueError, match="shape"):
        compute_policy_loss(*tensors, PolicyLossConfig())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"loss_avg_mode": "sequence"}, "loss_avg_mode: 'sequence'"),
        ({"clip_ratio_low": 1.01}, "clip_ratio_low"),
        ({"clip_ratio_high": -0.1}, "clip_ratio_high"),
        ({"clip_ratio_dual": 1.0}, "clip_ratio_dual"),
        ({"tau_positive": 0.0}, "tau_positive"),
        ({"clip_ratio_high": float("nan")}, "clip_ratio_high"),
    ],
)
def test_values_outside_their_range_are_errors_that_name_the_key(kwargs, message):
    with pytest.raises(ValueError, match=message):
        PolicyLossConfig(**kwargs)
