"""What is legal and most likely not meant is said, with the key that repairs it; what is right is left alone."""

from __future__ import annotations

import pytest

from gmpo_mm.config import cautions
from gmpo_mm.engines.checks import notes, validate_for_training
from tests.config.conftest import Load

LOSS, LOW, HIGH = "worker.actor.loss_type=", "worker.actor.clip_ratio_low=", "worker.actor.clip_ratio_high="
OPTIM = "worker.actor.optim."
SEQ = "worker.actor.loss_avg_mode=seq"
ONE_UPDATE, TWO_EPOCHS = "worker.actor.global_batch_size=4", "worker.actor.ppo_epochs=2"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([LOSS + "cispo", LOW + "0", HIGH + "4"], ["raises every ratio below 1 to 1", "EasyR1's example", LOW + "1.0"]),
        ([LOSS + "cispo"], ["raises every ratio below 0.8 to 0.8", LOW + "1.0"]),
        ([LOSS + "gspo", SEQ], ["= 0.2 and clip_ratio_high = 0.3", "thousand times", LOW + "0.0003 " + HIGH + "0.0004"]),
        ([LOSS + "luspo"], ["loss_type=luspo: GSPO's bounds are", LOW + "0.0003 " + HIGH + "0.0004"]),
        ([LOSS + "gpg"], ["no ratio", "gets 2 updates", ONE_UPDATE + " worker.actor.ppo_epochs=1"]),
        ([LOSS + "reinforce", ONE_UPDATE, TWO_EPOCHS], ["reinforce has no ratio", "gets 2 updates"]),
        ([LOSS + "gspo_token", SEQ], ["loss_type=gspo_token", LOW + "0.0003"]),
        ([LOSS + "gspo", LOW + "3e-4", HIGH + "4e-4"], ["loss_avg_mode is not set", "mean over sequences", SEQ]),
        ([LOSS + "gspo_token", LOW + "3e-4", HIGH + "4e-4"], ["loss_avg_mode is not set", "mean over tokens", SEQ]),
        ([LOSS + "default", LOW + "3e-4", HIGH + "4e-4"], ["clip nearly every token", "gspo"]),
        (["worker.actor.gmpo.log_clip_low=3e-4", "worker.actor.gmpo.log_clip_high=4e-4"], ["every token", "0.4 for both"]),
        ([OPTIM + "lr_warmup_steps=10"], ["lr_warmup_steps = 10", "rate 0", OPTIM + "lr_warmup_steps=0"]),
        ([OPTIM + "lr_warmup_ratio=0.05"], ["lr_warmup_ratio = 0.05", "rate 0", OPTIM + "lr_warmup_steps=0"]),
        ([OPTIM + "lr_warmup_ratio=0.05", "trainer.max_steps=20"], ["rate 0"]),
    ],
)
def test_it_is_said_once_with_the_fix_and_the_config_stays_legal(load: Load, overrides: list[str], said: list[str]) -> None:
    loaded = load(*overrides)
    validate_for_training(loaded)
    (text,) = cautions(loaded)
    for part in said:
        assert part in text
    assert f"Note: {text}" in notes(loaded)


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        [LOSS + "cispo", LOW + "1.0", HIGH + "4"],
        [LOSS + "gspo", LOW + "3e-4", HIGH + "4e-4", SEQ],
        [LOSS + "default"],
        [LOSS + "sapo"],
        [LOSS + "sapo", TWO_EPOCHS],
        [LOSS + "gpg", ONE_UPDATE],
        [LOSS + "power_mean"],
        ["worker.actor.gmpo.clip=none"],
        [OPTIM + "lr_warmup_ratio=0.05", OPTIM + "lr_warmup_steps=0"],
        [OPTIM + "lr_warmup_ratio=0.05", "trainer.max_steps=10"],
        [OPTIM + "lr_warmup_steps=10", "trainer.val_only=true"],
    ],
)
def test_what_is_right_is_left_alone(load: Load, overrides: list[str]) -> None:
    assert cautions(load(*overrides)) == []
