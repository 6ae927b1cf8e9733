"""What tests of the HTML pages share: a strict reader, what must hold for every page, and what enemies write."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import re
from collections.abc import Sequence

from kdcache.cache.reader import CacheReader
from kdcache.inspection.inspect_page import read_findings, render
from kdcache.text.tokenizer import Tokenizer

FACTS = [("pairs", "20 <b>"), ("teacher", "abc")]
VOID = {"meta", "input", "br", "link", "img"}
HOSTILE = (
    "</script><script>alert(1)</script>",
    '"><img src=https://example.org/x onerror=alert(1)>',
    "<!--",
    "]]>&lt;\u2028\u2029",
    "a'b\"c&amp;",
    "\u202eright\u202c",
    "\x01\x9f\ufffe",
    "javascript:alert(1)",
)


class Page(html.parser.HTMLParser):
    """Reads a page as strictly as it was written: every element is closed where it has to be."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def data_of(page: Page) -> dict[str, list[list[object]]]:
    return json.loads(next(text for text in page.texts["script"] if text.startswith("{")))


def check_sound(text: str, scripts: Sequence[str | None] = ("application/json", None)) -> Page:
    """What holds for every page: well-formed, nothing loaded, no code but its own; `scripts` are their types."""
    page = Page(text)
    loading = {"src", "href", "action", "srcset", "data", "style", "poster", "background", "xlink:href"}
    for tag, attributes in page.elements:
        assert not loading & attributes.keys(), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    (policy,) = [one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert [one.get("type") for one in page.all("script")] == list(scripts)
    acting = ["style", "script"] if None in scripts else ["style"]
    assert re.findall(r"(\w+)-src 'sha256-", policy) == acting
    for name in acting:
        (code,) = [one for one in page.texts[name] if not one.startswith("{")]
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
        assert not re.search(r"https?:|url\(|@import|innerHTML|eval\(", code)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    return page


def page_of(reader: CacheReader, tokenizer: Tokenizer | None = None) -> str:
    return render(read_findings(reader), tokenizer or reader.tokenizer(), FACTS)
