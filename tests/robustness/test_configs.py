"""Broken configurations: each gets its verdict, and the generator has cases of every kind."""

from __future__ import annotations

import pytest

from tests.robustness.configs import KINDS, Bench, all_cases, judge, make_bench

QUICK, WHOLE = 4, 2000
"""Cases of each kind in a quick run, and cases of a whole one."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return make_bench(tmp_path_factory.mktemp("configs"), seed=17)


def problems(bench: Bench, kind: str, count: int, patch: pytest.MonkeyPatch) -> list[str]:
    patch.chdir(bench.folder)
    judged = {case.name: judge(bench, case) for case in all_cases(bench, kind)[:count]}
    assert judged
    return [f"{name}: {problem}" for name, problem in judged.items() if problem is not None]


@pytest.mark.parametrize("kind", [kind.__name__ for kind in KINDS])
def test_some_broken_configurations_of_each_kind(bench: Bench, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    assert not problems(bench, kind, QUICK, monkeypatch)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("part", [kind.__name__ for kind in KINDS])
def test_every_broken_configuration(bench: Bench, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    assert not problems(bench, part, WHOLE, monkeypatch)


@pytest.mark.slow
def test_there_are_enough_of_them(bench: Bench) -> None:
    cases = all_cases(bench)
    assert len(cases) >= 1775 and len({case.key for case in cases}) > 300
