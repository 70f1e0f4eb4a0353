"""The checker: every known fault is found and named, and the command does what its page says."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from conformance import vectors
from conformance.adapters import gmpo_mm
from conformance.check import find_adapter, main, run, table
from tests.conformance import mutants

CASES = vectors.load()
REPOSITORY = Path(__file__).parents[2]

FAULTS = [
    # the fault, the case, its class, and words of what is said
    (
        "micro_batch_mean",
        "ppo: sequences",
        "different",
        "right on a whole batch; cut into micro-batches: halves x 2",
    ),
    ("micro_batch_mean", "gmpo: token", "different", "halves x 2, rows x 12"),
    ("micro_batch_mean", "ppo: tokens", "different", "right on a whole batch; cut into micro-batches"),
    ("micro_batch_mean_by_tokens", "ppo: sequences", "different", "halves another gradient"),
    ("micro_batch_mean_by_tokens", "ppo: tokens", "equal", ""),
    ("mean_over_sequences", "ppo: tokens", "another loss", "ppo: sequences"),
    ("mean_over_tokens", "sapo: sequences", "another loss", "sapo: tokens"),
    ("sum_over_columns", "ppo: tokens", "equal up to a scale", "x N/(B*T)"),
    ("clip_of_the_other_sign", "ppo: tokens no_dual", "different", "gradients; most at"),
    ("clip_of_the_other_sign", "gmpo: token", "different", "gradients; most at"),
    ("maximum_for_minimum", "ppo: tokens no_dual", "different", "gradients; most at"),
    ("clip_on_both_sides", "ppo: tokens no_dual", "different", "gradients; most at"),
    ("no_dual_clip", "ppo: tokens", "another loss", "ppo: tokens no_dual"),
    ("no_dual_clip", "gspo: dual_clip=3", "another loss", "gspo: basis = gspo_token: sequences"),
    ("dual_clip_everywhere", "ppo: sequences no_dual", "another loss", "ppo: sequences"),
    ("padding_in_the_length", "gmpo: token", "different", "gradients; most at"),
    ("padding_in_the_length", "gspo: basis", "different", "gradients; most at"),
    ("advantages_of_masked_tokens", "gmpo: token", "different", "padding whole: "),
    ("advantages_of_masked_tokens", "ppo: tokens", "different", "padding whole: "),
    ("old_is_new", "ppo: tokens", "different", "gradients; most at"),
    ("old_is_new", "gmpo: token", "different", "gradients; most at"),
    ("kl_of_the_other_sign", "ppo: tokens kl=k1", "different", "gradients; most at"),
    ("kl_of_the_other_sign", "gmpo: token kl=k3", "different", "gradients; most at"),
    ("kl_the_other_way_round", "ppo: tokens kl=k3", "different", "gradients; most at"),
    ("no_kl", "gmpo: token kl=k3", "another loss", "gmpo: token"),
    ("bounds_not_read", "ppo: tokens ratio_max=1.6", "another loss", "ppo: tokens"),
    ("bounds_not_read", "gmpo: token log_ratio_min=-0.2", "another loss", "gmpo: token = power_mean: p=0"),
    ("bounds_exchanged", "gmpo: token log_ratio_max=0.7", "different", "gradients; most at"),
    ("gmpo_trains_grpo", "gmpo: token", "another loss", "ppo: sequences"),
    ("one_ratio_for_all_rows", "gmpo: token", "different", "gradients; most at"),
    ("correction_not_read", "corrections: ppo tokens truncated", "another loss", "ppo: tokens"),
    ("correction_not_read", "corrections: ppo sequences masked", "another loss", "ppo: sequences"),
    ("correction_not_read", "corrections: gmpo sequence_masked", "another loss", "gmpo: token"),
    ("correction_not_read", "corrections: gspo geometric_masked", "another loss", "gspo: basis"),
    ("weight_inverted", "corrections: ppo tokens truncated", "different", "gradients; most at"),
    ("weight_inverted", "corrections: ppo tokens masked", "different", "gradients; most at"),
    ("weight_inverted", "corrections: gmpo sequence_truncated", "different", "gradients; most at"),
    ("weight_inverted", "corrections: gspo geometric_masked", "different", "gradients; most at"),
    ("bounds_of_the_inverse", "corrections: ppo tokens truncated", "different", "gradients; most at"),
    ("bounds_of_the_inverse", "corrections: ppo tokens masked floor=0.8", "different", "gradients; most at"),
    ("bounds_of_the_inverse", "corrections: ppo tokens geometric_masked", "different", "gradients; most at"),
    ("bounds_of_the_inverse", "corrections: gspo sequence_masked", "different", "gradients; most at"),
    (
        "masked_leaves_the_denominator",
        "corrections: ppo tokens masked",
        "another loss",
        "corrections: ppo tokens masked left_out",
    ),
    (
        "masked_leaves_the_denominator",
        "corrections: ppo tokens geometric_masked",
        "another loss",
        "corrections: ppo tokens geometric_masked left_out",
    ),
    ("masked_leaves_the_denominator", "corrections: ppo sequences masked", "different", "gradients; most at"),
    (
        "masked_leaves_the_denominator",
        "corrections: gmpo masked geometric",
        "different",
        "gradients; most at",
    ),
    ("masked_token_keeps_its_ratio", "corrections: gmpo masked geometric", "different", "gradients; most at"),
]


def check_one(adapter, name):
    """The finding for one case; the other cases are there to be recognised."""
    (finding,) = run(adapter, CASES, only=name)
    return finding


@pytest.mark.parametrize(("fault", "case", "result", "words"), FAULTS, ids=[f"{f[0]}-{f[1]}" for f in FAULTS])
def test_every_known_fault_is_found_and_named(fault, case, result, words):
    finding = check_one(mutants.mutant(getattr(mutants, fault)), case)
    assert finding.result == result
    assert words in finding.detail
    only_cut = words.startswith(("right on", "halves"))
    assert finding.where == (
        "micro-batches" if only_cut else "padding" if words.startswith("padding") else ""
    )


def test_the_frame_of_the_mutants_has_no_fault_itself():
    for case in sorted({fault[1] for fault in FAULTS}):
        assert check_one(mutants.mutant(mutants.right), case).result == "equal"


def test_every_mutant_is_used():
    named = {
        name for name, value in vars(mutants).items() if getattr(value, "__module__", "") == mutants.__name__
    }
    assert named - {"mutant", "right", "weighted", "sampler_weights"} == {fault[0] for fault in FAULTS}


def times(out, k):
    return {"loss": k * out["loss"], "grad": [[k * x for x in row] for row in out["grad"]]}


@pytest.mark.parametrize(
    ("change", "result", "words"),
    [
        (lambda out: out | {"loss": out["loss"] + 1e-3}, "different", "the value only"),
        (lambda out: out | {"loss": float("nan")}, "different", "the value only, nan"),
        (lambda out: out | {"grad": [[float("nan")] * len(row) for row in out["grad"]]}, "different", "nan"),
        (lambda out: times(out, -1), "different", ""),
        (lambda out: times(out, 0), "different", "gradients; most at"),
        (lambda out: times(out, 3), "equal up to a scale", "x 3"),
        (lambda out: out | {"grad": out["grad"][:1]}, "error", "the result must have 12 rows of 6 numbers"),
        (lambda out: {"grad": out["grad"]}, "error", "KeyError: 'loss'"),
        (lambda out: {"loss": out["loss"], "grad": out["grad"]}, "equal", ""),
    ],
)  # fmt: skip
def test_what_comes_back_is_looked_at(change, result, words):
    adapter = SimpleNamespace(loss=lambda *a: change(gmpo_mm.loss(*a)), NAME="x", TOLERANCE=1e-9)
    finding = check_one(adapter, "gpg: tokens")
    assert finding.result == result
    assert words in finding.detail


def test_a_scale_that_is_another_in_each_batch_is_different():
    def loss(config, batch, cut):
        out = gmpo_mm.loss(config, batch, cut)
        return times(out, 2.0 + out["loss"])

    finding = check_one(SimpleNamespace(loss=loss, NAME="x", TOLERANCE=1e-9), "sapo: tokens")
    assert finding.result == "different" and finding.detail.startswith("mixed whole: x 1.9")


def test_a_clip_share_that_is_counted_otherwise_is_said_and_is_no_failure():
    def loss(*arguments):
        out = gmpo_mm.loss(*arguments)
        return out | {"clip_share": out["clip_share"] and {"high": 0.5}}

    adapter = SimpleNamespace(loss=loss, NAME="x", TOLERANCE=1e-9)
    finding = check_one(adapter, "ppo: tokens")
    assert (finding.result, finding.clip_share) == ("equal", "high 0.5000, not 0.2093 (mixed)")
    assert "clip share counted otherwise: high 0.5000" in table(adapter, [finding])


def biased(config, batch):
    """The standard deviation over G, not G - 1."""
    found = gmpo_mm.advantages(config, batch)
    sizes = [batch["groups"].count(group) for group in batch["groups"]]
    return [[a * (n / (n - 1)) ** 0.5 for a in row] for row, n in zip(found, sizes, strict=True)]


@pytest.mark.parametrize(
    ("advantages", "case", "result", "words"),
    [
        (biased, "grpo", "different", "advantages; most at"),
        (lambda config, batch: gmpo_mm.advantages({"advantages": "dr_grpo"}, batch), "grpo", "another loss", "dr_grpo"),
        (lambda config, batch: gmpo_mm.advantages({"advantages": "dr_grpo"}, batch), "rloo", "another loss", "dr_grpo"),
        (lambda config, batch: gmpo_mm.advantages(config, batch | {"groups": [1] * 12}), "dr_grpo", "different", ""),
        (lambda config, batch: gmpo_mm.advantages(config | {"gamma": 1.0}, batch),
         "reinforce_plus_plus gamma=0.9", "another loss", "advantages: reinforce_plus_plus"),
        (lambda config, batch: gmpo_mm.advantages({"advantages": "dr_grpo"}, batch), "max_rl", "another loss", "dr_grpo"),
        (lambda config, batch: gmpo_mm.advantages({"advantages": "grpo"}, batch), "gdpo", "another loss", "grpo"),
        (lambda config, batch: gmpo_mm.advantages(config | {"weights": None}, batch),
         "gdpo weights=1,0.25", "another loss", "advantages: gdpo"),
        (lambda config, batch: [[a if a else 7.0 for a in row] for row in gmpo_mm.advantages(config, batch)],
         "remax", "equal", ""),
    ],
    ids=["biased", "option not read", "own reward in the baseline", "groups not read", "gamma not read",
         "mean not divided by", "sum of rewards", "weights not read", "padding"],
)  # fmt: skip
def test_faults_of_advantages_are_found(advantages, case, result, words):
    adapter = SimpleNamespace(loss=gmpo_mm.loss, advantages=advantages, NAME="x", TOLERANCE=1e-9)
    finding = check_one(adapter, f"advantages: {case}")
    assert finding.result == result
    assert words in finding.detail


def few_losses(config, batch, cut):
    """An adapter as a stranger would write it: a function, with its own exception."""

    class NotOffered(Exception): ...

    if config["loss"] != "gpg":
        raise NotOffered("only gpg here")
    if len({len(rows) for rows in cut}) > 1:
        raise NotOffered("equal micro-batches")
    units = sum(map(sum, batch["mask"]))
    if config["average"] == "sequences":
        raise RuntimeError("broken")
    a, mask, log_probs = batch["advantages"], batch["mask"], batch["log_probs"]
    places = [(i, t) for i, row in enumerate(mask) for t, valid in enumerate(row) if valid]
    grad = [[0.0] * len(row) for row in mask]
    for i, t in places:
        grad[i][t] = -a[i][t] / units
    return {"loss": sum(grad[i][t] * log_probs[i][t] for i, t in places), "grad": grad}


def test_an_adapter_is_a_function_of_lists_and_may_lack_losses_and_cuts(capsys):
    target = f"{__name__}:few_losses"
    assert main([target, "--only", "gpg: tokens"]) == 0
    assert "left out: uneven" in capsys.readouterr().out
    assert main([target, "--only", "gpg*"]) == 1
    out = capsys.readouterr().out
    assert "error                mixed, whole: RuntimeError: broken" in out and "1 equal, 1 error" in out
    assert main([target, "--only", "advantages*"]) == 0
    assert "not offered          the adapter has no `advantages`" in capsys.readouterr().out
    assert main([target, "--only", "reinforce*"]) == 0
    assert "not offered          only gpg here" in capsys.readouterr().out


def test_the_command_says_it_in_its_exit_code_and_in_json(tmp_path):
    file = tmp_path / "found.json"
    arguments = ["gmpo_mm", "--only", "ppo: [fs]*", "--json", str(file)]
    command = [sys.executable, "-m", "conformance.check", *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr  # one is equal up to a scale
    assert "ppo: fixed                    equal up to a scale  x B*L/N" in done.stdout
    found = json.loads(file.read_text())
    assert found["target"].startswith("gmpo_mm ") and found["tolerance"] == 1e-9
    assert {entry["result"] for entry in found["findings"]} == {"equal", "equal up to a scale"}
    assert main([*arguments, "--allow-scale"]) == 0


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("trll", "write path.to.module:adapter, or one of gmpo_mm, trl, verl, easyr1"),
        (
            "no_such_module:loss",
            "No module named 'no_such_module'. Run this in the environment of the project",
        ),
        (f"{__name__}:missing", "has no attribute 'missing'"),
        (f"{__name__}:CASES", "has no function `loss(config, batch, cut)`"),
        ("easyr1", "easyr1: write easyr1:/path; '' holds no verl/trainer/core_algos.py"),
        ("openrlhf:/no/such/folder", "'/no/such/folder' holds no openrlhf/models/loss.py"),
    ],
)
def test_a_target_that_cannot_be_used_is_an_error_that_says_what_to_write(capsys, target, words):
    assert main([target]) == 2
    assert words in capsys.readouterr().err


def test_a_pattern_without_a_case_is_an_error(capsys):
    assert main(["gmpo_mm", "--only", "gmpoo*"]) == 2
    assert "no case has such a name" in capsys.readouterr().err


def test_tolerance_and_name_have_defaults():
    adapter = find_adapter(f"{__name__}:few_losses")
    assert f"{__name__}:few_losses" == adapter.NAME
    assert adapter.TOLERANCE == 1e-9
