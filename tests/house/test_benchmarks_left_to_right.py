"""The negative control of the experiment: a teacher that sees the left side of the target only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from models import all_lines, save_bert, toy_text
from transformers import BertForMaskedLM

from benchmarks import synthetic
from benchmarks.left_to_right import LeftToRightTeacher
from kdcache.cache.reader import CacheReader
from kdcache.files.atomic import is_sha256
from kdcache.teacher.masking import partition_batches
from kdcache.teacher.reduction import Reduction
from kdcache.text.corpus import Corpus, TextFiles
from kdcache.text.encode_corpus import encode_sections
from kdcache.text.encoded_pairs import concatenate

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> TextFiles:
    return toy_text(tmp_path_factory.mktemp("text"), 12)


@pytest.fixture(scope="module")
def teacher(text: TextFiles, tmp_path_factory: pytest.TempPathFactory) -> LeftToRightTeacher:
    return LeftToRightTeacher.load(save_bert(tmp_path_factory.mktemp("bert"), all_lines(text)))


def test_a_position_is_predicted_from_the_source_and_the_words_before_it(
    text: TextFiles, teacher: LeftToRightTeacher
) -> None:
    """Each distribution equals that of the library's model at the end of the cut-off sentence."""
    pairs = concatenate(list(encode_sections(Corpus(text), teacher.tokenizer, teacher.positions, skip_bad=False)))
    found = np.full((pairs.n_targets, teacher.vocabulary), np.nan)
    for views in partition_batches(pairs, 1, 200, teacher.tokenizer.special):
        predictions = teacher.predict(views, Reduction(teacher.vocabulary), CPU, "float32")
        for row, ids, log_probs in zip(views.target_rows, predictions.ids, predictions.values, strict=True):
            found[row, ids] = log_probs
    model: BertForMaskedLM = teacher.model
    for i in range(pairs.n_pairs):
        source = pairs.source_ids[pairs.source_offsets[i] : pairs.source_offsets[i + 1]].tolist()
        start, stop = int(pairs.target_offsets[i]), int(pairs.target_offsets[i + 1])
        target = pairs.target_ids[start:stop].tolist()
        for n in range(len(target)):
            # The source does not look at the target: in later layers it would hand on what comes afterwards.
            ids = torch.tensor([source + target[:n]])
            size = ids.shape[1]
            mask = torch.ones(size, size, dtype=torch.bool)
            mask[: len(source), len(source) :] = False
            mask[len(source) :, len(source) :] = torch.ones(n, n, dtype=torch.bool).tril()
            segments = torch.tensor([[0] * len(source) + [1] * n])
            with torch.inference_mode():
                logits = model(input_ids=ids, attention_mask=mask[None, None], token_type_ids=segments).logits
            expected = torch.log_softmax(logits[0, -1], dim=-1).numpy()
            np.testing.assert_allclose(found[start + n], expected, atol=1e-4)


def test_it_is_another_teacher_than_the_masked_one(teacher: LeftToRightTeacher) -> None:
    """The same weights, used from left to right, have a fingerprint of their own."""
    assert teacher.fingerprint() != super(LeftToRightTeacher, teacher).fingerprint()
    assert is_sha256(teacher.fingerprint())


def test_made_up_caches_keep_the_format(tmp_path: Path) -> None:
    """The cache that speed is measured with is one that a reader accepts."""
    synthetic.write_cache(tmp_path / "cache", 8, shard_pairs=4)
    reader = CacheReader(tmp_path / "cache")
    assert [reader.shard(index).pairs.n_pairs for index in range(2)] == [4, 4]
