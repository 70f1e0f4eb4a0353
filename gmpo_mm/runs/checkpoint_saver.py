"""Saves a run's checkpoints from a snapshot, in a thread, while the next steps train.

    end of step N     save(N): the former write is waited for; what training changes is copied to host memory
    while N + 1 ..    the thread writes the copies aside, flushes and names them, prunes older checkpoints
    later             check, save or wait raises what went wrong in the thread

The snapshot takes 4 bytes (weight) + 8 bytes (AdamW's moments) of host memory for each trained parameter: on
a GPU one page-locked buffer for the whole run, on the CPU fresh copies until they are written. Frozen weights
are not copied, but on a GPU, and in 16 bits anywhere, they are kept once more in float32 on the CPU.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Collection, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch

from gmpo_mm.models.policy import PolicyModel
from gmpo_mm.models.processing import Processor
from gmpo_mm.runs.checkpoint import optimizer_tensors
from gmpo_mm.runs.model_files import changing_weights, frozen_weights, save_model
from gmpo_mm.runs.progress import Progress
from gmpo_mm.runs.run_directory import RunDirectory
from gmpo_mm.runs.safetensors_file import SafetensorsWriter, WriteStopped
from gmpo_mm.runs.snapshot import HostCopies, available_memory

if TYPE_CHECKING:
    from typing_extensions import Self

MARGIN_BYTES = 2**30
"""Host memory that has to stay free beside a snapshot."""


class CheckpointSaver:
    """A context manager: on leaving it no write goes on. One write is in flight at most.

    Leaving with an error finishes the write first; a failure of the write is then only shown, for the error
    on its way ends the run. Leaving with KeyboardInterrupt, an order to stop at once, gives the write up:
    nothing of it is left.
    """

    def __init__(
        self,
        run: RunDirectory,
        policy: PolicyModel,
        processor: Processor,
        optimizer: torch.optim.Optimizer,
        progress: Progress,
        *,
        keep: int,
        model_only: bool,
    ) -> None:
        """`keep` and `model_only` are `trainer.save_limit` and `trainer.save_model_only`."""
        self._run, self._policy, self._processor, self._optimizer = run, policy, processor, optimizer
        self._progress, self._keep, self._model_only = progress, keep, model_only
        self._copies = HostCopies.of_device(policy.device)
        self._frozen: dict[str, torch.Tensor] | None = None
        self._write: _Write | None = None
        self._said_foreground = False

    def save(
        self,
        step: int,
        state: Mapping[str, Any],
        protect: Collection[int],
        *,
        background: bool,
        constant: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
    ) -> None:
        """Save the run as it is after `step`: `state` as `trainer_state.json`, checkpoints in `protect` never
        pruned. `constant`: further groups of tensors that training goes on from and that nothing changes any more.

        In the foreground, where nothing is copied, unless `background` is asked for and host memory allows
        it. Raises TrainingError when this write in the foreground, or the former one, failed.
        """
        self.wait()
        with self._progress.stage(f"step {step}: saving", 1, "checkpoint"):
            if self._frozen is None:
                self._frozen = frozen_weights(self._policy)
            groups = {"": changing_weights(self._policy, self._optimizer)}
            if not self._model_only:
                groups["optimizer"] = optimizer_tensors(
                    self._optimizer, list(self._policy.module.named_parameters())
                )
            others = {} if self._model_only else dict(constant or {})
            if background and self._is_affordable(groups):
                groups = self._copies_of(groups)
                work = self._work(step, {**groups, **others}, copy.deepcopy(dict(state)), protect)
                self._write = _Write(step, work)
            else:
                self._work(step, {**groups, **others}, state, protect)(SafetensorsWriter())

    def check(self) -> None:
        """Raise what went wrong in a write that has ended; a write that goes on is left alone."""
        if self._write is not None and self._write.has_ended():
            self.wait()

    def wait(self) -> None:
        """Wait for the write in flight, if there is one, and raise what went wrong in it; Ctrl-C gives up."""
        if self._write is None:
            return
        write = self._write
        with self._progress.stage(f"waiting for the checkpoint of step {write.step}"):
            try:
                write.wait()
            except KeyboardInterrupt:
                write.stop()
                raise
            finally:
                self._write = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._write is not None and isinstance(error, KeyboardInterrupt):
            self._write.stop()
            return
        try:
            self.wait()
        except Exception as failed:
            if error is None:
                raise
            self._progress.warn(str(failed))

    def _work(
        self,
        step: int,
        groups: Mapping[str, Mapping[str, torch.Tensor]],
        state: Mapping[str, Any],
        protect: Collection[int],
    ) -> Callable[[SafetensorsWriter], Any]:
        """The whole write as a function of its writer; of the module it reads names and configuration, no
        weights."""
        weights = {**(self._frozen or {}), **groups[""]}
        return lambda writer: self._run.save_checkpoint(
            step,
            model_files=lambda folder: save_model(self._policy, self._processor, folder, weights, writer),
            tensors={name: group for name, group in groups.items() if name},
            state=state,
            keep=self._keep,
            protect=protect,
            writer=writer,
        )

    def _is_affordable(self, groups: Mapping[str, Mapping[str, torch.Tensor]]) -> bool:
        need = self._copies.missing_bytes(_flat(groups))
        free = available_memory()
        affordable = need == 0 or need + MARGIN_BYTES <= free
        if not affordable and not self._said_foreground:
            self._said_foreground = True
            self._progress.log(
                "training waits while a checkpoint is written: writing it in the background takes a snapshot "
                f"of {need:,} bytes, and of the {free:,} available bytes of host memory {MARGIN_BYTES:,} have to "
                "stay free"
            )
        return affordable

    def _copies_of(
        self, groups: Mapping[str, Mapping[str, torch.Tensor]]
    ) -> dict[str, dict[str, torch.Tensor]]:
        copies = self._copies.copy(_flat(groups))
        return {
            group: {name: copies[f"{group}/{name}"] for name in tensors} for group, tensors in groups.items()
        }


def _flat(groups: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {
        f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()
    }


class _Write:
    """One write in a thread that doesn't keep the process alive: a process that ends leaves what `kill -9`
    would."""

    def __init__(self, step: int, work: Callable[[SafetensorsWriter], Any]) -> None:
        self.step = step
        self._writer = SafetensorsWriter()
        self._error: BaseException | None = None
        self._ended = threading.Event()
        threading.Thread(
            target=self._do, args=(work,), name=f"checkpoint of step {step}", daemon=True
        ).start()

    def _do(self, work: Callable[[SafetensorsWriter], Any]) -> None:
        try:
            work(self._writer)
        except WriteStopped:
            pass
        except BaseException as error:  # raised again by `wait`
            self._error = error
        finally:
            del work  # the snapshot's memory is free before anybody learns that the write has ended
            self._ended.set()

    def has_ended(self) -> bool:
        return self._ended.is_set()

    def wait(self) -> None:
        self._ended.wait()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Give up: at the next chunk of a file, unless the checkpoint has its name already; waits for
        that."""
        self._writer.stop()
        self._ended.wait()
