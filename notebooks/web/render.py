"""Markdown cells as HTML: equations left to MathJax, links between notebooks kept, the course's own boxes marked.

Everything that a page needs is in the page or beside it. Left out: attachments and raw HTML beyond what nbconvert
passes through; the notebooks use neither.
"""

from __future__ import annotations

import html
import re
from collections.abc import Collection

from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

LONG = 20  # characters
LABELS = ("paper", "derived", "measured", "neighbour")


class Renderer(IPythonRenderer):
    """nbconvert's Markdown renderer for a page that stands among the pages of `stems`, found at `base`."""

    def __init__(self, stems: Collection[str] = (), base: str = "") -> None:
        super().__init__(escape=False, exclude_anchor_links=True)
        self.stems, self.base = stems, base

    def inline_math(self, body: str) -> str:
        return rf'<span class="math">\({html.escape(body.strip(), quote=False)}\)</span>'

    def block_math(self, body: str) -> str:
        return rf'<span class="math display">\[{html.escape(body.strip(), quote=False)}\]</span>'

    def latex_environment(self, name: str, body: str) -> str:
        return self.block_math(rf"\begin{{{name}}}{body}\end{{{name}}}")

    def heading(self, text: str, level: int, **attrs: object) -> str:
        return f'<h{level} id="{anchor(text)}">{text}</h{level}>\n'

    def link(self, text: str, url: str, title: str | None = None) -> str:
        target = self.target(url)
        return f'<a href="{html.escape(target)}">{text}</a>' if target else text

    def codespan(self, text: str) -> str:
        words = html.escape(text, quote=False)
        if len(text) > LONG:  # a long name may be broken after a stop, which copying does not notice
            words = re.sub(r"([._(,])(?=[^\s.\d])", r"\1<wbr>", words)
        code = f"<code>{words}</code>"
        return f'<a href="{self.base}{text}.html">{code}</a>' if text in self.stems else code

    def strong(self, text: str) -> str:
        label = next((label for label in LABELS if text.lower().startswith(label)), None)
        return f'<strong class="label {label}">{text}</strong>' if label else f"<strong>{text}</strong>"

    def block_quote(self, text: str) -> str:
        return f'<blockquote class="{"predict" if "redict, then reveal" in text else "aside"}">\n{text}</blockquote>\n'

    def table(self, text: str) -> str:
        return f'<div class="table"><table>\n{text}</table></div>\n'

    def target(self, url: str) -> str | None:
        """Where a link leads from this page: another page, a place on the net, or nowhere (a file without a page)."""
        if url.startswith(("#", "https://", "http://", "mailto:")):
            return url
        path, _, place = url.partition("#")
        stem = re.sub(r"\.(ipynb|md)$", "", path).rpartition("/")[2]
        return f"{self.base}{stem}.html{'#' + place if place else ''}" if stem in self.stems else None


def anchor(heading: str) -> str:
    """The id of a heading: its words joined by hyphens, as notebooks link to them.

    >>> anchor("2. KL, and <em>which way</em> round")
    '2.-KL,-and-which-way-round'
    """
    words = html.unescape(re.sub(r"<[^>]*>", "", heading)).split()
    return html.escape("-".join(words))


def markdown(source: str, stems: Collection[str] = (), base: str = "") -> str:
    """Markdown as HTML."""
    return MarkdownWithMath(renderer=Renderer(stems, base)).render(source)


def inline(source: str) -> str:
    """One line of Markdown as HTML with nothing around it; read as a heading, in which "1. " begins no list.

    >>> inline("1. A *word*")
    '1. A <em>word</em>'
    """
    return re.sub(r"^<h1[^>]*>|</h1>$", "", markdown(f"# {' '.join(source.split())}").strip())


def plain(source: str) -> str:
    """One line of Markdown as words without markup, for titles; escaped, as a page wants it."""
    return re.sub(r"<[^>]*>", "", inline(source))
