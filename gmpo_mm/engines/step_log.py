"""The tracker that EasyR1's and verl's loops are given: what they log goes into our run directory and to our trackers."""

from __future__ import annotations

from typing import Any, Protocol

from gmpo_mm.runs.learning_watch import LearningWatch
from gmpo_mm.runs.progress import Progress
from gmpo_mm.runs.trackers import Trackers


class Recorded(Protocol):
    """What a trainer has for its log."""

    trackers: Trackers
    progress: Progress
    watch: LearningWatch

    @property
    def steps_in_all(self) -> int:
        """How many steps the run has."""

    def own_metrics(self) -> dict[str, float]:
        """Our metrics of the step that has just been trained, beside those that the loop logs."""

    def own_validation(self) -> dict[str, float]:
        """The same of the validation that has just taken place."""

    def step_recorded(self) -> None:
        """The step's metrics are in the run directory: a checkpoint that waited for them may be saved."""


VALIDATION = ("val/", "val_", "val-")
"""How the names of a validation's metrics begin."""


class StepLog:
    """Metrics of a step or of a validation go to ours, under our names where they differ."""

    def __init__(self, trainer: Recorded) -> None:
        self.trainer = trainer
        self.training: dict[str, float] = {}
        """Of the last step, as they were logged."""

    def log(self, data: dict[str, Any], step: int) -> None:
        """One call may hold a step's metrics, a validation's, or both; a line is written for each kind."""
        trainer = self.trainer
        numbers = {name: float(value) for name, value in data.items()}
        validation = {name: value for name, value in numbers.items() if name.startswith(VALIDATION)}
        training = {name: value for name, value in numbers.items() if name not in validation}
        if validation:
            validation |= trainer.own_validation()
        if training:
            training.pop("timing_s/save_checkpoint", None)  # the loop timed a call that only noted the checkpoint down
            training |= trainer.own_metrics()
            if "reward/verifier_timeout" in training:
                training["verifier/timeout_frac"] = training["reward/verifier_timeout"]
        for kind, metrics in (("train", training), ("validation", validation)):
            if metrics:
                trainer.trackers.log(step, kind, metrics)
                if trainer.trackers.console and kind == "train":
                    trainer.progress.step(step, trainer.steps_in_all, metrics)
                elif trainer.trackers.console:
                    trainer.progress.validation(step, metrics)
        if training:
            self.training = training
            trainer.watch.step(step, training)
            trainer.step_recorded()

    def finish(self, exit_code: int = 0) -> None:
        """Nothing: the trackers are finished with the run."""
