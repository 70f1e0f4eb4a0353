"""Damaged files of runs, evaluations and sweeps: read as before, or named in a clear error, and the command goes on."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.robustness.faults import READERS, World, all_faults
from tests.robustness.forked import Commands

QUICK = 2
"""Faults of each quick reader."""
QUICK_READERS = ("compare", "grade", "evaluate again")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with Commands() as commands:
        yield World(tmp_path_factory.mktemp("faults"), commands)


def problems(world: World, reader: str, count: int | None) -> list[str]:
    rng = random.Random(17)
    chosen = [fault for fault in all_faults(rng) if fault.reader.name == reader][:count]
    assert chosen
    judged = [(fault, world.try_fault(fault, rng)) for fault in chosen]
    return [f"{fault}: {problem}" for fault, problem in judged if problem is not None]


@pytest.mark.parametrize("reader", QUICK_READERS)
def test_some_damaged_files_of_a_command(world: World, reader: str) -> None:
    assert not problems(world, reader, QUICK)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("reader", [reader.name for reader in READERS])
def test_every_damaged_file_of_a_command(world: World, reader: str) -> None:
    assert not problems(world, reader, None)


def test_there_are_enough_of_them() -> None:
    assert len(all_faults(random.Random(0))) >= 288
