"""`gmpo-mm report`: runs and sweeps in; a page, pictures, a Markdown table and JSON out.

report.html    everything, in one file that loads nothing
report.md      the words and the tables
report.json    the numbers, for programs
map.csv        of a sweep with a map: a line for each run
figures/       NAME.png, NAME_dark.png
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gmpo_mm.errors import DataError
from gmpo_mm.reports.decision import decision_json, decision_part, study_decision
from gmpo_mm.reports.figure_style import to_png
from gmpo_mm.reports.figures import report_figures
from gmpo_mm.reports.map_report import map_report
from gmpo_mm.reports.page import Part, Section, count_runs, make_page
from gmpo_mm.reports.paper_table import paper_table
from gmpo_mm.reports.report_figure import ReportFigure
from gmpo_mm.reports.report_tables import (
    ReportTable,
    runs_table,
    score_report_table,
    training_report_table,
    variants_table,
)
from gmpo_mm.reports.scores import ScoreTable, score_tables, steps_to_score
from gmpo_mm.reports.seed_statistics import POWER
from gmpo_mm.reports.sources import as_typed, read_study
from gmpo_mm.reports.study import Study
from gmpo_mm.reports.training_facts import Spread, TrainingFacts, training_facts
from gmpo_mm.reports.why import why_section
from gmpo_mm.reports.words import headline, summary_lines
from gmpo_mm.runs.files import open_new, write_atomically
from gmpo_mm.version import VERSION

FORMAT = 1
"""Raised when a key of report.json changes its meaning."""


@dataclass(frozen=True)
class Report:
    """A written report."""

    folder: Path
    headline: str
    summary: tuple[Part, ...]
    tables: tuple[ReportTable, ...]
    numbers: dict[str, Any]
    why: Section | None = None
    """Of runs that have compared losses."""


def write_report(paths: Sequence[Path], out: Path | None = None, *, target_score: float | None = None) -> Report:
    """Read the runs, draw, and write everything into `out` (`default_folder` when None). DataError for what can't be read."""
    study = read_study(paths, target_score=target_score)
    folder = out if out is not None else default_folder(paths)
    with _writing(folder):
        (folder / "figures").mkdir(parents=True, exist_ok=True)
    found = None if study.map is None else map_report(study, study.map)
    tables = score_tables(study) if found is None else []  # the cells of a map are not compared with the first one
    figures: Sequence[ReportFigure] = report_figures(study, tables) if found is None else found.figures
    summary = _summary(study, tables) if found is None else found.summary
    said = headline(study, tables) if found is None else found.headline
    decision = study_decision(study)
    if decision is not None:
        part = decision_part(study, decision)
        summary, said = (part, *summary), part.lines[0]  # the headline's own interval supposes a fixed number of seeds
    made_by = report_command(paths, out, target_score)
    scores = tuple(map(score_report_table, tables))
    paper = paper_table(study, tables)
    firsts = filter(None, [None if found is None else found.table, training_report_table(study), paper])
    others = (*firsts, variants_table(study), runs_table(study))
    why = why_section(study)
    sections = () if why is None else (why.section,)
    for figure in (*figures, *(one for section in sections for one in section.figures)):
        _write_pictures(figure, folder / "figures")
    numbers = _numbers(study, tables, figures, summary) | {"headline": said, "commands": [*study.commands, made_by]}
    if found is not None:
        numbers |= {"map": found.numbers}
        write_atomically(folder / "map.csv", found.csv)
    numbers["stop_rule"] = None if decision is None else decision_json(study, decision)
    if why is not None:
        numbers["why"] = why.numbers
        numbers["figures"] |= _figure_numbers(why.section.figures)
    write_atomically(folder / "report.json", json.dumps(numbers, indent=2, allow_nan=False) + "\n")
    write_atomically(folder / "report.md", make_markdown(study, said, made_by, summary, (*scores, *others), sections))
    page = make_page(study, said, made_by, summary, scores, others, figures, sections)
    write_atomically(folder / "report.html", page)
    return Report(folder, said, summary, (*scores, *others), numbers, None if why is None else why.section)


def default_folder(paths: Sequence[Path]) -> Path:
    """`report` inside the one folder that was given, else `reports/A_B`."""
    if len(paths) == 1 and paths[0].is_dir():
        return paths[0] / "report"
    names = [(path.parent if path.is_file() else path).resolve().name for path in paths]
    return Path("reports") / "_".join(dict.fromkeys(re.sub(r"[^\w.-]", "-", name) for name in names))[:100]


def report_command(paths: Sequence[Path], out: Path | None, target_score: float | None) -> str:
    """What makes this report again."""
    words = ["gmpo-mm", "report", *map(str, paths)]
    words += [] if out is None else ["--out", str(out)]
    return as_typed([*words, *([] if target_score is None else ["--target-score", f"{target_score:g}"])])


def make_markdown(
    study: Study, said: str, made_by: str, summary: Sequence[Part], tables: Sequence[ReportTable],
    sections: Sequence[Section] = (),
) -> str:  # fmt: skip
    """The words and the tables; names from files can change neither the markup nor the table."""
    lines = [f"# {_escaped(study.title)}", "", f"**{_escaped(said)}**", "", f"{count_runs(study)}."]
    lines += [text for command in study.commands for text in ("", f"Trained by: {_escaped(command)}")]
    lines += ["", f"Made by: {_escaped(made_by)}"]
    for note in study.notes:
        lines += ["", f"**Not everything is here:** {_escaped(note)}"]
    lines += ["", "## In words"]
    lines += _markdown_parts(summary)
    for section in sections:
        lines += ["", f"## {_escaped(section.title)}", "", _escaped(section.about), *_markdown_parts(section.parts)]
        lines += [text for note in section.notes for text in ("", f"**Not everything is here:** {_escaped(note)}")]
    for table in (*(section.table for section in sections), *tables):
        if table.rows:
            lines += ["", f"## {_escaped(table.title)}", "", *([_escaped(table.about), ""] if table.about else [])]
            lines += [_markdown_row(table.columns), _markdown_row(["---"] * len(table.columns), escape=False)]
            lines += [_markdown_row(row.cells) for row in table.rows]
            lines += [text for note in table.notes for text in ("", _escaped(note))]
    return ("\n".join(lines) + "\n").encode("utf-8", "replace").decode()


def _markdown_parts(parts: Sequence[Part]) -> list[str]:
    return [
        text for part in parts
        for text in ("", f"### {_escaped(part.title)}", "", *(f"- {_escaped(line)}" for line in part.lines))
    ]  # fmt: skip


def _markdown_row(cells: Sequence[str], escape: bool = True) -> str:
    return f"| {' | '.join(_escaped(cell) if escape else cell for cell in cells)} |"


def _escaped(text: str) -> str:
    """As Markdown shows it: one line, no markup."""
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _summary(study: Study, tables: Sequence[ScoreTable]) -> tuple[Part, ...]:
    """A verdict for every score but the best validation's, which is chosen with the problems that it is measured on."""
    first = study.variants[0].label
    if len(study.variants) == 1:
        return (Part("One variant", (f"There is only {first}, so there is nothing to compare it with.",)),)
    parts = [Part(table.title, tuple(summary_lines(table))) for table in tables if table.key != "best"]
    return tuple(parts) or (Part("No score", ("No run has a validation score, so nothing can be said of which is better.",)),)


def _write_pictures(figure: ReportFigure, folder: Path) -> None:
    """Both pictures; those of an earlier report go where there is nothing to draw any more."""
    for dark, name in ((False, f"{figure.name}.png"), (True, f"{figure.name}_dark.png")):
        picture = None if figure.draw is None else to_png(figure.draw, figure.size, dark)
        with _writing(folder):
            (folder / name).unlink(missing_ok=True)
            if picture is not None:
                with open_new(folder / name, "wb") as file:
                    file.write(picture)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{folder}: can't be written ({error.strerror}); name another folder with --out") from None


def _numbers(
    study: Study, tables: Sequence[ScoreTable], figures: Sequence[ReportFigure], summary: Sequence[Part]
) -> dict[str, Any]:
    """report.json. Scores are shares between 0 and 1 (rewards as they are); differences are minus the first variant's."""
    target = study.target_score
    return {
        "format": FORMAT,
        "version": VERSION,
        "title": study.title,
        "sources": list(study.sources),
        "notes": list(study.notes),
        "target_score": target,
        "power": POWER,
        "variants": [
            {
                "name": variant.name, "label": variant.label, "settings": list(variant.settings),
                "paper_line": variant.paper_line,
                "runs": [
                    {"path": run.where, "seed": run.seed, "source": run.source, "state": run.state, "reason": run.reason}
                    for run in variant.runs
                ],
            }
            for variant in study.variants
        ],
        "scores": [
            {
                "key": table.key, "title": table.title, "about": table.about, "share": table.percent,
                "notes": list(table.notes),
                "rows": [
                    {
                        "variant": row.variant.name, "by_seed": dict(row.by_seed), "mean": row.mean and asdict(row.mean),
                        "difference": row.difference and asdict(row.difference), "p_holm": row.p_holm,
                        "over_problems": row.problems and asdict(row.problems), "note": row.note,
                    }
                    for row in table.rows
                ],
            }
            for table in tables
        ],
        "training": [_fact_numbers(fact) for fact in training_facts(study)],
        "steps_to_target": None if target is None else steps_to_score(study, target),
        "figures": _figure_numbers(figures),
        "summary": [asdict(part) for part in summary],
    }  # fmt: skip


def _figure_numbers(figures: Sequence[ReportFigure]) -> dict[str, Any]:
    return {figure.name: {"drawn": figure.draw is not None, "notes": list(figure.notes)} for figure in figures}


def _fact_numbers(fact: TrainingFacts) -> dict[str, Any]:
    named = {**vars(fact), "variant": fact.variant.name}
    return {key: asdict(value) if isinstance(value, Spread) else value for key, value in named.items()}
