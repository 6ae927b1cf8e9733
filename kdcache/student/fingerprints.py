"""Fingerprints of texts and of students: SHA-256 of their content, which do not depend on where it is stored."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdcache.files.atomic import file_sha256, sha256
from kdcache.files.run_records import RUN_FILE
from kdcache.files.strict_json import read_json

WEIGHTS_FILE = "model.safetensors"


def text_sha256(sentences: Sequence[str]) -> str:
    """Fingerprint of a text: SHA-256 of its lines in UTF-8, each ended by one line feed."""
    return sha256("".join(f"{sentence}\n" for sentence in sentences).encode())


def weights_fingerprint(folder: Path) -> str | None:
    """Fingerprint of a student: SHA-256 of its weights file, or None where there is none."""
    weights = folder / WEIGHTS_FILE
    return file_sha256(weights) if weights.is_file() else None


def student_fingerprints(folder: Path) -> dict[str, str]:
    """Fingerprints of a student: `student`, its weights file, and `cache`, where its run.json names one.

    Raises:
        CorruptError: its run.json is damaged.
    """
    weights = weights_fingerprint(folder)
    prints = {} if weights is None else {"student": weights}
    record = folder / RUN_FILE
    cache = recorded_inputs(read_json(record)).get("cache") if record.is_file() else None
    return prints if cache is None else {**prints, "cache": cache}


def recorded_inputs(content: Any) -> dict[str, str]:
    """The fingerprints that a run record `content` names as its inputs; empty where it has none."""
    inputs = content.get("inputs") if isinstance(content, dict) else None
    return {key: value for key, value in inputs.items() if type(value) is str} if isinstance(inputs, dict) else {}
