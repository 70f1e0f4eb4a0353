"""The local engine's update from a batch that a run on verl has trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    policy = PolicyModel(loaded.module, forbidden_token_ids=[], eos_token_ids=loaded.eos_token_ids)  # as verl's trainer
    records = load_records(str(train_file), RecordKeys.from_data_config(config.data))
    dataset = PromptDataset(records, processor, config.data, training=True)
    prompts = {dataset[i].record.id: dataset[i] for i in range(len(dataset))}
    batch, agree = _batch(torch.load(dump, weights_only=True), prompts)
    before = {name: weight.clone() for name, weight in policy.module.state_dict().items()}
    update = update_config(config)
    Actor(policy, build_optimizer(policy, config.worker.actor.optim), update).update(batch, kl_coef=config.algorithm.kl_coef)
    after = dict(policy.module.state_dict())
    for name in [name for name in after if name == "lm_head.weight"]:  # tied, and in no checkpoint
        del before[name], after[name]
    return before, after, agree


def _batch(kept: dict[str, Any], prompts: dict[str, Any]) -> tuple[Batch, bool]:
    """verl's rows, in groups again; their order differs, since it balances the lengths of its ranks."""
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(kept["id"]):
        rows_of.setdefault(name, []).append(row)
    agree, groups = True, []
    for name, rows in rows_of.items():
        prompt = prompts[name]
        agree &= all(torch.equal(kept["prompts"][row], prompt.input_ids_S) for row in rows)
        sampler = kept.get("rollout_log_probs", kept["old_log_probs"])  # kept where a correction reads them
        responses = [Response(kept["responses"][row], sampler[row].float(), "stop") for row in rows]
        groups.append(SampledGroup(prompt, responses, [""] * len(rows), [{"overall": 0.0}] * len(rows)))
    batch = Batch(groups)
    order = [row for rows in rows_of.values() for row in rows]
    batch.advantages_BT = _padded([kept["advantages"][row] for row in order], batch)
    batch.ref_log_probs_BT = _padded([kept["ref_log_prob"][row].float() for row in order], batch)
    return batch, agree


def _padded(rows: list[torch.Tensor], batch: Batch) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True) * batch.mask_BT
