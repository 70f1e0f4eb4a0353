"""A replay as one HTML page that loads nothing; its responses and problems are untrusted and only shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import torch

from gmpo_mm.evaluation.page import breakable
from gmpo_mm.evaluation.policy import content_policy
from gmpo_mm.inspection.replay import Replay
from gmpo_mm.inspection.replay_words import (
    COSINE_COLUMNS,
    NOTES,
    changed_words,
    cosine_rows,
    headline,
    number,
    number_rows,
    response_title,
    settings,
    signed,
)
from gmpo_mm.inspection.two_updates import ResponseWeights
from gmpo_mm.reports.page import TEMPLATES as REPORT_TEMPLATES
from gmpo_mm.runs.files import write_atomically
from gmpo_mm.version import VERSION

TEMPLATES = Path(__file__).parent / "templates"


def default_page(replay: Replay) -> Path:
    """Beside the run's report."""
    return replay.run / "report" / f"replay_step_{replay.step}.html"


def write_page(replay: Replay, path: Path) -> Path:
    """Write the page whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, make_page(replay))
    return path


def make_page(replay: Replay) -> str:
    """The page's text."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    style = (REPORT_TEMPLATES / "report.css").read_text(encoding="utf-8")
    style += (TEMPLATES / "replay.css").read_text(encoding="utf-8")
    two = replay.two
    page = environment.get_template("replay.html").render(
        replay=replay,
        headline=headline(replay),
        changed=changed_words(replay),
        settings=settings(replay),
        rows=number_rows(two) if two is not None else [],
        cosines=cosine_rows(two) if two is not None else [],
        columns=COSINE_COLUMNS,
        notes=NOTES,
        responses=[_shown(found) for found in two.responses] if two is not None else [],
        breakable=breakable,
        version=VERSION,
        style=markupsafe.Markup(style),
        policy=content_policy(),
    )
    return page.encode("utf-8", "replace").decode()  # a half of a surrogate pair can't be written


def _shown(found: ResponseWeights) -> dict[str, Any]:
    scale = max(float(found.own_T.abs().max()), float(found.other_T.abs().max()))
    change_T = found.other_T - found.own_T
    return {
        "title": response_title(found),
        "problem": found.problem,
        "lines": [
            {"name": "the run's own", "tokens": _tokens(found, found.own_T, scale)},
            {"name": "the other", "tokens": _tokens(found, found.other_T, scale)},
            {"name": "change", "tokens": _tokens(found, change_T, float(change_T.abs().max()))},
        ],
        "largest": [number(scale), number(scale), number(float(change_T.abs().max()))],
    }


def _tokens(found: ResponseWeights, weights_T: torch.Tensor, top: float) -> list[dict[str, str]]:
    """Each token with the strength of its colour; the tooltip has the numbers of both updates."""
    tokens = zip(found.tokens, weights_T.tolist(), found.own_T.tolist(), found.other_T.tolist(), strict=True)
    return [
        {
            "text": token.replace("\n", "↵\n"),
            "kind": "up" if weight > 0 else "down" if weight < 0 else "zero",
            "strength": f"{abs(weight) / top if top else 0:.3f}",
            "about": f"own {signed(own)}, other {signed(other)}",
        }
        for token, weight, own, other in tokens
    ]
