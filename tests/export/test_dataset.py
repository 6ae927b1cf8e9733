"""Pairs of a data set become a text that every command reads, or are refused with the column that is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from conftest import run_cli, run_here
from hub import hub

from kdcache.text.corpus import Corpus, TextFiles

PAIRS = [("ein Hund", "a dog"), ("zwei\nZeilen", "two\u2028lines"), ("„Ja“", "“yes”")]
FIELDS = ("--source-field", "de", "--target-field", "en")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


def save(path: Path, columns: dict[str, list[object]]) -> Path:
    """Write columns as the file's ending says."""
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.table(columns), path)
    else:
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("shape", ["columns.parquet", "translation.parquet", "columns.jsonl"])
def test_pairs_come_out_as_they_stand(tmp_path: Path, shape: str) -> None:
    """Columns and the column translation give the same pairs, characters and line feeds included, in their order."""
    sides = dict(zip(("de", "en"), map(list, zip(*PAIRS, strict=True)), strict=True))
    columns = {"translation": [{"de": de, "en": en} for de, en in PAIRS]} if "translation" in shape else sides
    file, output = save(tmp_path / shape, columns), tmp_path / "pairs.jsonl"
    done = run_here("dataset", file, output, *FIELDS)
    assert done.returncode == 0, done.stderr
    corpus = Corpus(TextFiles(pairs=str(output)))
    assert [(pair.source, pair.target) for pair in corpus.read()] == PAIRS
    assert "nothing to do" in run_here("dataset", file, output, *FIELDS).stderr


def test_a_data_set_of_the_hub_is_read(tmp_path: Path) -> None:
    """The part `de-en` of a data set comes from the hub, by the requests of the datasets library."""
    save(tmp_path / "train.parquet", {"translation": [{"de": de, "en": en} for de, en in PAIRS]})
    parts = "configs:\n- config_name: de-en\n  data_files:\n  - split: train\n    path: data/train-*\n"
    with hub() as server:
        server.repos["datasets/me/text"] = {
            "data/train-0.parquet": (tmp_path / "train.parquet").read_bytes(),
            "README.md": f"---\n{parts}---\n".encode(),
        }
        environment = {**server.environment, "HF_HOME": str(tmp_path / "hf")}
        done = run_cli("dataset", "me/text:de-en", tmp_path / "pairs.jsonl", *FIELDS, **environment)
    assert done.returncode == 0, done.stderr
    corpus = Corpus(TextFiles(pairs=str(tmp_path / "pairs.jsonl")))
    assert [(pair.source, pair.target) for pair in corpus.read()] == PAIRS


def test_missing_texts_are_counted(tmp_path: Path) -> None:
    """A pair without a side keeps its line, a warning counts it, and commands refuse it as any empty line."""
    file = save(tmp_path / "few.parquet", {"de": ["a", None], "en": ["b", "c"]})
    done = run_here("dataset", file, tmp_path / "pairs.jsonl", *FIELDS)
    assert "1 of 2 pairs lack a side" in done.stderr
    assert Corpus(TextFiles(pairs=str(tmp_path / "pairs.jsonl")), skip_bad=True).unusable == [1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"de": ["a"], "fr": ["b"]}, "no column en. It has de, fr."),
        ({"translation": [{"de": "a", "fr": "b"}]}, "no column en. It has translation, de, fr."),
        ({"de": ["a"], "en": [7]}, "column en holds int, and a text is needed."),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path: Path, columns: dict[str, list[object]], message: str) -> None:
    """The message names the columns that are there, and no half of a text is left."""
    done = run_here("dataset", save(tmp_path / "odd.parquet", columns), tmp_path / "pairs.jsonl", *FIELDS)
    assert done.returncode == 1
    assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "pairs.jsonl").exists()


def test_a_data_set_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """What the library cannot load is said in one line with its name."""
    done = run_here("dataset", tmp_path / "none.parquet", tmp_path / "pairs.jsonl", *FIELDS)
    assert done.returncode == 1
    assert "none.parquet: cannot be loaded: " in done.stderr
    assert "Traceback" not in done.stderr
