"""A report in one HTML file that needs no network: figures, captions, and their numbers."""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1a1a1a; background: #fff; }
figure { margin: 2.5rem 0; }
figure img { width: 100%; max-width: 50rem; height: auto; }
figcaption { max-width: 46rem; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.15rem 0.6rem; text-align: right; border-bottom: 1px solid #ddd; }
th { position: sticky; top: 0; background: #fff; }
details > div { max-height: 24rem; overflow: auto; }
dt { font-weight: 600; }
pre { background: #f5f5f5; padding: 0.8rem; overflow: auto; font-size: 0.85rem; }
"""


class Section(NamedTuple):
    """One figure of a report."""

    name: str
    svg: bytes
    caption: str
    numbers: pd.DataFrame


def report(
    title: str,
    lead: Sequence[str],
    sections: Sequence[Section],
    *,
    summary: pd.DataFrame,
    definitions: Mapping[str, str],
    facts: Mapping[str, str],
) -> str:
    """A self-contained HTML page.

    Args:
      title: of the page.
      lead: paragraphs that open it.
      sections: the figures, each with its caption and the numbers behind it.
      summary: a small table that stands before the figures.
      definitions: what each measured object and quantity is.
      facts: blocks of preformatted text by heading (the config, the versions).

    Returns:
      The page's source.
    """
    contents = "".join(
        f'<li><a href="#{html.escape(s.name)}">{html.escape(s.name.replace("_", " "))}</a></li>'
        for s in sections
    )
    figures = "".join(_figure(number, s) for number, s in enumerate(sections, start=1))
    terms = "".join(
        f"<dt>{html.escape(term)}</dt><dd>{html.escape(text)}</dd>"
        for term, text in definitions.items()
    )
    blocks = "".join(
        f"<h3>{html.escape(head)}</h3><pre>{html.escape(text)}</pre>"
        for head, text in facts.items()
    )
    paragraphs = "".join(f"<p>{html.escape(text)}</p>" for text in lead)
    return document(
        title,
        f"<h1>{html.escape(title)}</h1>{paragraphs}"
        f"<h2>In numbers</h2>{table(summary)}"
        f"<h2>Figures</h2><ol>{contents}</ol>{figures}"
        f"<h2>Definitions</h2><dl>{terms}</dl><h2>How it was made</h2>{blocks}",
    )


def document(title: str, body: str) -> str:
    """A page that needs no network, from the source of its body."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body>{body}</body></html>"
    )


def _figure(number: int, section: Section) -> str:
    caption = (
        f"<b>Figure {number}.</b> {html.escape(section.caption)}"
        f"<details><summary>The numbers ({len(section.numbers)} rows)</summary>"
        f"<div>{table(section.numbers)}</div></details>"
    )
    return figure(section.name, section.svg, caption, alt=section.caption)


def figure(name: str, svg: bytes, caption: str, *, alt: str = "") -> str:
    """A figure with its picture inside; the caption is HTML."""
    data = base64.b64encode(svg).decode()
    return (
        f'<figure id="{html.escape(name)}">'
        f'<img alt="{html.escape(alt) or caption}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def table(frame: pd.DataFrame) -> str:
    """A frame as an HTML table."""
    return frame.to_html(index=False, border=0, float_format=lambda v: f"{v:.4g}", na_rep="")
