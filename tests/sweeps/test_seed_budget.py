"""`budget.stop_when: decided`: seeds are added until the difference is decided, and a kill changes nothing of it."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from gmpo_mm.config import Config, load_config, run_directory, to_yaml
from gmpo_mm.errors import ConfigError
from gmpo_mm.reports.decision import study_decision
from gmpo_mm.reports.report import write_report
from gmpo_mm.reports.sources import read_study
from gmpo_mm.reports.stop_rule import Decision, StopRule
from gmpo_mm.runs.metrics_file import FILE_NAME, MetricsFile
from gmpo_mm.runs.progress import Progress
from gmpo_mm.sweeps import runner
from gmpo_mm.sweeps.directory import SweepDirectory
from gmpo_mm.sweeps.display import SweepDisplay
from gmpo_mm.sweeps.planning import plan_sweep
from gmpo_mm.sweeps.rounds import check_stop_rule
from gmpo_mm.sweeps.runner import SweepRunner
from gmpo_mm.sweeps.sweep_file import load_sweep
from tests.sweeps.sweeps import GMPO, NO_CLIP, run_sweep, runs_of, start_sweep, trained, wait_for, write_sweep
from tests.sweeps.test_sweep_file import write

SEEDS = list(range(1, 9))
RULE: dict[str, Any] = {"stop_when": "decided"}
TWINS: dict[str, Any] = {"gmpo": {}, "twin": {"overrides": ["worker.actor.gmpo.log_clip_low=0.5"]}}
"""Two variants that `ScoredRuns` gives equal scores."""


class Killed(BaseException):
    """What ends a sweep's process at once: nothing is written after it."""


@dataclass
class Ended:
    """A run that has ended with an exit code."""

    code: int

    def poll(self) -> int:
        return self.code

    def interrupt(self) -> None: ...

    def kill(self) -> None: ...


@dataclass
class ScoredRuns:
    """Starts runs that train nothing, and leave at once what a finished run leaves: files with a score of their seed.

    Without a clip the score is higher with each seed, by another amount. `fails` is a variant whose runs fail; at the start
    of run number `killed_at` the sweep is killed.
    """

    fails: str = ""
    killed_at: int = -1
    started: list[str] = field(default_factory=list)

    def start(self, arguments: Sequence[str], log: Path, slot: int, config: Config) -> Ended:
        config = load_config(arguments[1], list(arguments[2:])).config
        folder = run_directory(config)
        if len(self.started) == self.killed_at:
            raise Killed
        assert len(self.started) < 100, "runs are started again and again"
        self.started.append(f"{folder.parent.name} {folder.name}")
        failed = folder.parent.name == self.fails
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(to_yaml(config))
        state = {
            "state": "failed" if failed else "finished",
            "step": 2,
            "last_checkpoint": 2,
            "total_steps": 2,
        }
        (folder / "run.json").write_text(json.dumps(state | {"exit_reason": "no reward" if failed else None}))
        metrics = MetricsFile(folder / FILE_NAME)
        metrics.log_metrics(2, "train", {"reward/overall": 0.5})
        metrics.log_metrics(2, "validation", {"val/accuracy_reward": score_of(config)})
        return Ended(int(failed))


def score_of(config: Config) -> float:
    """A score that the seed decides."""
    noise = random.Random(config.data.seed)
    score = 0.4 + 0.2 * noise.random()
    return score + 0.1 + 0.1 * noise.random() if config.worker.actor.gmpo.clip == "none" else score


def sweep_here(file: Path, out: Path, runs: ScoredRuns, *overrides: str) -> int:
    """What `gmpo-mm sweep` does, with these runs, in this process; returns its exit code."""
    sweep = load_sweep(file, overrides)
    with Progress(live=False) as progress:
        planned = plan_sweep(sweep, out, progress)
    assert sweep.stop_rule is not None
    check_stop_rule(sweep.stop_rule, sweep.seeds, planned, [])
    lock = SweepDirectory.lock(out)
    try:
        directory = SweepDirectory.look(out, sweep, planned, [], ["gmpo-mm", "sweep"])
        directory.begin()
        with SweepDisplay(directory, 2) as display:
            return SweepRunner(directory, runs, 2, display).run()
    finally:
        lock.release()


def write_decided(folder: Path, data: Path, **keys: Any) -> Path:
    return write_sweep(folder, data, {**GMPO, **NO_CLIP}, **{"seeds": SEEDS, "budget": RULE, **keys})


def decision_of(out: Path) -> Decision | None:
    return study_decision(read_study([out]))


def outcome(out: Path) -> dict[tuple[str, int], str]:
    return {key: run["state"] for key, run in runs_of(out).items()}


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.0)


@pytest.fixture(scope="module")
def straight(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sweep's file and directory, of a sweep that nobody stopped."""
    folder = tmp_path_factory.mktemp("straight")
    file = write_decided(folder, data)
    assert sweep_here(file, folder / "out", ScoredRuns()) == 0
    return file, folder / "out"


def test_seeds_are_added_until_the_difference_is_decided_and_the_rest_is_not_trained(
    straight: tuple[Path, Path],
) -> None:
    file, out = straight
    states = outcome(out)
    finished = sorted({seed for (_, seed), state in states.items() if state == "finished"})
    assert finished == SEEDS[: len(finished)] and 6 <= len(finished) < 8
    assert {state for (_, seed), state in states.items() if seed not in finished} == {"not_needed"}
    assert not (out / f"runs/gmpo/seed_{SEEDS[-1]}/metrics.jsonl").exists()
    again = ScoredRuns()
    assert sweep_here(file, out, again) == 0  # the same command: decided at once, and nothing runs
    assert not again.started and outcome(out) == states


def test_the_report_says_what_was_decided_and_how_many_runs_that_saved(
    straight: tuple[Path, Path], tmp_path: Path
) -> None:
    report = write_report([straight[1]], tmp_path / "report")
    rule = report.numbers["stop_rule"]
    seeds = rule["seeds"]
    assert rule["decided"] and rule["better"] == "no_clip" and rule["e_value"] >= 20
    assert rule["runs_saved"] == 2 * (len(SEEDS) - seeds) > 0
    assert report.headline.startswith("Decided after") and "interval" not in report.headline
    text = (tmp_path / "report/report.md").read_text()
    assert f"Decided after {seeds} seeds of at most 8" in text
    assert f"saved {rule['runs_saved']} of 16 runs" in text and "too narrow" in text
    assert f"seed_{SEEDS[-1]}" not in text  # no line for each run that was not needed


@pytest.mark.parametrize("killed_at", [7])
def test_a_killed_sweep_goes_on_to_the_same_runs_and_the_same_decision(
    data: Path, straight: tuple[Path, Path], tmp_path: Path, killed_at: int
) -> None:
    file, out = write_decided(tmp_path, data), tmp_path / "out"
    with pytest.raises(Killed):
        sweep_here(file, out, ScoredRuns(killed_at=killed_at))
    assert sweep_here(file, out, ScoredRuns()) == 0
    assert outcome(out) == outcome(straight[1])
    assert decision_of(out) == decision_of(straight[1])


def test_an_undecided_sweep_trains_its_whole_budget(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    file = write_sweep(tmp_path, data, TWINS, seeds=SEEDS[:6], budget=RULE)
    assert sweep_here(file, out, ScoredRuns()) == 0
    assert "e = 1 after 6 of at most 6 seeds: not decided" in capsys.readouterr().out
    assert set(outcome(out).values()) == {"finished"}
    decision = decision_of(out)
    assert decision is not None and not decision.decided and decision.seeds == decision.budget == 6


def test_neither_the_rule_nor_the_order_of_seeds_can_be_changed_after_a_look_and_seeds_added_at_the_end(
    straight: tuple[Path, Path],
) -> None:
    file, out = straight
    for override, named in (
        ("seeds=[99,1,2,3,4,5,6]", "seeds at the end"),
        ("budget.alpha=0.2", "'alpha': 0.2"),
    ):
        with pytest.raises(ConfigError, match=named):
            SweepDirectory.look(out, load_sweep(file, [override]), [], [], [])
    SweepDirectory.look(out, load_sweep(file, [f"seeds={[*SEEDS, 99]}"]), [], [], [])


def test_a_damaged_budget_of_an_earlier_sweep_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    sweep = load_sweep(write(tmp_path, budget=RULE))
    out = tmp_path / "out"
    out.mkdir()
    for damaged in ({"stop_when": "decided"}, {**(sweep.budget or {}), "between": 3}):
        (out / "sweep.yaml").write_text(yaml.safe_dump({**sweep.to_dict(), "budget": damaged}))
        with pytest.raises(ConfigError, match="budget can't be read"):
            SweepDirectory.look(out, sweep, [], [], [])


def test_a_failed_run_ends_the_rounds_as_its_pair_is_missing(data: Path, tmp_path: Path) -> None:
    runs, out = ScoredRuns(fails="no_clip"), tmp_path / "out"
    assert sweep_here(write_decided(tmp_path, data, seeds=SEEDS[:6]), out, runs) == 1
    states = outcome(out)
    assert (
        states["no_clip", 1] == "failed"
        and states["gmpo", 1] == "finished"
        and states["gmpo", 2] == "waiting"
    )
    assert runs.started == ["gmpo seed_1", "no_clip seed_1"]


@pytest.mark.slow
def test_real_runs_killed_with_9_go_on_to_the_runs_and_scores_of_a_sweep_that_nobody_killed(
    data: Path, tmp_path: Path
) -> None:
    steps = ("trainer.max_steps=2", "trainer.val_freq=2")
    found = []
    for name in ("killed", "straight"):
        folder = tmp_path / name
        folder.mkdir()
        file = write_sweep(folder, data, TWINS, *steps, seeds=SEEDS[:6], budget=RULE)
        if name == "killed":
            process = start_sweep(file, folder / "out")
            wait_for(process, lambda: trained(tmp_path / "killed/out", "gmpo", 1, seed=2))
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        code, output = run_sweep(file, folder / "out")
        assert code == 0, output
        found.append((outcome(folder / "out"), decision_of(folder / "out")))
    assert found[0] == found[1]
    assert found[0][1] is not None and found[0][1].seeds == 6


def test_the_rule_is_read_and_reads_back(tmp_path: Path) -> None:
    budget = {
        "hours": 2,
        "stop_when": "decided",
        "between": ["gmpo", "grpo"],
        "alpha": 0.01,
        "score": "math500",
    }
    sweep = load_sweep(write(tmp_path, budget=budget))
    assert sweep.stop_rule == StopRule(("gmpo", "grpo"), 0.01, "math500") and sweep.budget_hours == 2
    assert sweep.to_dict()["budget"] == budget
    assert load_sweep(write(tmp_path, budget=RULE)).stop_rule == StopRule(("grpo", "gmpo"), 0.05, "final")


THREE = {"a": {}, "b": {}, "c": {}}


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"budget": {"stop_when": "now"}}, ["budget.stop_when = 'now'", "decided"]),
        ({"budget": {"alpha": 0.1}}, ["budget.alpha = 0.1", "stop_when=decided"]),
        ({"budget": {**RULE, "alpha": 0}}, ["budget.alpha = 0", "1e-6"]),
        ({"budget": {**RULE, "alpha": True}}, ["budget.alpha = True"]),
        ({"budget": {**RULE, "score": 3}}, ["budget.score = 3"]),
        ({"budget": {**RULE, "between": ["grpo"]}}, ["budget.between = ['grpo']", "two different"]),
        ({"budget": {**RULE, "between": ["grpo", "grpo"]}}, ["two different"]),
        ({"budget": {**RULE, "between": ["grpo", "dapo"]}}, ["'dapo'", "grpo, gmpo"]),
        ({"budget": RULE, "variants": THREE}, ["budget.between is not set", "a, b, c"]),
        ({"budget": {**RULE, "stop": 1}}, ["budget.stop", "Did you mean budget.stop_when?"]),
    ],
)
def test_mistakes_in_the_rule_name_key_value_and_fix(
    tmp_path: Path, keys: dict[str, Any], named: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_sweep(write(tmp_path, **keys))
    assert all(text in str(caught.value) for text in named), caught.value


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("seeds=[1,2,3]", "give at least 6"),
        ("budget.score=math500", "the sweep has no evaluation"),
        ("variants.gmpo.overrides=[data.val_files=]", "variant gmpo is never validated"),
    ],
)
def test_a_rule_that_could_never_decide_is_refused_before_a_run(
    data: Path, tmp_path: Path, override: str, named: str
) -> None:
    sweep = load_sweep(write_decided(tmp_path, data), [override])
    first = replace(sweep, seeds=sweep.seeds[:1])  # seeds differ in nothing that is checked
    with Progress(live=False) as progress:
        planned = plan_sweep(first, tmp_path / "out", progress)
    assert sweep.stop_rule is not None
    with pytest.raises(ConfigError, match=named):
        check_stop_rule(sweep.stop_rule, sweep.seeds, planned, [])


def test_sweep_json_holds_the_rule(straight: tuple[Path, Path]) -> None:
    content = json.loads((straight[1] / "sweep.json").read_text())
    assert content["budget"] == {**RULE, "between": ["gmpo", "no_clip"], "alpha": 0.05, "score": "final"}
