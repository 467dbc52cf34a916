"""The page in the documentation: the tables that it rests on, kept beside it, and how they came."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from jaxact.experiments._report import Block, markdown, pictures
from jaxact.experiments._store import StudyError, write_json, write_table
from jaxact.experiments.verdicts._protocol import Study
from jaxact.io import write_whole

MEASURED = ("seeds", "grid", "cells", "settings")
"""What of a protocol decides the data; the rest decides what they say."""
RULE = ("statement", "side", "bound", "unit", "exact", "gates")


class Made(NamedTuple):
    """How a study's table came to be.

    Attributes:
      preset: the budget.
      protocol: the study's, as it was fixed before the data.
      facts: the manifest of the run.
    """

    preset: str
    protocol: Mapping[str, Any]
    facts: Mapping[str, Any]

    def restated(self, study: Study, /) -> list[str]:
        """The predictions of a study whose rules are not those fixed before the data."""
        before = {rule["name"]: rule for rule in self.protocol["predictions"]}
        return [
            rule["name"]
            for rule in study.protocol(self.preset)["predictions"]
            if any(rule[key] != before.get(rule["name"], {}).get(key) for key in RULE)
        ]


def data_of(docs: pathlib.Path, /) -> pathlib.Path:
    """The folder of the tables that a page rests on."""
    return docs / "data" / "verdicts"


def add_tables(
    docs: pathlib.Path, tables: Mapping[str, pd.DataFrame], made: Mapping[str, Made], /
) -> None:
    """Puts tables beside a page, in place of those of the same studies.

    Args:
      docs: the folder of the documentation.
      tables: by name of the study its own rows.
      made: how they came to be.
    """
    folder = data_of(docs)
    folder.mkdir(parents=True, exist_ok=True)
    known = _manifest(docs) if (folder / "manifest.json").exists() else {}
    for name, table in tables.items():
        write_table(folder / f"{name}.parquet", table)
        known[name] = made[name]._asdict()
    write_json(folder / "manifest.json", dict(sorted(known.items())))


def tables_of(
    docs: pathlib.Path, known: Sequence[Study], /
) -> tuple[dict[str, pd.DataFrame], dict[str, Made]]:
    """The tables that a page rests on.

    Args:
      docs: the folder of the documentation.
      known: studies; those that have no table are left out.

    Returns:
      By name of the study its own rows, and how they came to be.

    Raises:
      StudyError: if there are none, or a study has since come to measure something else.
    """
    made = {name: Made(**found) for name, found in _manifest(docs).items()}
    tables = {}
    for study in known:
        if study.name in made:
            _check_measured(study, made[study.name])
            tables[study.name] = pd.read_parquet(data_of(docs) / f"{study.name}.parquet")
    return tables, made


def _check_measured(study: Study, made: Made) -> None:
    now = study.protocol(made.preset)
    for part in MEASURED:
        if now[part] != made.protocol[part]:
            raise StudyError(
                f"docs: the table of claim {study.number} was measured with other {part} than the "
                f"study now has; measure it again with --claims {study.number}"
            )


def _manifest(docs: pathlib.Path) -> dict[str, Any]:
    path = data_of(docs) / "manifest.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(f"docs: must hold a page of verdicts; there is no {path}") from None


def write_page(docs: pathlib.Path, blocks: Sequence[Block], /) -> None:
    """Writes a page and its figures into the documentation."""
    images = docs / "images" / "verdicts"
    images.mkdir(parents=True, exist_ok=True)
    for figure in pictures(blocks):
        write_whole(images / f"{figure.name}.svg", figure.svg)
    write_whole(docs / "verdicts.md", markdown(blocks, "images/verdicts").encode())
