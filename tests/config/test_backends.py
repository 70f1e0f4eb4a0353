"""Samplers and trackers are registered in one table, and what an entry names is there."""

from __future__ import annotations

import pytest

from gmpo_mm.config import bounds, load_config
from gmpo_mm.config.backends import SAMPLERS, TRACKERS, Backend
from gmpo_mm.doctor import diagnose
from gmpo_mm.evaluation.settings import BACKENDS
from gmpo_mm.runs.trackers import check_trackers


@pytest.mark.parametrize("backend", [*SAMPLERS.values(), *TRACKERS.values()], ids=[*SAMPLERS, *TRACKERS])
def test_what_an_entry_names_can_be_loaded_without_its_package(backend: Backend) -> None:
    assert callable(backend.load())
    assert (backend.package is None) == (backend.install == "")


def test_the_words_of_the_keys_and_the_doctor_come_from_the_tables() -> None:
    assert bounds.choices()["worker.rollout.name"] == ("auto", *SAMPLERS)
    assert ("console", "file", *TRACKERS) == bounds.LOGGERS
    assert ("auto", *SAMPLERS, "server") == BACKENDS
    report = diagnose()
    assert list(report["rollouts"]) == list(SAMPLERS)
    assert list(report["trackers"]) == ["console", "file", *TRACKERS]


def test_a_tracker_and_a_sampler_are_known_once_they_are_in_the_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRACKERS, "mine", Backend("gmpo_mm.runs.trackers:TensorBoard", "no_such_package", "mine"))
    with pytest.raises(Exception, match="the package no_such_package is not installed: pip install mine"):
        check_trackers(["mine"])
    monkeypatch.setitem(TRACKERS, "mine", Backend("gmpo_mm.runs.trackers:TensorBoard"))
    assert check_trackers(["mine"]) == ("mine",)
    assert load_config("configs/quickstart.yaml", ["trainer.logger=[mine]"]).config.trainer.logger == ["mine"]
