"""Writes docs/analysis.md's table of measures, from `jaxact.analysis.MEASURES`.

Run ``python scripts/measures.py``; with ``--check`` it says whether the page is up to date.
"""

import sys

from _pages import DOCS, asked_to_check, filled

from jaxact.analysis import MEASURES

PAGE = DOCS / "analysis.md"


def table() -> str:
    """A row for each measure; one of every matrix has no object of its own."""
    rows = ["| measure | of | definition | unit | from, to |", "| --- | --- | --- | --- | --- |"]
    for name, m in MEASURES.items():
        definition = m.definition.replace("|", r"\|").replace("*", r"\*")
        of = m.object or "any matrix"
        rows.append(f"| `{name}` | {of} | {definition} | {m.unit} | {m.floor}, {m.greatest} |")
    return "\n".join(rows) + "\n"


def main() -> int:
    """Writes the page, or with --check says whether it is up to date."""
    text = PAGE.read_text(encoding="utf-8")
    page = filled(text, "measures", table())
    if asked_to_check(__doc__):
        return int(page != text)
    PAGE.write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
