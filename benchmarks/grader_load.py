"""Do grades depend on how busy the machine is? One set, graded again and again beside busy loops.

    python -m benchmarks.grader_load [--runs 20] [--loops 8] [--attacks 1000] [--seed 0]
        [--hostile 5] [--timeout 3.0] [--json FILE]

The set is the labelled pairs of the tests, the attacks that `tests/verifiers/attacks.py` makes, formulas that
only computer algebra decides, and hostile ones that no limit suffices for. Each run is a fresh process: the
first, on the machine as it is, is what the others are compared with; they run beside `--loops` endless loops
at the same priority. A difference is another correctness or another status. Seconds on the wall are printed
for information.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.ratios import Ratios

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

LABELLED = ROOT / "tests" / "verifiers" / "labelled"
Row = dict[str, Any]  # grader, prediction, gold, problem

# Right, wrong: what the cheap stages leave open.
ALGEBRA = [
    (r"\sum_{k=1}^{%d} (2k-1)", "{square}", "{more}"),
    (r"\prod_{k=1}^{n} k^{%d}", r"\prod_{j=1}^{n} j^{same}", r"\prod_{k=1}^{n} k^{more}"),
    (r"\sum_{k=1}^{n} k %d^k", r"\sum_{j=1}^{n} {same}^j j", r"\sum_{k=1}^{n} k {more}^k"),
    (r"\sum_{k=1}^{\infty} \frac{%d}{2^k}", "{same}", "{more}"),
]
OLYMPIAD = (
    r"(\frac{v^2_0 \sqrt{%d}}{g}-\frac{v^2_0}{5g\pi },\frac{\sqrt{%d}v^2_0}{g}+\frac{v^2_0}{4g},"
    r"-\frac{v^2_0}{5g \pi})",
    r"(\frac{\sqrt{%d}v^2_0}{g}-\frac{v^2_0}{5\pi g},\frac{\sqrt{%d}v^2_0}{g}+\frac{v^2_0}{4g},"
    r"-\frac{v^2_0}{5\pi g})",
)
HOSTILE = [
    r"\sum_{k=1}^{3} (%d + 10^8)!",
    r"\sum_{k=1}^{n} \sin(k^{k^{%d}} + e^{\cos k}) \ln(k + \sqrt{k^7 + %d})",
    r"\sum_{k=1}^{2} (%d + 10^9)!",
    r"\sum_{k=1}^{\infty} \frac{k^{k^{%d}} - \sin k^{k}}{\ln(k)^{k^{%d}}}",
    r"\prod_{k=1}^{n} \frac{\sqrt{k^{%d} + k + 1}}{\sin k + \ln k}",
]


def rows(attacks: int, seed: int, hostile: int) -> list[Row]:
    """The set; the same for the same arguments."""
    from tests.verifiers.attacks import attacks as make_attacks

    found = []
    for file in sorted(LABELLED.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.strip():
                pair = json.loads(line)
                found.append(
                    (pair.get("grader", "math"), pair["prediction"], pair["gold"], pair.get("problem"))
                )
    found += [(one.grader, one.prediction, one.gold, one.problem) for one in make_attacks(seed, attacks)]
    for n in range(2, 8):
        for prediction, right, wrong in ALGEBRA:
            for gold in (right, wrong):
                for name, value in (("{same}", n), ("{more}", n + 1), ("{square}", n * n)):
                    gold = gold.replace(name, str(value))
                found.append(("math", prediction.replace("%d", str(n)), gold, None))
        first, second = (text.replace("%d", str(n)) for text in OLYMPIAD)
        found += [
            ("olympiadbench", first, second, None),
            ("olympiadbench", first, second.replace("4g", "3g"), None),
        ]
    texts = [text.replace("%d", str(n)) for n in range(3, 3 + hostile) for text in HOSTILE]
    found += [("math", text, "7", None) for text in texts[:hostile]]
    return [dict(zip(("grader", "prediction", "gold", "problem"), row, strict=True)) for row in found]


def grade(made: list[Row], timeout: float) -> list[tuple[bool, str, str]]:
    """Correctness, status and reason of each, a grader's rows in one call."""
    from gmpo_mm.verifiers import grade_responses

    grades: dict[int, tuple[bool, str, str]] = {}
    for grader in sorted({row["grader"] for row in made}):
        places = [i for i, row in enumerate(made) if row["grader"] == grader]
        texts, golds, problems = ([made[i][key] for i in places] for key in ("prediction", "gold", "problem"))
        graded = grade_responses(
            grader, texts, golds, kind="answer", timeout=timeout, problems=problems, unevaluated="reject"
        )
        grades.update((i, (one.correct, one.status, one.why)) for i, one in zip(places, graded, strict=True))
    return [grades[i] for i in range(len(made))]


@contextlib.contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Endless loops beside what runs within."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def one_run(arguments: argparse.Namespace) -> tuple[list[list[Any]], float]:
    """Grades by a fresh process, and its seconds on the wall."""
    command = [sys.executable, "-m", "benchmarks.grader_load", "--one-run"]
    for name in ("attacks", "seed", "hostile", "timeout"):
        command += [f"--{name}", str(getattr(arguments, name))]
    began = time.monotonic()
    output = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    return json.loads(output), time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Grades of one set, again and again beside programs that compute."
    )
    parser.add_argument("--runs", type=int, default=20, help="runs beside the loops")
    parser.add_argument("--loops", type=int, default=8, help="endless loops beside each run")
    parser.add_argument("--attacks", type=int, default=1000, help="generated attacks in the set")
    parser.add_argument("--seed", type=int, default=0, help="seed of the attacks")
    parser.add_argument("--hostile", type=int, default=5, help="formulas that no limit suffices for")
    parser.add_argument(
        "--timeout", type=float, default=3.0, help="seconds of processor time, as the graders take it"
    )
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--one-run", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    made = rows(arguments.attacks, arguments.seed, arguments.hostile)
    if arguments.one_run:
        print(json.dumps(grade(made, arguments.timeout)))
        return
    console = Console()
    first, seconds = one_run(arguments)
    by_algebra = sum(why.startswith("algebra") for _, _, why in first)
    statuses = dict(Counter(status for _, status, _ in first))
    console.print(
        f"{len(made)} answers, {by_algebra} by computer algebra; {statuses}; {seconds:.1f} s without loops"
    )
    differing: dict[int, list[list[Any]]] = {}
    walls = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the loops too
    with busy_loops(arguments.loops):
        for run in range(1, arguments.runs + 1):
            grades, wall = one_run(arguments)
            other = [i for i, (a, b) in enumerate(zip(first, grades, strict=True)) if a[:2] != b[:2]]
            for i in other:
                differing.setdefault(i, []).append(grades[i])
            walls.append(wall)
            console.print(
                f"run {run} beside {arguments.loops} loops: {wall:.1f} s, {len(other)} other grades"
            )
    for i, others in differing.items():
        console.print(made[i], first[i], others, markup=False)
    console.print(
        f"{len(differing)} of {len(made)} answers had another grade in one of {arguments.runs} runs"
    )
    if arguments.json:
        result = {
            "answers": len(made),
            "by_algebra": by_algebra,
            "statuses": statuses,
            "runs": arguments.runs,
        }
        result |= {"loops": arguments.loops, "seconds": walls, "differing": sorted(differing)}
        ratios, ungraded = Ratios(), statuses.get("timeout", 0) + statuses.get("error", 0)
        ratios.add("grades that differ beside the loops / all", len(differing), len(made), better="lower")
        ratios.add("timeouts and errors / all answers", ungraded, len(made), better="lower")
        ratios.write(arguments.json, result)
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
