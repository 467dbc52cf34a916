"""Sphinx configuration: pages in MyST Markdown, the API from docstrings, notebooks as committed."""

import pathlib
import re
import shutil
import sys

import jaxact

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "jaxact"
author = "The jaxact authors"
release = version = jaxact.__version__

extensions = [
    "mathml",
    "myst_nb",
    "names",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "jaxact"
html_math_renderer = "mathml"
default_role = "py:obj"  # in docstrings `name` is a link

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
suppress_warnings = ["mystnb.unknown_mime_type"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_custom_sections = ["Returns", "Reference"]


def bring_notebooks(app, config):
    """The notebooks live beside the package; Sphinx reads below docs/ only."""
    target = HERE / "notebooks"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for notebook in sorted((HERE.parent / "notebooks").glob("*.ipynb")):
        shutil.copy(notebook, target)


def skip_members(app, what, name, obj, skip, options):
    """Fields of named tuples stand in their docstrings; what others wrote stands in their pages."""
    foreign = what == "module" and getattr(obj, "__module__", "jaxact").split(".")[0] == "typing"
    return True if foreign or type(obj).__name__ == "_tuplegetter" else None


def bars(app, what, name, obj, options, lines):
    """Docstrings write |x| for an absolute value, which is a substitution in reStructuredText."""
    formula = None
    for number, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if formula is not None and line.strip() and indent <= formula:
            formula = None
        if line.lstrip().startswith(".. math::"):
            formula = indent
        if formula is None:
            parts = re.split(r"(`[^`]*`)", line)
            lines[number] = "".join(
                part if part.startswith("`") else part.replace("|", "\\|") for part in parts
            )


def setup(app):
    """Registers the handlers."""
    app.connect("autodoc-process-docstring", bars)
    app.connect("autodoc-skip-member", skip_members)
    app.connect("config-inited", bring_notebooks)
