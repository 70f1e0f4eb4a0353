"""Why a geometric mean: what outliers do to both means of token ratios, and to the weights of the tokens' gradients.

    python examples/why_geometric_mean.py                # three tables, and why_geometric_mean.png
    python examples/why_geometric_mean.py --out FILE.png

No model and no data: numbers alone. It repeats Figure 2 and the inequality of section 3 of the GMPO paper (arXiv
2507.20673), and takes the token weights of equations (5) and (6) from the gradients of this package's own losses.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from gmpo_mm.algorithms import GMPOConfig, PolicyLossConfig, compute_policy_loss
from gmpo_mm.reports import algorithm
from gmpo_mm.reports.figure_style import Theme, to_png

SEQUENCES, TOKENS = 20_000, 50
SPREAD = 0.1
"""Standard deviation of the log-ratios of ordinary tokens."""
OUTLIER_SHARE = 0.02
OUTLIER_SIZES = (1.0, 3.0, 10.0, 30.0)
"""By how much an outlier's ratio is multiplied."""
GRPO = PolicyLossConfig(loss_type="default", loss_avg_mode="seq", clip_ratio_high=1e9)
GMPO = PolicyLossConfig(loss_type="gmpo", gmpo=GMPOConfig(clip="none"))
"""Without a clip, as equations (2) and (3): for a positive advantage GRPO's upper bound alone acts, and it is out of reach."""


def draw_ratios(outlier_size: float, seed: int = 0) -> NDArray[np.float64]:
    """Ratios (sequences, tokens): log-normal around 1; a share of them is multiplied by `outlier_size`."""
    generator = np.random.default_rng(seed)
    logs = generator.normal(0.0, SPREAD, (SEQUENCES, TOKENS))
    outliers = generator.random((SEQUENCES, TOKENS)) < OUTLIER_SHARE
    return np.exp(logs + outliers * np.log(outlier_size))


def arithmetic_mean(ratios: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a sequence contributes to equation (2), for an advantage of 1."""
    return ratios.mean(axis=-1)


def geometric_mean(ratios: NDArray[np.float64]) -> NDArray[np.float64]:
    """What a sequence contributes to equation (3), for an advantage of 1; in log space, as Algorithm 1."""
    return np.exp(np.log(ratios).mean(axis=-1))


def token_weights(ratios: NDArray[np.float64], config: PolicyLossConfig) -> NDArray[np.float64]:
    """The weight of each token's policy gradient in one sequence, for an advantage of 1: equation (5) or (6) times |o|.

    Taken from the gradient of the loss that is trained with, not from the equations.
    """
    log_probs_BT = torch.tensor(np.log(ratios))[None].requires_grad_()
    old_BT, mask_BT = torch.zeros_like(log_probs_BT), torch.ones_like(log_probs_BT, dtype=torch.bool)
    compute_policy_loss(log_probs_BT, old_BT, torch.ones(1, dtype=torch.float64), mask_BT, config).sum.backward()
    assert log_probs_BT.grad is not None
    return (-log_probs_BT.grad[0] * len(ratios)).numpy()


def print_distributions(console: Console) -> None:
    """Figure 2: spread and range of both means over many sequences."""
    table = Table(
        title=f"{SEQUENCES:,} sequences of {TOKENS} tokens, {100 * OUTLIER_SHARE:g} % of them outliers", title_justify="left"
    )
    for name in ("outliers' ratios", "mean", "variance", "smallest", "largest"):
        table.add_column(name, justify="right" if name != "mean" else "left")
    for size in OUTLIER_SIZES:
        ratios = draw_ratios(size)
        for name, means in (("arithmetic", arithmetic_mean(ratios)), ("geometric", geometric_mean(ratios))):
            numbers = (f"{means.var():.5f}", f"{means.min():.3f}", f"{means.max():.3f}")
            table.add_row(f"x {size:g}" if name == "arithmetic" else "", name, *numbers)
    console.print(table)


def print_one_outlier(console: Console) -> None:
    """What one token does to both means and to the weights of all others."""
    table = Table(
        title=f"One outlier among {TOKENS} tokens whose ratios are 1; weights by equations (5) and (6)", title_justify="left"
    )
    for name in ("its ratio", "arithmetic", "geometric", "its weight, GRPO", "GMPO", "another's, GRPO", "GMPO"):
        table.add_column(name, justify="right")
    for ratio in (100.0, 10.0, 2.0, 0.5, 0.1, 0.01):
        ratios = np.ones(TOKENS)
        ratios[0] = ratio
        grpo, gmpo = token_weights(ratios, GRPO), token_weights(ratios, GMPO)
        means = (float(arithmetic_mean(ratios)), float(geometric_mean(ratios)))
        table.add_row(f"{ratio:g}", *(f"{number:.3f}" for number in (*means, grpo[0], gmpo[0], grpo[1], gmpo[1])))
    console.print(table)
    console.print(
        "The geometric mean gives up little to a large outlier, and every token keeps the same weight. A small one pulls it "
        "more than the arithmetic mean: robust is said of the ratios that blow up."
    )


def print_inequality(console: Console) -> None:
    """Section 3: sequence by sequence it holds; over a group with both signs the absolute value of the sum may be larger."""
    ratios = np.concatenate([draw_ratios(size) for size in OUTLIER_SIZES])
    gaps = arithmetic_mean(ratios) - geometric_mean(ratios)
    console.print(
        f"Section 3: |GMPO's term| <= |GRPO's term| in {(gaps >= 0).sum():,} of {len(gaps):,} sequences; the gap is "
        f"{gaps.min():.2g} to {gaps.max():.2g} times |A|."
    )
    good, bad = np.array([1.1, 1.1]), np.array([0.4, 1.8])
    grpo, gmpo = (abs(float(mean(good) - mean(bad))) for mean in (arithmetic_mean, geometric_mean))
    console.print(
        "It is a statement about sequences, and so about the sum of their absolute values. The paper writes it for the "
        f"absolute value of a whole objective, where signs may cancel: for ratios {good.tolist()} with A = 1 and "
        f"{bad.tolist()} with A = -1, GRPO's sum is {grpo:.2f} and GMPO's {gmpo:.2f}."
    )


def draw(canvas: Canvas, theme: Theme) -> None:
    """Both means' distributions with and without outliers, and the tokens' weights in one sequence."""
    calm, wild, tokens = canvas.subplots(1, 3)
    bins = np.linspace(0.9, 2.2, 80)
    for ax, size, title in ((calm, 1.0, "no outliers"), (wild, 10.0, f"{100 * OUTLIER_SHARE:g} % of tokens x 10")):
        ratios = draw_ratios(size)
        both = (("arithmetic", arithmetic_mean, algorithm.GRPO), ("geometric", geometric_mean, algorithm.GMPO))
        for name, mean, series in both:
            # those beyond the axis stand in its last bin, so that none is lost
            means = np.clip(mean(ratios), bins[0], bins[-1])
            ax.hist(means, bins, color=theme.colour(series), alpha=0.65, label=name)
        ax.set(title=title, xlabel="mean ratio of a sequence", yticks=[])
    calm.set_ylabel(f"{SEQUENCES:,} sequences")
    calm.legend(loc="upper right")
    ratios = draw_ratios(10.0)[0]
    for name, config, series in (("GRPO, eq. (5)", GRPO, algorithm.GRPO), ("GMPO, eq. (6)", GMPO, algorithm.GMPO)):
        style, width = ("o-", 1.2) if config is GRPO else ("-", 2.2)
        weights = token_weights(ratios, config)
        tokens.plot(weights, style, ms=2.5, lw=width, color=theme.colour(series), label=name)
    tokens.set(title="weights of one sequence's tokens", xlabel="token", ylabel="weight / A", yscale="log", ylim=(0.7, 30))
    tokens.yaxis.set_major_formatter("{x:g}")
    tokens.legend(loc="upper right")


def main() -> None:
    """Print the tables, write the picture."""
    parser = argparse.ArgumentParser(description="What outliers do to arithmetic and geometric means of ratios.")
    parser.add_argument("--out", type=Path, default=Path("why_geometric_mean.png"))
    out = parser.parse_args().out
    console = Console()
    print_distributions(console)
    print_one_outlier(console)
    print_inequality(console)
    out.write_bytes(to_png(draw, (11.0, 3.2), dark=False))
    console.print(f"The picture: {out}", soft_wrap=True)


if __name__ == "__main__":
    main()
