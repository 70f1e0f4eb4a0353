"""The tables of a report, as text: the page and the Markdown file show the same ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gmpo_mm.reports.scores import ScoreRow, ScoreTable, steps_to_score
from gmpo_mm.reports.seed_statistics import LEVEL, POWER
from gmpo_mm.reports.study import Study
from gmpo_mm.reports.training_facts import Spread, TrainingFacts, training_facts
from gmpo_mm.reports.words import p_text, score_text, signed, size

NOTHING = "–"
SINGLE_COLUMNS = 4
"""Of a table of scores with nothing to compare: variant, mean, interval, each seed."""
LEVEL_TEXT = f"{100 * LEVEL:g} %"


@dataclass(frozen=True)
class Row:
    """Cells as text. `variant` is its place in the study, or None: a row of the paper's."""

    cells: tuple[str, ...]
    variant: int | None


@dataclass(frozen=True)
class ReportTable:
    """A table with its words; every text may hold names from files and is to be escaped."""

    key: str
    title: str
    about: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def score_report_table(table: ScoreTable) -> ReportTable:
    """A score of each variant: mean with interval, every seed, and the difference to the first variant."""
    first = table.rows[0].variant.label
    unit = "points" if table.percent else "units of the score"
    columns = [
        "variant", f"mean{' (%)' if table.percent else ''}", f"{LEVEL_TEXT} interval over seeds", "each seed",
        f"minus {first} ({unit})", f"{LEVEL_TEXT} interval", "p", f"minimum detectable difference ({100 * POWER:g} % power)",
    ]  # fmt: skip
    columns = columns if len(table.rows) > 1 else columns[:SINGLE_COLUMNS]
    over_problems = any(row.problems for row in table.rows)
    if over_problems:
        columns += [f"{LEVEL_TEXT} interval over problems", "p over problems"]
    rows = [Row(_score_cells(row, table, over_problems)[: len(columns)], i) for i, row in enumerate(table.rows)]
    notes = [*table.notes, *(f"{row.variant.label}: {row.note}." for row in table.rows if row.note)]
    notes += [pairing_note(row, table) for row in table.rows if row.difference and row.difference.pairing]
    if len(table.rows) > 2:
        notes.append("p-values are corrected after Holm for the number of comparisons; the intervals are not.")
    return ReportTable(table.key, table.title, f"{table.about}.", tuple(columns), tuple(rows), tuple(notes))


def pairing_note(row: ScoreRow, table: ScoreTable) -> str:
    """By how much the pairing of equal seeds narrowed the interval."""
    assert row.difference is not None and row.difference.pairing is not None
    pairing = row.difference.pairing
    share = f"{100 * abs(pairing.narrowed):.0f} % {'narrower' if pairing.narrowed >= 0 else 'wider'}"
    return (
        f"{row.variant.label}: paired by seed, the interval of the difference is {size(pairing.paired_half, table)} to each "
        f"side; unpaired (Welch) it would be {size(pairing.unpaired_half, table)}: pairing made it {share} (correlation of the "
        f"{row.difference.seeds} seeds' scores {pairing.correlation:+.2f})."
    )


def _score_cells(row: ScoreRow, table: ScoreTable, over_problems: bool) -> tuple[str, ...]:
    mean, gap = row.mean, row.difference
    cells = [row.variant.label, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING, NOTHING]
    if mean is not None:
        cells[1] = score_text(mean.mean, table)
        cells[2] = f"{score_text(mean.low, table)} to {score_text(mean.high, table)}" if (
            mean.low is not None and mean.high is not None) else "one seed" if mean.seeds == 1 else "no spread"  # fmt: skip
        cells[3] = ", ".join(score_text(value, table) for value in mean.values)
    if gap is not None:
        cells[4] = signed(gap.mean, table)
        if gap.low is not None and gap.high is not None and gap.p_value is not None and gap.detectable is not None:
            cells[5] = f"{signed(gap.low, table)} to {signed(gap.high, table)}"
            cells[6] = p_text(row.p_holm if row.p_holm is not None else gap.p_value).removeprefix("p ").removeprefix("= ")
            cells[7] = size(gap.detectable, table)
        else:
            cells[5] = "one seed" if gap.seeds == 1 else "no spread"
    if over_problems:
        found = row.problems
        cells += [NOTHING, NOTHING] if found is None else [
            f"{signed(found.interval.low, table)} to {signed(found.interval.high, table)}",
            p_text(found.p_holm).removeprefix("p ").removeprefix("= "),
        ]  # fmt: skip
    return tuple(cells)


def training_report_table(study: Study) -> ReportTable:
    """What the training looked like: descriptions of these runs, no claims."""
    facts = training_facts(study)
    target = study.target_score
    reached = steps_to_score(study, target) if target is not None else {}
    columns = [
        "variant", "runs", "last step", "token ratios, outermost", "entropy at the end (nats)",
        "KL to the reference at the end (nats)", "gradient norm, median", "its maximum", "updates skipped",
        "wall time of a run",
    ]  # fmt: skip
    if target is not None:
        columns.append(f"steps to {target:g}")
    rows: Sequence[Row] = [
        Row(_facts_cells(fact) + ((_reached(reached[fact.variant.name]),) if target is not None else ()), i)
        for i, fact in enumerate(facts)
    ]
    columns, rows, empty = _without_empty(columns, rows)
    notes = [f"Not logged by any run: {', '.join(empty)}."] if empty else []
    if any(NOTHING in row.cells for row in rows):
        notes.append(f"{NOTHING}: not logged by these runs.")
    if any(fact.seconds is not None and not fact.whole_process for fact in facts):
        notes.append("Wall time without a sweep's clock is the sum of the steps' and validations' own times, loading left out.")
    if target is not None:
        notes.append(
            "Steps to a score: the first validation with at least that score, seed by seed, so no finer than val_freq."
        )
    about = "Means over seeds, with the lowest and highest in brackets. These describe the runs; no difference is tested here."
    return ReportTable("training", "What the training looked like", about, tuple(columns), tuple(rows), tuple(notes))


def _without_empty(columns: Sequence[str], rows: Sequence[Row]) -> tuple[list[str], list[Row], list[str]]:
    """Columns and rows without the columns that have nothing in them, and the names of these."""
    empty = [i for i in range(len(columns)) if all(row.cells[i] == NOTHING for row in rows)]
    kept = [i for i in range(len(columns)) if i not in empty]
    shorter = [Row(tuple(row.cells[i] for i in kept), row.variant) for row in rows]
    return [columns[i] for i in kept], shorter, [columns[i] for i in empty]


def _facts_cells(fact: TrainingFacts) -> tuple[str, ...]:
    runs = len(fact.variant.runs)
    counted = len(fact.variant.counted)
    skipped = NOTHING
    if fact.skipped is not None and fact.updates:
        skipped = f"{100 * fact.skipped / fact.updates:.2g} % ({fact.skipped:,} of {fact.updates:,})"
    return (
        fact.variant.label,
        f"{runs}" if counted == runs else f"{counted} of {runs}",
        ", ".join(f"{step:,}" for step in dict.fromkeys(fact.steps)) or NOTHING,
        NOTHING if fact.ratio_low is None or fact.ratio_high is None else f"{fact.ratio_low:.3g} to {fact.ratio_high:.3g}",
        _spread(fact.entropy),
        _spread(fact.kl),
        _spread(fact.grad_norm),
        NOTHING if fact.grad_norm_max is None else f"{fact.grad_norm_max:.3g}",
        skipped,
        NOTHING if fact.seconds is None else _duration(fact.seconds),
    )


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return NOTHING
    return f"{spread.mean:.3g}" if spread.seeds == 1 else f"{spread.mean:.3g} ({spread.low:.3g} to {spread.high:.3g})"


def _duration(spread: Spread) -> str:
    unit, word = next((u, w) for u, w, least in ((3600, "h", 7200), (60, "min", 180), (1, "s", 0)) if spread.mean >= least)
    mean, low, high = (f"{value / unit:.3g}" for value in (spread.mean, spread.low, spread.high))
    return f"{mean} {word}" if spread.seeds == 1 else f"{mean} {word} ({low} to {high})"


def _reached(steps: Iterable[int | None]) -> str:
    return ", ".join("not reached" if step is None else f"{step:,}" for step in steps) or NOTHING


def runs_table(study: Study) -> ReportTable:
    """Every run: where it is and how it ended."""
    rows = [
        Row((variant.label, run.seed or NOTHING, run.source, run.state.replace("_", " "), run.reason or "", run.where), i)
        for i, variant in enumerate(study.variants)
        for run in variant.runs
    ]
    columns = ("variant", "seed", "from", "state", "reason", "where")
    return ReportTable("runs", "Runs", "", columns, tuple(rows))


def variants_table(study: Study) -> ReportTable:
    """What sets the variants apart."""
    rows = [
        Row((variant.label, "; ".join(variant.settings) or "as the base configuration"), i)
        for i, variant in enumerate(study.variants)
        if variant.settings or any(other.settings for other in study.variants)
    ]
    return ReportTable("variants", "Variants", "", ("variant", "settings"), tuple(rows))
