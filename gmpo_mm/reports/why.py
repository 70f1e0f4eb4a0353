"""A report's section Why: what other losses would have done with these runs' tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gmpo_mm.reports.algorithm import algorithm_of_loss, series_of_losses
from gmpo_mm.reports.page import Part, Section
from gmpo_mm.reports.report_tables import NOTHING, ReportTable, Row
from gmpo_mm.reports.seed_statistics import LEVEL, SeedMean
from gmpo_mm.reports.study import Study
from gmpo_mm.reports.why_figures import Looks, why_figures
from gmpo_mm.reports.why_numbers import LossFacts, Tenths, VariantWhy, study_why
from gmpo_mm.reports.why_words import claim_lines, variant_lines

TITLE = "Why"
ABOUT = (
    "What each loss would have done with the tokens that these runs trained on, measured at every step "
    "while one of them was trained. A token's weight is -dL/dlog p: how hard the loss pulls at its "
    "log-probability."
)
MAX_VARIANTS = 6
"""More panels than that can't be compared by eye."""
_COLUMNS = (
    "variant", "loss", "runs", "effective sample size (%)", "lowest step's", "tokens clipped (%)",
    "with a positive advantage", "with a negative advantage", "cosine with the trained loss", "lowest step's",
    "gradient's cosine", "gradient's norm, relative", "weight in the lowest decile of the ratio",
    "in the highest",
)  # fmt: skip


@dataclass(frozen=True)
class Why:
    """The section, and its numbers for report.json."""

    section: Section
    numbers: list[dict[str, Any]]


def why_section(study: Study) -> Why | None:
    """None where no run has compared losses."""
    everything = study_why(study)
    if not everything:
        return None
    found = everything[:MAX_VARIANTS]
    looks = _looks(found)
    parts = [Part(one.variant.label, tuple(variant_lines(one, looks))) for one in found]
    claims = claim_lines(found, looks)
    if claims:
        parts.append(Part("What can be claimed", tuple(claims)))
    section = Section(
        key="why", title=TITLE, about=ABOUT, parts=tuple(parts), notes=tuple(_notes(study, everything)),
        table=_table(found, looks), figures=tuple(why_figures(found, looks)),
    )  # fmt: skip
    return Why(section, [_numbers(one) for one in everything])


def _looks(found: Sequence[VariantWhy]) -> Looks:
    """An algorithm's name and colour for the first loss that is it; the others have their own names."""
    algorithms: dict[str, str | None] = {}
    for one in found:
        for facts in one.losses:
            name = algorithm_of_loss(facts.loss, one.runs[0].config)
            algorithms[facts.loss] = algorithms.get(facts.loss) or name
    labels: dict[str, str] = {}
    for loss, name in algorithms.items():
        labels[loss] = name if name is not None and name not in labels.values() else loss
    return Looks(series_of_losses(algorithms), labels)


def _notes(study: Study, found: Sequence[VariantWhy]) -> list[str]:
    """Which runs have no such lines, and what is not shown."""
    lacking = []
    for variant in study.variants:
        begun = [run for run in variant.runs if run.series]
        without = [run for run in begun if not run.compare]
        if without:
            which = "" if len(without) == len(begun) else f" ({', '.join(run.name for run in without)})"
            lacking.append(f"{variant.label}{which}")
    notes = (
        [
            f"Not in this section: {'; '.join(lacking)}. No losses were compared there "
            "(trainer.compare_losses)."
        ]
        if lacking
        else []
    )
    for one in found:
        half = [run.name for run in one.variant.runs if run.compare and run not in one.runs]
        if half:
            notes.append(
                f"{one.variant.label}: not finished, and left out of this section: {', '.join(half)}."
            )
    if len(found) > MAX_VARIANTS:
        rest = ", ".join(one.variant.label for one in found[MAX_VARIANTS:])
        notes.append(
            f"Only the first {MAX_VARIANTS} variants are shown; report.json has the others too: {rest}."
        )
    return notes


def _table(found: Sequence[VariantWhy], looks: Looks) -> ReportTable:
    rows = [Row(_cells(one, facts, looks), one.place) for one in found for facts in one.losses]
    kept = [k for k in range(len(_COLUMNS)) if k < 3 or any(row.cells[k] != NOTHING for row in rows)]
    about = (
        f"Means over steps, then over runs, with the {100 * LEVEL:g} % interval over seeds where there are "
        "several. The first row of a variant is the loss that is trained."
    )
    return ReportTable(
        "why_table", "Losses on the same tokens", about, tuple(_COLUMNS[k] for k in kept),
        tuple(Row(tuple(row.cells[k] for k in kept), row.variant) for row in rows),
    )  # fmt: skip


def _cells(one: VariantWhy, facts: LossFacts, looks: Looks) -> tuple[str, ...]:
    label = looks.labels[facts.loss]
    other = facts is not one.losses[0]
    clipped = (facts.clipped, facts.clipped_positive, facts.clipped_negative)
    return (
        one.variant.label,
        label if label.casefold() == facts.loss.casefold() else f"{label} ({facts.loss})",
        str(len(one.runs)),
        _cell(facts.ess, 100, 1),
        f"{100 * facts.lowest_ess[0]:.1f}" if facts.lowest_ess is not None else NOTHING,
        *(_cell(mean, 100, 1) for mean in clipped),
        _cell(facts.cosine if other else None, 1, 3),
        f"{facts.lowest_cosine[0]:.3f}" if other and facts.lowest_cosine is not None else NOTHING,
        _cell(facts.gradient_cosine if other else None, 1, 3), _cell(facts.relative_norm, 1, 2),
        *(f"{weight:.3g}" if math.isfinite(weight) else NOTHING for weight in facts.weight[[0, -1]]),
    )  # fmt: skip


def _cell(mean: SeedMean | None, factor: float, digits: int) -> str:
    if mean is None:
        return NOTHING
    text = f"{factor * mean.mean:.{digits}f}"
    if mean.low is None or mean.high is None:
        return text
    return f"{text} ({factor * mean.low:.{digits}f} to {factor * mean.high:.{digits}f})"


def _numbers(one: VariantWhy) -> dict[str, Any]:
    """The entry of report.json; None for what isn't a number."""
    return {
        "variant": one.variant.name, "trained": one.trained, "runs": [run.where for run in one.runs],
        "steps": list(one.steps), "ratio_by_decile": _plain(one.ratio),
        "losses": [
            {
                key: _plain(value) for key, value in vars(facts).items() if key != "points"
            }
            for facts in one.losses
        ],
    }  # fmt: skip


def _plain(value: Any) -> Any:
    """As JSON has it."""
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, Tenths):
        return {key: _plain(inner) for key, inner in vars(value).items()}
    if hasattr(value, "__dataclass_fields__"):
        return _plain(asdict(value))
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
