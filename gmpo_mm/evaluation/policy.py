"""The Content-Security-Policy of every HTML page that we write: it loads nothing, and runs no script but its own."""

from __future__ import annotations

import base64
import hashlib

import markupsafe


def content_policy(script: str | None = None) -> markupsafe.Markup:
    """The meta element for a page's head; `script` is the text of the one script that the page has, if it has one.

    Styles may be inline: pictures in SVG have style attributes, and a style can load nothing under this policy.
    """
    parts = ["default-src 'none'", "img-src data:", "style-src 'unsafe-inline'"]
    if script is not None:
        parts.append(f"script-src 'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'")
    policy = "; ".join([*parts, "base-uri 'none'", "form-action 'none'"])
    return markupsafe.Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">')
