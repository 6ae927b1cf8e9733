"""HTML pages from Jinja2 templates: one file each, which loads nothing and runs no code but its own."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import kdcache

# HTML has no such characters: a parser reports them as errors, or replaces them in its own way.
_CONTROLS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff]")
# These could end the element that holds the JSON, or open a comment in it.
_JSON_ESCAPES = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"})


def printable(value: object) -> object:
    """Text with U+FFFD for every control character; anything that is HTML already stays as it is."""
    return value if isinstance(value, Markup) else _CONTROLS.sub("\ufffd", str(value))


def embedded_json(value: Any) -> Markup:
    """JSON that can stand inside a `script` element: ASCII, without a character that means something in HTML."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(_JSON_ESCAPES))  # noqa: S704 (it holds no `<`, `>` or `&`)


def generator_mark(command: str) -> str:
    """The text that stands in every page written by this command of kdcache, and in no other page."""
    return f'<meta name="generator" content="kdcache {command} '


def render_page(
    package: str, command: str, template: str, values: Mapping[str, object], styles: Sequence[str], script: str = ""
) -> str:
    """The page that a template makes of `values`; every value that is no `Markup` is escaped.

    Args:
        package: the package whose folder `templates` holds the template, its styles and its script. The templates of
            this package are found as well; `page.html` is the frame of every page.
        command: the command of kdcache that writes the page.
        template: name of the template.
        values: what it shows, by name.
        styles: names of style sheets, which follow the style sheet of all pages.
        script: name of the script that runs once the body is there, if there is one.
    """
    loader = ChoiceLoader([PackageLoader(package), PackageLoader("kdcache.pictures")])
    environment = Environment(
        autoescape=True,
        finalize=printable,
        loader=loader,
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    style = "".join(loader.get_source(environment, name)[0] for name in ("style.css", *styles))
    code = loader.get_source(environment, script)[0] if script else ""
    environment.globals.update(
        code=Markup(code),  # noqa: S704 (a file of that package)
        code_digest=_digest(code),
        command=command,
        style=Markup(style),  # noqa: S704 (files of that package)
        style_digest=_digest(style),
        version=kdcache.__version__,
    )
    return environment.get_template(template).render(values)


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")
