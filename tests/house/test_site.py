"""The pages say what the program does: commands, options, files and links in them exist, and the site is built."""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from conftest import ROOT, run_python

from kdcache import errors
from kdcache.cli import main

DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("data/*.md"), *ROOT.glob("benchmarks/*.md")])
COMMANDS = sorted(main.commands)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def prose_of(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)


# Commands


def test_the_page_of_commands_has_all_of_them() -> None:
    """docs/reference/commands.md lists every command, each once."""
    (listed,) = re.findall(r":commands: (.+)", (DOCS / "reference" / "commands.md").read_text())
    assert sorted(listed.split(", ")) == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_an_example(name: str) -> None:
    """Every command has a summary, options with help, and an example whose options exist, fit, and suffice."""
    command = main.commands[name]
    assert command.get_short_help_str()
    silent = [p.name for p in command.params if isinstance(p, click.Option) and not (p.help or "").strip()]
    assert silent == []
    text = (command.help or "").partition("Example:")[2].replace("\\\n", " ")
    examples = [shlex.split(line) for line in text.splitlines() if line.strip()]
    assert examples
    for example in examples:
        # In a pipe other programs may stand before it and behind it.
        pipe = example[example.index("kdcache") :]
        _, called, *arguments = itertools.takewhile("|".__ne__, pipe)
        assert called == name
        command.make_context(name, list(arguments))


def shell_blocks(page: Path) -> Iterator[list[str]]:
    """Calls of kdcache in a page's shell blocks."""
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("kdcache "):
                yield shlex.split(line)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_in_pages_exist(page: Path) -> None:
    """Commands and options that a page shows, in shell blocks or inline, are those of the program."""
    for _, name, *arguments in shell_blocks(page):
        main.commands[name].make_context(name, list(arguments))
    mine = {option for command in main.commands.values() for p in command.params for option in p.opts}
    for span in re.findall(r"`([^`\n]+)`", prose_of(page)):
        if span.startswith("--"):
            assert span.split()[0] in mine | {"--help", "--check"}, span
        if found := re.match(r"kdcache ([a-z][a-z-]*)", span):
            assert found[1] in main.commands, span


# Links and files


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, the second of one name with a number."""
    made = [slug(heading) for heading in re.findall(r"^#{1,6} (.+)$", prose_of(page), re.M)]
    return {f"{one}-{n}" if (n := made[:i].count(one)) else one for i, one in enumerate(made)}


def broken_links(page: Path) -> list[str]:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if re.match(r"https?:|mailto:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_resolve(page: Path) -> None:
    """Every relative link of a page, anchors included, leads to something."""
    assert broken_links(page) == []


def test_the_link_check_can_fail(tmp_path: Path) -> None:
    """A link to a missing file, and one to a missing heading, are found; good ones are not."""
    page = tmp_path / "a.md"
    page.write_text("# A `b` (c)\n## x\n## x\n[1](#a-b-c) [2](b.md) [3](#d) [4](#x-1) [5](a.md#x) [6](a.md#x-2)\n")
    assert broken_links(page) == ["b.md", "#d", "a.md#x-2"]


FOLDERS = ("kdcache", "docs", "data", "tests", "benchmarks", ".ci")


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_named_files_exist(page: Path) -> None:
    """Files of the project that a page names in code spans exist, whether with their folder or by their name alone."""
    python = {path.name for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")} | {"cli.py"}
    for span in re.findall(r"`([^`\s]+)`", page.read_text()):
        if span.startswith(tuple(f"{folder}/" for folder in FOLDERS)):
            assert (ROOT / span).exists(), span
        elif re.fullmatch(r"\w+\.py", span):
            assert span in python, span


def test_make_targets_exist() -> None:
    """Targets of make that a page names are in the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        named = re.findall(r"(?:^|`)make ([a-z-]+)(?=`|  |$)", page.read_text(), re.M)
        assert set(named) <= targets, page


# The site


def build(source: Path, output: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of the pages in `source` as `make site` does."""
    return run_python("-m", "sphinx", "--fail-on-warning", "--keep-going", "--quiet", source, output)


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """A folder with the settings of the site and one page, inside a checkout."""
    pages = tmp_path / "docs"
    pages.mkdir()
    for name in ("conf.py", "site.css"):
        shutil.copy(DOCS / name, pages)
    (tmp_path / "kdcache").symlink_to(ROOT / "kdcache")
    return pages


def test_the_site_refuses_what_leads_nowhere(pages: Path, tmp_path: Path) -> None:
    """A link to a missing page or heading, a missing picture, and a formula that cannot be drawn end the build."""
    wrong = ["[x](absent.md)", "[x](#absent)", "[x](index.md#absent)", r"$\absent x$", "![x](absent.png)"]
    (pages / "index.md").write_text("# Title\n\n" + "\n\n".join(wrong) + "\n")
    done = build(pages, tmp_path / "site")
    assert done.returncode != 0
    for number in range(3, 13, 2):
        assert re.search(rf"index\.md:{number}: WARNING: .*absent", done.stderr), done.stderr


def test_the_site_loads_nothing_from_elsewhere(pages: Path, tmp_path: Path) -> None:
    """A page with a formula is built without a warning; no script, style or picture comes from another host."""
    (pages / "index.md").write_text("# Title\n\n[up](#title)\n\n```math\n\\begin{aligned} a &= b \\end{aligned}\n```\n")
    done = build(pages, tmp_path / "site")
    assert (done.returncode, done.stderr) == (0, "")
    page = (tmp_path / "site" / "index.html").read_text()
    assert "<mtable" in page
    assert re.findall(r"""<(?:script|link|img|iframe)[^>]+(?:src|href)=["']?(?:https?:)?//[^>]*>""", page) == []
    styles = "".join(path.read_text() for path in (tmp_path / "site" / "_static").rglob("*.css"))
    assert re.findall(r"""(?:@import\s*|url\()["']?(?:https?:)?//""", styles) == []


# Errors


def test_error_tree_is_complete() -> None:
    """Every error class of errors.py stands in the tree in its docstring, below its own base."""
    tree = re.findall(r"^    ([│├└─ ]*)(\w+Error) ", errors.__doc__ or "", re.M)
    depths = {name: len(indent) // 4 for indent, name in tree}
    parents: dict[str, str] = {}
    stack: list[str] = []
    for name, depth in depths.items():
        parents[name] = stack[depth - 1] if depth else "Exception"
        stack[depth:] = [name]
    classes = {name: one for name, one in vars(errors).items() if isinstance(one, type)}
    assert parents == {name: one.__bases__[0].__name__ for name, one in classes.items()}
