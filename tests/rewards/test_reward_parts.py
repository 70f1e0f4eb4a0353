"""Numbers of a reward function by their names: what is there, and what a run says of a name that is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from gmpo_mm.algorithms import compute_advantages
from gmpo_mm.config.schema import AlgorithmConfig
from gmpo_mm.errors import ConfigError, TrainingError
from gmpo_mm.rewards.advantages import configured_advantages
from gmpo_mm.rewards.parts import reward_part, reward_parts
from tests.engine.runs import ROOT, SMALL, run_here, train_metrics

SCORES = [{"overall": 1.0, "accuracy": 0.0, "format": 1.0}, {"overall": 0.5, "accuracy": 1.0, "format": 0.0}]


def test_rewards_come_in_the_order_of_their_names() -> None:
    assert reward_parts(SCORES, ["format", "accuracy"]).tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert reward_parts(SCORES, []) is None


def test_a_number_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(TrainingError, match=r"gdpo_reward_keys=speed: .* returns \['accuracy', 'format', 'overall'\]"):
        reward_parts(SCORES, ["accuracy", "speed"])
    broken = [SCORES[0] | {"speed_not_finite": 1.0}, SCORES[1] | {"speed": 1.0, "speed_not_finite": 0.0}]
    with pytest.raises(TrainingError, match=r"filter_key=speed: .*not finite for 1 responses"):
        reward_part(broken, "speed", "algorithm.filter_key")


def test_rewards_that_an_estimator_can_not_take_end_the_run_with_its_words() -> None:
    algorithm = AlgorithmConfig(adv_estimator="max_rl")
    with pytest.raises(TrainingError, match=r"'max_rl': .* has the score -1"):
        configured_advantages(algorithm, torch.tensor([1.0, -1.0]), torch.zeros(2))


REWARD = """
def compute_score(rows):
    texts = [row["response"] for row in rows]
    return [{"overall": 5.0, "plus": float(text.count("+")), "short": 1.0 / (1 + len(text))} for text in texts]
"""


def arguments(folder: Path, *overrides: str) -> list[str]:
    (folder / "reward.py").write_text(REWARD)
    rows = [{"problem": f"8 {a} 7 -> 19", "answer": "19"} for a in range(10, 18)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return [
        str(ROOT / "configs/quickstart.yaml"), *SMALL, "worker.actor.model.model_path=bundled:qwen2_tiny",
        f"data.train_files={folder}/rows.jsonl", "data.val_files=", "data.format_prompt=null", "trainer.max_steps=1",
        f"worker.reward.reward_function={folder}/reward.py:compute_score", f"trainer.run_dir={folder}/run",
        "worker.actor.model.freeze_vision_tower=false", "worker.rollout.temperature=2",
        "algorithm.adv_estimator=gdpo", *overrides,
    ]  # fmt: skip


def test_a_run_on_several_rewards_has_the_advantages_of_its_samples(tmp_path: Path) -> None:
    keys = ("algorithm.gdpo_reward_keys=[plus,short]", "algorithm.gdpo_reward_weights=[1,3]")
    run = run_here(arguments(tmp_path, *keys))
    samples = [json.loads(text) for text in (run / "samples/step_1_train.jsonl").read_text().splitlines()]
    parts = torch.tensor([[row[name] for row in samples] for name in ("plus", "short")], dtype=torch.float64)
    ids = torch.arange(4).repeat_interleave(4)
    expected = compute_advantages("gdpo", parts[0], ids, parts_KB=parts, weights_K=[1.0, 3.0])
    found = torch.tensor([row["advantage"] for row in samples], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert found.abs().max() > 0.1 and train_metrics(run)[0]["actor/grad_norm"] > 0


def test_a_reward_that_does_not_exist_is_an_error_before_a_model_is_loaded(tmp_path: Path) -> None:
    wanted = "algorithm.gdpo_reward_keys=[plus,speed]"
    with pytest.raises(ConfigError, match=r"'speed' is no number that .*reward\.py.* it returns overall, plus, short"):
        run_here(arguments(tmp_path, wanted))
    assert not (tmp_path / "run" / "samples").exists()
