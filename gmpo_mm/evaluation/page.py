"""One HTML page of one evaluation: its numbers, and every problem with its samples, to look at.

The page is a single file: style, script, pictures, formulas (MathML) and responses are inside it, and a content security
policy forbids it to load anything. Problems, answers, responses and names are untrusted text and are only ever shown.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import markupsafe
from PIL import Image

from gmpo_mm.evaluation.early_stop import stopping_words
from gmpo_mm.evaluation.page_data import page_data
from gmpo_mm.evaluation.paper import paper_numbers
from gmpo_mm.evaluation.policy import content_policy
from gmpo_mm.evaluation.regrade_words import section_of
from gmpo_mm.evaluation.results import Result, Spec, read_result
from gmpo_mm.evaluation.statistics import summarise
from gmpo_mm.runs.files import write_atomically
from gmpo_mm.version import VERSION

TEMPLATES = Path(__file__).parent / "templates"
MAX_PICTURE_SIDE = 320
CHART_ROWS = 14
SHARES = (
    ("truncated", "truncated"),
    ("no_answer", "no answer"),
    ("timeout", "grading timed out"),
    ("error", "grader failed"),
    ("not_evaluated", "copied, not worked out"),
)

FILTERS = (
    ("all", "all"),
    ("right", "✓ right"),
    ("wrong", "✗ wrong"),
    ("disagreed", "≠ some right, some not"),
    ("truncated", "✂ truncated"),
    ("no_answer", "∅ no answer"),
    ("timeout", "◷ grading timed out"),
    ("error", "! grader failed"),
    ("not_evaluated", "⧉ copied from the problem"),
)


def write_page(result_dir: Path) -> Path:
    """Write page.html of a result's directory, finished or not; returns its path. Raises DataError for a broken result."""
    result = read_result(result_dir)
    path = result_dir / "page.html"
    write_atomically(path, make_page(result))
    return path


def make_page(result: Result) -> str:
    """The page's text."""
    summary = result.summary or summarise(result, partial=True)
    data, chunks = page_data(result)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    early = summary.get("stopped_early")
    expected = (early["problems"] if early else len(result.problems)) * result.spec.protocol.n
    page = environment.get_template("page.html").render(
        spec=result.spec,
        summary=summary,
        expected=expected,
        missing=expected - len(result.samples),
        score=summary["pass_at_1"],
        early=early,
        stopping=stopping_words(summary),
        tiles=_tiles(summary, result),
        facts=_facts(result.spec),
        paper=_paper(result.spec),
        charts=_charts(summary),
        regrade=section_of(result.path),
        filters=[pair for pair in FILTERS if pair[0] != "disagreed" or result.spec.protocol.n > 1],
        percent=percent,
        breakable=breakable,
        quoted=lambda text: quote(text, safe="", errors="replace"),
        version=VERSION,
        # Inside a script element no text but `</script` and `<!--` ends or changes it: no `<` is left in the data.
        data=_unescaped(json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")),
        chunks=chunks,
        style=_unescaped((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        script=_unescaped(script),
        policy=content_policy(script),
    )
    return page.encode("utf-8", "replace").decode()  # a half of a surrogate pair can't be written


def scale_picture(image: Image.Image) -> bytes:
    """A picture for the page as PNG bytes: at most 320 pixels a side, flattened onto white, at most 64 colours."""
    picture = Image.new("RGB", image.size, "white")
    rgba = image.convert("RGBA")
    picture.paste(rgba, mask=rgba.getchannel("A"))
    picture.thumbnail((MAX_PICTURE_SIDE, MAX_PICTURE_SIDE), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.quantize(64).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def breakable(text: str) -> markupsafe.Markup:
    """Text that may be broken after a slash, as long paths have to be."""
    return markupsafe.Markup(str(markupsafe.escape(text)).replace("/", "/<wbr>"))


def _unescaped(text: str) -> markupsafe.Markup:
    """Text that the template writes as it is: our own files, and JSON without `<`."""
    return markupsafe.Markup(text)


def percent(share: float) -> str:
    """A share in percent with one digit after the point."""
    return f"{100 * share:.1f}"


def _tiles(summary: dict[str, Any], result: Result) -> list[dict[str, str]]:
    """The numbers beside Pass@1."""
    n = result.spec.protocol.n
    tiles = []
    for k, value in summary["pass_at_k"].items():
        if int(k) > 1:
            tiles.append(_tile(f"Pass@{k}", f"{percent(value)} %", "unbiased"))
    if n > 1:
        tiles.append(_tile(f"majority@{n}", f"{percent(summary['majority'])} %", "most frequent answer"))
    for key, name in SHARES:
        share = summary.get(key, 0.0)  # a summary of an earlier version has no `not_evaluated`
        if key not in ("error", "not_evaluated") or share > 0:
            tiles.append(_tile(name, f"{percent(share)} %", "of the samples"))
    tokens = summary["tokens"]
    note = f"median {tokens['median']:,.0f}, longest {tokens['max']:,}"
    return [*tiles, _tile("mean length", f"{tokens['mean']:,.0f} tokens", note)]


def _tile(name: str, value: str, note: str = "") -> dict[str, str]:
    return {"name": name, "value": value, "note": note}


def _facts(spec: Spec) -> list[tuple[str, str]]:
    """Everything that decides the numbers."""
    protocol, grader = spec.protocol, spec.grader
    packages = ", ".join(f"{name} {version}" for name, version in grader.packages.items())
    facts = [
        ("protocol", protocol.describe()),
        ("stops at", ", ".join(map(repr, protocol.stop))),
        ("seed", str(spec.seed)),
        ("grader", f"{grader.name}, version {grader.version}" + (f" ({packages})" if packages else "")),
        ("extraction", f"{grader.extraction}, at most {grader.timeout:g} s for one comparison"),
        ("copies of the problem", "rejected where not worked out" if grader.unevaluated == "reject" else ""),
        ("problems", f"{spec.problems:,}, SHA-256 {spec.problem_set[:16]}"),
        ("model", spec.model + (f", SHA-256 {spec.model_hash[:16]}" if spec.model_hash else "")),
        ("sampled by", spec.backend),
        ("caveats", "; ".join(map(str, spec.environment.get("caveats", ())))),
        ("command", " ".join(spec.command)),
    ]
    return [(name, value) for name, value in facts if value]


def _paper(spec: Spec) -> dict[str, Any]:
    """The paper's numbers that may stand beside this result, and the protocols of those that may not."""
    numbers = paper_numbers(spec.benchmark)
    fitting = [number for number in numbers if number.protocol.fits(spec.protocol)]
    others = dict.fromkeys(number.protocol.describe() for number in numbers if number not in fitting)
    return {
        "numbers": [number for number in fitting if number.method in ("GMPO", "GRPO")],
        "rest": [number for number in fitting if number.method not in ("GMPO", "GRPO")],
        "others": list(others),
        "source": numbers[0].source if numbers else "",
    }


def _charts(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Accuracy by answer form and by problem type, the most frequent first."""
    charts = (
        ("form", "Accuracy by answer form", "every answer form", summary["by_form"]),
        ("type", "Accuracy by problem type", "every problem type", summary["by_type"]),
    )
    return [
        {
            "key": key, "title": title, "any": everything, "names": list(rows),
            "rows": [{"name": name, **row} for name, row in list(rows.items())[:CHART_ROWS]], "rest": len(rows) - CHART_ROWS,
        }
        for key, title, everything, rows in charts if rows
    ]  # fmt: skip
