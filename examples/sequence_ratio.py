"""Figure 6 of the GMPO paper from a run of your own: sequences' ratios with the exponent 1/|o| and without it.

    gmpo-mm train configs/quickstart_grpo.yaml
    python examples/sequence_ratio.py runs/quickstart/grpo      # a table, and sequence_ratio.png

A run's samples hold every response's `log_ratio`: the sum over its tokens of log pi - log pi_old at the end of its step. As in
the paper, the responses with a positive reward are shown: exp(log_ratio / |o|), the geometric mean of the ratios, beside
exp(log_ratio), their product.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gmpo_mm.errors import DataError, GMPOError
from gmpo_mm.reports.algorithm import series_of_variants
from gmpo_mm.reports.drawing import Canvas, panels
from gmpo_mm.reports.figure_style import HALF_PAGE, Theme, to_png
from gmpo_mm.reports.ratio_axis import SymmetricAxis
from gmpo_mm.reports.run_readers import read_run
from gmpo_mm.reports.study import Variant

BANDS = 4


def read_ratios(run: Path) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and log-ratios (nats), (N,), of all responses with a positive reward. DataError where the run holds none."""
    rows: list[dict[str, Any]] = []
    for path in sorted((run / "samples").glob("step_*_train.jsonl")):
        rows += [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if not any("log_ratio" in row for row in rows):
        raise DataError(f"{run}/samples: no response has a log_ratio; give a run directory of gmpo-mm's local engine")
    kept = [row for row in rows if row.get("log_ratio") is not None and row["overall"] > 0]
    if not kept:
        raise DataError(f"{run}/samples: no response with a positive reward was in an update; train for more steps")
    return np.array([row["tokens"] for row in kept]), np.array([row["log_ratio"] for row in kept])


def table_rows(tokens: np.ndarray, log_ratios: np.ndarray) -> list[tuple[str, int, float, float, float, float]]:
    """(lengths, responses, least and largest log10 of a ratio with the exponent, and without) of up to four bands of length."""
    edges = np.unique(np.quantile(tokens, np.linspace(0, 1, BANDS + 1)).round().astype(int))
    rows = []
    for low, high in itertools.pairwise(edges) if len(edges) > 1 else [(edges[0], edges[0])]:
        inside = (tokens >= low) & ((tokens < high) | (high == edges[-1]))
        if inside.any():
            product = log_ratios[inside] / math.log(10)
            mean = product / tokens[inside]
            rows.append((f"{low} to {high}", int(inside.sum()), mean.min(), mean.max(), product.min(), product.max()))
    return rows


def draw(paths: Sequence[Path], runs: Sequence[tuple[np.ndarray, np.ndarray]]) -> bytes:
    """PNG: a point a response, its length against its ratio, with the exponent on the left and without it on the right."""
    names = [path.name for path in paths]
    labels = names if len(set(names)) == len(names) else [str(path) for path in paths]
    series = series_of_variants([Variant(path.name, path.name, (read_run(path),)) for path in paths])
    products = [log_ratios / math.log(10) for _, log_ratios in runs]
    means = np.concatenate([product / tokens for product, (tokens, _) in zip(products, runs, strict=True)])
    axis = SymmetricAxis.around(means, np.concatenate([means, *products]))

    def paint(canvas: Canvas, theme: Theme) -> None:
        left, right = panels(canvas, 2, 2)
        for ax, name in ((left, "with 1/|o|"), (right, "without")):
            for label, k, product, (tokens, _) in zip(labels, series, products, runs, strict=True):
                logs = product / tokens if ax is left else product
                ax.plot(tokens, logs, ".", ms=3, alpha=0.4, color=theme.colour(k), label=label)
            ax.axhline(0, color=theme.soft, lw=0.8)
            ax.set_title(name, loc="left")
            ax.set_xlabel("response length (tokens)")
        axis.apply(left)
        left.set_ylabel("sequence ratio (symmetric log scale)")
        if len(runs) > 1:
            canvas.legend(*left.get_legend_handles_labels(), loc="outside upper left", markerscale=3)

    return to_png(paint, (HALF_PAGE, 3.4), dark=False)


def main() -> None:
    """Print a table for each run, write the picture of all."""
    parser = argparse.ArgumentParser(description="Sequences' ratios with and without the exponent 1/|o|.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path("sequence_ratio.png"))
    arguments = parser.parse_args()
    found = [read_ratios(run) for run in arguments.runs]
    console = Console()
    for run, ratios in zip(arguments.runs, found, strict=True):
        title = f"{escape(str(run))}: log10 of sequence ratios, with 1/|o| and without; reward > 0"
        table = Table(title=title, title_justify="left")
        for name in ("tokens", "responses", "with: min", "max", "without: min", "max"):
            table.add_column(name, justify="right")
        for lengths, count, *numbers in table_rows(*ratios):
            table.add_row(lengths, str(count), *(f"{number:+.3f}" for number in numbers))
        console.print(table)
    arguments.out.write_bytes(draw(arguments.runs, found))
    console.print(f"The picture: {arguments.out}", soft_wrap=True)


if __name__ == "__main__":
    try:
        main()
    except GMPOError as error:
        sys.exit(f"error: {error}")
