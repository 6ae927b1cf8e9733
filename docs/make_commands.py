"""Write `docs/commands.md`: the help of every command, as click lays it out at a width of 100 columns.

`python docs/make_commands.py` writes the file; with `--check` it only says whether the file is current.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

ROOT = Path(__file__).parent.parent
PAGE = Path(__file__).parent / "commands.md"
WIDTH = 100
_HEAD = """\
# Commands

Every command and its `--help`. This page is written by `docs/make_commands.py`; change the commands, not the page.

The installed command is `kdcache`; in a checkout `python cli.py` does the same. What a command prints as a message or
as progress goes to standard error, what it was asked for goes to standard output. The exit code is 0 on success, 1
when something is wrong with text, models, caches or the disk, 2 when the options are wrong, and 128 + n after signal n.
Messages are explained in [troubleshooting](troubleshooting.md), words in the [glossary](glossary.md).
"""


def page() -> str:
    """The whole page, made from the commands as they are in this checkout."""
    from kdcache.cli import main

    group = click.Context(main, info_name="kdcache", terminal_width=WIDTH, **main.context_settings)
    parts = [_HEAD, _section("kdcache", main.get_help(group))]
    for name, command in main.commands.items():
        context = click.Context(command, info_name=name, parent=group, terminal_width=WIDTH)
        parts.append(_section(f"kdcache {name}", command.get_help(context)))
    return "\n".join(parts)


def _section(title: str, help_text: str) -> str:
    lines = "\n".join(line.rstrip() for line in help_text.splitlines())
    return f"## {title}\n\n```text\n{lines}\n```\n"


def main(arguments: list[str]) -> int:
    """Write the page or check it; return the exit code."""
    if arguments not in ([], ["--check"]):
        print("usage: python docs/make_commands.py [--check]", file=sys.stderr)
        return 2
    made = page()
    if not arguments:
        PAGE.write_text(made, encoding="utf-8")
    elif not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != made:
        print("docs/commands.md is not current. Run python docs/make_commands.py and commit it.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # The checkout's own commands, whatever is installed.
    sys.path.insert(0, str(ROOT))
    sys.exit(main(sys.argv[1:]))
