"""Tables in the pages of the docs that scripts write, between markers that name them."""

import argparse
import pathlib

DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"


def filled(text: str, name: str, table: str) -> str:
    """A page's text with the table of that name written anew."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    return head + begin + table + end + tail


def asked_to_check(about: str | None) -> bool:
    """Whether the command line has --check, for which nothing is written."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if out of date")
    return parser.parse_args().check
