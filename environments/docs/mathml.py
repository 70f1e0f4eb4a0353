"""A Markdown extension: `$x$` and `$$x$$` become MathML, which browsers draw themselves. No script, no other host."""

from __future__ import annotations

import html
import xml.etree.ElementTree as etree

from latex2mathml.converter import convert
from markdown import Markdown
from markdown.extensions import Extension
from markdown.inlinepatterns import InlineProcessor

DISPLAY = r"(?s)\$\$(.+?)\$\$"
INLINE = r"(?<![\\$\w])\$(?!\s)([^$\n]+?)(?<!\s)\$(?![\w$])"


class _Formula(InlineProcessor):
    def __init__(self, pattern: str, md: Markdown, display: str) -> None:
        super().__init__(pattern, md)
        self.display = display

    def handleMatch(self, m, data):  # type: ignore[no-untyped-def, override]
        text = html.unescape(m.group(1)).replace("\\\n", "\n")
        markup = convert(text, display=self.display)
        place = etree.Element("span", {"class": "formula"})
        place.text = self.md.htmlStash.store(markup)
        return place, m.start(0), m.end(0)


class MathML(Extension):
    """Registered above the escapes, so that a backslash stays one."""

    def extendMarkdown(self, md: Markdown) -> None:
        md.inlinePatterns.register(_Formula(DISPLAY, md, "block"), "mathml-display", 189)
        md.inlinePatterns.register(_Formula(INLINE, md, "inline"), "mathml", 188)


def makeExtension(**options: object) -> MathML:
    """What Markdown calls."""
    return MathML(**options)
