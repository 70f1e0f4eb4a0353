"""A regrade to read: on the console, as Markdown, and as an HTML page or a section of one. Responses are untrusted text."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import jinja2
import markupsafe
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from gmpo_mm.errors import ConfigError
from gmpo_mm.evaluation.policy import content_policy
from gmpo_mm.evaluation.regrade import IN_PAGE, Example, Regrade, RuleScore, Step, Waterfall
from gmpo_mm.evaluation.table import WIDTH
from gmpo_mm.runs.files import write_atomically
from gmpo_mm.runs.progress import clean
from gmpo_mm.runs.reading import read_json

TEMPLATES = Path(__file__).parent / "templates"
SCORE_COLUMNS = ("rule", "score", "accuracy", "format", "no answer", "skipped", "what it does")
STEP_COLUMNS = ("step", "score", "responses up", "responses down")
MEANINGS = {
    "extraction": "the answer is found elsewhere in the response",
    "equivalence": "the same answer is compared otherwise",
    "both": "extraction and equivalence together, or each of them",
    "choice": "a letter from A to D is asked for instead of a value",
}


def print_regrade(report: Regrade, console: Console | None = None) -> None:
    """The scores, the waterfalls and the examples."""
    console = console or Console(width=None if sys.stdout.isatty() else WIDTH)
    title = Text(f"{clean(report.source)}: {report.responses:,} responses to {report.rows:,} problems")
    console.print(_table(title, SCORE_COLUMNS, map(score_cells, report.scores), left=(0, 6)))
    for fall in report.waterfalls:
        console.print(_table(Text(fall_title(fall)), STEP_COLUMNS, fall_cells(fall), left=(0,)))
        for step in fall.steps:
            for example in step.examples:
                console.print(Text(f"  {step.name}: {clean(example_text(example, fall))}"), soft_wrap=True)
    for note in report.notes:
        console.print(Text(clean(note)), soft_wrap=True)


def _table(
    title: Text, names: tuple[str, ...], rows: Iterator[tuple[str, ...]], left: tuple[int, ...]
) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(names):
        table.add_column(name, justify="left" if index in left else "right")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def score_cells(score: RuleScore) -> tuple[str, ...]:
    """A row of the first table."""
    form = "" if score.format is None else f"{score.format:.4f}"
    count = sum(score.statuses.values())
    shares = (f"{score.statuses.get(status, 0) / count:.1%}" for status in ("no_answer", "skipped"))
    return score.rule, f"{score.overall:.4f}", f"{score.accuracy:.4f}", form, *shares, score.title


def fall_title(fall: Waterfall) -> str:
    """What a waterfall is about."""
    return f"From {fall.a} to {fall.b}: {fall.changed:,} verdict{' differs' if fall.changed == 1 else 's differ'}"


def fall_cells(fall: Waterfall) -> Iterator[tuple[str, ...]]:
    """Rows of a waterfall: A's score, the steps, B's score."""
    yield f"score under {fall.a}", f"{fall.start:.4f}", "", ""
    for step in fall.steps:
        yield step_name(step), f"{step.change:+.4f}", f"{step.gained:,}", f"{step.lost:,}"
    yield f"score under {fall.b}", f"{fall.end:.4f}", "", ""


def step_name(step: Step) -> str:
    """The step in words."""
    meaning = MEANINGS.get(step.name)
    return f"{step.name}: {meaning}" if meaning else step.name


def example_text(example: Example, fall: Waterfall) -> str:
    """One response on one line."""
    found = (
        f"{rule} {'finds nothing' if answer is None else 'compares “' + answer[-80:] + '”'}"
        for rule, answer in ((fall.a, example.before), (fall.b, example.after))
    )
    return f"{example.id}, gold “{example.gold}”: {', '.join(found)}, in “{example.response}”"


def to_markdown(report: Regrade) -> str:
    """The report as a section of a Markdown page."""
    lines = [f"## Under {len(report.scores)} rules", ""]
    lines += [f"`{_inline(report.source)}`: {report.responses:,} responses to {report.rows:,} problems.", ""]
    lines += [*_markdown_table(SCORE_COLUMNS, map(score_cells, report.scores)), ""]
    for fall in report.waterfalls:
        lines += [f"### {fall_title(fall)}", "", *_markdown_table(STEP_COLUMNS, fall_cells(fall)), ""]
        said = [
            f"- {step.name}: {_code(example_text(example, fall))}"
            for step in fall.steps
            for example in step.examples
        ]
        lines += [*said, ""] if said else []
    sources = [f"- {score.rule}: {score.source} ({score.version})" for score in report.scores]
    return "\n".join(
        [*lines, "Sources of the rules:", "", *sources, *(f"\n{_inline(note)}" for note in report.notes), ""]
    )


def _markdown_table(names: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> list[str]:
    marks = tuple(
        "---:" if index and name != SCORE_COLUMNS[-1] else "---" for index, name in enumerate(names)
    )
    return [f"| {' | '.join(line)} |" for line in (names, marks, *(tuple(map(_inline, row)) for row in rows))]


def _inline(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def _code(text: str) -> str:
    text = " ".join(text.split())
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{fence} {text} {fence}" if len(fence) > 1 else f"`{text}`"


def to_section(report: Regrade) -> markupsafe.Markup:
    """The report as a section of an HTML page; everything in it is escaped."""
    return markupsafe.Markup(_environment().get_template("regrade_section.html").render(**_content(report)))


def section_of(folder: Path) -> markupsafe.Markup:
    """The section of an evaluation's page: what `save_section` left in its folder; empty without it."""
    file = folder / IN_PAGE
    if not file.is_file():
        return markupsafe.Markup("")
    return to_section(read_json(file, Regrade, "`gmpo-mm regrade EVALUATION --in-page` writes it again"))


def save_section(report: Regrade, folder: Path) -> None:
    """Keep the report in an evaluation's folder, for its page."""
    write_atomically(folder / IN_PAGE, json.dumps(report.to_json(), ensure_ascii=True, indent=1) + "\n")


def check_evaluation(folder: Path) -> None:
    """ConfigError for a folder that has no page."""
    if not (folder / "evaluation.json").is_file():
        raise ConfigError(f"--in-page: {folder} is no evaluation's folder; --page FILE.html writes a page of its own")


def to_html(report: Regrade) -> str:
    """The report as a page of its own, which may load nothing."""
    style = markupsafe.Markup((TEMPLATES / "page.css").read_text(encoding="utf-8"))
    page = _environment().get_template("regrade.html")
    return page.render(section=to_section(report), style=style, policy=content_policy(), source=report.source)


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )


def _content(report: Regrade) -> dict[str, object]:
    falls = [
        {
            "title": fall_title(fall),
            "rows": list(fall_cells(fall)),
            "examples": [
                (step.name, example_text(example, fall)) for step in fall.steps for example in step.examples
            ],
        }
        for fall in report.waterfalls
    ]
    return {
        "report": report, "score_columns": SCORE_COLUMNS, "scores": [score_cells(score) for score in report.scores],
        "step_columns": STEP_COLUMNS, "falls": falls,
    }  # fmt: skip


def write_page(report: Regrade, file: Path) -> None:
    """Write the page as its name says, .html or .md. Raises ConfigError for another name or where it can't be written."""
    check_page(file)
    text = to_html(report) if file.suffix == ".html" else to_markdown(report)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, text.encode("utf-8", "replace").decode())
    except OSError as error:
        raise ConfigError(f"--page {file}: can't be written ({error.strerror}); name another file") from error


def check_page(file: Path) -> None:
    """ConfigError for a name that is no page's."""
    if file.suffix not in (".html", ".md") or file.is_dir():
        raise ConfigError(f"--page {file}: name a file that ends in .html or .md")
