"""Formulas as MathML, which browsers draw by themselves: the built pages fetch nothing."""

import html

import latex2mathml.converter
from docutils import nodes
from sphinx.util import logging

logger = logging.getLogger(__name__)


def _mathml(node, display):
    source = node.astext()
    if display == "block" and r"\begin{" not in source and (r"\\" in source or "&" in source):
        source = rf"\begin{{aligned}}{source}\end{{aligned}}"
    try:
        return latex2mathml.converter.convert(source, display=display)
    except Exception as error:
        logger.warning("formula cannot be converted: %s (%r)", source, error, location=node)
        return f"<code>{html.escape(source)}</code>"


def visit_inline(self, node):
    """A formula in a line."""
    self.body.append(_mathml(node, "inline"))
    raise nodes.SkipNode


def visit_block(self, node):
    """A formula of its own."""
    self.body.append(f'<div class="math">{_mathml(node, "block")}</div>\n')
    raise nodes.SkipNode


def setup(app):
    """Registers the renderer ``mathml``."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
