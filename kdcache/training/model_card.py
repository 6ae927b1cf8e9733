"""The model card: what README.md says of a trained model, in the form that the Hugging Face hub reads.

It names no time, path or duration, so that equal runs give equal bytes.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from kdcache.files.atomic import replace_file
from kdcache.files.run_records import versions
from kdcache.training.loop import FitResult
from kdcache.training.training_config import TrainingConfig

_LICENCE = """## Licence and languages

kdcache knows neither. Whoever publishes this model states them here, and as `license:` and `language:` at the top. The
licences of the training text and of the teacher's checkpoint may bind it.
"""


def write_card(folder: Path, lead: str, program: str, facts: Mapping[str, str], *more: str, **metadata: str) -> None:
    """Write the card of a model that `program` opens.

    `facts` are rows of a table, `more` is further text, and `metadata` is for the hub.

    Raises:
        OutputError: the disk refused.
    """
    front = {"library_name": "transformers", "tags": ["kdcache", "knowledge-distillation"], **metadata}
    # JSON is YAML, too.
    lines = [f"{key}: {json.dumps(value)}" for key, value in front.items()]
    rows = [f"| {name} | {value} |" for name, value in facts.items()]
    parts = [
        "\n".join(["---", *lines, "---"]),
        "# A model made by kdcache",
        lead,
        f"```python\n{program}```",
        "## How it was made",
        "\n".join(["| | |", "|---|---|", *rows]),
        *more,
        _LICENCE,
    ]
    replace_file(folder / "README.md", "\n\n".join(parts).encode())


def text_fact(n_pairs: int, n_targets: int, fingerprint: str) -> str:
    """The text that a model learned from, in words."""
    return f"{n_pairs:,} pairs, {n_targets:,} target tokens; SHA-256 `{fingerprint}`"


def training_facts(config: TrainingConfig, result: FitResult, valid: str | None) -> dict[str, str]:
    """How a model was trained, in words; `valid` is the fingerprint of the validation text."""
    validation = "none"
    if result.loss is not None and result.valid_accuracy is not None:
        right = f"{100 * result.valid_accuracy:.1f} % of the tokens right"
        validation = f"loss {result.loss:.4f} nats a token, {right}; SHA-256 of the text `{valid}`"
    rate = f"learning rate {config.learning_rate:g} ({config.schedule})"
    packages = versions()
    return {
        "Training": f"{result.steps:,} steps of at most {config.max_tokens:,} tokens, {rate}, seed {config.seed}",
        "Parameters": f"of step {result.exported}",
        "Validation": validation,
        "Versions": ", ".join(f"{name} {packages[name]}" for name in ("kdcache", "torch", "transformers")),
    }
