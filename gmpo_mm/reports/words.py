"""The summary in plain words: it claims what the intervals allow, and says how large a difference its seeds could detect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gmpo_mm.reports.scores import ScoreRow, ScoreTable
from gmpo_mm.reports.seed_statistics import LEVEL, POWER, SeedDifference
from gmpo_mm.reports.study import Study

MINUS = "\N{MINUS SIGN}"
ONE_SEED = "That is one seed each, which can't tell a difference between methods from chance: nothing more is claimed."


def verdict(row: ScoreRow, first: ScoreRow, table: ScoreTable, *, briefly: bool = False) -> str:
    """What can be said of a variant against the first, in one or two sentences; `briefly`: without the second, on power."""
    a, b, difference = first.variant.label, row.variant.label, row.difference
    if difference is None:
        return f"{b} can't be compared with {a}: {row.note}."
    gap = difference.mean
    if difference.seeds == 1:
        return f"{b} ended {_side(gap, table)} {a}. {ONE_SEED}"
    if difference.low is None or difference.high is None or difference.p_value is None:
        apart = "exactly as high" if gap == 0 else f"{size(abs(gap), table)} {'higher' if gap > 0 else 'lower'}"
        return (
            f"No difference between {b} and {a} can be tested: {b} ended {apart} with each of {difference.seeds} seeds, which "
            "shows no spread to test against."
        )
    p = row.p_holm if row.p_holm is not None else difference.p_value
    interval = f"{100 * LEVEL:g} % interval over {difference.seeds} seeds: {signed(difference.low, table)} to "
    interval += f"{signed(difference.high, table)}; {p_text(p)}"
    excludes_zero = difference.low > 0 or difference.high < 0
    if excludes_zero and p < 1 - LEVEL:
        return f"{b} is {'better' if gap > 0 else 'worse'} than {a} by {size(abs(gap), table)} ({interval})."
    if excludes_zero:
        return (
            f"Undecided: {b} ended {_side(gap, table)} {a} ({interval}). By itself that would be a difference; among as many "
            "comparisons as here, chance finds one like it too often."
        )
    shown = f"No difference between {b} and {a} is shown: {signed(gap, table)}{_unit(table)} ({interval})."
    return shown if briefly else f"{shown} {_outlook(difference, table)}"


def headline(study: Study, tables: Sequence[ScoreTable]) -> str:
    """The one sentence that a reader in a hurry takes along: the first score, and what it shows."""
    if not tables:
        states = Counter(run.state.replace("_", " ") for variant in study.variants for run in variant.runs)
        return f"No score yet: {', '.join(f'{count} {state}' for state, count in states.items()) or 'no run has begun'}."
    fair = [table for table in tables if table.key != "best"]
    table = max(fair, key=lambda one: sum(row.mean is not None for row in one.rows))
    first, *others = table.rows
    means = ", ".join(f"{row.variant.label} {_mean(row, table)}" for row in table.rows if row.mean is not None)
    said = f"{table.title}: {means or 'no finished run has this score'}"
    if not others:
        return f"{said}." if first.mean is None else f"{said} ({plural(first.mean.seeds, 'seed')})."
    if len(others) == 1:
        return f"{said}. {verdict(others[0], first, table, briefly=True)}"
    found: dict[str, list[str]] = {}
    for row in others:
        found.setdefault(_conclusion(row), []).append(row.variant.label)
    parts = [f"{conclusion}: {', '.join(found[conclusion])}" for conclusion in _CONCLUSIONS if conclusion in found]
    return f"{said}. Beside {first.variant.label}, {'; '.join(parts)}."


_CONCLUSIONS = ("better", "worse", "undecided", "no difference shown", "one seed, which shows nothing", "no score to compare")


def _conclusion(row: ScoreRow) -> str:
    """`verdict` in a word or two."""
    gap = row.difference
    if gap is None:
        return "no score to compare"
    if gap.seeds == 1:
        return "one seed, which shows nothing"
    if gap.low is None or gap.high is None or gap.p_value is None or gap.low <= 0 <= gap.high:
        return "no difference shown"
    if (row.p_holm if row.p_holm is not None else gap.p_value) >= 1 - LEVEL:
        return "undecided"
    return "better" if gap.mean > 0 else "worse"


def _mean(row: ScoreRow, table: ScoreTable) -> str:
    assert row.mean is not None
    return score_text(row.mean.mean, table) + (" %" if table.percent else "")


def problem_verdict(row: ScoreRow, first: ScoreRow, table: ScoreTable) -> str:
    """What the problems say of these very models; empty where there is nothing to say."""
    found = row.problems
    if found is None:
        return ""
    low, high = found.interval.low, found.interval.high
    text = (
        f"Problem by problem, these trained {row.variant.label} and {first.variant.label} models differ by "
        f"{signed(found.difference, table)}{_unit(table)} "
        f"({100 * LEVEL:g} % interval over the choice of {found.problems:,} problems: {signed(low, table)} to "
        f"{signed(high, table)}; {p_text(found.p_holm)})"
    )
    excludes_zero, rejects = low > 0 or high < 0, found.p_holm < 1 - LEVEL
    if excludes_zero and rejects:
        return f"{text}: a difference between these models, which other seeds need not repeat."
    if excludes_zero or rejects:
        shows, not_shows = ("interval", "test") if excludes_zero else ("test", "interval")
        return f"{text}: undecided, as the {shows} shows a difference and the {not_shows} does not."
    return f"{text}: no difference between these models is shown."


def summary_lines(table: ScoreTable) -> list[str]:
    """A verdict for each variant but the first, and what the problems say where they were compared."""
    first, *others = table.rows
    if all(row.difference is not None and row.difference.seeds == 1 and row.problems is None for row in others):
        ended = [
            f"{row.variant.label} ended {_side(row.difference.mean, table)} {first.variant.label}."
            for row in others
            if row.difference
        ]
        return [*ended, ONE_SEED]
    lines = [text for row in others for text in (verdict(row, first, table), problem_verdict(row, first, table))]
    return list(filter(None, lines))


def _outlook(difference: SeedDifference, table: ScoreTable) -> str:
    seeds, detectable = difference.seeds, difference.detectable
    assert detectable is not None
    if table.percent and detectable > 1:
        return f"With this spread {seeds} seeds can detect no difference at all ({100 * POWER:g} % power)."
    return (
        f"The minimum detectable difference with {seeds} seeds and this spread is {size(detectable, table)} "
        f"({100 * POWER:g} % power)."
    )


def _side(gap: float, table: ScoreTable) -> str:
    if gap == 0:
        return "level with"
    return f"{size(abs(gap), table)} {'above' if gap > 0 else 'below'}"


def _unit(table: ScoreTable) -> str:
    return " points" if table.percent else ""


def size(value: float, table: ScoreTable) -> str:
    """A difference's size: in percentage points, or as it is."""
    if not table.percent:
        return f"{value:.3g}"
    points = f"{100 * value:.1f}"
    return f"{points} point" if points == "1.0" else f"{points} points"


def signed(value: float, table: ScoreTable) -> str:
    """A difference with its sign."""
    text = f"{100 * value:.1f}" if table.percent else f"{value:.3g}"
    if float(text) == 0:
        return text.removeprefix("-")
    return f"{MINUS}{text[1:]}" if text.startswith("-") else f"+{text}"


def score_text(value: float, table: ScoreTable) -> str:
    """A score: in percent, or as it is."""
    return f"{100 * value:.1f}" if table.percent else f"{value:.3g}"


def p_text(p: float) -> str:
    """`p = 0.032`, with two digits."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}" if p < 0.1 else f"p = {p:.2f}"


def plural(number: int, word: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number} {word}{'' if number == 1 else 's'}"
