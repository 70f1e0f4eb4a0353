"""Figure 6 of the GMPO paper from a run of your own: sequences' ratios with the exponent 1/|o| and without it.

    gmpo-mm train configs/quickstart_grpo.yaml
    python examples/sequence_ratio.py runs/quickstart/grpo      # a table, and sequence_ratio.png

A run directory holds no log-ratios of single tokens. It holds, for every step, the smallest and the largest sequence ratio in
both forms (`ratio/seq_geo_mean_min|max`, and the logarithms `ratio/seq_product_log_min|max`), and these are shown: over all
responses of the step, where the paper's figure has single ones with a positive reward.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gmpo_mm.errors import DataError, GMPOError
from gmpo_mm.reports.figure_style import to_png
from gmpo_mm.reports.ratio_figures import GEOMETRIC, PRODUCT, sequence_ratio
from gmpo_mm.reports.sources import read_study
from gmpo_mm.reports.study import Run

ROWS = 8


def ratio_rows(run: Run) -> list[tuple[int, float, float, float, float]]:
    """(step, smallest and largest with the exponent, and without it, as log10) of up to `ROWS` steps; DataError if none."""
    missing = [name for name in (*GEOMETRIC, *PRODUCT) if name not in run.series]
    if missing:
        raise DataError(f"{run.path}: its steps log no {', '.join(missing)}; give a run that gmpo-mm has trained")
    steps = run.series[PRODUCT[0]].steps
    with_exponent = [np.log10(run.series[name].values) for name in GEOMETRIC]
    without = [run.series[name].values / math.log(10) for name in PRODUCT]
    chosen = np.unique(np.linspace(0, len(steps) - 1, ROWS).round().astype(int))
    return [(int(steps[i]), *(float(series[i]) for series in (*with_exponent, *without))) for i in chosen]


def main() -> None:
    """Print a table for each run, write the picture of all."""
    parser = argparse.ArgumentParser(description="Sequences' ratios with and without the exponent 1/|o|.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path("sequence_ratio.png"))
    arguments = parser.parse_args()
    study = read_study(arguments.runs)
    console = Console()
    for run in (run for variant in study.variants for run in variant.runs):
        table = Table(title=f"{escape(run.where)}: log10 of the sequences' ratios", title_justify="left")
        for name in ("step", "with 1/|o|: smallest", "largest", "without: smallest", "largest"):
            table.add_column(name, justify="right")
        for step, *numbers in ratio_rows(run):
            table.add_row(str(step), *(f"{number:+.3f}" for number in numbers))
        console.print(table)
    figure = sequence_ratio(study)
    assert figure.draw is not None
    arguments.out.write_bytes(to_png(figure.draw, figure.size, dark=False))
    console.print(f"The picture: {arguments.out}", soft_wrap=True)


if __name__ == "__main__":
    try:
        main()
    except GMPOError as error:
        sys.exit(f"error: {error}")
