"""The page on the format is true of a real cache and suffices to read one: its scripts run, its hashes hold."""

from __future__ import annotations

import hashlib
import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from caches import drawn_arrays, drawn_plan
from conftest import ROOT

from kdcache.cache.commit_protocol import CacheWriter
from kdcache.cache.number_encoding import Encoding
from kdcache.cache.plan import FORMAT, VERSION, Plan
from kdcache.cache.reader import CacheReader
from kdcache.cache.shard import ShardArrays, encode_shard
from kdcache.labels.soft_labels import SoftLabels
from kdcache.text import ragged, vocabulary
from kdcache.text.corpus import Corpus, TextFiles
from kdcache.text.encoded_pairs import EncodedPairs

PAGE = ROOT / "docs" / "reference" / "format.md"
K = 4


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete cache of five pairs in two shards with random soft labels, the fourth pair skipped."""
    tokenizer = vocabulary.from_corpus(["ein Hund läuft im Park", "a dog runs in the park", "a dog", "ein Hund"])
    generator = np.random.default_rng(7)
    lengths = np.array([3, 5, 2, 0, 4])
    plan = Plan(
        format=FORMAT,
        version=VERSION,
        corpus="0" * 64,
        n_pairs=5,
        tokenizer=tokenizer.fingerprint,
        vocabulary=tokenizer.size,
        teacher="1" * 64,
        positions=64,
        topk=K,
        passes=7,
        precision="float32",
        shard_pairs=3,
        encoding=Encoding.named("float16", tokenizer.size),
    )
    folder = tmp_path_factory.mktemp("docs") / "cache"
    writer = CacheWriter(folder, plan, tokenizer)
    for index in range(2):
        start, stop = plan.bounds(index)
        offsets = ragged.offsets_of(lengths[start:stop])
        n = int(offsets[-1])
        ids = np.array([generator.permutation(tokenizer.size)[:K] for _ in range(n)], dtype=np.uint16)
        log_probs = -np.sort(generator.uniform(2, 6, (n, K)), axis=1).astype(np.float16)
        # Every second written word is the teacher's third; the others are wherever they are.
        targets = np.where(np.arange(n) % 2 == 0, ids[:, 2], generator.integers(tokenizer.size, size=n))
        among = ids == targets[:, None]
        own = np.where(among.any(axis=1), (log_probs * among).sum(axis=1), np.float16(-9)).astype(np.float16)
        sources = generator.integers(tokenizer.size, size=n).astype(np.uint16)
        pairs = EncodedPairs(sources, offsets, targets.astype(np.uint16), offsets)
        writer.commit(index, ShardArrays(pairs, SoftLabels(ids, log_probs), own))
    assert writer.finalize()
    return folder


def python_blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)


def run_block(number: int, tmp_path: Path, argument: Path) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "block.py"
    script.write_text(python_blocks()[number])
    return subprocess.run(
        [sys.executable, str(script), str(argument)], capture_output=True, text=True, cwd=tmp_path, check=False
    )


def test_reader_in_the_docs_reads_a_shard(cache: Path, tmp_path: Path) -> None:
    """The reader in format.md needs h5py and numpy alone, at most 15 lines, and prints the first pair's values."""
    script = python_blocks()[0]
    assert len(script.strip().splitlines()) <= 15
    assert set(re.findall(r"^(?:import|from) (\w+)", script, re.M)) == {"sys", "h5py", "numpy"}
    for index, pair_targets in ((0, 3), (1, 0)):
        arrays = CacheReader(cache).shard(index)
        done = run_block(0, tmp_path, cache / "shards" / f"{index:05d}.h5")
        assert done.returncode == 0, done.stderr
        rows = [line.split() for line in done.stdout.splitlines()]
        assert len(rows) == pair_targets
        for row, (target, *best) in enumerate(rows):
            assert int(target) == arrays.pairs.target_ids[row]
            found = [one.split(":") for one in best]
            assert [int(one) for one, _ in found] == arrays.soft.token_ids[row].tolist()
            expected = np.exp(arrays.soft.log_probs[row].astype(np.float64))
            np.testing.assert_allclose([float(p) for _, p in found], expected, atol=5e-5)


def test_reader_in_the_docs_reads_drawn_words(tmp_path: Path) -> None:
    """Of a shard of drawn words it prints the shares, zero in columns that are left over."""
    plan = drawn_plan(50)
    arrays = drawn_arrays(plan, skipped=0.0)
    (tmp_path / "shard.h5").write_bytes(encode_shard(arrays, plan, 0))
    done = run_block(0, tmp_path, tmp_path / "shard.h5")
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert len(rows) == arrays.pairs.target_offsets[1]
    for row, (target, *words) in enumerate(rows):
        assert int(target) == arrays.pairs.target_ids[row]
        found = [one.split(":") for one in words]
        shares = np.exp(arrays.soft.log_probs[row].astype(np.float64))
        np.testing.assert_allclose([float(share) for _, share in found], shares, atol=5e-5)
        used = int((shares > 0).sum())
        assert [int(one) for one, _ in found[:used]] == arrays.soft.token_ids[row, :used].tolist()


def test_checker_in_the_docs_accepts_a_cache(cache: Path, tmp_path: Path) -> None:
    """The checker in format.md, which knows the fingerprints from that page alone, comes to the same root hash."""
    done = run_block(1, tmp_path, cache)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == CacheReader(cache).manifest.root


@pytest.mark.parametrize("name", ["plan.json", "manifest.json", "tokenizer/tokenizer.json", "shards/00001.h5"])
def test_checker_in_the_docs_refuses_a_changed_cache(cache: Path, tmp_path: Path, name: str) -> None:
    """The checker in format.md fails when a file of the cache is another one."""
    copy = tmp_path / "cache"
    for path in cache.rglob("*"):
        if path.is_file():
            (copy / path.relative_to(cache)).parent.mkdir(parents=True, exist_ok=True)
            (copy / path.relative_to(cache)).write_bytes(path.read_bytes())
    changed = copy / name
    data = changed.read_bytes()
    # JSON: a digit that is a value, not a key; HDF5: a byte in the middle.
    at = [m.start() for m in re.finditer(rb"(?<=: )\d|(?<=:)\d", data)][-1] if name.endswith("json") else len(data) // 2
    changed.write_bytes(data[:at] + (b"7" if data[at : at + 1] != b"7" else b"6") + data[at + 1 :])
    done = run_block(1, tmp_path, copy)
    assert done.returncode != 0
    assert "AssertionError" in done.stderr


def test_corpus_fingerprint_is_the_documented_one(tmp_path: Path) -> None:
    """A corpus is hashed as format.md says: lengths and texts, no line ends, no byte-order mark, bad lines raw."""
    source, target = tmp_path / "a.src", tmp_path / "a.tgt"
    source.write_bytes(b"\xef\xbb\xbfein Hund\r\n L\xc3\xa4ufer \n\nzwei\xe2\x80\xa8Hunde\n\xff\n")
    target.write_bytes(b"a dog\na runner\nnothing\ntwo dogs\nbad")
    pairs = [(b"ein Hund", b"a dog"), (b" L\xc3\xa4ufer ", b"a runner"), (b"\nnothing", b"")]
    pairs += [(b"zwei\xe2\x80\xa8Hunde", b"two dogs"), (b"\xff\nbad", b"")]
    stream = b"".join(struct.pack("<QQ", len(x), len(y)) + x + y for x, y in pairs)
    corpus = Corpus(TextFiles(str(source), str(target)), skip_bad=True)
    assert corpus.fingerprint == hashlib.sha256(stream).hexdigest()


def test_teacher_fingerprint_is_the_documented_one(tmp_path: Path) -> None:
    """A teacher is hashed as format.md says: its configuration, then names, types, shapes and values."""
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from kdcache.teacher.masked_lm import Teacher

    tokenizer = vocabulary.from_corpus(["ein Hund läuft im Park"])
    config = BertConfig(
        vocab_size=tokenizer.size,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=16,
    )
    Teacher(BertForMaskedLM(config), tokenizer).save(tmp_path)
    teacher = Teacher.load(tmp_path)

    def canonical(value: object) -> bytes:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

    left_out = {"architectures", "transformers_version", "dtype", "torch_dtype", "use_cache", "id2label", "label2id"}
    stored = json.loads((tmp_path / "config.json").read_text())
    read = {name: value for name, value in stored.items() if name not in left_out and name[0] != "_"}
    assert left_out & stored.keys()
    stream = canonical(read)
    for name, tensor in sorted(teacher.model.named_parameters()):
        assert tensor.dtype == torch.float32
        stream += (
            canonical([name, "torch.float32", list(tensor.shape)]) + tensor.detach().numpy().astype("<f4").tobytes()
        )
    assert teacher.fingerprint() == hashlib.sha256(stream).hexdigest()


def test_format_page_names_every_field(cache: Path) -> None:
    """format.md names each JSON field, dataset and attribute that a cache has."""
    import h5py

    text = PAGE.read_text()
    fields = set(re.findall(rb'"(\w+)":', b"".join(path.read_bytes() for path in cache.rglob("0*.json"))))
    fields |= set(re.findall(rb'"(\w+)":', (cache / "plan.json").read_bytes()))
    fields |= set(re.findall(rb'"(\w+)":', (cache / "manifest.json").read_bytes()))
    with h5py.File(cache / "shards" / "00000.h5") as shard:
        found = {field.decode() for field in fields} | set(shard) | set(shard.attrs)
    found |= {"counts", "log_normalizers"}
    assert len(found) > 30
    assert [name for name in sorted(found) if f"`{name}`" not in text] == []
