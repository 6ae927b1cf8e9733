"""The embedded corpus: it is what its generator makes, and obeys the grammar that its README describes."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

DEMO = ROOT / "data" / "demo"
README = (ROOT / "data" / "README.md").read_text()
PROSE = " ".join(README.split())
SIZES = {"train": 6_000, "valid": 300, "test": 500}

# Written down here a second time, so that a slip in the generator's tables does not check itself.
Agreement = tuple[int, bool]
ARTICLES = {"la": (1, False), "lan": (1, True), "ko": (2, False), "kon": (2, True), "ti": (3, False), "tin": (3, True)}
ENDINGS = {"a": (1, False), "an": (1, True), "o": (2, False), "on": (2, True), "i": (3, False), "in": (3, True)}
RELATIVES = {f"sh{ending}": agreement for ending, agreement in ENDINGS.items()}
CONCORDS = {f"v{ending}": agreement for ending, agreement in ENDINGS.items()}
OPENERS = {"se": (1, False), "nu": (2, False), "seka": (1, True), "nuka": (2, True)}
OSTU_TENSES = {"ta": 2, "ko": 3}
AUXILIARIES = {"ha": 2, "wem": 3}


def lines(name: str) -> list[str]:
    return (DEMO / name).read_bytes().decode().split("\n")[:-1]


@cache
def corpus() -> list[tuple[str, str]]:
    return [pair for name in SIZES for pair in zip(lines(f"{name}.src"), lines(f"{name}.tgt"), strict=True)]


@cache
def made() -> Any:
    """The generator's own lexicon."""
    return runpy.run_path(str(ROOT / "data" / "generate.py"))["make_lexicon"]()


@cache
def lexicon() -> tuple[dict[str, str], dict[str, tuple[str, int]]]:
    """Ostu stems to meanings such as `being 3`; Mirel stems to meanings and class or conjugation, from 1."""
    ostu: dict[str, str] = {}
    mirel: dict[str, tuple[str, int]] = {}
    for kind in ("being", "thing", "adjective", "verb", "adverb"):
        for rank, meaning in enumerate(getattr(made(), f"{kind}s"), 1):
            ostu[meaning.source] = f"{kind} {rank}"
            mirel |= {choice.word: (f"{kind} {rank}", choice.kind + 1) for choice in meaning.choices}
    return ostu, mirel


class Reader:
    """Takes a sentence word by word, and says of each word what it is; AssertionError where the grammar is broken.

    `said` is what the sentence says without saying how: the same for both sides of a pair.
    """

    def __init__(self, sentence: str) -> None:
        self.words = sentence[:-1].split(" ")
        self.glosses: list[str] = []
        self.said = self.sentence(question=sentence[-1] == "?")
        assert sentence[-1] in ".?"
        assert not self.words, "words are left"

    def sentence(self, *, question: bool) -> dict[str, Any]:
        raise NotImplementedError

    def take(self, gloss: str) -> str:
        self.glosses.append(gloss)
        return self.words.pop(0)


def numbered(agreement: Agreement) -> str:
    return f"class {agreement[0]}, {'plural' if agreement[1] else 'singular'}"


class Ostu(Reader):
    """Adverb, relative clause, subject, object, verb, tense, question."""

    def stem(self, kind: str, role: str = "") -> str:
        meaning = lexicon()[0][self.words[0]]
        assert meaning.startswith(f"{kind} "), kind
        self.take(meaning + role)
        return meaning

    def comes(self, kind: str) -> bool:
        return lexicon()[0].get(self.words[0], "").startswith(f"{kind} ")

    def particle(self, word: str, gloss: str) -> bool:
        return bool(self.words) and self.words[0] == word and bool(self.take(gloss))

    def phrase(self, kind: str, role: str = "") -> tuple[str, bool, str]:
        noun = self.stem(kind, role)
        plural = self.particle("ri", "the noun is plural")
        return noun, plural, self.stem("adjective") if self.comes("adjective") else ""

    def patient(self) -> tuple[str, bool, str]:
        found = self.phrase("thing")
        assert self.particle("mu", "end of the object"), "object"
        return found

    def sentence(self, *, question: bool) -> dict[str, Any]:
        said: dict[str, Any] = {"adverb": self.stem("adverb") if self.comes("adverb") else "", "relative": None}
        if self.comes("thing"):
            patient, verb = self.patient(), self.stem("verb")
            assert self.particle("du", "participle"), "relative clause"
            said["relative"] = (verb, patient)
        said |= {"subject": self.phrase("being", ", the subject"), "object": self.patient()}
        said |= {"verb": self.stem("verb", ", the main verb"), "tense": 1, "question": question}
        if self.words and self.words[0] in OSTU_TENSES:
            said["tense"] = OSTU_TENSES[self.words[0]]
            self.take(f"tense {said['tense']}")
        assert self.particle("ka", "question") == question, "question and stop"
        return said


class Mirel(Reader):
    """Opener, subject, relative clause, auxiliary, concord, verb, object, adverb."""

    def stem(self, kind: str, class_name: str = "") -> tuple[str, int]:
        meaning, number = lexicon()[1][self.words[0]]
        assert meaning.startswith(f"{kind} "), kind
        self.take(meaning + (f", {class_name} {number}" if class_name else ""))
        return meaning, number

    def concord(self, agreement: Agreement, of: str) -> None:
        assert CONCORDS[self.words[0]] == agreement, "concord"
        self.take(f"concord of the {of}, {numbered(agreement)}")

    def phrase(self, kind: str) -> tuple[tuple[str, bool, str], Agreement]:
        agreement, adjective = ARTICLES[self.words[0]], ""
        self.take(f"article, {numbered(agreement)}")
        if self.words[0] in CONCORDS:
            self.concord(agreement, "adjective")
            adjective = self.stem("adjective")[0]
        noun, number = self.stem(kind, "class")
        assert number == agreement[0], "article and noun"
        return (noun, agreement[1], adjective), agreement

    def sentence(self, *, question: bool) -> dict[str, Any]:
        conjugation, asks = OPENERS[self.words[0]]
        self.take(f"{'question' if asks else 'statement'}; the main verb is of conjugation {conjugation}")
        assert asks == question, "opener and stop"
        said: dict[str, Any] = {"question": question, "relative": None, "tense": 1, "adverb": ""}
        said["subject"], agreement = self.phrase("being")
        if self.words[0] in RELATIVES:
            assert RELATIVES[self.words[0]] == agreement, "relative pronoun"
            self.take(f"relative pronoun, {numbered(agreement)}")
            verb, _ = self.stem("verb", "conjugation")
            said["relative"] = (verb, self.phrase("thing")[0])
        if self.words[0] in AUXILIARIES:
            said["tense"] = AUXILIARIES[self.words[0]]
            self.take(f"tense {said['tense']}")
        self.concord(agreement, "main verb")
        said["verb"], number = self.stem("verb", "conjugation")
        assert number == conjugation, "opener and main verb"
        said["object"], _ = self.phrase("thing")
        if self.words:
            said["adverb"], _ = self.stem("adverb")
        return said


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_generator_reproduces_the_corpus(tmp_path: Path, hash_seed: str) -> None:
    """The generator writes the six files of `data/demo` byte for byte, whatever order its process hashes strings in."""
    subprocess.run(
        [sys.executable, str(ROOT / "data" / "generate.py"), str(tmp_path)],
        check=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in DEMO.iterdir()
    }


def test_sizes() -> None:
    """Train, valid and test have the sizes that the README states, in pairs and in words."""
    for name, size in SIZES.items():
        source, target = lines(f"{name}.src"), lines(f"{name}.tgt")
        assert (len(source), len(target)) == (size, size)
        counts = [sum(len(line.split()) for line in side) for side in (source, target)]
        assert f"| `{name}.src`, `{name}.tgt` | {size:,} | {counts[0]:,} / {counts[1]:,} |" in README


def test_no_sentence_twice() -> None:
    """No sentence of either language occurs twice, within a file or across train, valid and test."""
    sources, targets = zip(*corpus(), strict=True)
    assert len(set(sources)) == len(sources) == sum(SIZES.values())
    assert len(set(targets)) == len(targets)


def test_both_sides_parse_and_say_the_same() -> None:
    """Every sentence obeys its grammar and agreement, and both sides of a pair have the same meanings in each place."""
    for source, target in corpus():
        assert Ostu(source).said == Mirel(target).said


PLURAL = ("hodor ri hidan pas ri mu kur ko.", "se lan van löned gidesás wem van buyum kon tilerer.")
RELATIVE = ("hin mu gites du pis rikir mu ruzus ta.", "nu ko röres sho biyas ko rivor ha vo sodetös ko relör.")


@pytest.mark.parametrize(
    ("pair", "old", "new"),
    [
        (PLURAL, "se lan", "nu lan"),  # conjugation of another verb
        (PLURAL, "se lan", "seka lan"),  # a question with a full stop
        (PLURAL, "kur ko.", "kur ko ka."),
        (PLURAL, "lan van löned", "la van löned"),  # number within a phrase
        (PLURAL, "lan van löned", "lan von löned"),  # class within a phrase
        (PLURAL, "lan van", "kon von"),  # class of the noun
        (PLURAL, "wem van", "wem va"),  # number of the verb
        (PLURAL, "wem van", "wem von"),  # class of the verb
        (PLURAL, "wem van", "wem"),
        (PLURAL, "wem", "ha"),  # another tense than the source
        (PLURAL, "kon tilerer", "ko tilerer"),  # another number than the source
        (PLURAL, "hodor ri", "hodor"),
        (PLURAL, "löned", "rim"),  # another adjective than the source
        (PLURAL, "ri mu kur", "ri kur"),
        (PLURAL, "tilerer.", "tilerer tilerer."),
        (RELATIVE, "sho", "sha"),
        (RELATIVE, "sho", "shon"),
        (RELATIVE, "sho biyas ko rivor ha vo sodetös ko relör", "sho sodetös ko relör ha vo biyas ko rivor"),
        (RELATIVE, "hin mu gites du pis", "pis hin mu gites du"),
        (RELATIVE, "gites du", "gites"),
    ],
)
def test_the_parsers_can_refuse(pair: tuple[str, str], old: str, new: str) -> None:
    """The readers refuse each single break of agreement, order or meaning, so that their silence says something."""
    broken = [side.replace(old, new, 1) for side in pair]
    assert Ostu(pair[0]).said == Mirel(pair[1]).said
    assert sum(side != other for side, other in zip(pair, broken, strict=True)) == 1
    with pytest.raises((AssertionError, KeyError)):
        assert Ostu(broken[0]).said == Mirel(broken[1]).said


def test_sources_leave_the_opener_open() -> None:
    """As often as the README says, a sentence's main verb occurs with openers of both conjugations in the corpus."""
    seen = [(Ostu(source).said["verb"], OPENERS[target.split(" ")[0]][0]) for source, target in corpus()]
    counts = Counter(seen)
    verbs = {verb for verb, _ in seen}
    undecided = {verb for verb in verbs if all(counts[verb, conjugation] > 50 for conjugation in (1, 2))}
    share = sum(verb in undecided for verb, _ in seen) / len(seen)
    assert f"{len(undecided)} of {len(verbs)} verbs" in PROSE
    assert f"{share:.0%}".replace("%", " %") + " of the sentences" in PROSE


def test_readme_glosses_are_right() -> None:
    """The README's examples stand in the corpus, show what they promise, and each word is glossed as it is read."""
    sections = dict(part.split("\n", 1) for part in README.split("\n### ")[1:])
    said = {}
    for title, text in sections.items():
        pair = re.findall(r"^> (.+)$", text, re.M)
        assert tuple(pair) in corpus()
        ostu, mirel = Ostu(pair[0]), Mirel(pair[1])
        rows = re.findall(r"^\| (\S+) \| (.+) \|$", text, re.M)[1:]
        words = [word for side in pair for word in side[:-1].split(" ")]
        assert rows == list(zip(words, ostu.glosses + mirel.glosses, strict=True))
        said[title] = ostu.said
    first, second, third = said.values()
    assert first["adverb"]
    assert first["question"]
    assert second["relative"]
    assert any(isinstance(phrase, tuple) and phrase[1] and phrase[2] for phrase in third.values())
