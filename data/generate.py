"""Make the demo corpus: sentence pairs in two invented languages, Ostu (the source) and Mirel (the target).

Everything is drawn from one grammar with a fixed seed, so that the same bytes come out everywhere. The README beside
this file describes the languages; `python data/generate.py FOLDER` writes the files.
"""

from __future__ import annotations

import sys
from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from random import Random
from typing import TypeVar

T = TypeVar("T")

LEXICON_SEED = 1
TEXT_SEED = 2
SIZES = {"train": 6_000, "valid": 300, "test": 500}

# Mirel: one row for each noun class; columns are singular and plural.
ARTICLES = (("la", "lan"), ("ko", "kon"), ("ti", "tin"))
RELATIVES = (("sha", "shan"), ("sho", "shon"), ("shi", "shin"))
CONCORDS = (("va", "van"), ("vo", "von"), ("vi", "vin"))
# The first word of a Mirel sentence: rows are statement and question, columns the conjugation of the main verb.
OPENERS = (("se", "nu"), ("seka", "nuka"))
AUXILIARIES = ("", "ha", "wem")

# Ostu: words that follow the noun or the verb that they belong to.
PLURAL, OBJECT, PARTICIPLE = "ri", "mu", "du"
TENSES = ("", "ta", "ko")
QUESTION = "ka"


@dataclass(frozen=True, slots=True)
class Choice:
    """One Mirel word for a meaning; `kind` is a noun's class or a verb's conjugation."""

    word: str
    kind: int


@dataclass(frozen=True, slots=True)
class Meaning:
    """An Ostu word and the Mirel words that a translator may choose for it, the favourite first."""

    source: str
    choices: tuple[Choice, ...]


@dataclass(frozen=True, slots=True)
class Lexicon:
    """All words that carry meaning, the most frequent first."""

    beings: list[Meaning]
    things: list[Meaning]
    adjectives: list[Meaning]
    verbs: list[Meaning]
    adverbs: list[Meaning]


@dataclass(frozen=True, slots=True)
class Phrase:
    """A noun phrase in both languages; Mirel agreement is by `kind` (noun class) and `plural`."""

    source: list[str]
    target: list[str]
    kind: int
    plural: bool


def zipf(random: Random, items: Sequence[T], flatness: float = 2.0) -> T:
    """Draw one of `items`, the r-th with a probability proportional to 1 / (r + flatness)."""
    cumulative = list(accumulate(1 / (rank + flatness) for rank in range(1, len(items) + 1)))
    return items[min(bisect(cumulative, random.random() * cumulative[-1]), len(items) - 1)]


def chance(random: Random, probability: float) -> bool:
    """True with this probability."""
    return random.random() < probability


class Words:
    """A source of words that were not given out before."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._taken: set[str] = set()

    def draw(self, onsets: str, vowels: str, codas: str, syllables: Sequence[int]) -> str:
        """A new word of consonant-vowel syllables that closes with one of `codas` (a blank: with none)."""
        while True:
            count = self._random.choice(syllables)
            body = "".join(self._random.choice(onsets) + self._random.choice(vowels) for _ in range(count))
            word = body + self._random.choice(codas).strip()
            if word not in self._taken:
                self._taken.add(word)
                return word


def ostu_word(words: Words) -> str:
    """A stem of Ostu."""
    return words.draw("bdghjkmprstz", "aeiou", "nrs", (1, 2, 2))


def mirel_word(words: Words) -> str:
    """A stem of Mirel; it always closes with a consonant, so that endings can be told apart."""
    return words.draw("bdfglmnprstvy", "aeiouáö", "dmrst", (1, 2, 2, 3))


def meaning(random: Random, ostu: Words, mirel: Words, kinds: int) -> Meaning:
    """A meaning with one to three Mirel words, whose kinds are different where possible."""
    count = random.choice((1, 2, 2, 3))
    first = random.randrange(kinds)
    choices = tuple(Choice(mirel_word(mirel), (first + i) % kinds) for i in range(count))
    return Meaning(ostu_word(ostu), choices)


def make_lexicon() -> Lexicon:
    """The words of both languages."""
    random = Random(LEXICON_SEED)
    ostu, mirel = Words(random), Words(random)

    def meanings(count: int, kinds: int) -> list[Meaning]:
        return [meaning(random, ostu, mirel, kinds) for _ in range(count)]

    return Lexicon(
        beings=meanings(16, 3),
        things=meanings(20, 3),
        adjectives=meanings(12, 1),
        verbs=meanings(14, 2),
        adverbs=meanings(8, 1),
    )


def choose(random: Random, meaning: Meaning) -> Choice:
    """The translator's free choice; favourites are chosen more often."""
    return zipf(random, meaning.choices, 0.5)


def noun_phrase(random: Random, lexicon: Lexicon, nouns: list[Meaning]) -> Phrase:
    """Ostu: noun, adjective. Mirel: article, concord and adjective, noun; article and concord agree with the noun."""
    noun = zipf(random, nouns)
    chosen = choose(random, noun)
    plural = chance(random, 0.3)
    source, target = [noun.source, *[PLURAL] * plural], [chosen.word]
    if chance(random, 0.3):
        adjective = zipf(random, lexicon.adjectives)
        source.append(adjective.source)
        target = [CONCORDS[chosen.kind][plural], choose(random, adjective).word, *target]
    return Phrase(source, [ARTICLES[chosen.kind][plural], *target], chosen.kind, plural)


def object_phrase(random: Random, lexicon: Lexicon) -> Phrase:
    """A noun phrase that Ostu marks as the object at its end."""
    phrase = noun_phrase(random, lexicon, lexicon.things)
    return Phrase([*phrase.source, OBJECT], phrase.target, phrase.kind, phrase.plural)


def with_relative_clause(random: Random, lexicon: Lexicon, subject: Phrase) -> Phrase:
    """Ostu: object, participle, then the subject. Mirel: the subject, then relative pronoun, verb, object."""
    verb = zipf(random, lexicon.verbs)
    patient = object_phrase(random, lexicon)
    clause = [RELATIVES[subject.kind][subject.plural], choose(random, verb).word, *patient.target]
    source = [*patient.source, verb.source, PARTICIPLE, *subject.source]
    return Phrase(source, [*subject.target, *clause], subject.kind, subject.plural)


def sentence(random: Random, lexicon: Lexicon) -> tuple[str, str]:
    """One pair. Ostu: adverb, subject, object, verb. Mirel: opener, subject, concord, verb, object, adverb."""
    subject = noun_phrase(random, lexicon, lexicon.beings)
    if chance(random, 0.1):
        subject = with_relative_clause(random, lexicon, subject)
    verb = zipf(random, lexicon.verbs)
    chosen = choose(random, verb)
    patient = object_phrase(random, lexicon)
    adverbs = [zipf(random, lexicon.adverbs)] if chance(random, 0.2) else []
    tense, question = random.choice((0, 0, 1, 1, 2)), chance(random, 0.15)
    source = [word.source for word in adverbs] + subject.source + patient.source
    source += [verb.source, *filter(None, [TENSES[tense]]), *[QUESTION] * question]
    target = [OPENERS[question][chosen.kind], *subject.target, *filter(None, [AUXILIARIES[tense]])]
    target += [CONCORDS[subject.kind][subject.plural], chosen.word, *patient.target]
    target += [choose(random, word).word for word in adverbs]
    stop = "?" if question else "."
    return " ".join(source) + stop, " ".join(target) + stop


def pairs(random: Random, draw: Callable[[Random], tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Pairs without end; no source sentence and no target sentence comes twice."""
    sources: set[str] = set()
    targets: set[str] = set()
    while True:
        source, target = draw(random)
        if source not in sources and target not in targets:
            sources.add(source)
            targets.add(target)
            yield source, target


def write(folder: Path) -> None:
    """Write all files into `folder`."""
    lexicon = make_lexicon()
    stream = pairs(Random(TEXT_SEED), lambda random: sentence(random, lexicon))
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in SIZES.items():
        drawn = [next(stream) for _ in range(size)]
        for side, suffix in enumerate(("src", "tgt")):
            text = "".join(f"{pair[side]}\n" for pair in drawn)
            (folder / f"{name}.{suffix}").write_bytes(text.encode())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python data/generate.py FOLDER")
    write(Path(sys.argv[1]))
