"""The section Why in plain words: what its numbers show, and what can't be claimed from them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gmpo_mm.reports.compare_lines import Floats
from gmpo_mm.reports.seed_statistics import LEVEL, SeedDifference
from gmpo_mm.reports.why_figures import Looks
from gmpo_mm.reports.why_numbers import LossFacts, VariantWhy
from gmpo_mm.reports.words import MINUS, p_text, plural

SAME_COSINE = 0.9999
SAME_SHARE = 0.001
"""Losses whose weights are so near to each other at every step would have made the same update."""
NARROW = math.log(1.01)
"""Deciles of the ratio no farther from 1 (in the logarithm) tell losses little apart."""


def variant_lines(one: VariantWhy, looks: Looks) -> list[str]:
    """What one variant's runs show, a sentence or two for each thing."""
    first, last = one.steps
    trained = looks.labels[one.trained]
    names = ", ".join(_full(facts.loss, looks) for facts in one.others)
    where = f"{plural(len(one.runs), 'run')}, " + (
        f"step {first}" if first == last else f"steps {first} to {last}"
    )
    if not one.others:
        return [
            f"{where}: only {_full(one.trained, looks)}, which is trained, was measured. There is no other "
            "loss beside it."
        ]
    lines = [
        f"{where}, trained with {_full(one.trained, looks)}. Beside it on the same tokens: {names}.",
        *_by_ratio(one, looks),
    ]
    for facts in one.others:
        name = looks.labels[facts.loss]
        if _same_update(facts):
            lines.append(
                f"{name} and {trained} would have made the same update on these tokens: the cosine of their "
                f"weights is at least {_floor(facts)} at every step, and effective sample size and clipped "
                f"share differ by less than {100 * SAME_SHARE:g} points. Their token weights explain no "
                "difference here."
            )
            continue
        lines += [line for line in (
            _share_line("effective sample size", facts.ess_gap, facts.ess_p, one, facts, looks, "ess"),
            _lowest_line(facts, one.losses[0], name, trained),
            _share_line("clipped tokens", facts.clipped_gap, facts.clipped_p, one, facts, looks, "clipped"),
            _cosine_line(facts, name, trained),
        ) if line]  # fmt: skip
    return lines + _who(one, looks)


def claim_lines(found: Sequence[VariantWhy], looks: Looks) -> list[str]:
    """What all of it together allows to claim, and what not."""
    shown, open_, single = [], [], []
    for one in found:
        if len(one.runs) == 1 and one.others:
            single.append(one.variant.label)
        for facts in one.others:
            yes, no = _outcomes(facts)
            pair = f"{looks.labels[facts.loss]} against {looks.labels[one.trained]}"
            where = f"on the tokens of {one.variant.label}, {pair}: "
            shown += [where + " and ".join(yes)] if yes else []
            open_ += [where + " and ".join(no)] if no else []
    lines = []
    if shown:
        lines.append(f"Shown, and expected of other seeds of the same configuration: {'; '.join(shown)}.")
    if open_:
        lines.append(f"Not shown to be more than chance between seeds: {'; '.join(open_)}.")
    if single:
        lines.append(
            f"One run each: {', '.join(single)}. The numbers describe these runs. Their steps depend on each "
            "other, so there is no interval, and nothing is claimed of other seeds."
        )
    if not any(one.others for one in found):
        return []
    lines.append(
        "Every loss was measured on the tokens and weights that the trained loss led to. What a whole run "
        "with another loss would have come to does not follow: its own updates would have led to other "
        "tokens."
    )
    if len({one.variant.name for one in found}) > 1:
        lines.append(
            "Scores and token weights of the same runs are observed together. That the weights cause a "
            "difference of the scores is not shown by it; that takes runs which differ in the weights only."
        )
    measured = any(facts.gradient_cosine is not None for one in found for facts in one.others)
    lines.append(
        "A cosine of token weights takes each token's log-probability as free. The network's parameters are "
        "shared by all tokens, so the step itself can differ more or less"
        + (
            ": see the gradient's cosine."
            if measured
            else ", and gradients were not measured (trainer.compare_losses_gradients_every)."
        )
    )
    return lines


def _outcomes(facts: LossFacts) -> tuple[list[str], list[str]]:
    """What is shown of a loss against the trained one, and what isn't; neither for a single run."""
    shown, open_ = [], []
    for words, gap, p in (
        ("effective sample size", facts.ess_gap, facts.ess_p),
        ("clipped share", facts.clipped_gap, facts.clipped_p),
    ):  # fmt: skip
        if gap is None or gap.low is None:
            continue
        if is_shown(gap, p):
            shown.append(f"a {'higher' if gap.mean > 0 else 'lower'} {words}")
        else:
            open_.append(f"another {words}")
    return shown, open_


def is_shown(gap: SeedDifference, p: float | None) -> bool:
    """Whether a difference over seeds is more than chance, by its corrected p; the interval then is without 0."""
    return gap.low is not None and p is not None and p < 1 - LEVEL


def _by_ratio(one: VariantWhy, looks: Looks) -> list[str]:
    """How the mean weight goes with the ratio, for each loss."""
    known = [k for k in range(len(one.ratio)) if math.isfinite(one.ratio[k])]
    if not known:
        return ["No token had an advantage, so no loss gives any of them a weight."]
    low, high = known[0], known[-1]
    ratios = f"from the lowest decile of the token ratio (median {one.ratio[low]:.4g}) "
    ratios += f"to the highest ({one.ratio[high]:.4g})"
    parts = [
        f"{looks.labels[facts.loss]} {facts.weight[low]:.3g} to {facts.weight[high]:.3g}"
        for facts in one.losses if math.isfinite(facts.weight[low]) and math.isfinite(facts.weight[high])
    ]  # fmt: skip
    lines = [f"Mean weight, 1 at ratio 1, {ratios}: {', '.join(parts)}."] if parts else []
    if max(abs(math.log(max(one.ratio[k], 1e-300))) for k in known) < NARROW:
        lines.append(
            "In every decile about half of the tokens have ratios within 1 % of 1, where the losses weigh "
            "tokens nearly alike. What differs comes from the tokens farther out."
        )
    return lines


def _same_update(facts: LossFacts) -> bool:
    gaps = (facts.ess_gap, facts.clipped_gap)
    same_shares = all(gap is not None and max(map(abs, gap.values)) < SAME_SHARE for gap in gaps)
    return same_shares and facts.lowest_cosine is not None and facts.lowest_cosine[0] >= SAME_COSINE


def _floor(facts: LossFacts) -> str:
    assert facts.lowest_cosine is not None
    return f"{math.floor(1e4 * facts.lowest_cosine[0]) / 1e4:.4f}"


def _share_line(
    words: str,
    gap: SeedDifference | None,
    p: float | None,
    one: VariantWhy,
    facts: LossFacts,
    looks: Looks,
    key: str,
) -> str:
    """`GRPO's share of clipped tokens is 3.1 %, GMPO's 0.4 %: ...`, with what its seeds allow to say."""
    mine, its = getattr(facts, key), getattr(one.losses[0], key)
    if gap is None or mine is None or its is None:
        return ""
    a, b = looks.labels[facts.loss], looks.labels[one.trained]
    said = f"{words.capitalize()}: {a} {_percent(mine.mean)}, {b} {_percent(its.mean)}"
    if gap.seeds == 1:
        return f"{said}, in one run."
    if gap.low is None or gap.high is None or p is None:
        apart = "the same" if gap.mean == 0 else f"{_points(gap.mean)} points"
        return f"{said}, {apart} in each of {gap.seeds} runs: no spread to test."
    interval = f"{_points(gap.mean)} points; {100 * LEVEL:g} % interval over {gap.seeds} seeds: "
    interval += f"{_points(gap.low)} to {_points(gap.high)}; {p_text(p)}"
    if is_shown(gap, p):
        return f"{said}. {a} is {'higher' if gap.mean > 0 else 'lower'} ({interval})."
    if gap.low > 0 or gap.high < 0:
        return (
            f"{said}. Undecided ({interval}): among as many comparisons, chance finds such a one too often."
        )
    return f"{said}. No difference is shown ({interval})."


def _lowest_line(facts: LossFacts, own: LossFacts, name: str, trained: str) -> str:
    """A mean over steps hides the step at which few tokens carry a whole update."""
    if facts.lowest_ess is None or own.lowest_ess is None:
        return ""
    (mine, at), (its, own_at) = facts.lowest_ess, own.lowest_ess
    lowest = f"{name} {_percent(mine)} (step {at}), {trained} {_percent(its)} (step {own_at})"
    return f"Effective sample size of the step with the lowest: {lowest}."


def _cosine_line(facts: LossFacts, name: str, trained: str) -> str:
    if facts.cosine is None or facts.lowest_cosine is None:
        return ""
    lowest, step = facts.lowest_cosine
    said = f"Cosine of {name}'s token weights with {trained}'s: {facts.cosine.mean:.3f} on average, "
    said += f"{lowest:.3f} at least (step {step})."
    if facts.gradient_cosine is None:
        return said
    count = plural(facts.gradient_steps, "measurement")
    said += f" Of the whole gradients: {facts.gradient_cosine.mean:.3f} over {count}"
    if facts.relative_norm is not None:
        said += f", {name}'s being {facts.relative_norm.mean:.3g} times as long"
    return f"{said}."


def _who(one: VariantWhy, looks: Looks) -> list[str]:
    """Which tokens each loss clips, for those that clip any."""
    lines = []
    for facts in one.losses:
        positive, negative = facts.clipped_positive, facts.clipped_negative
        if positive is None or negative is None or positive.mean + negative.mean == 0:
            continue
        share = _percent(positive.mean / (positive.mean + negative.mean))
        said = f"Of the tokens that {looks.labels[facts.loss]} clips, {share} have a positive advantage"
        place = _most(facts.by_position.mean)
        if place is not None:
            share = _percent(facts.by_position.mean[place])
            said += (
                f"; it clips most in tenth {place + 1} of 10 of the response ({share} of the tokens there)"
            )
        if facts.by_entropy is not None and np.isfinite(facts.by_entropy.mean[[0, -1]]).all():
            low, high = map(_percent, facts.by_entropy.mean[[0, -1]])
            said += f"; {low} of the decile with the lowest entropy and {high} of that with the highest"
        lines.append(f"{said}.")
    return lines


def _most(shares: Floats) -> int | None:
    """The tenth with the largest share; None where none has a token."""
    return int(np.nanargmax(shares)) if np.isfinite(shares).any() else None


def _full(loss: str, looks: Looks) -> str:
    """The label, and the name in the configuration where it is another."""
    label = looks.labels[loss]
    return label if loss.casefold() in label.casefold() else f"{label} ({loss})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(value: float) -> str:
    text = f"{100 * value:+.1f}"
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", MINUS)
