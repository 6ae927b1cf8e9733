"""What a command leaves behind about itself: `run.json` and a log, and what it finds when it is run again."""

import dataclasses
import datetime
import importlib.metadata
import itertools
import logging
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kdcache
from kdcache.errors import CorruptError, MismatchError, OutputError
from kdcache.files.atomic import is_sha256, replace_file, storage_errors
from kdcache.files.locations import printable, redacted
from kdcache.files.strict_json import read_json, readable_json
from kdcache.settings import Option, options_of, spell

PACKAGES = ("torch", "transformers", "tokenizers", "h5py", "numpy", "sacrebleu", "rouge-score", "click")
RUN_FILE = "run.json"
LOG_FILE = "kdcache.log"
METRICS_FILE = "metrics.jsonl"

# What may differ when a run is continued: where it runs, who is told of it, what is only looked at; not what it makes.
_FREE = frozenset({"device", "micro_tokens", "report_to", "keep_checkpoints", "compared", "store"})
# Last parts of the names of settings that say where something lies, whose content is compared by the fingerprints among
# the inputs.
_PLACES = frozenset(
    {"source", "target", "pairs", "hypothesis", "reference", "baseline", "student", "cache", "start_from", "sentences"}
)
# A place, too, where it is a folder; otherwise a name that the hub knows.
_BERT, _BERT_INPUT = "bert", "inputs.bert"
# The number of steps of a training, and inputs that are not called what a user would call them.
_STEPS = "training.max_steps"
_INPUTS = {"valid": "validation text", "start": "student of --start-from", "bert": "BERT"}

log = logging.getLogger("kdcache")


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """One command's record of itself.

    Attributes:
        record: the file that holds it, `run.json` in an output folder or `F.run.json` beside an output file.
        finished: whether an earlier run of the same command had finished.
    """

    record: Path
    content: dict[str, Any]
    finished: bool

    def finish(self, result: dict[str, Any]) -> None:
        """Add what came out, and that the run is complete."""
        replace_file(self.record, readable_json({**self.content, "finished": _now(), "result": result}))


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what comes out."""
    packages = {"kdcache": kdcache.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            packages[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            packages[package] = "absent"
    return packages


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def folder_run(
    folder: Path,
    command: str,
    config: Any,
    inputs: dict[str, str] | None = None,
    *,
    fixed: bool = True,
    why_not_longer: Callable[[], str | None] | None = None,
) -> Run:
    """Begin or continue a run whose results go into `folder`; `config` is a dataclass.

    `inputs` are fingerprints of the content that the run reads. With `fixed`, a folder that was begun with another
    configuration or other inputs is refused, unless nothing was made there yet, or a training has just more steps than
    before and `why_not_longer` knows no reason against that.

    Raises:
        MismatchError: the folder belongs to a run with another configuration or other inputs.
        CorruptError: its record is damaged.
        OutputError: it holds something else, or cannot be written.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    record = folder / RUN_FILE
    made = _made(folder)
    if fixed and made and not record.exists():
        raise OutputError(f"{folder}: holds other files ({made[0]}) and no {RUN_FILE}. Choose another output.")
    run = _begin(record, command, config, inputs or {}, fixed and bool(made), why_not_longer)
    write_log_to(folder / LOG_FILE)
    return run


def earlier_result(folder: Path, command: str) -> dict[str, Any] | None:
    """What an earlier run of `command` in `folder` finished with, or None, also where its record is damaged."""
    try:
        before = read_json(folder / RUN_FILE)
    except CorruptError:
        return None
    finished = isinstance(before, dict) and before.get("command") == command and "finished" in before
    result = before.get("result") if finished else None
    return result if isinstance(result, dict) else None


def file_run(output: Path, command: str, config: Any, inputs: dict[str, str] | None = None) -> Run:
    """Begin a run whose result is the file `output`; its record is `output.run.json`, its log `output.log`.

    Raises:
        MismatchError: the file exists and was made with another configuration or from other inputs.
        CorruptError: its record is damaged.
        OutputError: the file exists and nothing says how it was made, or the folder is missing.
    """
    if not output.parent.is_dir():
        raise OutputError(f"{output}: its folder does not exist. Create it first.")
    record = output.with_name(output.name + ".run.json")
    if output.exists() and not record.exists():
        raise OutputError(f"{output}: exists, and no {record.name} says how it was made. Move it away first.")
    run = _begin(record, command, config, inputs or {}, fixed=output.exists())
    write_log_to(output.with_name(output.name + ".log"))
    return run


def set_aside(output: Path) -> None:
    """Rename what an earlier run made, file or folder, to a name with the time, and say so; nothing is deleted.

    Raises:
        OutputError: nothing says that kdcache made it, or it cannot be renamed.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return
    if not output.name:
        raise OutputError(f"{output}: --overwrite renames the output, so give it by its name.")
    beside = [] if output.is_dir() else [output.with_name(f"{output.name}.{end}") for end in (RUN_FILE, "log")]
    # A folder of several runs has records below it.
    marks = [output / RUN_FILE, output / LOG_FILE, *output.glob(f"*/{RUN_FILE}")] if output.is_dir() else beside[:1]
    if not any(mark.is_file() for mark in marks):
        raise OutputError(
            f"{output}: --overwrite moves away only what kdcache made, and no {marks[0].name} says that it did. Choose "
            "another output, or move it away yourself."
        )
    stamp = datetime.datetime.now().astimezone().strftime("%Y-%m-%d-%H%M%S")
    names = (f"{output.name}.{stamp}" + (f"-{number}" if number > 1 else "") for number in itertools.count(1))
    moved = next(path for path in map(output.with_name, names) if not path.exists())
    with storage_errors(output):
        output.rename(moved)
        for path in beside:
            if path.exists():
                path.rename(path.with_name(moved.name + path.name.removeprefix(output.name)))
    log.info("%s: the earlier one was moved to %s.", output, moved)


def _made(folder: Path) -> list[str]:
    """What lies in a folder besides what every run leaves behind, sorted."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    return [name for name in names if name not in (LOG_FILE, RUN_FILE)]


def _begin(
    record: Path,
    command: str,
    config: Any,
    inputs: dict[str, str],
    fixed: bool,
    why_not_longer: Callable[[], str | None] | None = None,
) -> Run:
    content = {
        "command": command,
        "config": recorded(config),
        "inputs": inputs,
        "versions": versions(),
        "argv": _plain(sys.argv[1:]),
        "started": _now(),
    }
    if record.exists() and fixed:
        before = read_json(record)
        if not isinstance(before, dict) or not isinstance(before.get("config"), dict):
            raise CorruptError(f"{record}: not the record of a run. Move it away, or choose another output.")
        longer = _compare(record, before, content, type(config), why_not_longer)
        if "finished" in before and not longer:
            return Run(record, before, finished=True)
        content["started"] = before.get("started", content["started"])
    replace_file(record, readable_json(content))
    return Run(record, content, finished=False)


def _compare(
    record: Path,
    before: dict[str, Any],
    now: dict[str, Any],
    config: type[Any],
    why_not_longer: Callable[[], str | None] | None,
) -> bool:
    """Refuse a run that differs from the one before; return whether it is the same training with more steps."""
    remedy = (
        f"Repeat the first command exactly to continue it (--config {record} takes its settings), choose another "
        "output, or let --overwrite move this one away."
    )
    if before.get("command") != now["command"]:
        raise MismatchError(str(record), "command", before.get("command"), now["command"], remedy)
    old, new = (
        fixed_settings(content["config"]) | _flat({"inputs": content.get("inputs", {})}) for content in (before, now)
    )
    by_content = _BERT_INPUT in old and _BERT_INPUT in new
    differences = [
        (field, old.get(field), new.get(field))
        for field in sorted((old.keys() | new.keys()) - {_BERT if by_content else _BERT_INPUT})
        if old.get(field) != new.get(field)
    ]
    if why_not_longer is not None and [field for field, *_ in differences] == [_STEPS]:
        _, most, more = differences[0]
        if most is not None and more is not None and more > most:
            reason = why_not_longer()
            if reason is None:
                log.info("The training goes on, to %s steps instead of %s.", f"{more:,}", f"{most:,}")
                return True
            remedy = f"It cannot be lengthened: {reason}. {remedy}"
    if differences:
        options = dict(options_of(config))
        words = [_in_words(field, old_value, new_value, options) for field, old_value, new_value in differences]
        raise MismatchError(str(record), *differences[0], remedy, "; ".join(words))
    return False


def _in_words(field: str, old: Any, new: Any, options: dict[str, Option]) -> str:
    above, _, last = field.rpartition(".")
    option = options.get(field)
    if above == "inputs":
        name = f"the {_INPUTS.get(last, last)}"
    elif option is not None:
        name = str(option.metavar) if option.positional else spell(str(option.name))
    else:
        # Parts of a value that moves stand below its option.
        name = f"{spell(str(options[above].name))} ({last})" if above in options else field
    if option is not None and option.inverted:
        old, new = not old, not new
    return difference_in_words(name, old, new)


def difference_in_words(name: str, old: Any, new: Any) -> str:
    """How an option, or what was read, is not what it was the first time; hashes are left out."""
    old, new = (", ".join(map(str, one)) if isinstance(one, list | tuple) else one for one in (old, new))
    values = [one for one in (old, new) if one not in (None, "")]
    plain = any(isinstance(one, bool) or is_sha256(str(one).split(", ")[0]) for one in values)
    if len(values) == 2 and not isinstance(old, bool):
        return f"{name} is not that of the first time" if plain else f"{name} was {old} the first time, now {new}"
    given_then = old is True or not (old is None or old is False or old == "")
    # A flag has no value.
    shown = f" ({values[0]})" if values and not plain else ""
    return f"{name} was given then{shown}, not now" if given_then else f"{name} is given now{shown}, not then"


def recorded(config: Any) -> dict[str, Any]:
    """A configuration, which is a dataclass, as `run.json` has it."""
    return dict(_plain(dataclasses.asdict(config)))


def fixed_settings(config: dict[str, Any]) -> dict[str, Any]:
    """A recorded configuration by names such as `training.seed`, less what may differ when its run is continued."""
    return {
        name: value
        for name, value in _flat(config).items()
        if _FREE.isdisjoint(parts := name.split(".")) and parts[-1] not in _PLACES
    }


def _flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        flat.update(_flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value})
    return flat


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return printable(redacted(str(value))) if isinstance(value, Path | str) else value


class _LogFile(logging.FileHandler):
    """The log of the run in progress."""


def write_log_to(path: Path) -> None:
    """Send everything that is logged, libraries' warnings included, to the end of `path`, and no longer elsewhere."""
    root = logging.getLogger()
    for before in [handler for handler in root.handlers if isinstance(handler, _LogFile)]:
        root.removeHandler(before)
        before.close()
    handler = _LogFile(path, encoding="utf-8", delay=True, errors="backslashreplace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
    log.debug("kdcache %s", redacted(" ".join(sys.argv[1:])))
