"""Every family of transformers with a masked-LM class opens and answers as the library alone does, or is refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from model_families import FAMILIES, POSITIONS, save_family
from models import slow_distributions, steps, toy_lines, toy_pairs, word_pieces, write_text
from transformers import EsmTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from kdcache.cache.reader import CacheReader, open_cache
from kdcache.dump.dump_config import DumpConfig, VerifyConfig
from kdcache.dump.dump_job import prepare
from kdcache.dump.dump_shards import dump, dump_job
from kdcache.dump.verification import compare, verify
from kdcache.errors import DataError, ModelError
from kdcache.losses.objective_config import ObjectiveConfig
from kdcache.process.ranks import Process
from kdcache.student.generate_config import GenerateConfig
from kdcache.student.generation import generate_file
from kdcache.student.student_config import StudentConfig
from kdcache.student.train_student import train_student
from kdcache.teacher.masked_lm import Padding, Teacher
from kdcache.teacher.masking import partition_batches
from kdcache.teacher.prepare_teacher import prepare_teacher
from kdcache.teacher.teacher_config import TeacherConfig
from kdcache.teacher.train_teacher import train_teacher
from kdcache.text.corpus import Corpus, Pair

CPU = torch.device("cpu")
LINES = [*toy_lines("src", 30), *toy_lines("tgt", 30)]
# A pair near the longest that fits, with short ones beside it.
PAIRS = [*toy_pairs(2), Pair("Kaka lolo, mimi? " * 2, "Kaváx lovöx! " * 2), Pair("Ka", "mi")]
SAMPLE = ("modernbert", "convbert", "fnet", "ibert", "layoutlm", "deberta-v2", "big_bird", "mobilebert")

_TWO_PARTS = "is an encoder with a decoder"
_DEPENDS = "answers the same view differently beside or after others"
_OTHER_HEAD = "cannot be run as other models are"
REFUSED = {
    "bart": _TWO_PARTS,
    "mvp": _TWO_PARTS,
    "mbart": "does not join two texts",
    "big_bird": f"{_DEPENDS}.*attention_type to original_full",
    "reformer": _DEPENDS,
    "perceiver": "has no linear output layer",
    "esm": _OTHER_HEAD,
    "mobilebert": _OTHER_HEAD,
}


def opened(folder: Path, tmp_path: Path) -> Teacher:
    text = write_text(tmp_path, LINES[:30], LINES[30:])
    return prepare_teacher(str(folder), Corpus(text), trim_vocab=True, seed=1)


def answers(teacher: Teacher, pairs: list[Pair], max_tokens: int) -> np.ndarray:
    """Log-probabilities at all target positions, [ΣN, vocabulary]."""
    encoded = teacher.tokenizer.encode_pairs(pairs)
    found = np.full((encoded.n_targets, teacher.vocabulary), np.nan)
    for views in partition_batches(encoded, 4, max_tokens, teacher.tokenizer.special):
        found[views.target_rows] = teacher.log_probs(views, CPU, "float32").numpy()
    return found


def test_the_table_has_every_family() -> None:
    """A family that another version of the library adds or drops is seen."""
    assert set(MODEL_FOR_MASKED_LM_MAPPING_NAMES) <= set(FAMILIES)
    assert set(REFUSED) < set(FAMILIES)


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in SAMPLE else pytest.mark.full) for name in sorted(FAMILIES)]
)
def test_fault_55_answers_are_the_librarys_own(family: str, tmp_path: Path) -> None:
    """Beside longer and shorter pairs a saved teacher answers what the library answers to one view; others refuse."""
    if family not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        pytest.skip(f"this transformers has no {family}")
    folder = save_family(family, tmp_path / "model", LINES)
    if family in REFUSED:
        with pytest.raises(ModelError, match=REFUSED[family]):
            opened(folder, tmp_path)
        return
    opened(folder, tmp_path).save(tmp_path / "teacher")
    teacher = Teacher.load(tmp_path / "teacher")
    expected = slow_distributions(tmp_path / "teacher", PAIRS, passes=4)[1]
    for max_tokens in (1, 1_000):
        np.testing.assert_allclose(answers(teacher, PAIRS, max_tokens), expected, rtol=0, atol=1e-4)
    # No mistake would leave them as they are: far from uniform, and unlike each other.
    assert expected.max(axis=1).mean() > np.log(3 / expected.shape[1])
    assert expected.std(axis=0).mean() > 0.1


def test_a_tokenizer_in_python_is_refused_by_name(tmp_path: Path) -> None:
    """ESM's own tokenizer, like those of FlauBERT, XLM, RoCBert, TAPAS and Perceiver, has no tokenizer.json form."""
    folder = save_family("esm", tmp_path / "model", LINES)
    (folder / "vocab.txt").write_text("\n".join(word_pieces(LINES)))
    (folder / "tokenizer.json").unlink()
    names = {"unk": "[UNK]", "cls": "[CLS]", "eos": "[SEP]", "pad": "[PAD]", "mask": "[MASK]"}
    own = {f"{name}_token": text for name, text in names.items()}
    EsmTokenizer(str(folder / "vocab.txt"), **own).save_pretrained(folder)
    with pytest.raises(ModelError, match=r"no tokenizer\.json form"):
        opened(folder, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(REFUSED)))
def test_the_commands_run(family: str, nano: str, tmp_path: Path) -> None:
    """A teacher of each family is trained a step, dumped, verified, distilled a step, and its student writes."""
    if family not in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        pytest.skip(f"this transformers has no {family}")
    text = write_text(tmp_path, [line[:30] for line in LINES[:12]], [line[:30] for line in LINES[30:42]])
    bert = save_family(family, tmp_path / "model", LINES)
    teacher, cache, student, written = (tmp_path / name for name in ("teacher", "cache", "student", "written"))
    train_teacher(TeacherConfig(text, str(bert), training=steps(1)), teacher)
    dump(DumpConfig(str(teacher), text, topk=4, device="cpu"), cache)
    assert verify(VerifyConfig(str(cache), str(teacher), sample=10, device="cpu")).sound
    train_student(StudentConfig(str(cache), ObjectiveConfig(), steps(1), size=nano), student)
    generate_file(GenerateConfig(str(student), text.paths()[0], beam_size=1, device="cpu"), written)
    assert len(written.read_text().splitlines()) == 12


def test_fault_55_full_attention_makes_big_bird_a_teacher(tmp_path: Path) -> None:
    """What the refusal of BigBird advises works: told to attend to everything, it answers as the library does."""
    folder = save_family("big_bird", tmp_path / "model", LINES)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_type": "original_full"}))
    opened(folder, tmp_path).save(tmp_path / "teacher")
    expected = slow_distributions(tmp_path / "teacher", PAIRS, passes=4)[1]
    found = answers(Teacher.load(tmp_path / "teacher"), PAIRS, 1_000)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_fault_55_verify_finds_labels_that_depend_on_padding(precision: str, tmp_path: Path) -> None:
    """Labels that ModernBERT gives under a mask without its window are not what its teacher says, nor is that noise."""
    opened(save_family("modernbert", tmp_path / "model", LINES), tmp_path).save(tmp_path / "teacher")
    sides = [[getattr(pair, side) for pair in PAIRS] for side in ("source", "target")]
    config = DumpConfig(
        str(tmp_path / "teacher"), write_text(tmp_path, *sides), topk=3, precision=precision, device="cpu"
    )
    dump(config, tmp_path / "right")
    asked = VerifyConfig(str(tmp_path / "right"), str(tmp_path / "teacher"), device="cpu")
    found = verify(asked)
    assert found.sound
    assert found.noise.largest < {"float32": 1e-4, "bfloat16": 0.5}[precision]

    job = prepare(config)
    job.teacher._padding = Padding.WIDE_MASK
    dump_job(job, tmp_path / "wrong", Process())
    # Right answers beside it show that the cache is wrong; where the teacher is as wrong, its noise shows it.
    found = verify(dataclasses.replace(asked, cache=str(tmp_path / "wrong")))
    assert (found.steady, found.sound) == (True, False)
    assert found.beyond[0] > 1
    found = compare(open_cache(str(tmp_path / "wrong")), [job.teacher], CPU, asked)
    assert (found.steady, found.sound) == (False, False)
    with pytest.raises(ModelError, match="differently beside others in bfloat16"):
        job.teacher.check_run(CPU, "bfloat16")


@pytest.mark.parametrize("family", ["ibert", "luke", "mpnet", "layoutlm", "modernbert"])
def test_fault_57_the_longest_pair_and_one_token_more(family: str, tmp_path: Path) -> None:
    """A pair of exactly as many tokens as the model takes is dumped; with one more it is refused with its line."""
    folder = save_family(family, tmp_path / "model", LINES)
    teacher = opened(folder, tmp_path)
    assert teacher.positions == POSITIONS
    teacher.save(tmp_path / "teacher")
    encoded = teacher.tokenizer.encode_pairs([Pair("Ka", "k")])
    taken = len(encoded.source_ids) + len(encoded.target_ids)
    # Each further letter of a word that no vocabulary has is a token.
    letters = 1 + POSITIONS - taken - len(teacher.tokenizer.special.joint)
    for more in (0, 1):
        text = write_text(tmp_path / str(more), [LINES[0], "Ka"], [LINES[30], "k" * (letters + more)])
        config = DumpConfig(str(tmp_path / "teacher"), text, topk=3, device="cpu")
        if more:
            with pytest.raises(DataError, match=rf"line 2: .*{POSITIONS + 1} positions.*has {POSITIONS}"):
                dump(config, tmp_path / "more")
        else:
            dump(config, tmp_path / "cache")
            assert np.isfinite(CacheReader(tmp_path / "cache").shard(0).soft.log_probs).all()
