"""Train the bundled vision-language model with GMPO on the CPU, and show what it learnt.

    gmpo-mm quickstart                        # in any folder
    gmpo-mm quickstart worker.rollout.seed=2  # any key of the shipped configuration `quickstart`

The model was warm-started to read digits off a picture but to choose the wrong formula often: that gap was engineered, so
that a minute of reinforcement learning shows. See gmpo_mm/toys/bundled/qwen2_5_vl_tiny/README.md.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table

from gmpo_mm.config import load_config
from gmpo_mm.datasets import synthetic_geometry
from gmpo_mm.engines.local.launch import train
from gmpo_mm.evaluation.evaluate import evaluate
from gmpo_mm.evaluation.results import Result
from gmpo_mm.evaluation.settings import load_settings
from gmpo_mm.reports.run_figure import AnsweredProblem, draw_run
from gmpo_mm.runs.usable_model import usable_model

DATA = Path("data/synthetic_geometry")
CONFIG = "configs/quickstart.yaml"
EVALUATION = "configs/evaluate/quickstart.yaml"
NAMES = {
    "synthetic_pictures": "held-out pictures",
    "synthetic_combinations": "number pairs never seen in the warm start",
}


def measure(model: str, out: Path) -> list[Result]:
    """Both test splits under the bundled task's protocol: temperature 0.5, 16 samples a problem."""
    settings = load_settings(EVALUATION, [], {"model": model, "out": str(out)})
    return evaluate(settings, command=sys.argv)


def pick_problems(before: Result, after: Result) -> list[AnsweredProblem]:
    """The first two problems of each kind, with the first sample of each model."""
    kinds = [problem.type for problem in before.problems]
    chosen = [i for kind in sorted(set(kinds), key=str) for i in [j for j, other in enumerate(kinds) if other == kind][:2]]
    return [
        AnsweredProblem(
            picture=Image.open(before.path / before.problems[i].pictures[0]),
            question=before.problems[i].text.replace("<image>", ""),
            answer=before.problems[i].golds[0],
            before=(before.by_problem[i][0].response, before.by_problem[i][0].correct),
            after=(after.by_problem[i][0].response, after.by_problem[i][0].correct),
        )
        for i in chosen
    ]


def pass_at_1(result: Result) -> float:
    """The mean over problems of the mean over samples."""
    return float(result.summary["pass_at_1"]["value"])


def show(before: list[Result], after: list[Result], console: Console) -> None:
    """The result, as a table."""
    table = Table(title="Pass@1: mean over 64 problems of 16 samples at temperature 0.5")
    table.add_column("test split")
    for name in ("before", "after", "95 % interval"):
        table.add_column(name, justify="right")
    for old, new in zip(before, after, strict=True):
        score = new.summary["pass_at_1"]
        interval = f"{score['low']:.3f} - {score['high']:.3f}"
        table.add_row(NAMES[new.spec.benchmark], f"{pass_at_1(old):.3f}", f"{pass_at_1(new):.3f}", interval)
    console.print(table)


def main(overrides: list[str]) -> None:
    """Make the data, train, evaluate before and after, draw. Raises GMPOError as the single commands do."""
    started = time.monotonic()
    loaded = load_config(CONFIG, overrides)
    if not DATA.is_dir():
        synthetic_geometry.main(DATA)
    console = Console()
    run_dir = train(loaded, command=sys.argv)
    before = measure(loaded.config.worker.actor.model.model_path or "", run_dir / "evaluations" / "before")
    trained = usable_model(str(run_dir), "model")  # .../checkpoints/step_60/huggingface
    after = measure(trained, run_dir / "evaluations" / Path(trained).parent.name)
    show(before, after, console)
    title = f"GMPO on the bundled task: Pass@1 on {NAMES['synthetic_pictures']} {pass_at_1(before[0]):.3f} before, "
    title += f"{pass_at_1(after[0]):.3f} after"
    picture = draw_run(run_dir, pick_problems(before[0], after[0]), title, run_dir / "quickstart.png")
    console.print(f"took {time.monotonic() - started:.0f} s; curves and samples: {picture}", soft_wrap=True)
    console.print(f"every answer: {after[0].path / 'page.html'}", soft_wrap=True)
