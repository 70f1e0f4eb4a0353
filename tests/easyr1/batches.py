"""One batch in two forms: groups for the local engine, padded rows for EasyR1; and actors of both on the same weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from verl.protocol import DataProto
from verl.workers.actor.dp_actor import DataParallelPPOActor

from gmpo_mm.algorithms import Correction
from gmpo_mm.algorithms.config import GMPOKeys, PowerMeanKeys
from gmpo_mm.engines.easyr1.actor import SAMPLER_LOG_PROBS, GMPOActor
from gmpo_mm.engines.easyr1.config import GMPOActorConfig
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.training.batch import Batch
from tests.models.model_zoo import ENDS, build_model


def build_policy(family: str) -> PolicyModel:
    """A random model in which every token can be sampled: EasyR1's trainer forbids none."""
    return PolicyModel(build_model(family), forbidden_token_ids=[], eos_token_ids=ENDS)


def to_data_proto(batch: Batch, policy: PolicyModel) -> DataProto:
    """Left-padded prompts and right-padded responses in one row, as EasyR1's rollout returns them."""
    groups = [group.prompt for group in batch.groups for _ in group.responses]
    responses = [response.token_ids_T for group in batch.groups for response in group.responses]
    longest, width = max(len(p.input_ids_S) for p in groups), batch.mask_BT.shape[1]
    rows = []
    for prompt, response in zip(groups, responses, strict=True):
        left, right = longest - len(prompt.input_ids_S), width - len(response)
        pad = torch.nn.functional.pad
        ids = pad(torch.cat([prompt.input_ids_S, response]), (left, right))
        attention = pad(torch.ones(len(prompt.input_ids_S) + len(response), dtype=torch.long), (left, right))
        rows.append((ids, attention, _positions(policy, prompt, ids, attention, longest)))
    input_ids, attention_mask, position_ids = (torch.stack(column) for column in zip(*rows, strict=True))
    tensors = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "position_ids": position_ids,
        "responses": input_ids[:, longest:],
        "response_mask": batch.mask_BT.long(),
        "advantages": batch.advantages_BT,
        "old_log_probs": batch.behaviour_log_probs_BT,
    }
    tensors[SAMPLER_LOG_PROBS] = batch.sampler_log_probs_BT
    if batch.ref_log_probs_BT is not None:
        tensors["ref_log_probs"] = batch.ref_log_probs_BT
    pictures = [
        {} if prompt.pixel_values is None else {"pixel_values": prompt.pixel_values, "image_grid_thw": prompt.image_grid_thw_N3}
        for prompt in groups
    ]
    others = {"multi_modal_inputs": np.array(pictures, dtype=object)} if policy.vision is not None else {}
    return DataProto(TensorDict(tensors, batch_size=len(groups)), others, {"temperature": 1.0})


def _positions(policy: PolicyModel, prompt: Any, ids: torch.Tensor, attention: torch.Tensor, longest: int) -> torch.Tensor:
    """EasyR1's positions: (S,), or with pictures (4, S), text positions before the three of transformers."""
    plain = (attention.cumsum(0) - 1).clamp(min=0)
    if policy.vision is None:
        return plain
    prompt_ids, prompt_mask = ids[None, :longest], attention[None, :longest]
    vision, _ = policy.module.model.get_rope_index(prompt_ids, prompt.image_grid_thw_N3, None, attention_mask=prompt_mask)
    onward = vision[:, 0, -1:] + torch.arange(1, len(ids) - longest + 1)
    return torch.cat([plain[None], torch.cat([vision[:, 0], onward], 1)])


@dataclass
class Setting:
    """What a test varies of EasyR1's actor section."""

    rows: int
    micro: int = 4
    loss_type: str = "gmpo"
    loss_avg_mode: str = "token"
    seq_mean: str = "exact"
    dynamic_batching: bool = False
    epochs: int = 1
    kl_coef: float = 0.0
    entropy_coef: float = 0.0
    gmpo: GMPOKeys = field(default_factory=GMPOKeys)
    power_mean: PowerMeanKeys = field(default_factory=PowerMeanKeys)
    correction: Correction | None = None

    def config(self) -> GMPOActorConfig:
        config = GMPOActorConfig(
            micro_batch_size_per_device_for_update=self.micro, loss_type=self.loss_type, loss_avg_mode=self.loss_avg_mode,
            seq_mean=self.seq_mean, dynamic_batching=self.dynamic_batching, ppo_epochs=self.epochs, gmpo=self.gmpo,
            power_mean=self.power_mean, entropy_coef=self.entropy_coef, padding_free=False, use_torch_compile=False,
            max_grad_norm=1e9,
        )  # fmt: skip
        if self.correction is not None:
            floor = self.correction.floor or None
            config.correction, config.correction_cap = self.correction.kind, self.correction.cap
            config.correction_floor = floor
        config.global_batch_size_per_device = self.rows
        config.use_kl_loss, config.kl_penalty, config.kl_coef = self.kl_coef > 0, "low_var_kl", self.kl_coef
        return config


class KeepsGradients(torch.optim.SGD):
    """SGD of rate 0 that keeps the gradients of its last step."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__(module.parameters(), lr=0.0)
        self.module = module
        self.seen: list[dict[str, torch.Tensor]] = []

    def step(self, closure: Any = None) -> None:
        self.seen.append({n: p.grad.clone() for n, p in self.module.named_parameters() if p.grad is not None})


def gradients_and_metrics(
    data: DataProto, module: torch.nn.Module, setting: Setting, actor_class: type = GMPOActor
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Gradients of the first mini-batch, and what `update_policy` returns."""
    optimizer = KeepsGradients(module)
    actor = actor_class(setting.config(), module, optimizer)
    metrics = actor.update_policy(data)
    return optimizer.seen[0], metrics


def stock_gradients(data: DataProto, module: torch.nn.Module, setting: Setting) -> dict[str, torch.Tensor]:
    """The same from EasyR1's own actor."""
    return gradients_and_metrics(data, module, setting, DataParallelPPOActor)[0]


def without_packing(policy: PolicyModel) -> torch.nn.Module:
    """The policy's module with transformers' own attention, as EasyR1 uses it."""
    policy.decoder.config._attn_implementation = "sdpa"
    return policy.module


