"""One picture of one run: its curves, and a few problems with what the model answered before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no screen is needed

from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullLocator
from PIL.Image import Image

from gmpo_mm.reports.algorithm import series_of_run
from gmpo_mm.reports.figure_style import LIGHT_THEME
from gmpo_mm.reports.run_readers import read_run
from gmpo_mm.runs.accuracy import accuracy_of
from gmpo_mm.runs.metrics_file import read_metrics

RIGHT, WRONG, GREY = "#00714f", "#b04400", "#999999"
"""Of grades as on an evaluation's page, and of what stands beside the run's own curve."""


@dataclass(frozen=True)
class AnsweredProblem:
    """A problem, its picture, the right answer, and (text, is right) before and after training."""

    picture: Image
    question: str
    answer: str
    before: tuple[str, bool]
    after: tuple[str, bool]


def _curve(lines: Sequence[dict[str, Any]], key: str) -> tuple[list[int], list[float]]:
    found = [(line["step"], line[key]) for line in lines if key in line]
    return [step for step, _ in found], [value for _, value in found]


def _draw_curves(
    axes: Any, train: Sequence[dict[str, Any]], validation: Sequence[dict[str, Any]], colour: str
) -> None:
    reward, ratio, entropy, norm = axes
    reward.plot(*_curve(train, "reward/accuracy"), color=GREY, lw=1, label="training accuracy (T 1)")
    validated = accuracy_of({key: value for line in validation for key, value in line.items()})
    if validated is not None:
        words = "held-out Pass@1" if validated.is_share else "held-out mean accuracy"
        reward.plot(*_curve(validation, validated.name), "o-", color=colour, label=words)
    reward.set(title="Accuracy", ylim=(0, 1.02), ylabel="share right")
    reward.legend(loc="lower right", fontsize=8)
    steps, low = _curve(train, "ratio/token_min")
    _, high = _curve(train, "ratio/token_max")
    ratio.fill_between(steps, low, high, color=colour, alpha=0.25, lw=0)
    ratio.plot(steps, high, color=colour, lw=1)
    ratio.plot(steps, low, color=colour, lw=1)
    ratio.set(title="Importance ratio, range over tokens", yscale="log", ylabel="ratio (log scale)")
    ratio.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ratio.yaxis.set_major_formatter("{x:g}")
    ratio.yaxis.set_minor_locator(NullLocator())
    entropy.plot(*_curve(train, "actor/entropy"), color=colour)
    entropy.set(title="Token entropy", ylabel="nats")
    norm.plot(*_curve(train, "actor/grad_norm"), color=colour)
    norm.set(title="Gradient norm", ylabel="L2 norm before clipping")
    for ax in axes:
        ax.set_xlabel("step")
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(alpha=0.25)


def _draw_problem(ax: Any, problem: AnsweredProblem) -> None:
    ax.imshow(problem.picture, interpolation="nearest", extent=(0, 1, 0, 1))
    ax.set(xlim=(0, 3.4), ylim=(0, 1))
    ax.axis("off")
    ax.text(1.08, 0.93, problem.question, va="top", fontsize=9)
    ax.text(1.08, 0.70, f"right answer: {problem.answer}", va="top", fontsize=9)
    for y, name, (text, right) in ((0.46, "before", problem.before), (0.22, "after", problem.after)):
        ax.text(1.08, y, f"{name} {'✓' if right else '✗'}", va="top", fontsize=9, color=RIGHT if right else WRONG)
        # model output is untrusted text: without this, a dollar sign would start a formula
        ax.text(1.62, y, text, va="top", fontsize=8, family="monospace", parse_math=False)


def draw_run(run_dir: Path, problems: Sequence[AnsweredProblem], title: str, out: Path) -> Path:
    """Draw the curves of a run directory's metrics.jsonl and up to six problems into a PNG; returns its path."""
    lines = read_metrics(run_dir / "metrics.jsonl")
    train = [line for line in lines if line["kind"] == "train"]
    validation = [line for line in lines if line["kind"] == "validation"]
    rows = -(-len(problems) // 2)
    figure = plt.figure(figsize=(11, 6 + 1.5 * rows), layout="constrained")
    grid = figure.add_gridspec(2 + rows, 2, height_ratios=[2.6, 2.6, *[1.35] * rows])
    colour = LIGHT_THEME.colour(series_of_run(read_run(run_dir).config))
    _draw_curves([figure.add_subplot(grid[i // 2, i % 2]) for i in range(4)], train, validation, colour)
    for i, problem in enumerate(problems):
        alone = i == len(problems) - 1 and i % 2 == 0  # in the middle of its row
        _draw_problem(figure.add_subplot(grid[2 + i // 2, :] if alone else grid[2 + i // 2, i % 2]), problem)
    figure.suptitle(title, fontsize=12)
    figure.savefig(out, dpi=110)
    plt.close(figure)
    return out
