"""A Transformer student as a folder for CTranslate2, a fast translator for CPUs and GPUs that needs no torch.

CTranslate2's own converter reads the class of the student, but it takes the table of positions from its third row on,
where the class begins in the row behind that of the padding id. The rows are shifted for it here. Whether the export is
right is then measured: both give the log-probabilities of the student's own translations.
"""

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kdcache.console.tables import count
from kdcache.errors import ModelError
from kdcache.export.export_config import ExportConfig, needed
from kdcache.files.atomic import storage_errors
from kdcache.files.hub import local_folder
from kdcache.files.locations import utf8_folder
from kdcache.files.run_records import folder_run, log
from kdcache.student import transformer
from kdcache.student.fingerprints import student_fingerprints, text_sha256
from kdcache.student.generate_config import GenerateConfig
from kdcache.student.generation import generate
from kdcache.student.seq2seq import Student
from kdcache.text.lines import read_sentences

SENTENCES = 200
# Natural logarithms; float32 sums in another order differ by about 1e-5.
TOLERANCE = 1e-3
_FILES = ("model.bin", "config.json", "shared_vocabulary.json")


@dataclass(frozen=True, slots=True)
class Agreement:
    """How an export compares with its student.

    Attributes:
        sentences: number of sentences that both translated by beam search.
        equal: number of them with the same words.
        log_prob_difference: the largest difference of a token's log-probability in the student's own translations.
    """

    sentences: int
    equal: int
    log_prob_difference: float

    def __str__(self) -> str:
        return (
            f"a token's log-probability differs from the student's by {self.log_prob_difference:.1g} at most; beam "
            f"search ends with the same words for {self.equal:,} of {count(self.sentences, 'sentence')}"
        )


def export_ctranslate2(config: ExportConfig, output: Path) -> None:
    """Write a folder that `ctranslate2.Translator` and `transformers.AutoTokenizer` open.

    Raises:
        UsageError: ctranslate2 is not installed.
        ModelError: there is no Transformer student, or the float32 export does not compute what the student does.
        MismatchError: `output` was made with other settings.
        OutputError: `output` cannot be written.
    """
    config.check()
    needed("ctranslate2", "ctranslate2")
    folder = local_folder(config.source)
    student = Student.load(folder)
    if student.model.config.model_type != transformer.MODEL_TYPE:
        raise ModelError(f"{folder}: an RNN, which CTranslate2 does not know. Train a student with --arch transformer.")
    sentences = _sentences(config, student)
    run = folder_run(output, "export", config, {"sentences": text_sha256(sentences), **student_fingerprints(folder)})
    if run.finished:
        log.info("%s: was made by the same command; nothing to do.", output)
        return
    with storage_errors(output), utf8_folder(folder) as source, utf8_folder(output) as place:
        found = _build(config, student, sentences, source, place)
    student.tokenizer.save(output, max_length=student.positions, segments=False)
    run.finish({"quantization": config.quantization, **{name: dataclasses.asdict(one) for name, one in found.items()}})


def _build(
    config: ExportConfig, student: Student, sentences: list[str], source: Path, output: Path
) -> dict[str, Agreement]:
    """Convert beside the final names, and take these only once the float32 export has been found right."""
    building = output / ".building"
    shutil.rmtree(building, ignore_errors=True)
    own = StudentAnswers(student, sentences)
    exact = own.compare(_convert(source, building / "float32", "float32"))
    log.info("%s: float32: %s.", output, exact)
    if not exact.log_prob_difference <= TOLERANCE:
        raise ModelError(
            f"{config.source}: the export's log-probabilities differ from the student's by up to "
            f"{exact.log_prob_difference:.3g}, more than {TOLERANCE:g}: this CTranslate2 computes something else. "
            "Nothing was written; try another version of ctranslate2."
        )
    found = {"float32": exact}
    if config.quantization != "float32":
        found[config.quantization] = own.compare(_convert(source, building / config.quantization, config.quantization))
        log.info("%s: %s: %s.", output, config.quantization, found[config.quantization])
    for name in _FILES:
        (building / config.quantization / name).replace(output / name)
    shutil.rmtree(building)
    return found


def _convert(folder: Path, output: Path, quantization: str) -> Any:
    """Convert the student in `folder`, and open the result."""
    from ctranslate2 import Translator
    from ctranslate2.converters import TransformersConverter

    class Converter(TransformersConverter):  # type: ignore[misc]
        """CTranslate2's converter with the positions where the student has them."""

        def load_model(self, model_class: Any, model_name_or_path: str, **options: Any) -> Any:
            model = super().load_model(model_class, model_name_or_path, **options)
            for half in (model.model.encoder, model.model.decoder):
                positions = half.embed_positions
                first = positions.padding_idx + 1
                table = positions.weights
                positions.weights = torch.cat([table[:1].expand(positions.offset, -1), table[first:]])
            return model

    Converter(str(folder)).convert(str(output), quantization=None if quantization == "float32" else quantization)
    return Translator(str(output), device="cpu", compute_type=quantization)


class StudentAnswers:
    """What the student itself makes of the sentences: its translations and their log-probabilities."""

    def __init__(self, student: Student, sentences: list[str]) -> None:
        self._tokenizer = student.tokenizer
        self._limit = student.max_length
        texts = generate(student, sentences, GenerateConfig("", "sentences to compare on", device="cpu"))
        # There is nothing to compare where the student writes nothing.
        written = [i for i, text in enumerate(texts) if text]
        if not written:
            raise ModelError("The student writes nothing for any sentence: there is nothing to compare its export on.")
        self._texts = [texts[i] for i in written]
        self._sources = student.tokenizer.encode_sources([sentences[i] for i in written])
        self._targets = student.tokenizer.encode(self._texts)
        self._log_probs = [_log_probs(student, *pair) for pair in zip(self._sources, self._targets, strict=True)]

    def compare(self, translator: Any) -> Agreement:
        """Compare an opened export with the student."""
        sources = [self._pieces(ids) for ids in self._sources]
        found = translator.translate_batch(sources, beam_size=4, max_decoding_length=self._limit - 1)
        vocabulary = {piece: i for i, piece in enumerate(self._pieces(range(self._tokenizer.size)))}
        texts = [
            " ".join(self._tokenizer.decode([vocabulary[piece] for piece in one.hypotheses[0]]).split())
            for one in found
        ]
        scored = translator.score_batch(sources, [self._pieces(ids) for ids in self._targets])
        differences = [
            float(np.abs(np.array(one.log_probs) - own).max()) for one, own in zip(scored, self._log_probs, strict=True)
        ]
        equal = sum(a == b for a, b in zip(texts, self._texts, strict=True))
        return Agreement(len(texts), equal, max(differences))

    def _pieces(self, ids: Sequence[int]) -> list[str]:
        return [self._tokenizer.piece(one) for one in ids]


@torch.inference_mode()
def _log_probs(student: Student, source: list[int], target: list[int]) -> npt.NDArray[np.float32]:
    """The log-probability of each token of `target` and of the end behind it, float32 `[N + 1]`."""
    special = student.tokenizer.special
    logits = student.model(
        input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[special.start, *target]])
    ).logits[0]
    words = torch.tensor([[one] for one in (*target, special.end)])
    log_probs: npt.NDArray[np.float32] = logits.log_softmax(-1).gather(1, words)[:, 0].numpy()
    return log_probs


def _sentences(config: ExportConfig, student: Student) -> list[str]:
    """The lines to compare on: those of a text, or words drawn from the vocabulary, the same ones each time."""
    if config.sentences is not None:
        lines = [line for line in read_sentences(Path(config.sentences))[:SENTENCES] if line.strip()]
        if lines:
            return lines
    draw, tokenizer = np.random.default_rng(0), student.tokenizer
    lengths = draw.integers(3, 20, SENTENCES, endpoint=True)
    return [tokenizer.decode(draw.integers(tokenizer.size, size=length).tolist()) for length in lengths]
