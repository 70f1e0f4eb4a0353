"""Our parts in verl's registries, one by one: advantages, rewards with the killable verifier, data set, sampling server."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from transformers import AutoConfig, AutoTokenizer
from verl import DataProto
from verl.trainer.ppo.core_algos import get_adv_estimator_fn

from gmpo_mm.algorithms import compute_advantages
from gmpo_mm.config import Config, resolve_model_path
from gmpo_mm.data import RecordKeys, load_records
from gmpo_mm.engines.verl import advantages
from gmpo_mm.engines.verl.batch_metrics import batch_metrics, sampler_gap
from gmpo_mm.engines.verl.cpu.server import HFServer, ServerSettings
from gmpo_mm.engines.verl.dataset import GMPODataset
from gmpo_mm.engines.verl.rewards import ERROR, GMPORewardManager
from gmpo_mm.engines.verl.translate import ADVANTAGE_NAME
from gmpo_mm.models.processing import Processor, load_processor
from gmpo_mm.runs.progress import Progress

ROOT = Path(__file__).resolve().parents[2]
VL, TEXT = resolve_model_path("bundled:qwen2_5_vl_tiny"), resolve_model_path("bundled:qwen2_tiny")


@pytest.mark.parametrize("estimator", ["grpo", "dr_grpo", "grpo_passk", "rloo", "reinforce_plus_plus", "opo", "max_rl"])
def test_verl_computes_our_advantages(estimator: str) -> None:
    config = Config()
    config.algorithm.adv_estimator, config.algorithm.gamma = estimator, 0.9
    advantages.install(config)
    torch.manual_seed(0)
    mask_BT = torch.arange(5) < torch.tensor([[5], [3], [1], [4], [2], [5]])
    rewards_BT = torch.randn(6, 5).abs() * mask_BT
    names = np.array(["b", "a", "b", "a", "a", "b"], dtype=object)
    found, _ = get_adv_estimator_fn(ADVANTAGE_NAME)(token_level_rewards=rewards_BT, response_mask=mask_BT.long(), index=names)
    expected = compute_advantages(
        estimator, rewards_BT.sum(-1), torch.tensor([1, 0, 1, 0, 0, 1]), response_mask_BT=mask_BT, token_rewards_BT=rewards_BT,
        gamma=0.9, norm_by_std=True,
    )  # fmt: skip
    assert torch.equal(found, expected) and found.abs().max() > 0


def test_verl_computes_our_advantages_from_several_rewards() -> None:
    config = Config()
    config.algorithm.adv_estimator = "gdpo"
    config.algorithm.gdpo_reward_keys, config.algorithm.gdpo_reward_weights = ["a", "b"], [1.0, 0.5]
    rewards = advantages.install(config)
    torch.manual_seed(0)
    rewards.parts_KB = torch.randn(2, 6, dtype=torch.float64)
    mask_BT = torch.arange(5) < torch.tensor([[5], [3], [1], [4], [2], [5]])
    names = np.array(["b", "a", "b", "a", "a", "b"], dtype=object)
    found, _ = get_adv_estimator_fn(ADVANTAGE_NAME)(
        token_level_rewards=torch.randn(6, 5), response_mask=mask_BT.long(), index=names
    )
    expected = compute_advantages(
        "gdpo", torch.zeros(6), torch.tensor([1, 0, 1, 0, 0, 1]), response_mask_BT=mask_BT, parts_KB=rewards.parts_KB,
        weights_K=[1.0, 0.5],
    )  # fmt: skip
    assert torch.equal(found, expected) and found.abs().max() > 0


def manager(function: str, overlong: dict[str, Any] | None = None, **kwargs: Any) -> GMPORewardManager:
    options = {"function": function, "kwargs": kwargs, "skip_special_tokens": True, "overlong": overlong}
    config = OmegaConf.create({"gmpo_mm_reward": options})
    return GMPORewardManager(config, AutoTokenizer.from_pretrained(VL), None)


def row(tokenizer: Any, text: str, truth: str) -> DataProto:
    ids = torch.tensor([tokenizer.encode(text)])
    others = {"reward_model": [{"ground_truth": truth}], "extra_info": [{"id": text}]}
    tensors = TensorDict({"responses": ids, "attention_mask": torch.ones_like(ids)}, batch_size=1)
    return DataProto(tensors, {name: np.array(value, dtype=object) for name, value in others.items()})


def test_a_hostile_answer_costs_its_own_reward_alone() -> None:
    made = manager(f"{ROOT}/gmpo_mm/rewards/math.py:compute_score")
    answers = ["12", "9**9**9**9", "13", "12"]

    async def grade() -> list[dict[str, Any]]:
        texts = [rf"<think>x</think>\boxed{{{answer}}}" for answer in answers]
        return await asyncio.gather(*(made.run_single(row(made.tokenizer, text, "12")) for text in texts))

    graded = asyncio.run(grade())
    assert [g["reward_extra_info"]["scores"]["accuracy"] for g in graded] == [1.0, 0.0, 0.0, 1.0]
    assert graded[0]["reward_score"] == graded[0]["reward_extra_info"]["scores"]["overall"] > graded[2]["reward_score"]
    assert graded[1]["reward_extra_info"]["response"].endswith("{9**9**9**9}")


def test_long_responses_are_punished_in_training_and_a_punishment_of_that_name_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text("def compute_score(rows):\n    return [{'overall': 1.0} for row in rows]\n")
    (tmp_path / "own.py").write_text(
        "def compute_score(rows):\n    return [{'overall': 1.0, 'overlong_reward': 0.0} for row in rows]\n"
    )
    buffer = {"tokens": 4, "max_response_length": 4, "penalty_factor": 1.0}
    for file, is_training, expected in (("plain.py", True, 0.25), ("plain.py", False, 1.0), ("own.py", True, None)):
        made = manager(f"{tmp_path}/{file}:compute_score", buffer)
        text = made.tokenizer.decode(made.tokenizer.encode("1+1"))
        one = row(made.tokenizer, text, "2")
        one.non_tensor_batch["extra_info"][0]["is_training"] = is_training
        assert one.batch["responses"].shape[1] == 3
        graded = asyncio.run(made.run_single(one))
        if expected is None:
            assert "overlong_reward" in graded["reward_extra_info"]["scores"][ERROR]
        else:
            assert graded["reward_score"] == expected


def test_a_reward_function_that_raises_is_told_to_the_trainer_and_nobody_waits(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("def compute_score(rows):\n    return [{'overall': 1 / (len(row['response']) - 3)} for row in rows]\n")
    made = manager(f"{path}:compute_score")

    async def grade() -> list[dict[str, Any]]:
        return await asyncio.gather(*(made.run_single(row(made.tokenizer, text, "1")) for text in ("1+1", "12", "1+2")))

    told = [graded["reward_extra_info"]["scores"].get(ERROR, "") for graded in asyncio.run(grade())]
    assert any("ZeroDivisionError" in text and "broken.py" in text for text in told)


def test_rows_for_verl_hold_the_messages_pictures_and_answers_of_our_data_set(tmp_path: Path) -> None:
    import subprocess
    import sys

    sizes = ["--train-size", "16", "--test-size", "16"]
    command = [sys.executable, "data_tools/synthetic_geometry.py", "--out", str(tmp_path), *sizes]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    config = Config()
    data = config.data
    data.train_files, data.prompt_key, data.min_pixels, data.max_pixels = f"{tmp_path}/train.parquet", "problem", None, None
    shape: Any = AutoConfig.from_pretrained(VL)
    processor = load_processor(VL, is_vision=True, image_token_id=shape.image_token_id)
    with Progress() as progress:
        records = load_records(data.train_files, RecordKeys.from_data_config(data))
        dataset = GMPODataset.from_config(config, processor, records, True, progress)
    with pytest.MonkeyPatch.context() as patch:  # verl would throw patches away: its workers cut their own
        patch.setattr(Processor, "cut", lambda *_: pytest.fail("patches were cut"))
        item = dataset[3]
    record = dataset.prompts.record(3)
    parts = item["raw_prompt"][0]["content"]
    pictures = [part["image"] for part in parts if part["type"] == "image"]
    assert pictures == list(dataset.prompts[3].images) and len(pictures) == len(record.images) == 1
    assert item["reward_model"] == {"ground_truth": record.answer} and item["extra_info"]["id"] == record.id
    found = asyncio.run(GMPODataset.process_multi_modal_info(item["raw_prompt"], 14, None))
    assert found == (pictures, None, None)


def make_server() -> HFServer:
    return HFServer(ServerSettings(TEXT, TEXT, {}, False, max_tokens=12, ignore_eos=False, seed=3))


def ask(server: HFServer, prompts: list[list[int]], n: int) -> list[list[int]]:
    params = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "logprobs": True}

    async def all_of_them() -> list[Any]:
        calls = [server.generate(f"{i}", prompt, params) for i in range(n) for prompt in prompts]  # groups come mixed
        return await asyncio.gather(*calls)

    outputs = asyncio.run(all_of_them())
    assert all(len(output.token_ids) == len(output.log_probs) for output in outputs)
    assert all(output.extra_fields == {"global_steps": server.global_steps} for output in outputs)
    return [output.token_ids for output in outputs]


def test_the_server_draws_groups_that_differ_and_come_again_with_the_same_seed_and_step() -> None:
    tokenizer = AutoTokenizer.from_pretrained(TEXT)
    prompts = [tokenizer.encode(text) for text in ("3 8 2 -> 9", "4 5 6 -> 7")]
    server = make_server()
    first = ask(server, prompts, 8)
    assert len({tuple(ids) for ids in first[0::2]}) > 1, "samples of a group are not copies"
    assert ask(server, prompts, 8) != first, "the same prompt again at the same step draws anew"
    assert ask(make_server(), prompts, 8) == first
    other = make_server()
    asyncio.run(other.load_weights(dict(other.policy.module.state_dict()), 5))
    assert ask(other, prompts, 8) != first, "another step, other numbers"
    with pytest.raises(RuntimeError, match="Missing key"):
        asyncio.run(other.load_weights({}, 6))


def test_numbers_of_a_batch_by_hand() -> None:
    rows = {
        "response_mask": torch.tensor([[1, 1, 1], [1, 0, 0]]),
        "responses": torch.tensor([[5, 6, 2], [7, 0, 0]]),
        "advantages": torch.tensor([[0.0, 0.0, 0.0], [1.0, 9.0, 9.0]]),
        "entropy": torch.tensor([[1.0, 2.0, 3.0], [4.0, 9.0, 9.0]]),
        "old_log_probs": torch.tensor([[-1.0, -1.0, -1.0], [-2.0, 0.0, 0.0]]),
        "rollout_log_probs": torch.tensor([[-1.0, -1.0, -1.0], [-1.5, 0.0, 0.0]]),
    }
    found = batch_metrics(rows, ["a", "b"], [2])
    assert found == {"actor/entropy": 2.5, "response/truncated_frac": 0.5, "group/zero_advantage_frac": 0.5}
    gap = sampler_gap(rows)
    assert gap["rollout/log_prob_gap_mean"] == pytest.approx(0.125) and gap["rollout/log_prob_gap_max"] == pytest.approx(0.5)
    assert gap["rollout/kl"] == pytest.approx((np.exp(-0.5) - 1 + 0.5) / 4)
