"""How a student is built and trained."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdcache.errors import UsageError
from kdcache.files.locations import StoreConfig
from kdcache.losses.objective_config import ObjectiveConfig
from kdcache.settings import BELOW_1, EXPERT, SKIP_BAD, TRAINING, Nested, Option, check_fields
from kdcache.text.corpus import VALID_TEXT, TextFiles
from kdcache.training.training_config import TrainingConfig

ARCHITECTURES = ("transformer", "rnn")
POSITIONS = 1_024
DEFAULT_EPOCHS = 60
DEFAULT_AVERAGE = 5
NOAM_FACTOR = 1.0


@dataclass(frozen=True, slots=True)
class Size:
    """Dimensions of a Transformer, and the learning rate that suits them with a linear schedule."""

    layers: int
    width: int
    feed_forward: int
    heads: int
    learning_rate: float


SIZES = {
    "tiny": Size(layers=4, width=128, feed_forward=256, heads=4, learning_rate=2e-3),
    "small": Size(layers=3, width=256, feed_forward=1024, heads=4, learning_rate=1e-3),
    "base": Size(layers=6, width=512, feed_forward=2048, heads=8, learning_rate=5e-4),
}


@dataclass(frozen=True, slots=True)
class RnnSize:
    """Dimensions of an RNN, and the learning rate that suits them with a linear schedule."""

    layers: int
    width: int
    learning_rate: float


RNN_SIZES = {
    "tiny": RnnSize(layers=1, width=256, learning_rate=2e-3),
    "small": RnnSize(layers=2, width=256, learning_rate=2e-3),
    "base": RnnSize(layers=2, width=512, learning_rate=1e-3),
}


@dataclass(frozen=True, slots=True)
class StudentConfig:
    """How a student is built and trained."""

    cache: str = Option(
        "Cache that dump-logits wrote: a folder, or a URL such as hf://datasets/…, s3://…, gs://… or https://….",
        metavar="CACHE",
    ).required()
    objective: ObjectiveConfig = Nested().required()
    training: TrainingConfig = Nested(
        changes={
            "learning_rate": {
                "default_words": "tiny 0.002, small 0.001, base 0.0005; rnn 0.002, 0.002, 0.001; with noam 1"
            },
            "epochs": {"default_words": f"{DEFAULT_EPOCHS}"},
            "average": {"default_words": f"{DEFAULT_AVERAGE} with validation text"},
        }
    ).required()
    valid: TextFiles | None = VALID_TEXT.default(None)
    compared: TextFiles | None = Nested(
        changes={
            "": {"group": EXPERT},
            "source": {"help": "Source text that must be the one in the cache; nothing is compared without it."},
            "target": {"help": "Target text that must be the one in the cache."},
        }
    ).default(None)
    arch: str = Option(
        "Kind of student: a Transformer, or an LSTM encoder and decoder with attention.", choices=ARCHITECTURES
    ).default("transformer")
    size: str = Option(
        "Size of the student: tiny has 4 layers of width 128, small 3 of 256, base 6 of 512 (rnn: 1 of 256, 2 of "
        "256, 2 of 512).",
        metavar=f"[{'|'.join(SIZES)}]",
    ).default("tiny")
    dropout: float = Option(
        "Dropout of embeddings, residual branches and attention.", TRAINING, within=BELOW_1
    ).default(0.2)
    # None, and not 0, keeps the records of earlier runs valid.
    resample: float | None = Option(
        "Probability that a word of the decoder's input gives way to one that is drawn from the teacher's stored words "
        "there, special tokens left out; the labels stay.",
        TRAINING,
        metavar="P",
        within=BELOW_1,
        default_words="0",
    ).default(None)
    start_from: str | None = Option(
        "Folder of a student of the same tokenizer, --arch and --size, whose weights are the first ones.",
        EXPERT,
        metavar="DIR",
        default_words="random weights",
    ).default(None)
    skip_bad: bool = SKIP_BAD.default(False)
    store: StoreConfig = Nested().default(StoreConfig())

    def check(self) -> None:
        """Raise UsageError if a value is not allowed, or contradicts another."""
        # First, since the learning rate that is checked may follow from the size.
        if self.size not in (sizes := _sizes(self.arch)):
            raise UsageError(f"--size must be one of {', '.join(sizes)}, not {self.size}.")
        check_fields(self)


_CHEN2020 = {
    "size": "base",
    "dropout": 0.3,
    "objective": "chen2020",
    "alpha": 0.5,
    "temperature": 10.0,
    "schedule": "noam",
    "learning_rate": 2.0,
    "warmup": 8_000,
    "max_steps": 100_000,
    "max_tokens": 12_000,
    "valid_every": 2_000,
    "average": 0,
}
# Values of options as Chen et al. 2020 (section 4.1 and appendix) give them for IWSLT14 and for Gigaword.
PRESETS: dict[str, dict[str, Any]] = {
    "chen2020-translation": _CHEN2020,
    "chen2020-summarization": _CHEN2020 | {"dropout": 0.1, "alpha": 0.9, "max_steps": 70_000, "max_tokens": 46_000},
}


def _sizes(arch: str) -> Mapping[str, Size | RnnSize]:
    return RNN_SIZES if arch == "rnn" else SIZES


def default_rate(arch: str, size: str, schedule: str) -> float:
    """The learning rate of an architecture and size when none is given."""
    sizes = _sizes(arch)
    return NOAM_FACTOR if schedule == "noam" or size not in sizes else sizes[size].learning_rate


def student_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Values of options that depend on other options, for those that are not given."""
    rate = default_rate(given["arch"], given["size"], given["schedule"])
    return {
        "learning_rate": rate,
        "epochs": DEFAULT_EPOCHS if given["max_steps"] is None else None,
        "average": DEFAULT_AVERAGE if {given["valid_source"], given["valid_pairs"]} != {None} else None,
    }
