"""The local engine's update from a batch that a run on EasyR1 has trained on."""

from __future__ import annotations

from pathlib import Path

import torch

from gmpo_mm.config import load_config
from gmpo_mm.data import PromptDataset, RecordKeys, load_records
from gmpo_mm.engines.local.launch import update_config
from gmpo_mm.models.loading import load_policy
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.rollout.protocol import Response
from gmpo_mm.training.actor import Actor
from gmpo_mm.training.batch import Batch, SampledGroup
from gmpo_mm.training.optimizer import build_optimizer

Weights = dict[str, torch.Tensor]


def local_weights(run: Path, dump: Path, train_file: Path) -> tuple[Weights, Weights, bool]:
    """Weights before and after one update of the local engine, under the checkpoint's names; and whether prompts agree."""
    config = load_config(run / "config.yaml").config
    loaded, processor = load_policy(config.worker.actor.model, device=torch.device("cpu"), compute_dtype=torch.float32)
    policy = PolicyModel(loaded.module, forbidden_token_ids=[], eos_token_ids=loaded.eos_token_ids)  # as EasyR1's trainer
    records = load_records(str(train_file), RecordKeys.from_data_config(config.data))
    dataset = PromptDataset(records, processor, config.data, training=True)
    prompts = {dataset[i].record.id: dataset[i] for i in range(len(dataset))}
    kept = torch.load(dump, weights_only=True)
    batch, agree = _batch(kept, prompts)
    before = {name: weight.clone() for name, weight in policy.module.state_dict().items()}
    Actor(policy, build_optimizer(policy, config.worker.actor.optim), update_config(config)).update(batch, kl_coef=0.01)
    after = dict(policy.module.state_dict())
    tied = [name for name in after if name == "lm_head.weight"]
    for name in tied:
        del before[name], after[name]
    return before, after, agree


def _batch(kept: dict, prompts: dict) -> tuple[Batch, bool]:
    """EasyR1's rows, in groups again; their order differs, since it balances the lengths of its ranks."""
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(kept["id"]):
        rows_of.setdefault(name, []).append(row)
    lengths = kept["response_mask"].sum(1).tolist()
    sampler = kept.get("sampler_log_probs", kept["old_log_probs"])  # handed on where a correction reads them
    agree = True
    groups = []
    order = [row for rows in rows_of.values() for row in rows]
    for name, rows in rows_of.items():
        prompt = prompts[name]
        ids = kept["prompts"][rows[0]][kept["attention_mask"][rows[0], : kept["prompts"].shape[1]].bool()]
        agree &= torch.equal(ids, prompt.input_ids_S)
        responses = [
            Response(kept["responses"][row, : lengths[row]], sampler[row, : lengths[row]].float(), "stop")
            for row in rows
        ]
        groups.append(SampledGroup(prompt, responses, [""] * len(rows), [{"overall": 0.0}] * len(rows)))
    batch = Batch(groups)
    width = batch.mask_BT.shape[1]
    batch.advantages_BT = kept["advantages"][order, :width] * batch.mask_BT
    batch.ref_log_probs_BT = kept["ref_log_probs"][order, :width].float() * batch.mask_BT
    return batch, agree
