"""A whole run of EasyR1 on the CPU on several rewards, with long responses punished and truncated ones left out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from gmpo_mm.algorithms import compute_advantages
from gmpo_mm.config import resolve_model_path
from gmpo_mm.models.loading import end_token_ids
from gmpo_mm.rewards.overlong import OverlongBuffer
from tests.easyr1.test_run import STEP_LIMIT, data, finish, lines, overrides, start

REWARD = """
def compute_score(rows):
    texts = [row["response"] for row in rows]
    return [{"overall": 1.0, "even": float(len(text) % 2 == 0), "chars": len(text) / 9} for text in texts]
"""
LONGEST = 18

__all__ = ["data"]


@pytest.mark.timeout(STEP_LIMIT)
def test_advantages_come_from_the_named_rewards_and_a_truncated_response_has_none(data: Path, tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text(REWARD)
    texts = overrides(
        data, tmp_path / "run", 1, f"worker.reward.reward_function={tmp_path}/reward.py:compute_score", "trainer.max_steps=1",
        f"data.max_response_length={LONGEST}", "algorithm.adv_estimator=gdpo", "worker.rollout.temperature=1.5",
        "algorithm.gdpo_reward_keys=[even,chars,overlong_reward]", "algorithm.gdpo_reward_weights=[1,0.5,2]",
        "algorithm.mask_truncated_completions=true", "worker.reward.overlong_buffer={enable: true, len: 6}",
        "trainer.val_freq=1", "trainer.val_before_train=false",
    )  # fmt: skip
    finish(start(1, texts, str(tmp_path / "batch.pt")))
    batch = torch.load(tmp_path / "batch.pt", weights_only=False)
    folder = resolve_model_path("bundled:qwen2_5_vl_tiny")
    tokenizer, buffer = AutoTokenizer.from_pretrained(folder), OverlongBuffer(6, LONGEST)
    ends, rows, cut = end_token_ids(folder, tokenizer), [], []
    for ids, mask in zip(batch["responses"], batch["response_mask"], strict=True):
        tokens = ids[: int(mask.sum())]
        answer = tokenizer.decode(tokens, skip_special_tokens=True)
        rows.append([float(len(answer) % 2 == 0), len(answer) / 9, buffer.punishment(len(tokens))])
        cut.append(int(tokens[-1]) not in ends)
    assert 0 < sum(cut) < len(cut), "the metrics that EasyR1 computes afterwards are of all rows"
    names = sorted(set(batch["id"]))
    expected = compute_advantages(
        "gdpo", torch.zeros(len(rows)), torch.tensor([names.index(name) for name in batch["id"]]),
        parts_KB=torch.tensor(rows, dtype=torch.float64).T, weights_K=[1.0, 0.5, 2.0],
    )  # fmt: skip
    found = batch["advantages"][:, 0]
    torch.testing.assert_close(found, torch.where(torch.tensor(cut), 0.0, expected), rtol=1e-4, atol=1e-5)
    (train,) = lines(tmp_path / "run", "train")
    assert train["actor/grad_norm"] > 0 and train["response/truncated_frac"] == pytest.approx(sum(cut) / len(cut))
    assert train["reward/overall"] == pytest.approx(1 + train["reward/overlong_reward"])
    (validation,) = lines(tmp_path / "run", "validation")
    assert validation["val/reward_score"] == 1.0
    written = (tmp_path / "run" / "samples" / "step_1_validation.jsonl").read_text().splitlines()
    assert all("overlong_reward" not in json.loads(row) for row in written)
