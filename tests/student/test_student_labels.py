"""Which objectives a cache can feed: what is refused with a remedy, and that the others get the right numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from models import steps

from kdcache.cache.reader import CacheReader
from kdcache.dump.dump_config import Distributions, DumpConfig
from kdcache.dump.dump_shards import dump
from kdcache.errors import UsageError
from kdcache.losses.objective_config import BUCKETED, OBJECTIVES, ObjectiveConfig
from kdcache.losses.objectives import teacher_log_probs
from kdcache.student.cached_labels import cache_sections
from kdcache.student.student_config import StudentConfig
from kdcache.student.train_student import make_task, train_student
from kdcache.student.training_forecast import forecast
from kdcache.text.corpus import TextFiles
from kdcache.training.batches import collate, epoch_order


@pytest.fixture(scope="module")
def caches(small_teacher: Path, small_text: TextFiles, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A cache of drawn words and one with normalizers."""
    folder = tmp_path_factory.mktemp("labels")
    kinds = {"drawn": Distributions(sample=12), "normalized": Distributions(normalizers=(2.0, 5.0))}
    for kind, wanted in kinds.items():
        config = DumpConfig(str(small_teacher), small_text, shard_pairs=60, device="cpu", distributions=wanted)
        dump(config, folder / kind)
    return {kind: folder / kind for kind in kinds}


def student(cache: Path, objective: ObjectiveConfig, count: int = 3) -> StudentConfig:
    return StudentConfig(str(cache), objective, steps(count), size="nano")


@pytest.mark.parametrize(
    ("kind", "objective", "words"),
    [
        *(("drawn", ObjectiveConfig(name=one), "12 drawn words") for one in OBJECTIVES if one != "sampled"),
        ("normalized", ObjectiveConfig(name="sampled"), "the cache holds the 8 best words, and no drawn ones"),
        *(
            ("normalized", ObjectiveConfig(name=one, temperature=3.0), "known at temperature 1, 2, 5 only")
            for one in sorted(BUCKETED)
        ),
        *(
            ("normalized", ObjectiveConfig(topk=one, name="chen2020"), "--topk must be between 1 and the 8")
            for one in (0, 9)
        ),
    ],
)
def test_what_a_cache_does_not_hold_is_refused(
    kind: str, objective: ObjectiveConfig, words: str, caches: dict[str, Path], nano: str, tmp_path: Path
) -> None:
    """Training and its forecast refuse an objective that the cache cannot feed, and nothing is written."""
    for run in (forecast, lambda config: train_student(config, tmp_path / "student")):
        with pytest.raises(UsageError, match=words):
            run(student(caches[kind], objective))
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize(
    ("kind", "objective"),
    [
        ("drawn", ObjectiveConfig(name="sampled")),
        ("drawn", ObjectiveConfig(alpha=1.0)),
        *(("normalized", ObjectiveConfig(name=one, temperature=5.0)) for one in sorted(BUCKETED)),
        ("normalized", ObjectiveConfig(name="bucket", temperature=2.0, topk=3)),
        ("normalized", ObjectiveConfig(name="hinton", temperature=3.0)),
    ],
)
def test_students_train_on_every_kind(
    kind: str, objective: ObjectiveConfig, caches: dict[str, Path], nano: str, tmp_path: Path
) -> None:
    """What a cache can feed trains and saves a student."""
    train_student(student(caches[kind], objective), tmp_path / "student")
    assert (tmp_path / "student" / "config.json").is_file()


@pytest.mark.parametrize(("temperature", "column"), [(2.0, 0), (5.0, 1)])
def test_batches_carry_the_normalizer_of_their_temperature(
    temperature: float, column: int, caches: dict[str, Path]
) -> None:
    """Of the stored normalizers that at T reaches the loss, beside its own row; the rest of the tail is exact there."""
    reader = CacheReader(caches["normalized"])
    objective = ObjectiveConfig(name="bucket", temperature=temperature)
    special = reader.tokenizer().special
    known = {}
    for index in range(reader.plan.n_shards):
        topk = reader.shard(index).soft
        assert topk.log_normalizers is not None
        for ids, log_probs, own in zip(topk.token_ids, topk.log_probs, topk.log_normalizers[:, column], strict=True):
            known[(tuple(ids.tolist()), tuple(log_probs.tolist()))] = float(own)
    seen = 0
    for selection in epoch_order(cache_sections(reader, objective), 400, 1, 0):
        batch = collate(selection, special, None)
        soft = batch.soft
        assert soft is not None
        assert soft.log_normalizers is not None
        assert soft.log_normalizers.shape == (len(batch.labels), 1)
        rows = zip(soft.token_ids.tolist(), soft.log_probs.tolist(), soft.log_normalizers[:, 0], strict=True)
        # A pair that stands twice in the text has its last bits twice.
        assert all(abs(known[(tuple(ids), tuple(values))] - float(own)) < 2e-5 for ids, values, own in rows)
        found = teacher_log_probs("bucket", soft, temperature)
        torch.testing.assert_close(found.exp().sum(dim=1), torch.ones(len(found)), rtol=0, atol=2e-3)
        seen += len(batch.labels)
    assert seen == reader.n_targets
    assert len({round(one, 3) for one in known.values()}) > 100


def test_soft_labels_without_need_of_normalizers_leave_them_out(caches: dict[str, Path]) -> None:
    """At temperature 1, and for objectives that count no tail, no normalizer is held in memory."""
    reader = CacheReader(caches["normalized"])
    for objective in (
        ObjectiveConfig(name="bucket"),
        ObjectiveConfig(temperature=2.0, name="chen2020"),
        ObjectiveConfig(name="hinton"),
    ):
        topk = next(cache_sections(reader, objective).read([0, 0], lambda: None)).soft
        assert topk is not None
        assert topk.log_normalizers is None
    assert next(cache_sections(reader, ObjectiveConfig(alpha=1.0)).read([0], lambda: None)).soft is None


def test_the_loss_on_drawn_words_is_the_mean_over_draws(caches: dict[str, Path], nano: str) -> None:
    """A batch's soft loss on drawn words is the sum over all draws of -log P(word), divided by N."""
    reader = CacheReader(caches["drawn"])
    config = student(caches["drawn"], ObjectiveConfig(alpha=0.0, name="sampled", label_smoothing=0.0))
    task = make_task(config, reader)
    task.model.eval()
    selection = next(epoch_order(cache_sections(reader, config.objective), 300, 1, 0))
    batch = collate(selection, task.student.tokenizer.special, None)
    assert batch.soft is not None
    with torch.no_grad():
        found = task.loss(batch, 1).total
        logits = task.student.output_layer.exact_logits(task.student.hidden(batch))
    log_probs = torch.log_softmax(logits.double(), dim=1).numpy()
    counts = np.rint(np.exp(batch.soft.log_probs.numpy().astype(np.float64)) * 12).astype(int)
    words = [(t, i) for t, row in enumerate(counts) for i, c in enumerate(row) for _ in range(c)]
    assert len(words) == 12 * len(counts)
    ids = batch.soft.token_ids.numpy()
    expected = -sum(log_probs[t, ids[t, i]] for t, i in words) / 12
    assert float(found) == pytest.approx(expected, rel=1e-5)
