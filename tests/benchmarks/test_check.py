"""`make benchmark-check`: made-up benchmarks, real processes and files. Nothing here looks at a clock."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import check
from benchmarks.baseline import lasting, read
from benchmarks.check import BASELINES, BENCHMARKS, Benchmark, main
from benchmarks.ratios import machine, versions

SCRIPT = """
import sys, json
from pathlib import Path
sys.path.insert(0, ".")
from benchmarks.ratios import Ratios

here = Path(__file__).parent
runs = here / "runs"
number = len(runs.read_text()) if runs.is_file() else 0
runs.write_text("x" * (number + 1))
if (here / "broken").is_file():
    sys.exit("no such model")
ratios = Ratios()
for name, values, better in json.loads((here / "ratios.json").read_text()):
    ratios.add(name, values[number % len(values)], 1.0, better)
ratios.write(Path(sys.argv[sys.argv.index("--json") + 1]), {"seconds": 1.0})
"""
SPEED, SHARE = "speed, theirs / ours", "wrong answers / all"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A benchmark called `made_up`, whose ratios the test sets, with a baseline of 4.0 and 0."""
    (tmp_path / "made_up.py").write_text(SCRIPT)
    benchmark = Benchmark(str(tmp_path / "made_up.py"))
    monkeypatch.setattr(check, "BENCHMARKS", {"made_up": benchmark})
    set_ratios(tmp_path, 4.0, 0.0)
    content = {
        "command": f"python {benchmark.arguments}",
        "machine": lasting(machine()),
        "versions": versions(),
        "ratios": {
            SPEED: {"value": 4.0, "better": "higher", "tolerance": 0.5},
            SHARE: {"value": 0.0, "better": "lower", "tolerance": 0.0},
        },
    }
    (tmp_path / "baselines").mkdir()
    baseline_file(tmp_path).write_text(json.dumps(content))
    return tmp_path


def set_ratios(folder: Path, speed: float | list[float], share: float) -> None:
    speeds = speed if isinstance(speed, list) else [speed]
    (folder / "ratios.json").write_text(json.dumps([[SPEED, speeds, "higher"], [SHARE, [share], "lower"]]))
    (folder / "runs").unlink(missing_ok=True)


def run(folder: Path, *options: str) -> int:
    return main(["--baselines", str(folder / "baselines"), *options])


def baseline_file(folder: Path) -> Path:
    return folder / "baselines" / "made_up.json"


def edit(folder: Path, change: Any) -> None:
    content = json.loads(baseline_file(folder).read_text())
    change(content)
    baseline_file(folder).write_text(json.dumps(content))


def times_run(folder: Path) -> int:
    return len((folder / "runs").read_text()) if (folder / "runs").is_file() else 0


def test_a_ratio_that_got_worse_is_named_and_ends_with_1(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_ratios(folder, 3.4, 0.0)
    assert run(folder) == 1
    said = capsys.readouterr().out
    assert f"made_up: {SPEED}: WORSE" in said and f"{SHARE}: WORSE" not in said
    row = next(line for line in said.splitlines() if SPEED in line and "4" in line)
    assert all(text in row for text in ("made_up", "4", "3.4", "-0.6 (-15%)", "0.5", "WORSE")), row

    # the other direction: where lower is better, a rise is worse; a counted ratio may not move at all
    set_ratios(folder, 4.0, 0.001)
    assert run(folder) == 1
    said = capsys.readouterr().out
    assert f"made_up: {SHARE}: WORSE" in said and f"{SPEED}: WORSE" not in said


def test_better_or_within_the_tolerance_ends_with_0(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for speed, verdict in ((5.0, "better"), (3.6, "within"), (4.4, "within"), (4.0, "within")):
        set_ratios(folder, speed, 0.0)
        assert run(folder) == 0
        said = capsys.readouterr().out
        assert verdict in next(line for line in said.splitlines() if SPEED in line)
        assert "Nothing is worse" in said and "WORSE" not in said


def test_a_missing_baseline_is_said_before_anything_runs(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_ratios(folder, 4.0, 0.0)
    baseline_file(folder).unlink()
    assert run(folder) == 2
    said = capsys.readouterr().out
    assert "made_up has no baseline" in said and "CHECK_OPTIONS=--write" in said
    assert times_run(folder) == 0


@pytest.mark.parametrize(
    "damaged",
    [
        "",
        '{"ratios": {"a": ',
        "[]",
        "{}",
        '{"ratios": {}, "machine": {}, "versions": {}}',
        '{"ratios": {"a": {"value": 1.0, "better": "lower"}}, "machine": {}, "versions": {}}',
        '{"ratios": {"a": {"value": NaN, "better": "lower", "tolerance": 1}}, "machine": {}, "versions": {}}',
        '{"ratios": {"a": {"value": "1", "better": "lower", "tolerance": 1}}, "machine": {}, "versions": {}}',
        '{"ratios": {"a": {"value": 1, "better": "up", "tolerance": 1}}, "machine": {}, "versions": {}}',
        '{"ratios": {"a": {"value": 1, "better": "lower", "tolerance": 1}}, "machine": [], "versions": {}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_baseline_is_named_before_anything_runs(
    folder: Path, damaged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    set_ratios(folder, 4.0, 0.0)
    baseline_file(folder).write_text(damaged)
    assert run(folder) == 2
    said = capsys.readouterr().out
    assert f"{baseline_file(folder)} is damaged" in said and "CHECK_OPTIONS=--write" in said
    assert times_run(folder) == 0


def test_another_machine_version_or_command_is_said_and_fails_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def other(content: dict[str, Any]) -> None:
        content["machine"]["cpu"] = "Abacus 9"
        content["versions"]["torch"] = "0.4"
        content["command"] = "python slower.py"

    assert run(folder) == 0
    assert "in the baseline" not in capsys.readouterr().out
    edit(folder, other)
    assert run(folder) == 0
    said = capsys.readouterr().out
    assert "cpu Abacus 9 in the baseline" in said and "torch 0.4 in the baseline" in said
    assert "the baseline is of `python slower.py`" in said


def test_a_ratio_that_is_no_longer_printed_fails_and_a_new_one_is_shown(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(folder, lambda content: content["ratios"].update({"gone": content["ratios"].pop(SPEED)}))
    assert run(folder) == 1
    said = capsys.readouterr().out
    assert "made_up: gone: MISSING" in said
    assert "new" in next(line for line in said.splitlines() if SPEED in line)


def test_a_benchmark_that_fails_is_named_with_the_end_of_its_output(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "broken").touch()
    assert run(folder) == 1
    said = capsys.readouterr().out
    assert "no such model" in said and "made_up gave no result" in said


def test_written_baselines_hold_medians_and_tolerances_of_the_runs(folder: Path) -> None:
    baseline_file(folder).unlink()
    set_ratios(folder, [4.0, 5.0, 4.4], 0.25)
    assert run(folder, "made_up", "--write", "--runs=3") == 0
    content = json.loads(baseline_file(folder).read_text())
    speed, share = content["ratios"][SPEED], content["ratios"][SHARE]
    assert speed == {"value": 4.4, "better": "higher", "tolerance": 2.0}
    assert share == {"value": 0.25, "better": "lower", "tolerance": 0.0}
    assert content["runs"] == 3 and content["command"].endswith("made_up.py") and content["commit"]
    assert set(content["machine"]) == {"cpu", "cores"}
    assert {"python", "torch", "transformers"} <= set(content["versions"])

    # what is written with fewer digits is not worse than itself
    set_ratios(folder, 1.07632499, 1 / 3)
    assert run(folder, "--write", "--runs=3") == 0
    assert run(folder) == 0

    # a range that is small beside the value leaves a tenth of it
    set_ratios(folder, [4.0, 4.001, 4.0], 0.25)
    assert run(folder, "--write", "--runs=3") == 0
    assert json.loads(baseline_file(folder).read_text())["ratios"][SPEED]["tolerance"] == 0.4


def test_the_median_of_several_runs_is_compared(folder: Path) -> None:
    set_ratios(folder, [1.0, 4.0, 4.1], 0.0)
    assert run(folder, "--runs=3") == 0
    set_ratios(folder, [1.0, 1.0, 4.1], 0.0)
    assert run(folder, "--runs=3") == 1


def test_wrong_options_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_ratios(folder, 4.0, 0.0)
    assert run(folder, "made_down") == 2
    assert "made_down is no benchmark. Known are made_up" in capsys.readouterr().out
    for options in (["--runs=0"], ["--write", "--runs=2"]):
        with pytest.raises(SystemExit):
            run(folder, *options)
        assert "at least 3 with --write" in capsys.readouterr().err
    assert times_run(folder) == 0


def test_a_benchmark_without_its_environment_says_what_installs_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = Benchmark("-c pass", folder / "nowhere" / "python", by_default=False)
    monkeypatch.setattr(check, "BENCHMARKS", {**check.BENCHMARKS, "beside_others": missing})
    assert run(folder, "beside_others") == 2
    assert "`make benchmark` installs" in capsys.readouterr().out
    assert run(folder) == 0, "by default it is left out"


def test_every_benchmark_has_a_baseline_of_its_command() -> None:
    """Of long prompts beside TRL there is none yet; benchmarks/README.md says so."""
    for name, benchmark in BENCHMARKS.items():
        if name == "long_prompts_vs_trl":
            continue
        found = read(BASELINES / f"{name}.json", name)
        assert found["command"] == f"python {benchmark.arguments}"
        assert not found["commit"].endswith("-dirty")
