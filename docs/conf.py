"""Settings of the site that `make site` builds from the Markdown pages of this folder; it fetches nothing."""

from __future__ import annotations

import sys
from pathlib import Path

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.writers.html5 import HTML5Translator

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the checkout's own commands and docstrings, whatever is installed

import kdcache  # noqa: E402

project = "kdcache"
author = "the kdcache authors"
release = kdcache.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
exclude_patterns = ["results/*"]
myst_enable_extensions = ["dollarmath", "deflist"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4
# The pages write schemes such as `s3://…` as text, and mean a link only where they write one.
myst_linkify_fuzzy_links = False

# Docstrings are written in Google's style, with single backticks around code.
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False

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
html_theme_options = {"navigation_with_keys": True}
html_math_renderer = "mathml"
pygments_style = "default"
pygments_dark_style = "github-dark"


def write_formula(self: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """Write a formula as MathML, which browsers draw themselves: the usual renderer fetches a script from elsewhere."""
    formula = node.astext().replace(r"\dots", r"\ldots")
    try:
        self.body.append(tex2mathml(formula, as_block=isinstance(node, nodes.math_block)))
    except MathError as error:
        raise SphinxError(f"{node.source}:{node.line}: the formula {formula!r} cannot be drawn: {error}") from error
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Register the renderer of formulas; Sphinx calls this."""
    app.add_html_math_renderer("mathml", (write_formula, None), (write_formula, None))
