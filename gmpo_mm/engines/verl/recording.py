"""A step of engine verl as a record (`runs/step_record.py`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray
import torch
from torch.distributed.tensor import DTensor
from torch.nn.utils.rnn import pad_sequence
from verl.utils.device import get_device_id

from gmpo_mm.config import Config
from gmpo_mm.config.recording import is_recorded
from gmpo_mm.data import PromptDataset
from gmpo_mm.engines.batch_metrics import truncated_rows
from gmpo_mm.engines.verl.step_rows import StepRows
from gmpo_mm.models.weights_hash import weights_sha256
from gmpo_mm.runs.run_directory import RunDirectory
from gmpo_mm.runs.step_record import (
    OF_THE_MACHINE,
    RecordedPrompt,
    StepRecord,
    announcement,
    remove_leftovers,
    write_picture,
    write_step,
)

WRAPPERS = ("_fsdp_wrapped_module.", "_checkpoint_wrapped_module.", "_orig_mod.")
"""What wrappers of a module put into the names of its parameters."""


class StepRecorder:
    """Writes the steps that `trainer.record_steps` asks for."""

    def __init__(
        self,
        config: Config,
        run: RunDirectory,
        prompts: PromptDataset,
        tokenizer: Any,
        end_tokens: Sequence[int],
    ) -> None:
        """`prompts` are the training data, `end_tokens` end a response."""
        self.config, self.run, self.prompts = config, run, prompts
        self.tokenizer, self.end_tokens = tokenizer, list(end_tokens)
        self._before = ("", 0.0)
        remove_leftovers(run.path)

    def wants(self, step: int) -> bool:
        """Whether a step is to be recorded."""
        return is_recorded(self.config, step)

    def announcement(self, steps: int, workers: Sequence[Any]) -> str:
        """What a run of `steps` says of its records before it starts."""
        return (
            announcement(self.config, steps, ray.get(workers[0].__ray_call__.remote(trained_bytes_here)))
            or ""
        )

    def begin(self, workers: Sequence[Any]) -> None:
        """Before the first update of a recorded step; `workers` are the actors that hold the weights."""
        self._before = _trained_weights(workers)

    def end(self, step: int, rows: StepRows, metrics: Mapping[str, float], workers: Sequence[Any]) -> None:
        """After the last update of a recorded step."""
        names = rows.prompts
        facts = [fields["reward_extra_info"] for fields in rows.fetch(range(len(names)), "extra_fields")]
        groups = {name: number for number, name in enumerate(dict.fromkeys(names))}
        scores = [fact["scores"] for fact in facts]
        parts = dict.fromkeys(name for score in scores for name in score if name != "overall")
        responses_BT, mask_BT = rows.padded("responses"), rows.padded("response_mask").bool()
        truncated_B = truncated_rows(responses_BT, mask_BT, self.end_tokens)
        algorithm = self.config.algorithm
        has_kl_loss = algorithm.use_kl_loss and not algorithm.disable_kl
        (before, rate), (after, _) = self._before, _trained_weights(workers)
        record = StepRecord(
            step=step,
            engine="verl",
            prompts=self._prompts(rows, [names.index(name) for name in groups]),
            group_ids_B=torch.tensor([groups[name] for name in names]),
            response_ids_BT=responses_BT,
            mask_BT=mask_BT,
            texts=[fact["response"] for fact in facts],
            stop_reasons=["length" if cut else "stop" for cut in truncated_B.tolist()],
            rewards_B=_numbers(scores, "overall"),
            advantages_BT=rows.padded("advantages"),
            updates=rows.seen.updates,
            reward_parts={name: _numbers(scores, name) for name in parts},
            left_out=frozenset(
                truncated_B.nonzero()[:, 0].tolist() if algorithm.mask_truncated_completions else ()
            ),
            sampler_log_probs_BT=rows.padded("rollout_log_probs"),
            old_log_probs_BT=rows.padded("old_log_probs"),
            ref_log_probs_BT=rows.padded_if_any("ref_log_prob"),
            log_probs_BT=pad_sequence(rows.seen.log_probs, batch_first=True),
            temperature=self.config.worker.rollout.temperature,
            learning_rate=rate,
            kl_coef=algorithm.kl_coef if has_kl_loss else None,
            metrics={
                name: float(value)
                for name, value in metrics.items()
                if not any(part in name for part in OF_THE_MACHINE)
            },
            config=self.run.config,
            versions=self.run.environment,
            weights_before=before,
            weights_after=after,
            lengths_B=[len(row) for row in rows.columns["responses"]],
        )
        write_step(self.run.path, record)

    def _prompts(self, rows: StepRows, firsts: Sequence[int]) -> list[RecordedPrompt]:
        """The prompts of these rows as verl's workers read them; texts and pictures are the data set's."""
        encoded = [self.prompts[info["index"]] for info in rows.fetch(firsts, "extra_info")]
        found = []
        for row, ours in zip(firsts, encoded, strict=True):
            ids_S, grids_N3 = rows.columns["prompts"][row], None
            if ours.images:
                (inputs,) = rows.fetch([row], "multi_modal_inputs")
                grids_N3 = inputs["image_grid_thw"]
            text = ours.text if torch.equal(ids_S, ours.input_ids_S) else self.tokenizer.decode(ids_S)
            names = tuple(write_picture(self.run.path, image) for image in ours.images)
            source = ours.record
            found.append(
                RecordedPrompt(
                    str(source.id), text, source.problem, str(source.answer), ids_S, names, grids_N3
                )
            )
        return found


def _numbers(scores: Sequence[Mapping[str, float]], name: str) -> torch.Tensor:
    return torch.tensor([score.get(name, float("nan")) for score in scores], dtype=torch.float64)


def _trained_weights(workers: Sequence[Any]) -> tuple[str, float]:
    """Hash of the trained weights, and the learning rate of the next update; all workers take part."""
    return next(
        found for found in ray.get([w.__ray_call__.remote(weights_here) for w in workers]) if found[0]
    )


def weights_here(worker: Any) -> tuple[str, float]:
    """In a worker's process: the hash, which rank 0 makes, and the learning rate.

    One tensor at a time is put together.
    """
    engine, digest = _engine(worker), ""
    if torch.distributed.get_rank() == 0:
        digest = weights_sha256(_whole_tensors(engine.module))
    else:
        for _ in _whole_tensors(engine.module):
            pass
    return digest, float(engine.optimizer.param_groups[0]["lr"])


def trained_bytes_here(worker: Any) -> int:
    """In a worker's process: bytes of the trained weights of all ranks together."""
    return sum(p.numel() * p.element_size() for p in _engine(worker).module.parameters() if p.requires_grad)


def _engine(worker: Any) -> Any:
    """verl's engine of the trained model, of what holds all models of a process."""
    return next(
        role.actor.engine for role in worker.worker_dict.values() if getattr(role, "actor", None) is not None
    )


def _whole_tensors(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The trained parameters under their names in the model; every rank has to ask for each of them."""
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            for wrapper in WRAPPERS:
                name = name.replace(wrapper, "")
            here = parameter.detach().to(get_device_id())  # an offloaded part can't be gathered
            yield name, here.full_tensor() if isinstance(here, DTensor) else here
