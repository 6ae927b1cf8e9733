"""The embedded corpus: it is what its generator makes, and obeys the grammar that its README describes."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from conftest import ROOT

DEMO = ROOT / "data" / "demo"
SIZES = {"train": 6_000, "valid": 300, "test": 2_000}
LEXICON = runpy.run_path(str(ROOT / "data" / "generate.py"))["make_lexicon"]()
MEANINGS = [
    (f"{kind} {i}", meaning)
    for kind in ("being", "thing", "adjective", "verb", "adverb")
    for i, meaning in enumerate(getattr(LEXICON, f"{kind}s"), 1)
]
# From words to meanings, and in Mirel to the classes of nouns and conjugations of verbs.
OSTU = {meaning.source: name for name, meaning in MEANINGS}
MIREL = {choice.word: name for name, meaning in MEANINGS for choice in meaning.choices}
CLASSES = {choice.word: choice.kind for _, meaning in MEANINGS for choice in meaning.choices}
PHRASES = ("subject", "object", "inner")
TENSES = {"ta": 2, "ha": 2, "ko": 3, "wem": 3}

# The grammars are written down here a second time, so that a slip in the generator's tables does not check itself.


def word(group: str, kind: str, words: dict[str, str]) -> str:
    return f"(?P<{group}>{'|'.join(one for one, meaning in words.items() if meaning.startswith(kind))})"


def ostu_phrase(name: str, kind: str) -> str:
    return rf"{word(name, kind, OSTU)}(?P<{name}_plural> ri)?(?: {word(f'{name}_adjective', 'adjective', OSTU)})?"


def mirel_phrase(name: str, kind: str) -> str:
    adjective = rf"(?P<{name}_concord>v[aoi]n?) {word(f'{name}_adjective', 'adjective', MIREL)} "
    return rf"(?P<{name}_article>lan?|kon?|tin?) (?:{adjective})?{word(name, kind, MIREL)}"


OSTU_SENTENCE = re.compile(
    rf"(?:{word('adverb', 'adverb', OSTU)} )?"
    rf"(?:{ostu_phrase('inner', 'thing')} mu {word('inner_verb', 'verb', OSTU)} du )?"
    rf"{ostu_phrase('subject', 'being')} {ostu_phrase('object', 'thing')} mu {word('verb', 'verb', OSTU)}"
    rf"(?: (?P<tense>ta|ko))?(?P<stop> ka\?|\.)"
)
MIREL_SENTENCE = re.compile(
    rf"(?P<opener>se|nu)(?P<asks>ka)? {mirel_phrase('subject', 'being')}"
    rf"(?: sh(?P<relative>[aoi]n?) {word('inner_verb', 'verb', MIREL)} {mirel_phrase('inner', 'thing')})?"
    rf"(?: (?P<tense>ha|wem))? v(?P<concord>[aoi]n?) {word('verb', 'verb', MIREL)} {mirel_phrase('object', 'thing')}"
    rf"(?: {word('adverb', 'adverb', MIREL)})?(?P<stop>[.?])"
)


def said(found: re.Match[str] | None, words: dict[str, str]) -> dict[str, object]:
    """Meanings, tense and mood of a sentence; AssertionError where the grammar is broken."""
    assert found
    names = ("adverb", "verb", "inner_verb", *PHRASES, *(f"{name}_adjective" for name in PHRASES))
    meanings = {name: found[name] and words[found[name]] for name in names}
    return {**meanings, "tense": TENSES.get(found["tense"], 1), "question": found["stop"].endswith("?")}


def ostu(sentence: str) -> dict[str, object]:
    """What a sentence says, the number of each noun included."""
    found = OSTU_SENTENCE.fullmatch(sentence)
    return said(found, OSTU) | {f"{name}_plural": bool(found and found[f"{name}_plural"]) for name in PHRASES}


def mirel(sentence: str) -> dict[str, object]:
    """The same of the other language, whose words must also agree with each other."""
    found = MIREL_SENTENCE.fullmatch(sentence)
    says = said(found, MIREL)
    assert found
    for name in PHRASES:
        ending = (found[f"{name}_article"] or "")[1:]
        says[f"{name}_plural"] = ending.endswith("n")
        assert not found[name] or "aoi"[CLASSES[found[name]]] == ending[0], "article and noun"
        assert not found[f"{name}_concord"] or found[f"{name}_concord"][1:] == ending, "concord of an adjective"
    assert found["concord"] == found["subject_article"][1:], "concord of the main verb"
    assert found["relative"] in (None, found["concord"]), "relative pronoun"
    assert ("se", "nu")[CLASSES[found["verb"]]] == found["opener"], "opener and main verb"
    assert bool(found["asks"]) == says["question"], "opener and stop"
    return says


@cache
def corpus(name: str) -> list[tuple[str, str]]:
    source, target = ((DEMO / f"{name}.{side}").read_bytes().decode().split("\n")[:-1] for side in ("src", "tgt"))
    return list(zip(source, target, strict=True))


def test_generator_reproduces_the_corpus(tmp_path: Path) -> None:
    """The generator writes the files of `data/demo` byte for byte, whatever order its process hashes strings in."""
    command = [sys.executable, str(ROOT / "data" / "generate.py"), str(tmp_path)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "random"})
    made, kept = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in (tmp_path, DEMO))
    assert made == kept


def test_no_sentence_twice() -> None:
    """6,000, 300 and 2,000 pairs, and no sentence of either language occurs twice, within a file or across files."""
    assert {name: len(corpus(name)) for name in SIZES} == SIZES
    sides = zip(*(pair for name in SIZES for pair in corpus(name)), strict=True)
    assert [len(set(side)) for side in sides] == [sum(SIZES.values())] * 2


@pytest.mark.parametrize("name", SIZES)
def test_both_sides_parse_and_say_the_same(name: str) -> None:
    """Every sentence obeys its grammar and agreement, and both sides of a pair have the same meanings in each place."""
    for source, target in corpus(name):
        assert ostu(source) == mirel(target)


PLURAL = ("hides ri pagus ri seros mu kukus ko.", "se tin bálegar wem vin pubam tin vin filir lövot.")
RELATIVE = ("pis ri mu tisis du tamur gojen mu gipin.", "se ko bebofam sho pubar lan nár vo fotám ti tálád.")


@pytest.mark.parametrize(
    ("pair", "old", "new"),
    [
        (PLURAL, "se tin", "nu tin"),  # conjugation of another verb
        (PLURAL, "se tin", "seka tin"),  # a question with a full stop
        (PLURAL, "vin filir", "vi filir"),  # number within a phrase
        (PLURAL, "tin vin", "kon von"),  # class of the noun
        (PLURAL, "wem vin", "wem von"),  # class of the verb
        (PLURAL, "wem", "ha"),  # another tense than the source
        (PLURAL, "tin vin", "ti vi"),  # another number than the source
        (PLURAL, "filir", "pád"),  # another adjective than the source
        (PLURAL, "seros mu", "seros"),
        (RELATIVE, "sho", "shon"),
        (RELATIVE, "pis ri mu tisis du tamur", "tamur pis ri mu tisis du"),
    ],
)
def test_the_parsers_can_refuse(pair: tuple[str, str], old: str, new: str) -> None:
    """Each single break of agreement, order or meaning is refused, so that silence says something."""
    assert ostu(pair[0]) == mirel(pair[1])
    broken = [side.replace(old, new, 1) for side in pair]
    assert sum(side != other for side, other in zip(pair, broken, strict=True)) == 1
    with pytest.raises(AssertionError):
        assert ostu(broken[0]) == mirel(broken[1])
