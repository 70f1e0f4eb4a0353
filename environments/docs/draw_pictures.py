"""Draw the picture of the README from a finished sweep, light and dark.

    gmpo-mm quickstart && gmpo-mm sweep sweeps/quickstart
    python environments/docs/draw_pictures.py sweeps/quickstart runs/quickstart/gmpo/evaluations/before/synthetic_pictures

Left: held-out Pass@1 of both algorithms, mean and range over seeds. Right: a problem, and what the model answered before and
after training.
"""

from __future__ import annotations

import sys
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from gmpo_mm.evaluation.results import Result, read_result
from gmpo_mm.reports.algorithm import series_of
from gmpo_mm.reports.curves import variant_band
from gmpo_mm.reports.drawing import draw_band
from gmpo_mm.reports.figure_style import DARK_THEME, LIGHT_THEME, Theme
from gmpo_mm.reports.sources import read_study
from gmpo_mm.reports.study import Study

FOLDER = Path(__file__).parents[2] / "docs/images"
METRIC = "val/accuracy_reward"
RIGHT, WRONG = {"light": "#00714f", "dark": "#33c79c"}, {"light": "#b04400", "dark": "#f58a4b"}


def pick(before: Result, after: Result) -> int:
    """The first problem whose first sample was wrong and is right."""
    return next(
        i
        for i in range(len(before.problems))
        if not before.by_problem[i][0].correct and after.by_problem[i][0].correct
    )


def draw(study: Study, before: Result, after: Result, name: str, theme: Theme) -> None:
    """Write docs/images/quickstart_NAME.png."""
    figure = Figure(figsize=(11, 3.4), layout="constrained", facecolor=theme.card)
    left, right = figure.subplots(1, 2, width_ratios=[1.15, 1])
    left.set_facecolor(theme.card)
    for i, variant in enumerate(study.variants):
        band = variant_band(variant, METRIC, lambda values: 100 * values)
        assert band is not None, "a finished sweep has validations"
        draw_band(left, band, theme, series_of(study)[i], markers=True)
        left.lines[-1].set_label(variant.label)
    left.set(xlabel="step", ylim=(0, 102))
    left.set_title("Held-out Pass@1 (%), three seeds: mean and range", color=theme.ink, fontsize=11)
    left.tick_params(colors=theme.soft)
    left.xaxis.label.set_color(theme.soft)
    left.grid(color=theme.line)
    for side in left.spines.values():
        side.set_color(theme.line)
    left.legend(loc="lower right", frameon=False, labelcolor=theme.ink)

    chosen = pick(before, after)
    problem = before.problems[chosen]
    right.axis("off")
    right.set(xlim=(0, 2.3), ylim=(0, 1))
    right.imshow(Image.open(before.path / problem.pictures[0]), interpolation="nearest", extent=(0, 0.92, 0.04, 0.96))
    right.set_title("A sample problem", color=theme.ink, fontsize=11)
    lines = [(problem.text.replace("<image>", ""), theme.ink), (f"right answer: {problem.golds[0]}", theme.soft)]
    for result, words in ((before, "before"), (after, "after")):
        sample = result.by_problem[chosen][0]
        lines += [
            (f"{words} training: {'right' if sample.correct else 'wrong'}", (RIGHT if sample.correct else WRONG)[name]),
            (sample.response, theme.ink),
        ]
    for y, (text, colour) in zip((0.93, 0.79, 0.6, 0.48, 0.28, 0.16), lines):
        answer = text.startswith("<think>")
        right.text(1.0, y, text, va="top", color=colour, parse_math=False, fontsize=8.5 if answer else 10,
                   family="monospace" if answer else None)  # fmt: skip
    figure.savefig(FOLDER / f"quickstart_{name}.png", dpi=130)


def main(sweep: Path, before: Path) -> None:
    """`before` is an evaluation of the model before training."""
    study = read_study([sweep])
    after = read_result(next((sweep / "evaluations").glob("gmpo/seed_1/**/synthetic_pictures/evaluation.json")).parent)
    for name, theme in (("light", LIGHT_THEME), ("dark", DARK_THEME)):
        draw(study, read_result(before), after, name, theme)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
