"""What the columns of the studies' tables hold, for ``definitions.json``."""

import pathlib

import pandas as pd

from jaxact import analysis
from jaxact.experiments._store import write_json

COLUMNS = {
    "object": "What was measured; defined in this file.",
    "quantity": "Which measure was taken of it; defined in this file.",
    "layer": "Place in depth, from 1; blocks of a network, or matrices in the order of the file. 0 "
    "is the network's input, or what is no block.",
    "name": "The layer's name in the network or file.",
    "index": "Which of a layer's several values, from 1; 0 where a layer has one value.",
    "value": "The number, in the unit given.",
    "standard_error": "Of an estimate; missing where the value is exact.",
    "tolerance": "The share of the largest singular value, or of the rows' root mean square norm, "
    "above which one counts; missing where none is needed.",
    "centring": "What was subtracted from the matrix first: none or mean.",
    "dtype": "Of the arithmetic.",
    "rows": "Of the matrix; 0 of what is no matrix.",
    "columns": "Of the matrix; 0 of what is no matrix.",
    "unit": "Of the value.",
    "definition": "The formula of the quantity.",
    "file": "The checkpoint.",
    "possible": "The largest rank that the matrix can have: min(rows, columns), or the width of a "
    "head.",
    "share": "Of a rank, the value over the possible rank.",
    "attention": "The attention layer that the matrix belongs to; empty of others.",
    "part": "Of an attention: query, key, value, output, or of a head's circuit query_key or "
    "value_output.",
    "head": "From 0; -1 of a matrix of all heads. Keys and values that heads share are counted by "
    "group.",
    "network": "Kind of network.",
    "wiring": "How skip, norm and activation are wired, a word of jaxact.wiring.",
    "activation": "The activation function.",
    "norm": "Kind of norm; none where the wiring has none.",
    "depth": "Number of blocks.",
    "seed": "Of weights and batches.",
    "step": "Training steps before the measurement, from 0 at initialization.",
    "phase": "initial (step 0), trained (the last step), or training (losses of steps).",
    "parameter": "The path of the weight; empty of what is no weight.",
}


def write_definitions(path: pathlib.Path, table: pd.DataFrame) -> None:
    """Writes what a table's objects and measures are, and under ``columns`` its columns."""
    names = [*table.object.unique(), *table.quantity.unique()]
    columns = {name: {"definition": COLUMNS[name]} for name in table}
    write_json(path, {**analysis.definitions(names), "columns": columns})
