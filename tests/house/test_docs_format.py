"""The page on the format is true of a real cache and suffices to read one: its scripts run, its hashes hold."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from caches import drawn_arrays, drawn_plan, make_plan, tokenizer, write_cache
from conftest import ROOT, run_python

from kdcache.cache.reader import CacheReader
from kdcache.cache.shard import ShardArrays, encode_shard
from kdcache.text.corpus import Corpus, TextFiles

PAGE = ROOT / "docs" / "reference" / "format.md"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete cache of two shards; the first pair is skipped."""
    folder = tmp_path_factory.mktemp("docs") / "cache"
    assert write_cache(folder, make_plan(6, 3))
    return folder


def python_blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)


def run_block(number: int, tmp_path: Path, argument: Path) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "block.py"
    script.write_text(python_blocks()[number])
    return run_python(script, argument, cwd=tmp_path)


def check_reading(shard: Path, arrays: ShardArrays, tmp_path: Path) -> int:
    """Compare what the documented reader prints of the first pair; returns its number of targets."""
    done = run_block(0, tmp_path, shard)
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
    return len(rows)


def test_reader_in_the_docs_reads_a_shard(cache: Path, tmp_path: Path) -> None:
    """The reader in format.md needs h5py and numpy alone, at most 15 lines, and prints the first pair's values."""
    script = python_blocks()[0]
    assert len(script.strip().splitlines()) <= 15
    assert set(re.findall(r"^(?:import|from) (\w+)", script, re.M)) == {"sys", "h5py", "numpy"}
    shards = [(cache / "shards" / f"0000{index}.h5", CacheReader(cache).shard(index)) for index in range(2)]
    assert [check_reading(*one, tmp_path) for one in shards] == [0, 4]


@pytest.mark.full
@pytest.mark.skipif(shutil.which("h5dump") is None, reason="needs h5dump of the package hdf5-tools")
@pytest.mark.parametrize("name", ["topk_ids", "topk_log_probs"])
def test_h5dump_reads_a_shard(cache: Path, name: str) -> None:
    """A program that stands on the C library of HDF5 alone prints the values that kdcache reads."""
    shard = cache / "shards" / "00001.h5"
    done = subprocess.run(
        ["h5dump", "-y", "-m", "%.17g", "-d", f"/{name}", shard], capture_output=True, text=True, check=True
    )
    values = done.stdout.partition("DATA {")[2].partition("}")[0].replace(",", " ").split()
    soft = CacheReader(cache).shard(1).soft
    wanted = soft.token_ids if name == "topk_ids" else soft.log_probs
    assert [float(value) for value in values] == wanted.reshape(-1).astype(np.float64).tolist()
    assert len(values) > 40


def test_reader_in_the_docs_reads_drawn_words(tmp_path: Path) -> None:
    """Of a shard of drawn words it prints the shares, zero in columns that are left over."""
    plan = drawn_plan(50)
    arrays = drawn_arrays(plan, skipped=0.0)
    (tmp_path / "shard.h5").write_bytes(encode_shard(arrays, plan, 0))
    assert check_reading(tmp_path / "shard.h5", arrays, tmp_path) > 0


def test_checker_in_the_docs_accepts_a_cache(cache: Path, tmp_path: Path) -> None:
    """The checker in format.md, which knows the fingerprints from that page alone, comes to the same root hash."""
    done = run_block(1, tmp_path, cache)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == CacheReader(cache).manifest.root


@pytest.mark.parametrize("name", ["plan.json", "manifest.json", "tokenizer/tokenizer.json", "shards/00001.h5"])
def test_checker_in_the_docs_refuses_a_changed_cache(cache: Path, tmp_path: Path, name: str) -> None:
    """The checker in format.md fails when a file of the cache is another one."""
    copy = shutil.copytree(cache, tmp_path / "cache")
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

    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config = BertConfig(**shape, vocab_size=tokenizer().size, max_position_embeddings=16)
    Teacher(BertForMaskedLM(config), tokenizer()).save(tmp_path)
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
        stream += canonical([name, "torch.float32", list(tensor.shape)])
        stream += tensor.detach().numpy().astype("<f4").tobytes()
    assert teacher.whole().fingerprint() == hashlib.sha256(stream).hexdigest()
    assert teacher.fingerprint() == hashlib.sha256(stream + b"LAST_LAYER_ON_MASKED").hexdigest()


def test_format_page_names_every_field(cache: Path) -> None:
    """format.md names each JSON field, dataset and attribute that a cache has."""
    import h5py

    text = PAGE.read_text()
    paths = [*cache.rglob("0*.json"), cache / "plan.json", cache / "manifest.json"]
    fields = {name for path in paths for name in re.findall(rb'"(\w+)":', path.read_bytes())}
    with h5py.File(cache / "shards" / "00000.h5") as shard:
        found = {field.decode() for field in fields} | set(shard) | set(shard.attrs)
    found |= {"counts", "log_normalizers"}
    assert len(found) > 30
    assert [name for name in sorted(found) if f"`{name}`" not in text] == []
