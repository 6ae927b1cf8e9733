"""Make the demo corpus: sentence pairs in two invented languages, Ostu (the source) and Mirel (the target).

Everything is drawn from one grammar with a fixed seed, so that the same bytes come out everywhere. The README beside
this file describes the languages; `python data/generate.py FOLDER` writes the files.
"""

from __future__ import annotations

import sys
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain, islice
from pathlib import Path
from random import Random
from typing import TypeVar

T = TypeVar("T")

LEXICON_SEED = 1
# What is said, and how the translator says it.
TEXT_SEEDS = 2, 3
SIZES = {"train": 6_000, "valid": 300, "test": 2_000}
# What the demo's BERT reads: texts, and the pairs of the corpus that were drawn before them.
READ_SEED, TEXTS, BEFORE = 4, 40_000, 6_800

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

# What the words mean in English, the most frequent first; all of them are inflected regularly.
BEINGS = (
    "dog farmer bird king sister horse teacher sailor cat girl doctor baker guest queen brother hunter boy pilot "
    "singer monkey soldier painter tiger friend"
)
THINGS = (
    "stone house boat door apple lamp book table flower road letter key basket chair tree wagon bell window coat "
    "bottle rope bridge hat drum spoon wheel ring hammer cup carrot shoe bed"
)
ADJECTIVES = "old red small heavy cold new green long round dry white strange warm cheap large quiet"
VERBS = (
    "want open clean pull count follow paint lift need cover guard show borrow collect turn mend fill load weigh repair"
)
ADVERBS = "today often slowly again soon gladly alone early quietly late"


@dataclass(frozen=True, slots=True)
class Choice:
    """One Mirel word for a meaning; `kind` is a noun's class or a verb's conjugation."""

    word: str
    kind: int


@dataclass(frozen=True, slots=True)
class Meaning:
    """An Ostu word, and the Mirel words that a translator may choose for it, the favourite first."""

    english: str
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
    """A noun phrase in all languages; Mirel agreement is by `kind` (noun class) and `plural`."""

    english: list[str]
    source: list[str]
    target: list[str]
    kind: int
    plural: bool


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence in three languages, Ostu first."""

    source: str
    target: str
    english: str


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


def meaning(random: Random, ostu: Words, mirel: Words, kinds: int, english: str) -> Meaning:
    """A meaning with two to four Mirel words; mostly each is of the same kind as the one before."""
    kind, choices = random.randrange(kinds), []
    for _ in range(random.choice((2, 3, 4))):
        choices.append(Choice(mirel_word(mirel), kind))
        kind = (kind + chance(random, 0.2)) % kinds
    return Meaning(english, ostu_word(ostu), tuple(choices))


def make_lexicon() -> Lexicon:
    """The words of both languages."""
    random = Random(LEXICON_SEED)
    ostu, mirel = Words(random), Words(random)

    def meanings(english: str, kinds: int) -> list[Meaning]:
        return [meaning(random, ostu, mirel, kinds, word) for word in english.split()]

    return Lexicon(
        beings=meanings(BEINGS, 3),
        things=meanings(THINGS, 3),
        adjectives=meanings(ADJECTIVES, 1),
        verbs=meanings(VERBS, 2),
        adverbs=meanings(ADVERBS, 1),
    )


@dataclass(frozen=True, slots=True)
class Speaker:
    """Somebody who says things in all languages: `random` decides what, `choices` in which words of Mirel."""

    lexicon: Lexicon
    random: Random
    choices: Random

    def choose(self, meaning: Meaning) -> Choice:
        """The translator's free choice; favourites are chosen more often."""
        return zipf(self.choices, meaning.choices, 0.5)

    def noun_phrase(self, nouns: list[Meaning]) -> Phrase:
        """Ostu: noun, adjective. Mirel: article, concord and adjective, noun; article and concord agree with it."""
        noun = zipf(self.random, nouns)
        chosen = self.choose(noun)
        plural = chance(self.random, 0.3)
        english, source, target = [noun.english + "s" * plural], [noun.source, *[PLURAL] * plural], [chosen.word]
        if chance(self.random, 0.3):
            adjective = zipf(self.random, self.lexicon.adjectives)
            english = [adjective.english, *english]
            source.append(adjective.source)
            target = [CONCORDS[chosen.kind][plural], self.choose(adjective).word, *target]
        article = ARTICLES[chosen.kind][plural]
        return Phrase(["the", *english], source, [article, *target], chosen.kind, plural)

    def object_phrase(self) -> Phrase:
        """A noun phrase that Ostu marks as the object at its end."""
        phrase = self.noun_phrase(self.lexicon.things)
        return replace(phrase, source=[*phrase.source, OBJECT])

    def with_relative_clause(self, subject: Phrase) -> Phrase:
        """Ostu: object, participle, then the subject. Mirel: the subject, then relative pronoun, verb, object."""
        verb = zipf(self.random, self.lexicon.verbs)
        patient = self.object_phrase()
        english = ["that", verb.english + "s" * (not subject.plural), *patient.english]
        clause = [RELATIVES[subject.kind][subject.plural], self.choose(verb).word, *patient.target]
        source = [*patient.source, verb.source, PARTICIPLE, *subject.source]
        return Phrase([*subject.english, *english], source, [*subject.target, *clause], subject.kind, subject.plural)

    def sentence(self) -> Sentence:
        """One sentence. Ostu: adverb, subject, object, verb. Mirel: opener, subject, concord, verb, object, adverb."""
        subject = self.noun_phrase(self.lexicon.beings)
        if chance(self.random, 0.1):
            subject = self.with_relative_clause(subject)
        verb = zipf(self.random, self.lexicon.verbs)
        chosen = self.choose(verb)
        patient = self.object_phrase()
        adverbs = [zipf(self.random, self.lexicon.adverbs)] if chance(self.random, 0.2) else []
        tense, question = self.random.choice((0, 0, 1, 1, 2)), chance(self.random, 0.15)
        source = [word.source for word in adverbs] + subject.source + patient.source
        source += [verb.source, *filter(None, [TENSES[tense]]), *[QUESTION] * question]
        target = [OPENERS[question][chosen.kind], *subject.target, *filter(None, [AUXILIARIES[tense]])]
        target += [CONCORDS[subject.kind][subject.plural], chosen.word, *patient.target]
        target += [self.choose(word).word for word in adverbs]
        english = in_english(subject, verb.english, tense, question)
        english += patient.english + [word.english for word in adverbs]
        stop = "?" if question else "."
        return Sentence(*(" ".join(words) + stop for words in (source, target, english)))


def in_english(subject: Phrase, verb: str, tense: int, question: bool) -> list[str]:
    """Subject and verb in English."""
    if question:
        return [("do" if subject.plural else "does", "did", "will")[tense], *subject.english, verb]
    return [*subject.english, *((verb if subject.plural else f"{verb}s",), (past(verb),), ("will", verb))[tense]]


def past(verb: str) -> str:
    """The past tense of a regular English verb."""
    return verb.removesuffix("e") + "ed"


def distinct(speaker: Speaker) -> Iterator[Sentence]:
    """Sentences without end; none comes twice in Ostu, and none in Mirel."""
    said: set[str] = set()
    while True:
        one = speaker.sentence()
        if one.source not in said and one.target not in said:
            said.update((one.source, one.target))
            yield one


def texts(random: Random, kept_out: set[str]) -> Iterator[list[str]]:
    """Texts without end, by turns of Ostu and of Mirel: two sentences that say the same, none of them in `kept_out`."""
    lexicon = make_lexicon()
    while True:
        for language in ("source", "target"):
            content = random.random()
            text = [getattr(Speaker(lexicon, Random(content), random).sentence(), language) for _ in range(2)]
            if not kept_out.intersection(text):
                yield text


def draw() -> tuple[dict[str, list[Sentence]], list[list[str]]]:
    """The pairs of each file, and the texts that the BERT reads; no sentence is in both."""
    stream = distinct(Speaker(make_lexicon(), *map(Random, TEXT_SEEDS)))
    before = list(islice(stream, BEFORE))
    read = list(islice(texts(Random(READ_SEED), {side for one in before for side in (one.source, one.target)}), TEXTS))
    known = {sentence for text in read for sentence in text}
    drawn = chain(before, (one for one in stream if one.source not in known and one.target not in known))
    return {name: list(islice(drawn, size)) for name, size in SIZES.items()}, read


def write(folder: Path) -> None:
    """Write all files into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, drawn in draw()[0].items():
        sides = {"src": [one.source for one in drawn], "tgt": [one.target for one in drawn]}
        if name == "test":
            sides["en"] = [one.english for one in drawn]
        for suffix, lines in sides.items():
            (folder / f"{name}.{suffix}").write_bytes("".join(f"{line}\n" for line in lines).encode())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python data/generate.py FOLDER")
    write(Path(sys.argv[1]))
