"""Killed right before any of its file operations, or at any moment, a command ends with the bytes of one that nobody killed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.robustness.forked import Commands
from tests.robustness.kills import COMMANDS, Trials, failures

SEED = 17
FEW = {"train": 2, "evaluate": 1, "sweep": 1, "grade": 1, "report": 1, "merge": 2}
"""Kills of each command in the quick test."""


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    with Commands() as forking:
        yield forking


@pytest.mark.parametrize("name", FEW)
def test_a_command_killed_before_some_file_operations_ends_as_if_nobody_had(
    name: str, commands: Commands, tmp_path: Path
) -> None:
    trials = Trials(COMMANDS[name], tmp_path, commands)
    numbers = random.Random(f"{name} {SEED}").sample(range(1, len(trials.operations) + 1), FEW[name])
    assert [wrong for number in numbers if (wrong := trials.before_operation(number))] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_killed_before_each_file_operation_ends_as_if_nobody_had(
    name: str, commands: Commands, tmp_path: Path
) -> None:
    trials = Trials(COMMANDS[name], tmp_path, commands)
    assert [wrong for wrong in failures(trials, every=True, count=0, seed=SEED) if wrong] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_killed_at_a_hundred_moments_ends_as_if_nobody_had(
    name: str, commands: Commands, tmp_path: Path
) -> None:
    trials = Trials(COMMANDS[name], tmp_path, commands)
    assert [wrong for wrong in failures(trials, every=False, count=100, seed=SEED) if wrong] == []
