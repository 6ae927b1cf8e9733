"""The screen: grouped help, messages, libraries kept quiet, and the one place where errors become exit codes."""

import io
import logging
import os
import signal
import sys
from typing import Any

import click

from kdcache.cli.options import Settings, overwrite_option, set_aside
from kdcache.cli.stored_settings import config_option, give_way
from kdcache.console.progress import above_bars
from kdcache.errors import KDCacheError, StoppedError
from kdcache.settings import BASIC, GROUPS

log = logging.getLogger("kdcache")
HELP_NAMES = {"help_option_names": ["-h", "--help"]}
_LAST = "Messages and help"
# Parameters that say where a command writes what a second run with other settings may not replace.
_OUTPUTS = ("output", "json_file", "sentence_file")


class _Screen(logging.Handler):
    """Messages on standard error, above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno == logging.WARNING else ""
        with above_bars():
            click.echo(f"{prefix}{record.getMessage()}", err=True)


def set_up(*, verbose: bool = False, quiet: bool = False) -> None:
    """Send kdcache's messages to the screen and libraries' only to the log file."""
    screen = _Screen(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    log.setLevel(logging.DEBUG)
    log.handlers = [screen]
    # Progress is shown where messages are.
    logging.getLogger("kdcache.progress").setLevel(screen.level)
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    # Without any handler Python itself would print warnings.
    root.addHandler(logging.NullHandler())
    logging.captureWarnings(True)
    if os.path.expanduser("~") == "~":
        # As Docker does for a user without a name: NLTK, which rouge-score imports, cannot be imported without a home.
        os.environ["HOME"] = "/"
    for stream in (sys.stdout, sys.stderr):
        # Names of files come out as they are, also those that are not UTF-8.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def quiet_transformers() -> None:
    """Send what the transformers library says to the log file; imports it."""
    from transformers.utils import logging as library

    library.disable_default_handler()
    library.enable_propagation()
    library.disable_progress_bar()  # type: ignore[no-untyped-call]
    # The hub client reports its retries on the screen; the error that follows says what matters.
    hub = logging.getLogger("huggingface_hub")
    hub.handlers.clear()
    hub.propagate = True


def verbosity() -> list[click.Parameter]:
    """The flags -v and -q."""
    return [
        click.Option(["-v", "--verbose"], is_flag=True, help="Say more."),
        click.Option(["-q", "--quiet"], is_flag=True, help="Say only what is wrong."),
    ]


def _group(parameter: click.Parameter) -> str:
    return str(getattr(parameter, "group", BASIC))


class Command(click.Command):
    """A command with -v and -q, whose options stand in groups, and whose settings arrive as one checked object."""

    def __init__(self, name: str | None, **attributes: Any) -> None:
        super().__init__(name, **attributes)
        self.settings: Settings | None = getattr(self.callback, "settings", None)
        self.context_settings = {**HELP_NAMES, **self.context_settings}
        if self.settings is not None:
            self.params.append(config_option(self.settings))
        if any(one.name in _OUTPUTS for one in self.params):
            self.params.append(overwrite_option())
        # In the order of the headings, which other readers of a command (the site) do not know.
        self.params = [*sorted(self.params, key=lambda one: GROUPS.index(_group(one))), *verbosity()]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line, and make the settings of it."""
        rest = super().parse_args(ctx, args)
        if self.settings is not None and not ctx.resilient_parsing:
            give_way(ctx)
            ctx.params["config"] = self.settings.take(ctx.params)
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        """Set up the screen and run the command; -v and -q count before its name as well as behind it."""
        chosen = {name: ctx.params.pop(name) for name in ("verbose", "quiet")}
        if ctx.parent is not None:
            chosen = {name: value or ctx.parent.params.get(name, False) for name, value in chosen.items()}
        set_up(**chosen)
        ctx.meta.update(chosen)
        # A sweep knows its output only when it has read its file.
        if any(one.name in _OUTPUTS for one in self.params) and ctx.params.pop("overwrite"):
            set_aside([ctx.params[name] for name in _OUTPUTS if name in ctx.params and not ctx.params.get("dry_run")])
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options below their headings, what one needs first."""
        found: dict[str, list[tuple[str, str]]] = {name: [] for name in (*GROUPS, _LAST)}
        for one in self.get_params(ctx):
            record = one.get_help_record(ctx)
            if record is not None and isinstance(one, click.Option):
                last = one.name in ("verbose", "quiet") or "--help" in one.opts
                found[_LAST if last else _group(one)].append(record)
        for heading, records in found.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records, col_max=24)


class Group(click.Group):
    """A group that lists its commands below headings, and turns kdcache's errors into one message and an exit code."""

    command_class = Command

    def __init__(self, name: str | None = None, **attributes: Any) -> None:
        super().__init__(name, **attributes)
        self.headings: dict[str, list[click.Command]] = {}

    def add(self, heading: str, *commands: click.Command) -> None:
        """Add commands below a heading."""
        self.headings[heading] = list(commands)
        for command in commands:
            self.add_command(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each command with what it does."""
        for heading, commands in self.headings.items():
            with formatter.section(heading):
                formatter.write_dl([(str(one.name), one.get_short_help_str(80)) for one in commands])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KDCacheError as error:
            if isinstance(error, StoppedError):
                # An impatient second Ctrl-C must not break into the interpreter's own end.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            log.debug("%s", type(error).__name__, exc_info=True)
            click.echo(f"kdcache: {error}", err=True)
            ctx.exit(error.exit_code)
