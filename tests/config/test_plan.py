"""The dry run's counts: steps, samples and checkpoints are those of the loop. Memory and time: `tests/planning`."""

import pytest

from gmpo_mm.errors import ConfigError
from gmpo_mm.planning.counts import count_records, describe_plan, plan_run
from tests.config.conftest import Load


def test_counts_follow_from_batch_sizes_and_records(load: Load) -> None:
    config = load(
        "trainer.total_epochs=3",
        "trainer.val_freq=2",
        "trainer.save_freq=4",
        "worker.actor.ppo_epochs=2",
        "worker.rollout.val_override_config.n=16",
    ).config
    plan = plan_run(config, count_records(config, config.data.train_files), count_records(config, config.data.val_files))
    assert (plan.train_records, plan.val_records) == (8, 3)
    assert plan.steps == 8 // 4 * 3
    assert plan.samples_a_step == 4 * 4
    assert (plan.mini_batches, plan.updates_a_step) == (2, 4)
    assert plan.validations == 1 + 3, "before the first step, and after steps 2, 4 and 6"
    assert plan.checkpoints == 2, "after step 4 and after the last one"
    rows = dict(describe_plan(config, plan))
    assert rows["in total"] == "96 responses, 24 updates"
    assert "4 times: 3 problems of test.jsonl x 16 samples" in rows["validation"]
    assert "192 responses" in rows["validation"]


@pytest.mark.parametrize(
    ("overrides", "steps", "validations"),
    [
        (["trainer.max_steps=3", "trainer.val_freq=2"], 3, 3),
        (["trainer.val_only=true"], 0, 1),
        (["trainer.val_before_train=false"], 30, 1),
        (["data.mini_rollout_batch_size=2"], 30, 2),
    ],
)
def test_steps_and_validations_of_other_runs(load: Load, overrides: list[str], steps: int, validations: int) -> None:
    plan = plan_run(load(*overrides).config, 8, 3)
    assert (plan.steps, plan.validations) == (steps, validations)


def test_a_hub_data_set_is_not_counted_and_the_plan_says_so(load: Load) -> None:
    config = load("data.train_files=owner/name@train").config
    assert count_records(config, config.data.train_files) is None
    plan = plan_run(config, None, 3)
    assert plan.steps is None
    assert plan.checkpoints == 1, "save_freq is off, and the last step is saved whatever it is"
    rows = dict(describe_plan(config, plan))
    assert "not counted" in rows["training data"]
    assert "records // 4" in rows["steps"]
    assert "in total" not in rows


def test_fewer_records_than_a_batch_is_an_error_that_names_both(load: Load) -> None:
    with pytest.raises(ConfigError, match=r"data\.rollout_batch_size = 4: train\.jsonl has only 3 records.*at most 3"):
        plan_run(load().config, 3, 3)
