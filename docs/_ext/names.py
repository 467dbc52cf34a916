"""Names open what they stand for: tables and links of the interface, the code of a figure."""

import importlib
import inspect
import pathlib
import re

from docutils import nodes
from docutils.statemachine import StringList
from sphinx import addnodes
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective

from jaxact.experiments.figures import FIGURES


def public(module):
    """The documented functions and classes of a module, by name."""
    found = importlib.import_module(module)
    return {
        name: member
        for name, member in vars(found).items()
        if not name.startswith("_")
        and callable(member)
        and not inspect.ismodule(member)
        and getattr(member, "__module__", "").startswith("jaxact.")
        and member.__doc__
    }


def first_sentence(member):
    """What a docstring opens with, on one line."""
    opening = inspect.getdoc(member).split("\n\n")[0]
    return " ".join(re.split(r"(?<=[.])\s", opening)[0].split())


def parents(node):
    """The nodes that hold a node, from the nearest on."""
    while (node := node.parent) is not None:
        yield node


class Names(SphinxDirective):
    """``names:: MODULE``, a table of its public names with what each is for."""

    required_arguments = 1

    def run(self):
        """The nodes of the table."""
        module = self.arguments[0]
        lines = [
            f".. py:currentmodule:: {module}",
            "",
            ".. list-table::",
            "   :class: names",
            "   :widths: 30 70",
            "",
        ]
        for name, member in public(module).items():
            sentence = first_sentence(member).replace("|", r"\|")
            lines += [f"   * - :py:obj:`~{module}.{name}`", f"     - {sentence}"]
        container = nodes.container()
        self.state.nested_parse(StringList(lines), self.content_offset, container)
        return container.children


class LinkNames(SphinxPostTransform):
    """A public name in code type, as `analysis.measure`, becomes a link to its description."""

    default_priority = 5

    def run(self, **kwargs):
        """Replaces the literals that are names."""
        known = self.env.domaindata["py"]["objects"]
        for literal in list(self.document.findall(nodes.literal)):
            linked = nodes.reference | addnodes.desc_signature | addnodes.pending_xref
            target = self.target(literal.astext(), known)
            if target is None or any(isinstance(n, linked) for n in parents(literal)):
                continue
            entry = known[target]
            reference = nodes.reference("", "", internal=True, reftitle=target)
            if entry.docname != self.env.docname:
                uri = self.app.builder.get_relative_uri(self.env.docname, entry.docname)
                reference["refuri"] = f"{uri}#{entry.node_id}"
            else:
                reference["refid"] = entry.node_id
            reference += literal.deepcopy()
            literal.replace_self(reference)

    @staticmethod
    def target(text, known):
        """The full name of what the text names: with its module, as prose does."""
        match = re.fullmatch(r"(?:jaxact\.)?([a-z_.]+\.)(\w+)(\(.*\))?", text)
        if match is None:
            return None
        full = f"jaxact.{match[1]}{match[2]}"
        return full if full in known else None


def add_code(app, document):
    """Under each figure of the gallery, the code that measures and draws it, folded."""
    if app.env.docname != "gallery":
        return
    for image in list(document.findall(nodes.image)):
        figure = FIGURES[pathlib.PurePath(image["uri"]).stem]
        code = "\n\n".join(inspect.getsource(inspect.unwrap(part)) for part in figure)
        section = next(n for n in parents(image) if isinstance(n, nodes.section))
        section += nodes.raw("", "<details><summary>Its code</summary>", format="html")
        section += nodes.literal_block(code, code, language="python")
        section += nodes.raw("", "</details>", format="html")


def setup(app):
    """Registers the directive, the links and the figures' code."""
    app.add_directive("names", Names)
    app.add_post_transform(LinkNames)
    app.connect("doctree-read", add_code)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
