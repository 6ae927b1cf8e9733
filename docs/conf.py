"""Settings of the site that `make site` builds from the Markdown pages of this folder; it fetches nothing."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any

import click
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the checkout's own commands and docstrings, whatever is installed

import kdcache  # noqa: E402
from kdcache.settings import Option, kind_of  # noqa: E402

logger = logging.getLogger(__name__)

project = "kdcache"
author = "the kdcache authors"
release = kdcache.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
exclude_patterns = ["results/*"]
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4

# Docstrings are written in Google's style, with single backticks around code.
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_type_aliases = {name: name for name in ("IdArray", "LogProbs", "SoftArrays", "GiveUp")}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False

# Every link of the pages must lead somewhere. Types in signatures may come from other libraries, whose documentation
# this site does not fetch, or from modules that the page of the Python API leaves out.
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]

html_theme = "furo"
html_title = "kdcache"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_copyright = False
html_use_index = False
html_theme_options = {"navigation_with_keys": True}
html_math_renderer = "mathml"
pygments_style = "default"
pygments_dark_style = "github-dark"

OPTION = re.compile(r"(?<![\w`-])--[a-z][a-z-]*")
# LaTeX that GitHub draws and the converter to MathML does not know, or draws with a sign that many fonts lack.
OTHER_LATEX = {r"\setminus": r"\backslash", "{aligned}": "{split}", r"\log ": r"\log\,"}


def write_formula(self: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """Write a formula as MathML, which browsers draw themselves: the usual renderer fetches a script from elsewhere."""
    formula = node.astext()
    for known, other in OTHER_LATEX.items():
        formula = formula.replace(known, other)
    written = convert(formula, display="block" if isinstance(node, nodes.math_block) else "inline")
    if re.search(r"\\[A-Za-z]+|>&<", written):
        logger.warning("this formula has a command that cannot be drawn: %s", formula, location=node)
    self.body.append(written)
    raise nodes.SkipNode


def show_description(app: Sphinx, context: click.Context, lines: list[str]) -> None:
    """Make code of the lines in a command's docstring that click must not wrap; sphinx-click begins them with a bar."""
    shown: list[str] = []
    inside = False
    for line in lines:
        text = line.removeprefix("| ")
        if text == line:
            shown.append(OPTION.sub(r"``\g<0>``", line))
        elif text.endswith(":"):
            shown += [text, "", ".. code-block:: sh", ""]
        else:
            shown += [f"   {text}"] if inside else [".. code-block:: text", "", f"   {text}"]
        inside = text != line
    lines[:] = shown


def show_options(app: Sphinx, context: click.Context, lines: list[str]) -> None:
    """Make code of the options that help texts name."""
    lines[:] = [line if line.startswith("..") else OPTION.sub(r"``\g<0>``", line) for line in lines]


def show_settings(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Describe the fields of settings by their help texts, which are written nowhere else."""
    if what == "class" and dataclasses.is_dataclass(obj):
        kinds = ((field.name, kind_of(field)) for field in dataclasses.fields(obj))
        helps = [f":ivar {field}: {kind.help}" for field, kind in kinds if isinstance(kind, Option)]
        lines += [OPTION.sub(r"``\g<0>``", line) for line in helps] + [""]


def setup(app: Sphinx) -> None:
    """Register the renderer of formulas, the look of help texts, and what fields mean; Sphinx calls this."""
    app.add_html_math_renderer("mathml", (write_formula, None), (write_formula, None))
    app.connect("sphinx-click-process-description", show_description)
    app.connect("sphinx-click-process-options", show_options)
    app.connect("autodoc-process-docstring", show_settings)
