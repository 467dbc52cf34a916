"""Reports: one list of blocks, written as HTML in one file that needs no network, or Markdown."""

import base64
import functools
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import markupsafe
import pandas as pd

from jaxact import analysis
from jaxact.experiments._plots import Drawing, curves, rendered
from jaxact.io import write_whole


class Heading(NamedTuple):
    """A heading."""

    level: int
    text: str


class Paragraph(NamedTuple):
    """A paragraph, opened by a bold word if ``lead`` is given; what stands in ` ` is code."""

    text: str
    lead: str = ""


class Table(NamedTuple):
    """A table, folded if it is long; columns that end in ``share`` are coloured."""

    frame: pd.DataFrame


class Findings(NamedTuple):
    """Sentences by the name of the figure that shows them."""

    sentences: Mapping[str, str]


class Code(NamedTuple):
    """Preformatted text."""

    text: str


class Terms(NamedTuple):
    """Definitions by term."""

    terms: Mapping[str, str]


class Contents(NamedTuple):
    """The list of the figures."""


class Picture(NamedTuple):
    """A figure in two formats, and if they are given the numbers that it shows and its `curves`."""

    name: str
    svg: bytes
    png: bytes
    caption: str
    numbers: pd.DataFrame | None = None
    curves: Sequence[Mapping[str, Any]] = ()


Block = Heading | Paragraph | Findings | Table | Code | Terms | Contents | Picture


def picture(drawing: Drawing) -> Picture:
    """A drawing as a block."""
    figure, numbers = drawing.figure, drawing.numbers
    svg, told = rendered(figure, "svg"), curves(figure)  # before a PNG is laid out otherwise
    png = rendered(figure, "png")
    return Picture(
        drawing.name, svg, png, drawing.caption, None if numbers.empty else numbers, told
    )


def study_report(
    title: str,
    lead: str,
    drawings: Iterable[Drawing],
    *,
    findings: Mapping[str, str] | None = None,
    summary: pd.DataFrame,
    more: Mapping[str, pd.DataFrame] | None = None,
    names: Iterable[str],
    config: Any,
    facts: Any,
) -> list[Block]:
    """The report of a study.

    Args:
      title: of the page.
      lead: the paragraph that opens it.
      drawings: its figures.
      findings: sentences by the name of the figure that shows them; those figures come first, and
        the first of them before all tables.
      summary: a table, folded.
      more: further tables by their titles; empty ones are left out.
      names: of the objects and measures in its table, whose definitions are told.
      config: what decided the results, as JSON values.
      facts: the manifest.

    Returns:
      Its blocks.
    """
    findings = findings or {}
    figures = sorted(map(picture, drawings), key=lambda figure: figure.name not in findings)
    main = figures[: bool(findings)]
    tables = [(title, frame) for title, frame in (more or {}).items() if len(frame)]
    return [
        Heading(1, title),
        Paragraph(lead),
        *([Heading(2, "Findings"), Findings(findings)] if findings else []),
        *main,
        Heading(2, "In numbers"),
        Table(summary),
        *(block for title, frame in tables for block in (Heading(3, title), Table(frame))),
        Heading(2, "Figures"),
        Contents(),
        *figures[len(main) :],
        Heading(2, "Definitions"),
        Terms({name: _told(of) for name, of in analysis.definitions(names).items()}),
        Heading(2, "How it was made"),
        Heading(3, "Config"),
        Code(json.dumps(config, indent=2, default=str)),
        Heading(3, "Versions and device"),
        Code(json.dumps(facts, indent=2)),
    ]


def _told(of: Mapping[str, str]) -> str:
    text = of["definition"]
    if "unit" in of:
        text += f" (unit: {of['unit']}; from {of['floor']} to {of['greatest']})"
    return text


def write_report(folder: pathlib.Path, blocks: Sequence[Block]) -> None:
    """Writes ``report.html``, and its figures into ``figures/``, as PNG and SVG."""
    (folder / "figures").mkdir(exist_ok=True)
    for figure in pictures(blocks):
        write_whole(folder / "figures" / f"{figure.name}.svg", figure.svg)
        write_whole(folder / "figures" / f"{figure.name}.png", figure.png)
    write_whole(folder / "report.html", html(blocks).encode())


def pictures(blocks: Sequence[Block]) -> list[Picture]:
    """The figures among blocks."""
    return [block for block in blocks if isinstance(block, Picture)]


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent), autoescape=True
    )
    environment.filters["base64"] = lambda data: base64.b64encode(data).decode()
    environment.filters["frame"] = _rows
    return environment.get_template("_report.html.jinja")


def _rows(frame: pd.DataFrame) -> markupsafe.Markup:
    """A frame as HTML: numbers with four digits, shares of 1 the bluer the larger they are."""
    shares = [str(name).endswith("share") for name in frame]

    def cell(value: Any, share: bool) -> str:
        if pd.isna(value):
            return "<td></td>"
        number = isinstance(value, float)
        look = f' style="--share:{min(max(value, 0), 1):.2f}"' if share and number else ""
        return f"<td{look}>{f'{value:.4g}' if number else markupsafe.escape(value)}</td>"

    head = "".join(f"<th>{markupsafe.escape(str(name))}</th>" for name in frame)
    body = "".join(
        f"<tr>{''.join(map(cell, row, shares))}</tr>" for row in frame.itertuples(index=False)
    )
    return markupsafe.Markup(f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>")


def html(blocks: Sequence[Block]) -> str:
    """Blocks as one HTML page that needs no network."""
    title = next(block.text for block in blocks if isinstance(block, Heading))
    kinds = [(type(block).__name__, block) for block in blocks]
    return _template().render(title=title, blocks=kinds)


def markdown(blocks: Sequence[Block], folder: str) -> str:
    """Blocks as Markdown, whose figures lie in a folder."""
    return "\n\n".join(_markdown(block, folder) for block in blocks) + "\n"


def _markdown(block: Block, folder: str) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {text}"
        case Paragraph(text, lead):
            return f"**{lead}** {text}" if lead else text
        case Findings(sentences):
            return "\n".join(f"- {text}" for text in sentences.values())
        case Code(text):
            return f"```json\n{text}\n```"
        case Terms(terms):
            return "\n".join(f"- **{term}**: {text}" for term, text in terms.items())
        case Picture():
            return f"![{block.caption}]({folder}/{block.name}.svg)\n\n*{block.caption}*"
        case Table(frame):
            lines = [list(frame.columns), ["---"] * len(frame.columns), *frame.values.tolist()]
            cells = ([str(cell).replace("|", "\\|") for cell in line] for line in lines)
            return "\n".join(f"| {' | '.join(line)} |" for line in cells)
        case Contents():
            return ""
