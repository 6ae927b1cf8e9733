"""What `import kdcache` offers: the documented examples run, and nothing heavy is loaded before it is used."""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, run_python
from models import NANO, toy_lines

import kdcache
from kdcache.cache.reader import CacheReader
from kdcache.student.generate_config import GenerateConfig
from kdcache.student.generation import generate

EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/reference/api.md").read_text(), re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the texts that the examples name."""
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 40), ("valid", 10), ("test", 5)):
        for ending, side in (("de", "src"), ("en", "tgt")):
            Path(f"{split}.{ending}").write_text("".join(f"{line}\n" for line in toy_lines(side, count)))
    return tmp_path


def test_the_documented_pipeline_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The example from text to scores makes teacher, cache and student, and the two others then read them."""
    from kdcache.student.student_config import SIZES

    monkeypatch.setitem(SIZES, "tiny", NANO)
    written, read, trained = EXAMPLES
    for example in (trained, read, written):
        exec(compile(example.replace("max_steps=2_000", "max_steps=2"), "api.md", "exec"), {})  # noqa: S102
    printed = capsys.readouterr().out
    assert "Score(name='bleu'" in printed
    assert toy_lines("src", 5)[4] in printed


def test_the_tour_runs_from_text_to_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every cell of the notebook runs, with fewer pairs and steps, and its stored outputs hold no error."""
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "docs/tour.ipynb").read_text())["cells"]
    cells = [cell for cell in cells if cell["cell_type"] == "code"]
    script = "".join("".join(cell["source"]) + "\n" for cell in cells)
    short = script.replace("1_000, 1_200, 900", "60, 4, 10")
    assert short != script
    exec(compile(short, "tour.ipynb", "exec"), {})  # noqa: S102
    printed = capsys.readouterr().out
    assert re.search(r"^bleu: .* to .*\)\nchrf: .* to ", printed, re.M)
    assert printed.count("  reference    ") == 2
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert outputs
    assert not [output for output in outputs if output["output_type"] == "error"]


def test_pairs_are_those_of_the_shards(small_cache: Path) -> None:
    """Every pair, by index, from behind, as a slice and in batches, has the values of the flat arrays."""
    cache, reader = kdcache.open_cache(str(small_cache)), CacheReader(small_cache)
    assert len(cache) == reader.plan.n_pairs
    index = 0
    for number in range(reader.plan.n_shards):
        shard = reader.shard(number)
        for row in range(shard.pairs.n_pairs):
            pair, where = cache[index], slice(*shard.pairs.target_offsets[row : row + 2])
            assert pair.index == index
            assert (pair.token_ids == shard.soft.token_ids[where]).all()
            assert (pair.log_probs == shard.soft.log_probs[where].astype(np.float32)).all()
            assert (pair.target_log_probs == shard.target_log_prob[where].astype(np.float32)).all()
            assert cache.tokenizer.encode([pair.target])[0] == pair.target_ids[:-1].tolist()
            index += 1
    assert [pair.index for batch in cache.batches(7) for pair in batch] == list(range(len(cache)))
    assert (cache[-1].index, [one.index for one in cache[2:5]]) == (len(cache) - 1, [2, 3, 4])
    with pytest.raises(IndexError):
        cache[len(cache)]


def test_tensors_share_the_values(small_cache: Path) -> None:
    """`to_torch` gives the arrays as tensors of the same types."""
    pair = kdcache.open_cache(str(small_cache))[3]
    tensors = pair.to_torch()
    assert tensors["log_probs"].dtype == torch.float32
    assert all((tensor.numpy() == getattr(pair, name)).all() for name, tensor in tensors.items())


def test_a_student_writes_what_the_command_writes(small_student: Path) -> None:
    """`Student.generate` and `kdcache generate` are one search."""
    student, lines = kdcache.Student.load(small_student), toy_lines("src", 6)
    expected = generate(student, lines, GenerateConfig("", "", beam_size=2))
    assert student.generate(lines, beam_size=2) == expected
    with pytest.raises(kdcache.KDCacheError, match="--beam-size"):
        student.generate(lines, beam_size=0)


def test_every_public_name_is_there() -> None:
    """Each name of `__all__` can be loaded, and a name that is none is an AttributeError."""
    assert all(getattr(kdcache, name) is not None for name in kdcache.__all__)
    assert {*kdcache.__all__} <= {*dir(kdcache)}
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        kdcache.nothing  # noqa: B018


def test_a_cache_is_read_without_torch(small_cache: Path, tmp_path: Path) -> None:
    """Importing kdcache and reading pairs loads no torch."""
    shutil.copytree(small_cache, tmp_path / "cache")
    code = "import sys, kdcache; print(kdcache.open_cache('cache')[0].source, {'torch'} & {*sys.modules})"
    done = run_python("-c", code, cwd=tmp_path)
    assert done.stdout.strip().endswith("set()"), done.stdout + done.stderr


def test_work_in_another_thread_takes_no_signals(
    small_teacher: Path, small_text: kdcache.TextFiles, tmp_path: Path
) -> None:
    """A call from a worker thread, where Python allows no handlers of signals, does what it does in the main thread."""
    config = kdcache.DumpConfig(str(small_teacher), small_text, device="cpu")
    with ThreadPoolExecutor() as pool:
        pool.submit(kdcache.dump_logits, config, str(tmp_path / "cache")).result()
    assert len(kdcache.open_cache(str(tmp_path / "cache"))) > 0
