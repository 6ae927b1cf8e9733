"""What `kdcache score` says about where its numbers come from, against hashes of files by hand."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import logging
import re
import shutil
from pathlib import Path

import pytest
import sacrebleu
from click.testing import CliRunner
from conftest import run_here
from models import toy_lines
from rouge_score.rouge_scorer import RougeScorer

from kdcache.cache.reader import CacheReader
from kdcache.cli import main
from kdcache.errors import CorruptError, DataError, UsageError
from kdcache.files.atomic import sha256
from kdcache.scoring.lineage import Lineage
from kdcache.scoring.run_score import measure, prepare
from kdcache.scoring.score_config import MetricSettings, ScoreConfig
from kdcache.scoring.score_corpus import compare_corpus
from kdcache.scoring.score_file import read_scores
from kdcache.scoring.sentence_scores import as_jsonl, as_tsv, sentence_scores
from kdcache.student.fingerprints import student_fingerprints, text_sha256
from kdcache.student.generate_config import GenerateConfig
from kdcache.student.generation import generate_file
from kdcache.text.lines import read_sentences


def write(path: Path, lines: list[str]) -> str:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def digest(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def made(small_student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with twelve lines of source and reference, and what the student wrote."""
    folder = tmp_path_factory.mktemp("lineage")
    source = write(folder / "source", toy_lines("src", 12))
    write(folder / "reference", toy_lines("tgt", 12))
    generate_file(search(small_student, source), folder / "output")
    return folder


@pytest.fixture
def texts(made: Path, tmp_path: Path) -> tuple[str, str, str]:
    """Copies of source, reference and output."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return str(tmp_path / "source"), str(tmp_path / "reference"), str(tmp_path / "output")


def search(student: Path, source: str) -> GenerateConfig:
    return GenerateConfig(str(student), source, beam_size=1, device="cpu")


def test_a_student_is_scored_like_what_it_writes(
    texts: tuple[str, str, str], small_student: Path, small_cache: Path
) -> None:
    """A student has scores and lineage of the file that it writes: hashes of text, student, cache and source."""
    source, reference, output = texts
    task = prepare(ScoreConfig((reference,), None, search(small_student, source)))
    assert set(task.inputs()) == {"reference", "source", "student", "cache"}
    of_student, hypotheses = measure(task)
    of_file, _ = measure(prepare(ScoreConfig((reference,), output)))
    assert of_file.lineage == Lineage(
        hypothesis=digest(output),
        references=(digest(reference),),
        source=digest(source),
        student=digest(small_student / "model.safetensors"),
        cache=CacheReader(small_cache).manifest.root,
    )
    assert (of_student.scores, of_student.lineage) == (of_file.scores, of_file.lineage)
    assert hypotheses == read_sentences(Path(output))
    assert [one.name for one in of_student.ceilings] == ["bleu", "chrf"]
    assert of_file.ceilings == ()


def test_pairs_are_source_and_reference(texts: tuple[str, str, str], small_student: Path, tmp_path: Path) -> None:
    """One file of pairs gives the result that the two files give, with the same fingerprints."""
    source, reference, _ = texts
    rows = zip(read_sentences(Path(source)), read_sentences(Path(reference)), strict=True)
    pairs = str(write(tmp_path / "pairs.tsv", ["\t".join(row) for row in rows]))
    of_pairs = measure(prepare(ScoreConfig((), None, search(small_student, pairs), pairs=pairs)))
    assert of_pairs == measure(prepare(ScoreConfig((reference,), None, search(small_student, source))))


def test_the_screen_shows_what_people_read(tmp_path: Path) -> None:
    """The short form prints F1 of ROUGE and how it was made; -v adds precision, recall and fingerprints."""
    for name, line in (("ref", "a b c d"), ("hyp", "a b")):
        write(tmp_path / name, [line])
    short, long = (run_here("score", "ref", "hyp", "--metric", "rouge", *v, cwd=tmp_path).stdout for v in ((), ("-v",)))
    assert re.search(r"^rouge1 +66\.67 ", short, re.MULTILINE)
    assert "|rouge-score:" in short
    for found in ("rouge1 precision", "rouge1 recall", digest(tmp_path / "hyp")):
        assert found in long
        assert found not in short


def test_an_edited_text_loses_its_student(texts: tuple[str, str, str], caplog: pytest.LogCaptureFixture) -> None:
    """A text that was changed after `kdcache generate` wrote it is not ascribed to the student; a warning says so."""
    _, reference, output = texts
    write(Path(output), [*read_sentences(Path(output))[:-1], "something else"])
    with caplog.at_level(logging.WARNING, logger="kdcache"):
        lineage = prepare(ScoreConfig((reference,), output)).system.lineage
    assert (lineage.student, lineage.cache, lineage.source) == (None, None, None)
    assert lineage.hypothesis == digest(output)
    assert "is not the text that output.run.json describes" in caplog.text


def test_text_is_fingerprinted_not_its_file(tmp_path: Path) -> None:
    """The same lines have one fingerprint, plain, compressed, or with CRLF; other lines have another."""
    plain = write(tmp_path / "plain", ["a b", "", "ü"])
    (tmp_path / "packed.gz").write_bytes(gzip.compress(Path(plain).read_bytes()))
    (tmp_path / "crlf").write_bytes("a b\r\n\r\nü\r\n".encode())
    prints = {text_sha256(read_sentences(tmp_path / name)) for name in ("plain", "packed.gz", "crlf")}
    assert prints == {digest(plain)}
    assert text_sha256(["a", "b"]) != text_sha256(["a b"])


def test_a_student_from_elsewhere_has_no_cache(small_student: Path, tmp_path: Path) -> None:
    """Without a run.json only the weights are known; a damaged one is refused."""
    weights = (small_student / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights)
    assert student_fingerprints(tmp_path) == {"student": sha256(weights)}
    (tmp_path / "run.json").write_text('{"inputs": [1]}')
    assert student_fingerprints(tmp_path) == {"student": sha256(weights)}
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(CorruptError, match=r"run\.json: not valid JSON"):
        student_fingerprints(tmp_path)


def test_fault_62_exchanged_source_and_reference_are_noticed(
    texts: tuple[str, str, str], small_student: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A student asked the wrong way round, and a text held against its own source, are warned of; others are not."""
    source, reference, output = texts
    measure(prepare(ScoreConfig((reference,), None, search(small_student, source))))
    prepare(ScoreConfig((reference,), output))
    assert "exchanged" not in caplog.text
    assert "its reference" not in caplog.text
    measure(prepare(ScoreConfig((source,), None, search(small_student, reference))))
    assert "--source and --reference seem to be exchanged" in caplog.text
    prepare(ScoreConfig((source,), output))
    assert "was written from the text that is given as its reference" in caplog.text


def test_two_students_are_compared_on_one_source(
    texts: tuple[str, str, str], small_student: Path, tmp_path: Path
) -> None:
    """A folder as baseline writes from the same source with the same search; a file does as well; both are tested."""
    source, reference, output = texts
    other = tmp_path / "other"
    shutil.copytree(small_student, other, ignore=shutil.ignore_patterns("run.json", "checkpoints"))
    scrambled = write(tmp_path / "scrambled", read_sentences(Path(output))[::-1])
    of_folder, hypotheses = measure(prepare(ScoreConfig((reference,), None, search(small_student, source), str(other))))
    assert of_folder.comparison is not None
    assert of_folder.comparison.lineage.student == of_folder.lineage.student
    assert of_folder.comparison.lineage.cache is None
    assert [one.p_value for one in of_folder.comparison.differences] == [1, 1]
    of_file, _ = measure(prepare(ScoreConfig((reference,), None, search(small_student, source), scrambled)))
    assert of_file.comparison is not None
    expected = compare_corpus(hypotheses, hypotheses[::-1], [read_sentences(Path(reference))], ["bleu", "chrf"])
    assert list(of_file.comparison.differences) == expected
    assert of_file.comparison.baseline == scrambled
    assert of_file.comparison.lineage.hypothesis == digest(scrambled)


def test_each_text_is_read_once(texts: tuple[str, str, str], small_student: Path) -> None:
    """What is scored was read once: source and references may be gone when the student writes."""
    source, reference, output = texts
    task = prepare(ScoreConfig((reference,), None, search(small_student, source), output))
    expected, _ = measure(task)
    for path in (source, reference, output):
        Path(path).unlink()
    again, _ = measure(task)
    assert again == expected
    assert again.lineage.source == task.system.text.sha256


def test_outputs_of_other_sources_are_not_compared(
    texts: tuple[str, str, str], small_student: Path, tmp_path: Path
) -> None:
    """Two generated files whose records name different sources are refused."""
    _, reference, output = texts
    generate_file(search(small_student, write(tmp_path / "other", toy_lines("src", 12, first=30))), tmp_path / "b")
    with pytest.raises(DataError, match=r"--baseline .*/b: was generated from another source text than .*/output"):
        prepare(ScoreConfig((reference,), output, baseline=str(tmp_path / "b")))


def test_numbers_of_lines_are_compared_before_anything_is_written(
    texts: tuple[str, str, str], small_student: Path, tmp_path: Path
) -> None:
    """A source, a text or a baseline with another number of lines than a reference is refused before any generation."""
    source, reference, _ = texts
    short = write(tmp_path / "short", toy_lines("tgt", 11))
    student = search(small_student, source)
    assert prepare(ScoreConfig((reference,), None, student, reference)).baseline is not None
    for config in (
        ScoreConfig((reference, short), None, student),
        ScoreConfig((reference,), None, search(small_student, short)),
        ScoreConfig((reference,), None, student, short),
        ScoreConfig((reference,), short),
        ScoreConfig((reference,), reference, baseline=short),
    ):
        with pytest.raises(DataError, match=r"Line i of hypotheses and references must belong together.* 11 "):
            prepare(config)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (ScoreConfig((), "h"), "Give --reference F"),
        (ScoreConfig(("r",)), "either --hypothesis F, or --student DIR"),
        (ScoreConfig(("r",), "h", GenerateConfig("s", "f")), "either --hypothesis F, or --student DIR"),
        (ScoreConfig(("r",), "h", baseline="."), "a student writes from the --source of another --student"),
        (ScoreConfig(("r",), "h", resamples=99), "--resamples must be between 100 and 100000"),
        (ScoreConfig(("r",), None, GenerateConfig("s", "f", beam_size=0)), "--beam-size"),
    ],
)
def test_contradictions_are_refused(config: ScoreConfig, message: str) -> None:
    """Options that contradict each other are usage errors before anything is read."""
    with pytest.raises(UsageError, match=message):
        prepare(config)


def test_the_record_binds_a_result_to_its_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`score --json` writes what it printed and its lineage; nothing is written over another reference or file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SACREBLEU_SEED", "5")
    write(Path("h"), ["a b c d", "e f g h"])
    write(Path("b"), ["a b c d", "e f x h"])
    write(Path("r"), ["a b c d", "e f g i"])
    write(Path("r2"), ["a b c e", "e f g h"])
    command = "score --reference r --reference r2 --hypothesis h --baseline b --resamples 150 --json found.json -v"
    arguments = [*command.split(), "--sentences", "each.tsv"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    found = read_scores(Path("found.json"))
    assert (found.bootstrap.resamples, found.bootstrap.seed) == (150, 5)
    assert "150 resamples, seed 5" in done.stdout
    assert "one tail" in done.stdout
    record = json.loads(Path("found.json.run.json").read_text())
    hashes = {name: digest(name) for name in ("h", "b", "r", "r2")}
    own = {"hypothesis": hashes["h"], "reference 1": hashes["r"], "reference 2": hashes["r2"]}
    assert record["inputs"] == own | {
        f"baseline {name}": hashes["b"] if name == "hypothesis" else value for name, value in own.items()
    }
    assert record["result"]["scores"] == {one.name: one.value for one in found.scores}
    for value in hashes.values():
        assert done.stdout.count(value) == 1
    assert found.comparison is not None
    for one in found.comparison.differences:
        assert f"{one.p_value:.4f}" in done.stdout
    assert Path("each.tsv").read_text().startswith("line\thypothesis\tbleu\tchrf\n1\ta b c d\t100.0000\t")
    assert CliRunner().invoke(main, arguments).exit_code == 0
    write(Path("r"), ["a b c d", "e f g j"])
    before = {path: path.read_bytes() for path in tmp_path.glob("*[!g]")}
    for refused, message in (
        (arguments, "the reference 1 is not that of the first time"),
        ([*arguments[:7], "--sentences", "b"], "b: exists"),
    ):
        done = CliRunner().invoke(main, refused)
        assert done.exit_code == 1
        assert message in done.output
    assert {path: path.read_bytes() for path in tmp_path.glob("*[!g]")} == before  # but the logs


# Sentences

HYPOTHESES = ["The cat sat on a mat.", "a b", "", "tab\there \\ and", "Ärzte für alle"]
REFERENCES = [
    ["The cat sat on the mat.", "a c", "x", "tab here and", "Ärzte für uns alle"],
    ["A cat is on a mat.", "b a", "y z", "tabs here", "Aerzte"],
]


@pytest.mark.parametrize("lowercase", [False, True])
def test_sentences_are_scored_as_by_the_libraries(lowercase: bool) -> None:
    """Each sentence's scores are those of sacreBLEU's functions for one sentence, and of rouge-score."""
    found = sentence_scores(
        HYPOTHESES[:3], [one[:3] for one in REFERENCES], ["bleu", "chrf", "ter", "rouge"], MetricSettings(lowercase)
    )
    rouge = RougeScorer(["rouge1", "rouge2", "rougeL"])
    for i, (hypothesis, *targets) in enumerate(zip(HYPOTHESES[:3], *[one[:3] for one in REFERENCES], strict=True)):
        assert found["bleu"][i] == pytest.approx(
            sacrebleu.sentence_bleu(hypothesis, targets, lowercase=lowercase).score
        )
        assert found["ter"][i] == pytest.approx(sacrebleu.sentence_ter(hypothesis, targets).score)
        cased = [text.lower() if lowercase else text for text in (hypothesis, *targets)]
        assert found["chrf"][i] == pytest.approx(sacrebleu.sentence_chrf(cased[0], cased[1:]).score)
        best = rouge.score_multi(targets, hypothesis)
        for kind in ("rouge1", "rouge2", "rougeL"):
            assert found[kind][i] == pytest.approx(100 * best[kind].fmeasure)
    assert list(found) == ["bleu", "chrf", "ter", "rouge1", "rouge2", "rougeL"]


def test_unusable_sentences_are_refused() -> None:
    """Other numbers of lines and unknown metrics are refused as for whole texts."""
    with pytest.raises(DataError, match="belong together"):
        sentence_scores(["a"], [["a", "b"]], ["bleu"])
    with pytest.raises(UsageError, match="choose from"):
        sentence_scores(["a"], [["a"]], ["meteor"])


def test_tables_of_sentences_can_be_read_back() -> None:
    """Both forms give every hypothesis and value back, tabs and backslashes too."""
    scores = sentence_scores(HYPOTHESES, REFERENCES, ["bleu", "rouge"])
    rows = list(csv.reader(as_tsv(HYPOTHESES, scores).decode().splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE))
    assert rows[0] == ["line", "hypothesis", "bleu", "rouge1", "rouge2", "rougeL"]
    assert rows[4][1] == r"tab\there \\ and"
    lines = [json.loads(line) for line in as_jsonl(HYPOTHESES, scores).decode().splitlines()]
    assert [line["hypothesis"] for line in lines] == HYPOTHESES
    for i, (row, line) in enumerate(zip(rows[1:], lines, strict=True)):
        assert (int(row[0]), line["line"]) == (i + 1, i + 1)
        assert row[1].replace("\\t", "\t").replace("\\\\", "\\") == HYPOTHESES[i]
        for name, cell in zip(scores, row[2:], strict=True):
            assert line[name] == scores[name][i]
            assert float(cell) == pytest.approx(scores[name][i], abs=5e-5)
