"""Pairs of a data set, written as JSON lines that every command reads."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdcache.console.progress import Progress
from kdcache.errors import DataError, first_line
from kdcache.export.dataset_config import DatasetConfig
from kdcache.export.export_config import needed
from kdcache.files.atomic import storage_errors, temporary_name
from kdcache.files.run_records import file_run, log

_FORMATS = {".parquet": "parquet", ".csv": "csv", ".jsonl": "json"}


def write_pairs(config: DatasetConfig, output: Path) -> None:
    """Write one `{"source": …, "target": …}` a line, in the order of the data set.

    Values that are missing become empty texts, which are counted; `--skip-bad` leaves such pairs out later.

    Raises:
        UsageError: the package datasets is not installed.
        DataError: there is no such data set, split or column, or a value is no text.
        MismatchError: `output` was made with other settings.
        OutputError: `output` cannot be written.
    """
    config.check()
    rows = _load(config)
    columns = rows.column_names
    run = file_run(output, "dataset", config, {"fingerprint": str(rows._fingerprint)})
    if run.finished and output.exists():
        log.info("%s: was made by the same command; nothing to do.", output)
        return
    missing = 0
    temporary = temporary_name(output)
    with storage_errors(output), temporary.open("xb") as file, Progress("writing", len(rows), "pairs") as progress:
        try:
            for row in rows:
                sides = [_text(row, field, columns, config.dataset) for field in _fields(config)]
                missing += not all(sides)
                file.write(json.dumps(dict(zip(("source", "target"), sides, strict=True)), ensure_ascii=False).encode())
                file.write(b"\n")
                progress.advance(1)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(output)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    run.finish({"pairs": len(rows), "missing": missing})
    if missing:
        log.warning("%s of %s pairs lack a side; --skip-bad leaves them out.", f"{missing:,}", f"{len(rows):,}")
    log.info("%s: %s pairs, to be given as --pairs.", output, f"{len(rows):,}")


def _fields(config: DatasetConfig) -> tuple[str, str]:
    return config.source_field, config.target_field


def _load(config: DatasetConfig) -> Any:
    """The rows of the split."""
    datasets = needed("datasets", "datasets")
    path = Path(config.dataset)
    try:
        if path.suffix in _FORMATS:
            return datasets.load_dataset(
                _FORMATS[path.suffix], data_files={config.split: str(path)}, split=config.split
            )
        name, _, configuration = config.dataset.partition(":")
        return datasets.load_dataset(name, configuration or None, split=config.split)
    except Exception as error:  # the library raises whatever its parts raise
        raise DataError(f"{config.dataset}: cannot be loaded: {first_line(error)}") from error


def _text(row: Mapping[str, Any], field: str, columns: list[str], dataset: str) -> str:
    """The value of a column, or of a key of the column translation."""
    translation = row.get("translation")
    if field in row:
        value = row[field]
    elif isinstance(translation, Mapping) and field in translation:
        value = translation[field]
    else:
        known = [*columns, *(translation if isinstance(translation, Mapping) else ())]
        raise DataError(f"{dataset}: no column {field}. It has {', '.join(known)}.")
    if value is not None and not isinstance(value, str):
        raise DataError(f"{dataset}: column {field} holds {type(value).__name__}, and a text is needed.")
    return value or ""
