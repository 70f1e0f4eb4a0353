"""A step of engine verl as a record (`runs/step_record.py`): rows of verl's queue, group by group again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray
import torch
import transfer_queue as tq
from torch.distributed.tensor import DTensor
from torch.nn.utils.rnn import pad_sequence
from transfer_queue import KVBatchMeta
from verl.utils.device import get_device_id

from gmpo_mm.config import Config
from gmpo_mm.config.recording import is_recorded
from gmpo_mm.data import PromptDataset
from gmpo_mm.engines.batch_metrics import truncated_rows
from gmpo_mm.engines.verl.seen import Seen
from gmpo_mm.models.weights_hash import weights_sha256
from gmpo_mm.runs.run_directory import RunDirectory
from gmpo_mm.runs.step_record import RecordedPrompt, StepRecord, remove_leftovers, write_picture, write_step

FIELDS = (
    "prompts", "responses", "response_mask", "rollout_log_probs", "old_log_probs", "ref_log_prob", "advantages", "extra_info",
)  # fmt: skip
OF_THE_MACHINE = ("timing_s/", "perf/", "memory/")
"""Parts of names of metrics that a record leaves out: they differ from run to run."""
WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
"""What wrappers of a module put into the names of its parameters."""


class StepRecorder:
    """Writes the steps that `trainer.record_steps` asks for."""

    def __init__(self, config: Config, run: RunDirectory, prompts: PromptDataset, tokenizer: Any, end_tokens: Sequence[int]):
        self.config, self.run, self.prompts = config, run, prompts
        self.tokenizer, self.end_tokens = tokenizer, list(end_tokens)
        self._before = ("", 0.0)
        remove_leftovers(run.path)

    def wants(self, step: int) -> bool:
        """Whether a step is to be recorded."""
        return is_recorded(self.config, step)

    def begin(self, workers: Sequence[Any]) -> None:
        """Before the first update of a recorded step; `workers` are the actors that hold the weights."""
        self._before = _trained_weights(workers)

    def end(
        self,
        step: int,
        batch: KVBatchMeta,
        facts: Sequence[Mapping[str, Any]],
        asked: Sequence[str],
        seen: Seen,
        metrics: Mapping[str, float],
        workers: Sequence[Any],
    ) -> None:
        """After the last update of a recorded step.

        `facts` are what the reward manager said of each row, `asked` the names of the step's prompts in the data loader's
        order, `seen` numbers the rows as `batch` does.
        """
        order = _by_group(batch.keys, asked)
        rows = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=list(FIELDS))
        columns = {name: rows[name].unbind() for name in FIELDS if name in rows and name != "extra_info"}
        facts = [facts[row] for row in order]
        scores = [fact["scores"] for fact in facts]

        def padded(name: str) -> torch.Tensor:
            return pad_sequence([columns[name][row] for row in order], batch_first=True)

        names = [batch.keys[row].split("_")[0] for row in order]
        groups = {name: number for number, name in enumerate(dict.fromkeys(names))}
        first_rows = [order[names.index(name)] for name in groups]
        infos = [getattr(info, "data", info) for info in rows["extra_info"]]
        responses_BT, mask_BT = padded("responses"), padded("response_mask").bool()
        truncated_B = truncated_rows(responses_BT, mask_BT, self.end_tokens)
        algorithm, place = self.config.algorithm, {row: i for i, row in enumerate(order)}
        in_loss = algorithm.use_kl_loss and not algorithm.disable_kl
        parts = dict.fromkeys(name for score in scores for name in score if name != "overall")
        (before, rate), (after, _) = self._before, _trained_weights(workers)
        record = StepRecord(
            step=step,
            engine="verl",
            prompts=[
                self._prompt(infos[row]["index"], columns["prompts"][row], batch, batch.keys[row]) for row in first_rows
            ],
            group_ids_B=torch.tensor([groups[name] for name in names]),
            response_ids_BT=responses_BT,
            mask_BT=mask_BT,
            texts=[fact["response"] for fact in facts],
            stop_reasons=["length" if cut else "stop" for cut in truncated_B.tolist()],
            rewards_B=_numbers(scores, "overall"),
            advantages_BT=padded("advantages"),
            updates=[sorted(place[row] for row in update) for update in seen.updates],
            reward_parts={name: _numbers(scores, name) for name in parts},
            left_out=frozenset(truncated_B.nonzero()[:, 0].tolist() if algorithm.mask_truncated_completions else ()),
            sampler_log_probs_BT=padded("rollout_log_probs"),
            old_log_probs_BT=padded("old_log_probs"),
            ref_log_probs_BT=padded("ref_log_prob") if "ref_log_prob" in columns else None,
            log_probs_BT=pad_sequence([seen.log_probs[row] for row in order], batch_first=True),
            temperature=self.config.worker.rollout.temperature,
            learning_rate=rate,
            kl_coef=algorithm.kl_coef if in_loss else None,
            metrics={
                name: float(value) for name, value in metrics.items() if not any(part in name for part in OF_THE_MACHINE)
            },
            config=self.run.config,
            versions=self.run.environment,
            weights_before=before,
            weights_after=after,
            lengths_B=[len(columns["responses"][row]) for row in order],
        )
        write_step(self.run.path, record)

    def _prompt(self, index: int, ids_S: torch.Tensor, batch: KVBatchMeta, key: str) -> RecordedPrompt:
        """A prompt as verl's workers read it; its text and pictures are the data set's."""
        ours = self.prompts[index]
        text = ours.text if torch.equal(ids_S, ours.input_ids_S) else self.tokenizer.decode(ids_S)
        grids = None
        if ours.images:
            got = tq.kv_batch_get(keys=[key], partition_id=batch.partition_id, select_fields=["multi_modal_inputs"])
            (inputs,) = (getattr(each, "data", each) for each in got["multi_modal_inputs"])
            grids = inputs["image_grid_thw"]
        names = tuple(write_picture(self.run.path, image) for image in ours.images)
        source = ours.record
        return RecordedPrompt(str(source.id), text, source.problem, str(source.answer), ids_S, names, grids)


def _by_group(keys: Sequence[str], asked: Sequence[str]) -> list[int]:
    """The rows of a batch in the order of its prompts and their samples; verl's keys are PROMPT_SAMPLE_PART."""
    number = {name: i for i, name in enumerate(asked)}

    def place(row: int) -> tuple[int, ...]:
        name, *others = keys[row].split("_")
        return (number[name], *map(int, others))

    return sorted(range(len(keys)), key=place)


def _numbers(scores: Sequence[Mapping[str, float]], name: str) -> torch.Tensor:
    return torch.tensor([score.get(name, float("nan")) for score in scores], dtype=torch.float64)


def _trained_weights(workers: Sequence[Any]) -> tuple[str, float]:
    """Hash of the trained weights, and the learning rate of the next update; all workers take part."""
    return next(found for found in ray.get([w.__ray_call__.remote(weights_here) for w in workers]) if found[0])


def weights_here(worker: Any) -> tuple[str, float]:
    """In a worker's process: the hash (rank 0; others only help to put the tensors together) and the learning rate.

    One tensor at a time is put together.
    """
    engine = next(role.actor.engine for role in worker.worker_dict.values() if getattr(role, "actor", None) is not None)
    digest = ""
    if torch.distributed.get_rank() == 0:
        digest = weights_sha256(_whole_tensors(engine.module))
    else:
        for _ in _whole_tensors(engine.module):
            pass
    return digest, float(engine.optimizer.param_groups[0]["lr"])


def _whole_tensors(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            for wrapper in WRAPPERS:
                name = name.replace(wrapper, "")
            is_cut = isinstance(parameter, DTensor)
            yield name, parameter.detach().to(get_device_id()).full_tensor() if is_cut else parameter
