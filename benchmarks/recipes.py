"""What the paper's experiments would need of kdcache: sizes and times from its own dry runs, on stand-in text.

The corpora cannot be had everywhere. A dry run's counts depend on the number of pairs and their lengths only, so
made-up text of the same lengths takes their place, a sample of it, and the counts are scaled to the number of pairs.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from transformers import BertConfig, BertForMaskedLM

from benchmarks.job import SHAPES
from benchmarks.report import publish
from benchmarks.synthetic import label_text, made_up_words, make_tokenizer
from kdcache.console import tables
from kdcache.console.progress import duration
from kdcache.dump.dump_config import DumpConfig
from kdcache.dump.dump_forecast import Forecast as DumpForecast
from kdcache.dump.dump_forecast import forecast as dump_forecast
from kdcache.losses.objective_config import ObjectiveConfig
from kdcache.student.student_config import StudentConfig
from kdcache.student.training_forecast import Forecast as StudentForecast
from kdcache.student.training_forecast import forecast as student_forecast
from kdcache.teacher.masked_lm import Teacher
from kdcache.text.corpus import TextFiles
from kdcache.training.training_config import TrainingConfig

# Pieces of a trimmed multilingual vocabulary.
_VOCABULARY = 30_000
# A step of the real size would take minutes on a CPU; time goes with the tokens.
_PILOT_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Recipe:
    """A corpus of the paper: pairs, pieces a side (words times about 1.3), steps of the student and tokens of each.

    Tokens of both sides, as kdcache counts them; the paper's toolkit counts the longer side.
    """

    pairs: int
    source: int
    target: int
    steps: int
    tokens: int


RECIPES = {
    "Gigaword": Recipe(3_800_000, 38, 11, 70_000, 46_000),
    "IWSLT14 De-En": Recipe(160_000, 26, 26, 100_000, 12_000),
    "IWSLT15 En-Vi": Recipe(133_000, 26, 30, 100_000, 12_000),
    "WMT14 En-De": Recipe(4_500_000, 33, 34, 100_000, 50_000),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this forecast."""
    parser.add_argument("--sample", type=int, default=2_000, help="pairs of stand-in text")
    parser.add_argument("--names", nargs="+", choices=tuple(RECIPES), default=tuple(RECIPES), help="which recipes")


def run(options: argparse.Namespace) -> None:
    """Forecast and print."""
    rows = [
        (
            "corpus", "pairs", "targets", "views", "shards", "dump, PFLOP", "dump here", "student, steps",
            "student here",
        )
    ]  # fmt: skip
    figures: dict[str, float] = {}
    for name in options.names:
        recipe, factor = RECIPES[name], RECIPES[name].pairs / options.sample
        with TemporaryDirectory() as folder:
            dump, student, work = _forecasts(recipe, options.sample, Path(folder))
        size = dump.bytes * factor
        rows.append(
            (
                name,
                f"{recipe.pairs:,}",
                f"{dump.targets * factor / 1e6:,.1f} M",
                f"{dump.views * factor / 1e6:,.1f} M",
                tables.size(round(size)),
                f"{work * factor / 1e15:,.0f}",
                duration(dump.seconds * factor),
                f"{student.steps:,}",
                duration(student.seconds * recipe.tokens / _PILOT_TOKENS),
            )
        )
        short = name.split()[0].lower()
        figures |= {f"gib_{short}": size / 2**30, f"pflop_{short}": work * factor / 1e15}
    publish(rows, figures)


def _forecasts(recipe: Recipe, sample: int, folder: Path) -> tuple[DumpForecast, StudentForecast, float]:
    """Dry runs of dump and student over the sample, and the operations of the teacher's forward passes over it."""
    text, tokenizer = _text(folder, recipe, sample), make_tokenizer()
    layers, width, heads = SHAPES["base"]
    torch.manual_seed(1)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=_VOCABULARY,
            pad_token_id=tokenizer.special.pad,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
        )
    )
    Teacher(model, tokenizer).save(folder / "teacher")
    dump = dump_forecast(DumpConfig(str(folder / "teacher"), text, max_unknown=1.0, precision="bfloat16"))
    label_text(folder / "cache", text, tokenizer)
    training = TrainingConfig(2.0, "noam", _PILOT_TOKENS, warmup=8_000, max_steps=recipe.steps, precision="bfloat16")
    objective = ObjectiveConfig(alpha=0.5, temperature=10.0, name="chen2020")
    student = student_forecast(StudentConfig(str(folder / "cache"), objective, training, size="base", dropout=0.3))
    # Two operations for each weight and token in the twelve layers, and for each weight of the head and target.
    return dump, student, 2.0 * (12 * layers * width**2 * dump.tokens + width * (_VOCABULARY + width) * dump.targets)


def _text(folder: Path, recipe: Recipe, sample: int) -> TextFiles:
    """Lines whose lengths spread around the recipe's by half; special tokens are counted in those."""
    generator, words = np.random.default_rng(1), np.array(made_up_words())
    paths = []
    for side, pieces in (("source", recipe.source), ("target", recipe.target)):
        lengths = np.maximum(1, generator.gamma(4, pieces / 4, sample).round().astype(int) - 1)
        path = folder / f"text.{side}"
        path.write_text("".join(" ".join(generator.choice(words, size)) + "\n" for size in lengths), encoding="utf-8")
        paths.append(str(path))
    return TextFiles(*paths)
