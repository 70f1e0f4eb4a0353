"""What reaches a step: keys of the configuration, the reference model, the state of a resumed checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gmpo_mm.algorithms import Correction
from gmpo_mm.config import load_config
from gmpo_mm.engines.local import launch as local
from gmpo_mm.errors import TrainingError
from gmpo_mm.rollout.protocol import SamplingParams
from gmpo_mm.runs.metrics_file import read_metrics
from gmpo_mm.training.batch import CutLimits
from tests.engine.runs import ROOT, arguments, run_here, train_metrics, weights
from tests.engine.test_variants import weights_of_bundled

ONE_UPDATE = ("worker.actor.global_batch_size=4", "algorithm.drop_zero_advantage=false")
"""One update a step: all of a step is then seen with the weights that the step began with."""


# ---- the reference of a LoRA run ---------------------------------------------------------------------------


def test_the_reference_of_lora_has_no_adapter(data: Path, tmp_path: Path) -> None:
    run_dir = run_here(
        arguments(data, tmp_path / "run", *ONE_UPDATE, "algorithm.disable_kl=false",
                  "algorithm.use_kl_loss=true",
                  "worker.actor.model.lora.rank=4", "worker.actor.model.lora.exclude_modules=.*visual.*",
                  "worker.actor.optim.lr=1e-2")
    )  # fmt: skip
    first, second = train_metrics(run_dir)
    assert first["actor/kl_ref"] < 1e-9  # a fresh adapter changes nothing
    assert second["actor/kl_ref"] > 1e-3


# ---- the learning rate -------------------------------------------------------------------------------------


def test_the_optimizer_takes_the_schedule_s_rate(data: Path, tmp_path: Path) -> None:
    run_dir = run_here(
        arguments(data, tmp_path / "run", *ONE_UPDATE, "trainer.max_steps=3",
                  "trainer.save_freq=1", "trainer.save_limit=3",
                  "worker.actor.optim.lr=1e-3", "worker.actor.optim.lr_warmup_ratio=0.7")
    )  # fmt: skip
    rates = [line["actor/lr"] for line in train_metrics(run_dir)]
    assert rates == [0.0, 5e-4, 1e-3]  # int(0.7 * 3) steps of warm-up
    start, first, second = (weights(run_dir, step) for step in (1, 2, 3))
    assert all(torch.equal(tensor, start[name]) for name, tensor in weights_of_bundled().items())
    # in its first steps AdamW moves a weight by about the rate at most, however large the gradient is
    moved = max(float((first[name] - start[name]).abs().max()) for name in start)
    assert 4e-4 < moved < 8e-4
    assert any(not torch.equal(second[name], first[name]) for name in start)


# ---- old log-probabilities ---------------------------------------------------------------------------------

TRUNCATED = (
    "worker.rollout.top_p=0.7",
    "worker.rollout.temperature=1.5",
    "worker.rollout.correction=truncated",
)


def test_old_log_probs_of_a_truncated_sampler(data: Path, tmp_path: Path) -> None:
    run_dir = run_here(
        arguments(data, tmp_path / "run", *TRUNCATED, "worker.actor.optim.lr=0", "trainer.max_steps=1")
    )
    (line,) = train_metrics(run_dir)
    assert line["rollout/log_prob_gap_max"] > 0.01
    # the weights stay, so every ratio to the model's own old probabilities is 1
    assert line["ratio/token_min"] == pytest.approx(1, abs=1e-4) and line["ratio/token_max"] == pytest.approx(
        1, abs=1e-4
    )


@pytest.mark.parametrize(("choice", "passes"), [("auto", False), ("recompute", True)])
def test_exact_log_probs_are_recomputed_on_request_alone(
    data: Path, tmp_path: Path, choice: str, passes: bool
) -> None:
    run_dir = run_here(
        arguments(data, tmp_path / "run", f"worker.actor.old_log_probs={choice}", "trainer.max_steps=1")
    )
    (line,) = [line for line in read_metrics(run_dir / "metrics.jsonl") if line["kind"] == "train"]
    assert ("timing_s/old" in line) == passes


def test_a_sampler_far_from_the_model_ends_the_run(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="max_log_prob_gap=0.001"):
        run_here(arguments(data, tmp_path / "run", *TRUNCATED, "worker.rollout.max_log_prob_gap=0.001"))


# ---- resuming ----------------------------------------------------------------------------------------------


def test_bad_updates_are_counted_across_a_resume(data: Path, tmp_path: Path) -> None:
    (tmp_path / "my_loss.py").write_text(
        "from gmpo_mm.algorithms import register_policy_loss\n\n\n"
        "@register_policy_loss('endless')\n"
        "def endless(log_probs_BT, old_log_probs_BT, advantages_BT, response_mask_BT, config):\n"
        "    return log_probs_BT * float('inf')\n"
    )
    args = arguments(
        data,
        tmp_path / "run",
        *ONE_UPDATE,
        f"worker.actor.loss_type={tmp_path}/my_loss.py:endless",
        "trainer.save_freq=1",
    )
    run_dir = run_here(args)
    assert [line["actor/skipped_updates"] for line in train_metrics(run_dir)] == [1, 1]
    with pytest.raises(TrainingError, match="3 updates in a row"):
        run_here([*args, "trainer.max_steps=3"])


def test_a_resumed_run_knows_its_best_validation(data: Path, tmp_path: Path) -> None:
    """The reward reads its number from a file, so that each step's validation score can be chosen."""
    (tmp_path / "reward.py").write_text(
        "from pathlib import Path\n\n\n"
        "def compute_score(rows):\n"
        "    number = float(Path(__file__).with_name('score.txt').read_text())\n"
        "    return [{'overall': number, 'accuracy': number} for _ in rows]\n"
    )
    args = arguments(
        data, tmp_path / "run", *ONE_UPDATE,
        f"worker.reward.reward_function={tmp_path}/reward.py:compute_score",
        "trainer.val_freq=1", "trainer.save_freq=1", "trainer.save_limit=1",
    )  # fmt: skip
    expected = [(0.5, 0.5, 1), (0.5, 0.5, 1), (0.75, 0.75, 3)]
    for step, (score, best_score, best_step) in enumerate(expected, start=1):
        (tmp_path / "score.txt").write_text(str(score))
        run_dir = run_here([*args, f"trainer.max_steps={step}"])
        state = json.loads((run_dir / f"checkpoints/step_{step}/trainer_state.json").read_text())
        assert (state["best_score"], state["best_step"]) == (best_score, best_step), step
        kept = {path.name for path in (run_dir / "checkpoints").iterdir()}
        assert kept == {f"step_{best_step}", f"step_{step}"}  # the best one is not pruned


# ---- keys --------------------------------------------------------------------------------------------------


def test_keys_reach_the_sampler_the_filter_and_the_update() -> None:
    """Values that are all different and none of them a default, so that none can stand in another's place."""
    overrides = [
        "worker.rollout.n=6", "worker.rollout.temperature=0.9", "worker.rollout.top_p=0.8",
        "worker.rollout.top_k=40",
        "worker.rollout.ignore_eos=true", "worker.rollout.seed=17", "data.max_response_length=33",
        "data.max_prompt_length=51", "worker.rollout.val_override_config={n: 2, temperature: 0.3, seed: 5}",
        "data.rollout_batch_size=12", "data.mini_rollout_batch_size=7", "data.val_batch_size=3",
        "algorithm.online_filtering=true", "algorithm.filter_key=accuracy", "algorithm.filter_low=0.2",
        "algorithm.filter_high=0.6", "trainer.max_try_make_batch=11", "algorithm.adv_estimator=remax",
        "worker.actor.micro_batch_size_per_device_for_update=2",
        "worker.actor.micro_batch_size_per_device_for_experience=5",
        "worker.actor.global_batch_size=4", "worker.actor.max_grad_norm=0.4", "worker.actor.ppo_epochs=3",
        "worker.actor.entropy_coef=0.06", "worker.rollout.correction=truncated",
        "worker.rollout.correction_cap=1.7",
    ]  # fmt: skip
    config = load_config(str(ROOT / "configs/quickstart.yaml"), overrides).config
    trained = SamplingParams(
        n=6, temperature=0.9, max_tokens=33, top_p=0.8, top_k=40, ignore_eos=True, seed=17
    )
    assert local.training_params(config) == trained
    validated = SamplingParams(
        n=2, temperature=0.3, max_tokens=33, top_p=0.8, top_k=40, ignore_eos=True, seed=5
    )
    assert local.validation_params(config) == validated

    maker = local._batch_maker(config, None, None, None, 9)  # type: ignore[arg-type]
    assert maker.last_step == 9
    assert (maker.params, maker.seed, maker.prompts, maker.prompts_a_call) == (trained, 17, 12, 7)
    assert (maker.filter_key, maker.filter_low, maker.filter_high, maker.max_tries) == (
        "accuracy",
        0.2,
        0.6,
        11,
    )
    assert maker.greedy_baseline

    update = local.update_config(config)
    assert (update.update_limits, update.forward_limits) == (
        CutLimits(tokens=2 * 84),
        CutLimits(tokens=5 * 84),
    )
    assert (update.temperature, update.mini_batch_prompts, update.epochs) == (0.9, 4, 3)
    assert (update.max_grad_norm, update.entropy_coef, update.correction) == (0.4, 0.06, Correction("truncated", 1.7))
    assert update.kl_kind is None and not update.sampler_is_old and update.drop_zero_advantage


@pytest.mark.parametrize(
    ("override", "steps"),
    [
        ("trainer.max_steps=9", 9),
        ("trainer.total_epochs=3", 3 * 6),
        ("data.mini_rollout_batch_size=7", 5),  # calls of 7 use 21 of the 24 prompts
        ("data.rollout_batch_size=16", 1),
    ],
)
def test_steps_are_counted_as_easyr1_counts_them(override: str, steps: int) -> None:
    base = ["trainer.max_steps=null", "trainer.total_epochs=1", "data.rollout_batch_size=4"]
    config = load_config(str(ROOT / "configs/quickstart.yaml"), [*base, override]).config
    assert local.count_steps(config, 24) == steps


def test_special_tokens_reach_the_reward_function_on_request(data: Path, tmp_path: Path) -> None:
    args = arguments(data, tmp_path / "run", "trainer.max_steps=1", "worker.reward.skip_special_tokens=false")
    rows = [
        json.loads(line) for line in (run_here(args) / "samples/step_1_train.jsonl").read_text().splitlines()
    ]
    assert all(row["response"].endswith("<|im_end|>") == (row["stop_reason"] == "stop") for row in rows)
