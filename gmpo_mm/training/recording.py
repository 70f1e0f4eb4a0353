"""A step of the local engine as a record (`runs/step_record.py`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from gmpo_mm.config.recording import is_recorded
from gmpo_mm.config.schema import Config
from gmpo_mm.data.prompts import EncodedPrompt
from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.weights_hash import weights_sha256
from gmpo_mm.runs.run_directory import RunDirectory
from gmpo_mm.runs.step_record import OF_THE_MACHINE, RecordedPrompt, StepRecord, remove_leftovers, write_picture, write_step
from gmpo_mm.training.actor import Actor
from gmpo_mm.training.batch import Batch


@dataclass
class StepRecorder:
    """Writes the steps that `trainer.record_steps` asks for."""

    config: Config
    run: RunDirectory
    policy: PolicyModel
    _before: str = field(default="", init=False)

    def __post_init__(self) -> None:
        remove_leftovers(self.run.path)

    def begin(self, step: int) -> None:
        """Before the first update of a step."""
        if is_recorded(self.config, step):
            self._before = self._weights()

    def end(self, step: int, batch: Batch, actor: Actor, metrics: Mapping[str, float]) -> None:
        """After the last update of a step."""
        if is_recorded(self.config, step):
            record = recorded(step, batch, actor, metrics)
            record.weights_before, record.weights_after = self._before, self._weights()
            record.config, record.versions = self.run.config, self.run.environment
            record.prompts = [self._prompt(group.prompt) for group in batch.groups]
            write_step(self.run.path, record)

    def _prompt(self, prompt: EncodedPrompt) -> RecordedPrompt:
        names = tuple(write_picture(self.run.path, image) for image in prompt.images)
        return recorded_prompt(prompt, names)

    def _weights(self) -> str:
        return weights_sha256((name, p) for name, p in self.policy.module.named_parameters() if p.requires_grad)


def recorded_prompt(prompt: EncodedPrompt, images: tuple[str, ...] = ()) -> RecordedPrompt:
    """A prompt as it is recorded; `images` are the names of its pictures."""
    source = prompt.record
    return RecordedPrompt(
        str(source.id), prompt.text, source.problem, str(source.answer), prompt.input_ids_S, images, prompt.image_grid_thw_N3
    )


def recorded(step: int, batch: Batch, actor: Actor, metrics: Mapping[str, float]) -> StepRecord:
    """What a step's batch and actor know of it after the update; prompts have no pictures' names."""
    responses = [r for g in batch.groups for r in g.responses]
    scores = [s for g in batch.groups for s in g.scores]
    names = dict.fromkeys(name for each in scores for name in each if name != "overall")
    nan = float("nan")
    return StepRecord(
        step=step,
        engine="local",
        prompts=[recorded_prompt(group.prompt) for group in batch.groups],
        group_ids_B=batch.group_ids_B,
        response_ids_BT=torch.nn.utils.rnn.pad_sequence([r.token_ids_T for r in responses], batch_first=True),
        mask_BT=batch.mask_BT,
        texts=[text for group in batch.groups for text in group.texts],
        stop_reasons=[r.stop_reason for r in responses],
        rewards_B=batch.rewards_B,
        advantages_BT=batch.advantages_BT,
        updates=actor.rows_of_updates(batch),
        reward_parts={
            name: torch.tensor([s.get(name, nan) for s in scores], dtype=torch.float64) for name in names
        },
        left_out=batch.left_out,
        sampler_log_probs_BT=batch.sampler_log_probs_BT,
        old_log_probs_BT=batch.old_log_probs_BT,
        ref_log_probs_BT=batch.ref_log_probs_BT,
        log_probs_BT=None if actor.observed is None else actor.observed.log_probs_BT,
        temperature=actor.config.temperature,
        learning_rate=actor.optimizer.param_groups[0]["lr"],
        kl_coef=metrics.get("actor/kl_coef"),
        metrics={name: value for name, value in metrics.items() if not name.startswith(OF_THE_MACHINE)},
        lengths_B=batch.lengths,
    )
