"""Train the bundled vision-language model with GMPO on the CPU, and show what it learnt.

    make quickstart                                      # installs what is missing, then runs this
    python examples/quickstart.py worker.rollout.seed=2  # any key of configs/quickstart.yaml

The model was warm-started to read digits off a picture but to choose the wrong formula often: that gap was engineered, so
that a minute of reinforcement learning shows. See gmpo_mm/models/bundled/qwen2_5_vl_tiny/README.md.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gmpo_mm.config import load_config
from gmpo_mm.config.schema import Config
from gmpo_mm.engines.local import train, validate_model
from gmpo_mm.errors import GMPOError
from gmpo_mm.reports.run_figure import AnsweredProblem, draw_run
from gmpo_mm.training.batch import SampledGroup
from gmpo_mm.training.progress import Progress

DATA = Path("data/synthetic_geometry")
TESTS = {
    "held-out pictures": DATA / "test_pictures.parquet",
    "number pairs never seen in the warm start": DATA / "test_combinations.parquet",
}
Results = dict[str, tuple[float, list[SampledGroup]]]


def evaluate(config: Config, model: str, progress: Progress) -> Results:
    """Pass@1 (T 0.5, 16 samples) and the graded samples of every test split."""
    found = {name: validate_model(config, model, str(file), progress) for name, file in TESTS.items()}
    return {name: (metrics["val/accuracy_reward"], groups) for name, (metrics, groups) in found.items()}


def pick_problems(before: list[SampledGroup], after: list[SampledGroup]) -> list[AnsweredProblem]:
    """The first two problems of each kind, with the first sample of each model."""
    kinds = [group.prompt.record.extra["kind"] for group in before]
    chosen = [i for kind in sorted(set(kinds)) for i in [j for j, other in enumerate(kinds) if other == kind][:2]]
    return [
        AnsweredProblem(
            picture=before[i].prompt.images[0],
            question=before[i].prompt.record.problem.replace("<image>", ""),
            answer=before[i].prompt.record.answer,
            before=(before[i].texts[0], before[i].scores[0]["accuracy"] == 1),
            after=(after[i].texts[0], after[i].scores[0]["accuracy"] == 1),
        )
        for i in chosen
    ]


def show(before: Results, after: Results, console: Console) -> None:
    """The result, as a table."""
    table = Table(title="Pass@1: mean over 64 problems of 16 samples at temperature 0.5")
    table.add_column("test split")
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    for name in TESTS:
        table.add_row(name, f"{before[name][0]:.3f}", f"{after[name][0]:.3f}")
    console.print(table)


def main(overrides: list[str]) -> None:
    """Make the data, evaluate, train, evaluate, draw."""
    started = time.monotonic()
    if not DATA.is_dir():
        subprocess.run([sys.executable, "data_tools/synthetic_geometry.py", "--out", str(DATA)], check=True)
    loaded = load_config("configs/quickstart.yaml", overrides)
    console = Console()
    with Progress() as progress:
        before = evaluate(loaded.config, loaded.config.worker.actor.model.model_path or "", progress)
    run_dir = train(loaded, command=sys.argv)
    with Progress() as progress:
        last = max(run_dir.glob("checkpoints/step_*"), key=lambda folder: int(folder.name.removeprefix("step_")))
        after = evaluate(loaded.config, str(last / "huggingface"), progress)
    show(before, after, console)
    first = next(iter(TESTS))
    title = f"GMPO on the bundled task: Pass@1 on {first} {before[first][0]:.3f} before, {after[first][0]:.3f} after"
    picture = draw_run(run_dir, pick_problems(before[first][1], after[first][1]), title, run_dir / "quickstart.png")
    console.print(f"took {time.monotonic() - started:.0f} s; curves and samples: {picture}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except GMPOError as error:
        sys.exit(f"error: {error}")
