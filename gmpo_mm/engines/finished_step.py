"""The last finished step of a run on a Ray cluster, saved when an error ends the run in the next one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gmpo_mm.runs.progress import Progress
from gmpo_mm.runs.run_directory import RunDirectory

ANSWER_SECONDS = 60.0
"""How long the workers get to end what they do before a checkpoint is given up: one may wait for another that has failed."""


class FinishedStep:
    """What a trainer tells as it goes: an update begins, a step is finished, a step is saved."""

    def __init__(self, run: RunDirectory, progress: Progress) -> None:
        self.run, self.progress = run, progress
        self.step = self.saved = run.from_step
        self._order: Any = None
        self._is_between_steps = True

    def update_begins(self) -> None:
        """From now on the weights are those of no step, until the step is finished."""
        self._is_between_steps = False

    def note(self, step: int, loader: Any) -> None:
        """The weights are those after `step`; `loader` gives the order of the prompts that come next."""
        self.step, self._order = step, loader.state_dict()
        self._is_between_steps = True

    def save_last(self, save: Callable[[int, Any], None]) -> None:
        """Save the last finished step with `save(step, loader)`, where that has not been done; for a stop in the next one."""
        if self.step > self.saved:
            save(self.step, _Loader(self._order))

    @contextmanager
    def saved_on_error(self, workers: Callable[[], Sequence[Any]], save: Callable[[int, Any], None]) -> Iterator[None]:
        """Save the last finished step with `save(step, loader)` before an error ends the run.

        `workers` are the actors that hold the weights; `loader.state_dict()` is the order of the prompts after that step.
        """
        try:
            yield
        except (Exception, SystemExit):
            if self.step > self.saved:
                self._rescue(workers(), save)
            raise

    def _rescue(self, workers: Sequence[Any], save: Callable[[int, Any], None]) -> None:
        if not self._is_between_steps:
            self.progress.warn(
                f"the error came within the update of step {self.step + 1}, so nothing can be saved: the weights may be those "
                "of no finished step; the last checkpoint stays"
            )
            return
        try:
            lost = _lost(workers)
            if lost:
                self.progress.warn(f"could not save step {self.step} first: {lost} of {len(workers)} workers don't answer")
                return
            save(self.step, _Loader(self._order))
        except Exception as error:  # the error that is on its way says why the run ends
            self.progress.warn(f"could not save step {self.step} first: {error}")
        else:
            self.progress.warn(f"saved step {self.step} first, in {self.run.path}; the same command goes on there")


class _Loader:
    """Stands in for a data loader that has already given the prompts of the next step."""

    def __init__(self, state: Any) -> None:
        self._state = state

    def state_dict(self) -> Any:
        """The order after the last finished step."""
        return self._state


def _lost(workers: Sequence[Any]) -> int:
    """How many of the actors have died or don't come to an end with what they were asked for."""
    import ray

    answers = [worker.__ray_ready__.remote() for worker in workers]
    ray.wait(answers, num_returns=len(answers), timeout=ANSWER_SECONDS)
    lost = 0
    for answer in answers:
        try:
            ray.get(answer, timeout=0)
        except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError):
            lost += 1
    return lost
