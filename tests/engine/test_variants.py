"""Every algorithm option trains for real: two steps of the bundled model, with the numbers that tell that it took effect."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gmpo_mm.errors import ConfigError
from tests.engine.runs import ROOT, arguments, metrics_without_times, run_here, train_metrics, weights

SAVE = "trainer.save_freq=2"
WITH_KL = ("algorithm.disable_kl=false", "algorithm.drop_zero_advantage=false")


@pytest.mark.parametrize(
    "overrides",
    [
        ("worker.actor.loss_type=gmpo", "worker.actor.gmpo.clip=sequence"),
        ("worker.actor.loss_type=default", "worker.actor.ppo_epochs=2"),
        ("worker.actor.loss_type=gspo",),
        ("worker.actor.loss_type=gspo_token", "worker.actor.loss_avg_mode=seq"),
        ("worker.actor.loss_type=cispo",),
        ("worker.actor.loss_type=sapo",),
        ("worker.actor.loss_type=power_mean", "worker.actor.power_mean.p=0.25"),
        ("algorithm.adv_estimator=dr_grpo",),
        ("algorithm.adv_estimator=grpo_passk",),
        ("algorithm.adv_estimator=rloo",),
        ("algorithm.adv_estimator=remax",),
        ("algorithm.adv_estimator=reinforce_plus_plus",),
        ("worker.actor.entropy_coef=0.01", "algorithm.drop_zero_advantage=false"),
        ("worker.actor.old_log_probs=recompute",),
        ("worker.actor.model.freeze_vision_tower=false", "worker.actor.model.enable_gradient_checkpointing=true"),
        ("worker.actor.optim.lr_scheduler_type=cosine", "worker.actor.optim.lr_warmup_steps=1"),
        ("worker.rollout.top_p=0.9", "worker.rollout.correction=truncated"),
        ("trainer.dtype=bfloat16",),
    ],
    ids=lambda overrides: ",".join(o.rsplit(".", 1)[-1] for o in overrides),
)
def test_option_trains(data: Path, tmp_path: Path, overrides: tuple[str, ...]) -> None:
    run_dir = run_here(arguments(data, tmp_path / "run", SAVE, *overrides))
    steps = train_metrics(run_dir)
    assert [line["step"] for line in steps] == [1, 2]
    for line in steps:
        assert line["actor/skipped_updates"] == 0
        assert 0 <= line["critic/score/mean"] <= 1
        assert line["rollout/log_prob_gap_mean"] < 0.3
    start = weights_of_bundled()
    assert any(not torch.equal(start[name], tensor) for name, tensor in weights(run_dir, 2).items())


def weights_of_bundled() -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    from gmpo_mm.config import resolve_model_path

    return load_file(Path(resolve_model_path("bundled:qwen2_5_vl_tiny")) / "model.safetensors")


def test_kl_in_the_loss_is_measured_against_the_start(data: Path, tmp_path: Path) -> None:
    run_dir = run_here(
        arguments(data, tmp_path / "run", *WITH_KL, "algorithm.use_kl_loss=true", "algorithm.kl_penalty=low_var_kl",
                  "algorithm.kl_coef=0.1", "worker.actor.global_batch_size=4")
    )  # fmt: skip
    first, second = train_metrics(run_dir)
    assert first["actor/kl_ref"] < 1e-9  # one update a step: the first sees the starting weights themselves
    assert second["actor/kl_ref"] > 1e-6
    assert second["actor/kl_loss"] > 0 and second["actor/kl_coef"] == 0.1


def test_adaptive_kl_in_the_reward_moves_its_coefficient(data: Path, tmp_path: Path) -> None:
    run_dir = run_here(
        arguments(data, tmp_path / "run", *WITH_KL, "algorithm.use_kl_loss=false", "algorithm.kl_type=adaptive",
                  "algorithm.kl_coef=0.1", "algorithm.kl_horizon=100", "algorithm.kl_target=0.1")
    )  # fmt: skip
    first, second = train_metrics(run_dir)
    assert first["actor/kl_coef"] == 0.1
    # far below the target, so the coefficient falls by 0.2 times the 16 samples over the horizon
    assert second["actor/kl_coef"] == pytest.approx(0.1 * (1 - 0.2 * 16 / 100), rel=1e-9)


def test_lora_trains_and_saves_the_adapter_alone(data: Path, tmp_path: Path) -> None:
    run_dir = run_here(
        arguments(data, tmp_path / "run", *WITH_KL, "algorithm.use_kl_loss=true", "trainer.save_freq=2",
                  "worker.actor.model.lora.rank=4", "worker.actor.model.lora.exclude_modules=.*visual.*",
                  "worker.actor.optim.lr=1e-2")
    )  # fmt: skip
    saved = run_dir / "checkpoints/step_2/huggingface"
    assert (saved / "adapter_model.safetensors").exists() and not (saved / "model.safetensors").exists()
    assert train_metrics(run_dir)[-1]["actor/kl_ref"] > 0  # the reference is the model without its adapter

    resumed = run_here(arguments(data, tmp_path / "run", *WITH_KL, "algorithm.use_kl_loss=true", "trainer.save_freq=3",
                                 "worker.actor.model.lora.rank=4", "worker.actor.model.lora.exclude_modules=.*visual.*",
                                 "worker.actor.optim.lr=1e-2", "trainer.max_steps=3"))  # fmt: skip
    straight = run_here(arguments(data, tmp_path / "straight", *WITH_KL, "algorithm.use_kl_loss=true", "trainer.save_freq=3",
                                  "worker.actor.model.lora.rank=4", "worker.actor.model.lora.exclude_modules=.*visual.*",
                                  "worker.actor.optim.lr=1e-2", "trainer.max_steps=3"))  # fmt: skip
    assert train_metrics(resumed) == train_metrics(straight)


def test_online_filtering_fills_the_batch_with_groups_that_teach(data: Path, tmp_path: Path) -> None:
    run_dir = run_here(
        arguments(data, tmp_path / "run", "algorithm.online_filtering=true", "algorithm.filter_key=accuracy",
                  "worker.rollout.n=8", "trainer.max_steps=1")
    )  # fmt: skip
    (line,) = train_metrics(run_dir)
    assert line["group/zero_advantage_frac"] == 0
    assert line["filter/tries"] >= 1 and 0 < line["filter/kept_frac"] <= 1


def test_results_do_not_depend_on_micro_batch_sizes(data: Path, tmp_path: Path) -> None:
    finals = []
    for name, micro in (("one", 1), ("many", 8)):
        run_dir = run_here(
            arguments(data, tmp_path / name, SAVE, f"worker.actor.micro_batch_size_per_device_for_update={micro}",
                      "worker.actor.dynamic_batching=false")
        )  # fmt: skip
        finals.append(weights(run_dir, 2))
    for name, tensor in finals[0].items():
        torch.testing.assert_close(tensor, finals[1][name], atol=2e-6, rtol=1e-5)


def test_custom_loss_from_a_file_trains(data: Path, tmp_path: Path) -> None:
    (tmp_path / "my_loss.py").write_text(
        "from gmpo_mm.algorithms import register_policy_loss\n\n\n"
        "@register_policy_loss('plain')\n"
        "def plain(log_probs_BT, old_log_probs_BT, advantages_BT, response_mask_BT, config):\n"
        "    return -advantages_BT * (log_probs_BT - old_log_probs_BT).exp()\n"
    )
    run_dir = run_here(arguments(data, tmp_path / "run", f"worker.actor.loss_type={tmp_path}/my_loss.py:plain"))
    assert len(train_metrics(run_dir)) == 2


def test_correction_of_an_exact_sampler_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no effect"):
        run_here(arguments(data, tmp_path / "run", "worker.rollout.correction=truncated"))


@pytest.mark.parametrize(("kind", "floor"), [("truncated", "null"), ("masked", "0.85"), ("sequence_masked", "0.336")])
def test_truncated_sampling_is_corrected(data: Path, tmp_path: Path, kind: str, floor: str) -> None:
    run_dir = run_here(
        arguments(data, tmp_path / "run", "worker.rollout.top_p=0.7", f"worker.rollout.correction={kind}",
                  "worker.rollout.temperature=1.5", f"worker.rollout.correction_floor={floor}", "trainer.max_steps=1")
    )  # fmt: skip
    first = metrics_without_times(run_dir)[0]
    assert first["rollout/log_prob_gap_max"] > 0.01  # the cut-off tail: the sampler was surer than the model
    assert 0 < first["correction/ess"] < 1 and first["correction/capped_frac"] == 0
    assert (first["correction/masked_frac"] > 0) == (kind != "truncated")


def test_a_correction_that_masks_everything_is_named_as_the_cause(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_here(
        arguments(data, tmp_path / "run", "worker.rollout.top_p=0.7", "worker.rollout.correction=geometric_masked",
                  "worker.rollout.temperature=1.5", "trainer.max_steps=1")
    )  # fmt: skip
    assert "1. worker.rollout.correction masks everything" in capsys.readouterr().out


def test_val_only_validates_a_finished_run_and_trains_nothing(data: Path, tmp_path: Path) -> None:
    run_here(arguments(data, tmp_path / "run", SAVE))
    before = weights(tmp_path / "run", 2)
    again = arguments(data, tmp_path / "run", SAVE, "trainer.val_only=true", "trainer.val_before_train=true")
    lines = metrics_without_times(run_here(again))
    assert [(line["step"], line["kind"]) for line in lines] == [(1, "train"), (2, "train"), (2, "validation")]
    assert json.loads((tmp_path / "run/run.json").read_text())["state"] == "finished"
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(tmp_path / "run", 2).items())


def test_the_last_step_is_validated_and_saved_whatever_the_frequencies(data: Path, tmp_path: Path) -> None:
    run_dir = run_here(arguments(data, tmp_path / "run", "trainer.val_freq=-1", "trainer.save_freq=-1"))
    assert [(line["step"], line["kind"]) for line in metrics_without_times(run_dir)][-1] == (2, "validation")
    assert [p.name for p in (run_dir / "checkpoints").iterdir()] == ["step_2"]


def test_a_model_is_validated_without_training_data(data: Path, tmp_path: Path) -> None:
    run_dir = run_here(
        arguments(data, tmp_path / "run", "data.train_files=''", "trainer.val_only=true", "trainer.val_before_train=true")
    )
    (line,) = metrics_without_times(run_dir)
    assert line["kind"] == "validation" and 0 <= line["val/accuracy_reward"] <= 1


def test_reference_in_bfloat16_agrees_with_the_policy_before_any_update(data: Path, tmp_path: Path) -> None:
    run_dir = run_here(
        arguments(data, tmp_path / "run", *WITH_KL, "algorithm.use_kl_loss=true", "trainer.dtype=bfloat16",
                  "worker.actor.global_batch_size=4", "trainer.max_steps=1")
    )  # fmt: skip
    assert train_metrics(run_dir)[0]["actor/kl_ref"] < 1e-5


def test_validation_has_a_seed_of_its_own(data: Path, tmp_path: Path) -> None:
    samples = []
    for seed in (7, 8):
        run_dir = run_here(
            arguments(data, tmp_path / str(seed), "trainer.val_only=true", "trainer.val_before_train=true",
                      f"worker.rollout.val_override_config={{n: 4, temperature: 1.0, seed: {seed}}}")
        )  # fmt: skip
        samples.append((run_dir / "samples/step_0_validation.jsonl").read_text())
    assert samples[0] != samples[1]


def test_batch_larger_than_the_data_is_refused_before_the_model_is_loaded(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.rollout_batch_size=100"):
        run_here(arguments(data, tmp_path / "run", "data.rollout_batch_size=100"))


def test_two_steps_on_real_geometry3k_problems(tmp_path: Path) -> None:
    real = ROOT.parent / "shared/data"
    if not (real / "geometry3k_train.parquet").exists():
        pytest.skip("the real Geometry3K files are not beside this checkout (../shared/data)")
    run_dir = run_here(
        [str(ROOT / "configs/geometry3k/tiny_cpu.yaml"), f"data.train_files={real}/geometry3k_train.parquet",
         f"data.val_files={real}/geometry3k_validation.parquet@train[:16]", f"trainer.run_dir={tmp_path}/run"]
    )  # fmt: skip
    lines = train_metrics(run_dir)
    assert [line["step"] for line in lines] == [1, 2]
    assert any(line["actor/grad_norm"] > 0 for line in lines)
