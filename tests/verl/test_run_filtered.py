"""A whole run of verl on the CPU with what changes a step's batch: online filtering, several rewards, long responses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

import gmpo_mm
from gmpo_mm.algorithms import compute_advantages
from gmpo_mm.config import resolve_model_path
from gmpo_mm.models.loading import end_token_ids
from gmpo_mm.rewards.overlong import OverlongBuffer
from tests.verl.repeated import repeated_on_local
from tests.verl.runs import LIMIT, finish, lines, start, text

REWARD = """
def compute_score(rows):
    texts = [row["response"] for row in rows]
    return [{"overall": 1.0, "even": float(text.count("+") % 2 == 0), "chars": len(text) / 7} for text in texts]
"""
LONGEST = 14


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps: its directory; the first step's batch beside it."""
    folder = tmp_path_factory.mktemp("filtered")
    (folder / "reward.py").write_text(REWARD)
    texts = text(
        data, folder / "run", "trainer.n_gpus_per_node=1", "trainer.max_steps=2", f"data.max_response_length={LONGEST}",
        f"worker.reward.reward_function={folder}/reward.py:compute_score", "algorithm.online_filtering=true",
        "algorithm.filter_key=even", "algorithm.filter_low=0.2", "algorithm.filter_high=0.8", "data.mini_rollout_batch_size=3",
        "algorithm.adv_estimator=gdpo", "algorithm.gdpo_reward_keys=[even,chars,overlong_reward]",
        "algorithm.gdpo_reward_weights=[1,0.5,2]", "algorithm.mask_truncated_completions=true",
        "worker.reward.overlong_buffer={enable: true, len: 5}", "worker.actor.loss_type=default",
        "worker.rollout.temperature=2",
        f"data.val_files={data}/countdown/test.parquet@train[:3]", "trainer.val_freq=2",
        "trainer.record_steps=[1]", "trainer.compare_losses=[gmpo]", "worker.actor.optim.lr=2e-5",
    )  # fmt: skip
    finish(start(texts, str(folder / "batch.pt")))
    return folder


@pytest.mark.timeout(LIMIT)
def test_a_step_has_groups_between_the_bounds_alone_and_says_how_many_it_tried(finished: Path) -> None:
    train = lines(finished / "run", "train")
    assert [line["step"] for line in train] == [1, 2]
    for line in train:
        assert line["filter/tries"] >= 2, "three prompts a try, four groups a step"
        assert 4 / (3 * line["filter/tries"]) <= line["filter/kept_frac"] <= 1
        assert line["actor/grad_norm"] > 0 and line["actor/updates"] == 1
    batch = torch.load(finished / "batch.pt", weights_only=True)
    even = parts(batch)[0].view(-1)
    means = {name: even[[i for i, other in enumerate(batch["id"]) if other == name]].mean() for name in batch["id"]}
    assert len(batch["id"]) == 16 and len(means) == 4
    assert all(0.2 < mean < 0.8 for mean in means.values())


@pytest.mark.timeout(LIMIT)
def test_advantages_come_from_the_named_rewards_and_a_truncated_response_has_none(finished: Path) -> None:
    batch = torch.load(finished / "batch.pt", weights_only=True)
    names = sorted(set(batch["id"]))
    expected = compute_advantages(
        "gdpo", torch.zeros(16), torch.tensor([names.index(name) for name in batch["id"]]), parts_KB=parts(batch).double(),
        weights_K=[1.0, 0.5, 2.0],
    )  # fmt: skip
    cut = truncated(batch)
    assert 0 < sum(cut) < 16
    found = torch.tensor([row[0] for row in batch["advantages"]])
    torch.testing.assert_close(found, torch.where(torch.tensor(cut), 0.0, expected), rtol=1e-4, atol=1e-5)
    assert expected[torch.tensor(cut)].abs().max() > 0.1
    share = lines(finished / "run", "train")[0]["response/truncated_frac"]
    assert share == pytest.approx(sum(cut) / 16)


@pytest.mark.timeout(LIMIT)
def test_a_truncated_response_has_no_valid_token_in_the_update(finished: Path) -> None:
    batch = torch.load(finished / "batch.pt", weights_only=True)
    masks = torch.load(finished / "batch.pt.masks", weights_only=True)
    for name in ("response_mask", "loss_mask"):
        for cut, whole, mask in zip(truncated(batch), batch["response_mask"], masks[name], strict=True):
            assert mask.tolist() == [0 if cut else 1] * len(whole)


@pytest.mark.timeout(LIMIT)
def test_long_responses_are_punished_in_training_alone(finished: Path) -> None:
    train, validation = lines(finished / "run", "train"), lines(finished / "run", "validation")
    assert all(-1 <= line["reward/overlong_reward"] < 0 for line in train)
    assert all(line["reward/overall"] == pytest.approx(1 + line["reward/overlong_reward"]) for line in train)
    assert [line["val/reward_score"] for line in validation] == [1.0]
    rows = (finished / "run" / "samples" / "step_2_validation.jsonl").read_text().splitlines()
    assert rows and all("overlong_reward" not in json.loads(row) for row in rows)


@pytest.mark.timeout(LIMIT)
def test_a_record_has_what_was_left_out_and_the_local_engine_repeats_it(finished: Path) -> None:
    batch = torch.load(finished / "batch.pt", weights_only=True)
    record = gmpo_mm.load_step(finished / "run")
    ends = {reason: sum(found == reason for found in record.stop_reasons) for reason in ("stop", "length")}
    cut = sum(truncated(batch))
    assert ends == {"stop": 16 - cut, "length": cut}
    assert record.left_out == {row for row, reason in enumerate(record.stop_reasons) if reason == "length"}
    assert record.updates == [list(range(16))] and record.mask_BT.sum(1).tolist() == list(record.lengths_B)
    assert sorted(record.reward_parts) == ["chars", "even", "overlong_reward"]
    assert sorted(record.reward_parts["chars"].tolist()) == pytest.approx(sorted(parts(batch)[1].tolist()))
    repeated_on_local(finished / "run", 1)


@pytest.mark.timeout(LIMIT)
def test_a_response_that_was_left_out_has_no_part_in_the_compared_losses(finished: Path) -> None:
    record = gmpo_mm.load_step(finished / "run")
    line = lines(finished / "run", "compare")[0]
    assert line["compare/trained"] == "default" and line["compare/losses"] == ["default", "gmpo"]
    trained = [row for row in range(16) if row not in record.left_out and record.advantages_BT[row, 0] != 0]
    assert 0 < len(trained) < 16
    tokens = sum(record.lengths_B[row] for row in trained)
    assert len(line["compare/points"]["gmpo"]) == min(tokens, 128)
    assert set(line["compare/points"]["advantage"]) <= {record.advantages_BT[row, 0].item() for row in trained}


def parts(batch: dict[str, list[torch.Tensor]]) -> torch.Tensor:
    """(K, B): the three rewards, from the tokens."""
    tokenizer = AutoTokenizer.from_pretrained(resolve_model_path("bundled:qwen2_tiny"))
    buffer = OverlongBuffer(5, LONGEST)
    rows = []
    for ids in batch["responses"]:
        answer = tokenizer.decode(ids, skip_special_tokens=True)
        rows.append([float(answer.count("+") % 2 == 0), len(answer) / 7, buffer.punishment(len(ids))])
    return torch.tensor(rows).T


def truncated(batch: dict[str, list[torch.Tensor]]) -> list[bool]:
    folder = resolve_model_path("bundled:qwen2_tiny")
    ends = end_token_ids(folder, AutoTokenizer.from_pretrained(folder))
    return [int(row[-1]) not in ends for row in batch["responses"]]
