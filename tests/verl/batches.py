"""One batch in two forms: groups for the local engine, ragged rows for verl; and verl's FSDP2 engine on the same weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
from verl.workers.engine import EngineRegistry

import gmpo_mm.engines.verl.cpu.plugin  # noqa: F401  (registers the engine)
from gmpo_mm.algorithms.config import GMPOKeys, PowerMeanKeys
from gmpo_mm.config import Config
from gmpo_mm.engines.verl.launch import compose
from gmpo_mm.engines.verl.losses import measured_loss
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.training.batch import Batch
from tests.models.model_zoo import ENDS, build_model


def build_policy(family: str) -> PolicyModel:
    """A random model in which every token can be sampled: verl's trainer forbids none."""
    return PolicyModel(build_model(family), forbidden_token_ids=[], eos_token_ids=ENDS)


def save(policy: PolicyModel, folder: Path) -> Path:
    """The model as a folder that verl loads."""
    policy.module.save_pretrained(folder)  # type: ignore[operator]
    return folder


def to_rows(batch: Batch, policy: PolicyModel, weights_BT: torch.Tensor | None = None) -> list[dict[str, Any]]:
    """What verl's sampling workers put into the queue for each response, and our trainer's weights of a correction."""
    prompts = [group.prompt for group in batch.groups for _ in group.responses]
    responses = [response.token_ids_T for group in batch.groups for response in group.responses]
    rows = []
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        n = len(response)
        positions = policy.prompt_positions(prompt)
        onward = positions[:, -1:] + torch.arange(1, n + 1)
        plain = torch.arange(len(prompt.input_ids_S) + n)
        all_positions = torch.cat([positions, onward], 1)
        picture = {} if prompt.pixel_values is None else {
            "pixel_values": prompt.pixel_values, "image_grid_thw": prompt.image_grid_thw_N3,
        }  # fmt: skip
        row = {
            "prompts": prompt.input_ids_S,
            "responses": response,
            "input_ids": torch.cat([prompt.input_ids_S, response]),
            "position_ids": plain if policy.vision is None else torch.cat([plain[None], all_positions]),
            "response_mask": torch.ones(n, dtype=torch.long),
            "loss_mask": torch.ones(n, dtype=torch.long),
            "advantages": batch.advantages_BT[i, :n],
            "old_log_probs": batch.old_log_probs_BT[i, :n],
            "multi_modal_inputs": picture,
        }
        if batch.ref_log_probs_BT is not None:
            row["ref_log_prob"] = batch.ref_log_probs_BT[i, :n]
        if weights_BT is not None:
            row["rollout_is_weights"] = weights_BT[i, :n]
        rows.append(row)
    return rows


_SECTIONS: dict[str, Any] = {}


@dataclass
class Setting:
    """What a test varies of the actor section."""

    rows: int
    micro: int = 4
    loss_type: str = "gmpo"
    loss_avg_mode: str = "token"
    dynamic_batching: bool = False
    kl_coef: float = 0.0
    entropy_coef: float = 0.0
    gmpo: GMPOKeys = field(default_factory=GMPOKeys)
    power_mean: PowerMeanKeys = field(default_factory=PowerMeanKeys)

    def verl_actor(self) -> Any:
        """verl's actor section, translated from ours as for a run."""
        key = repr(replace(self, rows=0, micro=0, dynamic_batching=False))
        if key not in _SECTIONS:
            _SECTIONS[key] = self._translated()
        return _SECTIONS[key]

    def _translated(self) -> Any:
        config = Config()
        config.engine, config.trainer.device, config.trainer.n_gpus_per_node = "verl", "cpu", 1
        actor = config.worker.actor
        actor.loss_type, actor.loss_avg_mode, actor.gmpo = self.loss_type, self.loss_avg_mode, self.gmpo
        actor.power_mean, actor.entropy_coef = self.power_mean, self.entropy_coef
        config.algorithm.disable_kl, config.algorithm.use_kl_loss = self.kl_coef == 0, True
        config.algorithm.kl_coef, config.algorithm.kl_penalty = self.kl_coef, "low_var_kl"
        actor.model.model_path = "bundled:qwen2_tiny"  # only its tokenizer is looked at
        config.worker.reward.reward_function = "gmpo_mm/rewards/math.py:compute_score"
        config.data.train_files = "none"
        return omega_conf_to_dataclass(compose(config, 1, None).actor_rollout_ref.actor)


def build_engine(folder: Path) -> Any:
    """verl's FSDP2 engine for the CPU, as its workers build it."""
    engine = EngineRegistry.new(
        model_type="language_model",
        backend="fsdp2",
        model_config=HFModelConfig(
            path=str(folder), load_tokenizer=False, use_remove_padding=False, enable_gradient_checkpointing=False,
            override_config={"attn_implementation": "sdpa"},
        ),
        engine_config=FSDPEngineConfig(
            strategy="fsdp2", model_dtype="fp32", use_torch_compile=False,
            mixed_precision={"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"},
        ),
        optimizer_config=FSDPOptimizerConfig(lr=0.0, total_training_steps=1, clip_grad=1e9),
        checkpoint_config=None,
    )  # fmt: skip
    engine._build_model_optimizer()
    return engine


def gradients_and_metrics(
    rows: list[dict[str, Any]], engine: Any, setting: Setting
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Gradients that verl's engine gathers over the micro-batches of these rows, and the metrics of each micro-batch."""
    config = setting.verl_actor()
    data = tu.list_of_dict_to_tensordict(rows)
    tu.maybe_fix_3d_position_ids(data)
    tu.assign_non_tensor(
        data, temperature=1.0, global_batch_size=setting.rows, use_remove_padding=False, use_fused_kernels=False,
        use_dynamic_bsz=setting.dynamic_batching, micro_batch_size_per_gpu=setting.micro, max_token_len_per_gpu=64,
        calculate_entropy=setting.entropy_coef != 0,
    )  # fmt: skip
    engine.module.train()
    engine.optimizer_zero_grad()
    output = engine.forward_backward_batch(data, lambda **inputs: measured_loss(config, **inputs))
    gradients = {
        name: (p.grad.full_tensor() if isinstance(p.grad, DTensor) else p.grad).clone()
        for name, p in engine.module.named_parameters()
        if p.grad is not None
    }
    return gradients, output["metrics"]
