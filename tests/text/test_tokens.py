"""The tokenizer: text is data, nothing is cut, and transformers opens the same thing."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import ByteLevelBPETokenizer, processors

from kdcache.errors import ModelError
from kdcache.text.corpus import Pair
from kdcache.text.encoded_pairs import EncodedPairs, concatenate
from kdcache.text.tokenizer import FILES, SPECIAL_NAMES, Tokenizer
from kdcache.text.vocabulary import from_corpus

TEXTS = [
    "A dog barks at the dog in the park.",
    "Zwei Hunde bellen, und der Mann läuft weg!",
    "[SEP] [MASK] [PAD] [CLS] [UNK] <s> </s> <mask> <pad> <unk>",
    "numbers 1 2 3 and the words of a sentence",
]
ROBERTA_NAMES = dict(zip(SPECIAL_NAMES, ("<pad>", "<unk>", "<mask>", "<s>", "</s>"), strict=True))


def wordpiece() -> Tokenizer:
    return from_corpus(TEXTS * 2)


def roberta() -> Tokenizer:
    """A byte-level BPE that joins two texts with two separators, as RoBERTa does."""
    trained = ByteLevelBPETokenizer(add_prefix_space=False)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(TEXTS * 3, vocab_size=400, special_tokens=special, show_progress=False)
    trained.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return Tokenizer(json.loads(trained.to_str()), ROBERTA_NAMES)


@dataclasses.dataclass
class Case:
    """A tokenizer, where it is saved, and what transformers makes of that folder."""

    tokenizer: Tokenizer
    folder: Path
    auto: Any


@pytest.fixture(scope="module", params=[wordpiece, roberta], ids=["wordpiece", "roberta"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    from transformers import AutoTokenizer

    tokenizer, folder = request.param(), tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder, max_length=512, segments=True)
    return Case(tokenizer, folder, AutoTokenizer.from_pretrained(folder))


@pytest.fixture(scope="module")
def bert() -> Tokenizer:
    return wordpiece()


TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20) | st.sampled_from(TEXTS)


def test_fault_53_special_tokens_in_text_are_text(case: Case) -> None:
    """A special token written in a text becomes ordinary pieces that spell it, on either side of a pair."""
    special = case.tokenizer.special
    reserved = {special.pad, special.mask, special.start, special.end}
    for name in SPECIAL_NAMES:
        spelled = case.tokenizer.names[name]
        for text in (spelled, f"a {spelled} dog", f"the{spelled}dog"):
            ids = case.tokenizer.encode([text])[0]
            assert not reserved & set(ids)
            assert special.unk not in ids
            assert case.tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")
            assert case.auto(text)["input_ids"] == [special.start, *ids, special.end]
            pairs = case.tokenizer.encode_pairs([Pair(text, text)])
            assert pairs.source_ids.tolist() == [special.start, *ids, special.end]
            assert pairs.target_ids.tolist() == [*ids, special.end]


def test_truncation_and_padding_of_a_file_are_off(bert: Tokenizer, tmp_path: Path) -> None:
    """A tokenizer file that says "cut at 8 and pad to 16" gives every text whole and unpadded."""
    padding = {"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    definition = {
        **bert.definition,
        "truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
        "padding": {**padding, "pad_type_id": 0, "pad_token": "[PAD]"},
    }
    bert.save(tmp_path, max_length=8, segments=True)
    (tmp_path / FILES[0]).write_text(json.dumps(definition))
    for tokenizer in (Tokenizer(definition, bert.names), Tokenizer.load(tmp_path)):
        assert [len(ids) for ids in tokenizer.encode(["dog " * 300, "dog"])] == [300, 1]
        assert tokenizer.fingerprint == bert.fingerprint
        tokenizer.save(tmp_path / "again", max_length=8, segments=True)
        written = json.loads((tmp_path / "again" / FILES[0]).read_text())
        assert written["truncation"] is written["padding"] is None


@settings(deadline=None)
@given(text=TEXT, other=TEXT.filter(bool))  # transformers takes an empty second text for none
def test_transformers_gives_identical_ids(case: Case, text: str, other: str) -> None:
    """AutoTokenizer on the saved folder gives the ids of a source, and of a pair joined as the teacher reads it."""
    special = case.tokenizer.special
    first, second = case.tokenizer.encode([text, other])
    assert case.tokenizer.encode_sources([text]) == [[special.start, *first, special.end]]
    assert case.auto(text)["input_ids"] == [special.start, *first, special.end]
    joined = [special.start, *first, special.end, *special.joint, *second, special.end]
    assert case.auto(text, other)["input_ids"] == joined


def test_joint_is_read_off_the_tokenizer(case: Case) -> None:
    """BERT joins two texts with one separator, RoBERTa with one more."""
    expected = () if case.tokenizer.kind == "WordPiece" else (case.tokenizer.special.end,)
    assert case.tokenizer.special.joint == expected
    assert case.tokenizer.kind in ("WordPiece", "BPE")


def test_loading_gives_the_saved_tokenizer(case: Case, tmp_path: Path) -> None:
    """A loaded tokenizer has the same fingerprint, ids and, saved once more, the same bytes."""
    loaded = Tokenizer.load(case.folder)
    assert loaded.fingerprint == case.tokenizer.fingerprint
    assert (loaded.special, loaded.size) == (case.tokenizer.special, case.tokenizer.size)
    assert loaded.encode(TEXTS) == case.tokenizer.encode(TEXTS)
    loaded.save(tmp_path, max_length=512, segments=True)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (case.folder / name).read_bytes()


@pytest.mark.parametrize("segments", [True, False])
def test_model_inputs_follow_the_model(bert: Tokenizer, tmp_path: Path, segments: bool) -> None:
    """Segment ids appear in what AutoTokenizer returns exactly where the model takes them; its limit is the model's."""
    from transformers import AutoTokenizer

    bert.save(tmp_path, max_length=77, segments=segments)
    auto = AutoTokenizer.from_pretrained(tmp_path)
    assert set(auto("a dog")) == {"input_ids", "attention_mask"} | ({"token_type_ids"} if segments else set())
    assert auto.model_max_length == 77
    assert {name: getattr(auto, name) for name in SPECIAL_NAMES} == bert.names
    assert (auto.bos_token, auto.eos_token) == (bert.names["cls_token"], bert.names["sep_token"])


@pytest.mark.parametrize("name", SPECIAL_NAMES)
def test_missing_special_token_is_refused(bert: Tokenizer, name: str) -> None:
    """Each of the five special tokens must be named and have an id."""
    with pytest.raises(ModelError, match=f"has no {name}"):
        Tokenizer(bert.definition, {key: text for key, text in bert.names.items() if key != name})
    with pytest.raises(ModelError, match=r"special token \[NONE\] has no id"):
        Tokenizer(bert.definition, {**bert.names, name: "[NONE]"})


@pytest.mark.parametrize("change", ["none", "no end", "swapped", "nothing between"])
def test_another_way_of_joining_is_refused(bert: Tokenizer, change: str) -> None:
    """A tokenizer that does not put two texts together as BERT or RoBERTa do cannot serve a teacher."""
    definition = copy.deepcopy(bert.definition)
    processor = definition["post_processor"]
    pair = processor["pair"]
    processor["pair"] = {
        "none": pair,
        "no end": pair[:-1],
        "swapped": [pair[0], pair[3], pair[2], pair[1], pair[4]],
        "nothing between": [pair[0], pair[1], pair[3], pair[4]],
    }[change]
    if change == "none":
        definition["post_processor"] = None
    with pytest.raises(ModelError, match="does not join two texts"):
        Tokenizer(definition, bert.names)


def test_unusable_folders_are_refused(bert: Tokenizer, tmp_path: Path) -> None:
    """A folder without the two files, or with others in their place, is refused by name."""
    with pytest.raises(ModelError, match="no usable tokenizer"):
        Tokenizer.load(tmp_path)
    for broken, content in [(0, "[]"), (0, '{"model": 7}'), (0, "{"), (1, "[]"), (1, "{}"), (1, '{"pad_token": {}}')]:
        bert.save(tmp_path, max_length=8, segments=False)
        Tokenizer.load(tmp_path)
        (tmp_path / FILES[broken]).write_text(content)
        with pytest.raises(ModelError, match=str(tmp_path)):
            Tokenizer.load(tmp_path)


def test_special_tokens_may_be_objects(bert: Tokenizer, tmp_path: Path) -> None:
    """Special tokens written as objects, as older files have them, are read like strings."""
    bert.save(tmp_path, max_length=8, segments=False)
    path = tmp_path / FILES[1]
    config = json.loads(path.read_text())
    config |= {name: {"content": text, "lstrip": False} for name, text in bert.names.items()}
    path.write_text(json.dumps(config))
    assert Tokenizer.load(tmp_path).fingerprint == bert.fingerprint


def changed(definition: dict[str, Any], *path: Any, value: Any) -> dict[str, Any]:
    result = copy.deepcopy(definition)
    inner = result
    for key in path[:-1]:
        inner = inner[key]
    assert inner[path[-1]] != value
    inner[path[-1]] = value
    return result


def test_fingerprint_is_of_what_decides_ids(bert: Tokenizer) -> None:
    """The order of keys does not count; vocabulary, normalisation, joining and special names do."""
    vocabulary = bert.definition["model"]["vocab"]
    backwards = dict(reversed(vocabulary.items()))
    shuffled = {**dict(reversed(bert.definition.items())), "model": {**bert.definition["model"], "vocab": backwards}}
    assert Tokenizer(shuffled, dict(reversed(bert.names.items()))).fingerprint == bert.fingerprint
    (one, i), (other, j) = list(vocabulary.items())[-2:]
    others = [
        changed(bert.definition, "model", "vocab", value={**vocabulary, one: j, other: i}),
        changed(bert.definition, "normalizer", "normalizers", 1, "normalizers", 1, "lowercase", value=True),
        changed(bert.definition, "model", "max_input_chars_per_word", value=99),
        changed(bert.definition, "post_processor", "pair", 4, "SpecialToken", "type_id", value=0),
    ]
    prints = [Tokenizer(definition, bert.names).fingerprint for definition in others]
    prints.append(Tokenizer(bert.definition, {**bert.names, "unk_token": "dog"}).fingerprint)
    assert len({bert.fingerprint, *prints}) == 6


def test_definition_is_a_copy(bert: Tokenizer) -> None:
    """Changing the dictionary that a tokenizer was made from does not change the tokenizer."""
    definition = copy.deepcopy(bert.definition)
    tokenizer = Tokenizer(definition, bert.names)
    definition["model"]["vocab"].clear()
    assert tokenizer.fingerprint == bert.fingerprint


def test_pieces_by_id(bert: Tokenizer) -> None:
    """Every id below the size has its piece; an id beyond is shown as a number."""
    vocabulary = bert.definition["model"]["vocab"]
    assert {bert.piece(i): i for i in range(bert.size)} == vocabulary
    assert bert.piece(bert.size) == f"<{bert.size}>"


def test_encoded_pairs_by_hand(bert: Tokenizer) -> None:
    """Sources carry start and end, targets the end only; what cannot be used has length 0 and keeps its place."""
    words = bert.definition["model"]["vocab"]
    special = bert.special
    rows = [Pair("the dog", "Zwei"), None, Pair("dog", "\x01"), Pair("\x01", "dog"), Pair("park", "der Mann")]
    pairs = bert.encode_pairs(rows)
    first, last = [words["the"], words["dog"]], [words["park"]]
    expected = [special.start, *first, special.end, special.start, *last, special.end]
    assert pairs.source_ids.tolist() == expected
    assert pairs.target_ids.tolist() == [words["Zwei"], special.end, words["der"], words["Mann"], special.end]
    assert pairs.source_offsets.tolist() == [0, 4, 4, 4, 4, 7]
    assert pairs.target_offsets.tolist() == [0, 2, 2, 2, 2, 5]
    assert (pairs.n_pairs, pairs.n_targets) == (5, 5)


ROWS = st.lists(
    st.tuples(st.lists(st.integers(0, 99), max_size=4), st.lists(st.integers(0, 99), max_size=4)), max_size=6
)


def pack(rows: list[tuple[list[int], list[int]]]) -> EncodedPairs:
    arrays: list[Any] = []
    for side in (0, 1):
        lengths = [len(row[side]) for row in rows]
        arrays += [np.array([i for row in rows for i in row[side]], np.int32), np.cumsum([0, *lengths])]
    return EncodedPairs(*arrays)


def unpack(pairs: EncodedPairs) -> list[tuple[list[int], list[int]]]:
    sides = ((pairs.source_ids, pairs.source_offsets), (pairs.target_ids, pairs.target_offsets))
    lists = [[part.tolist() for part in np.split(ids, offsets[1:])[:-1]] for ids, offsets in sides]
    return list(zip(*lists, strict=True))


@settings(deadline=None)
@given(ROWS, ROWS, st.data())
def test_choosing_emptying_and_joining_pairs(some: Any, others: Any, data: st.DataObject) -> None:
    """`take`, `without` and `concatenate` do to flat arrays what indexing, emptying and + do to lists."""
    pairs = pack(some)
    assert unpack(pairs) == some
    assert unpack(concatenate([pairs, pack(others), pairs])) == [*some, *others, *some]
    rows = data.draw(st.lists(st.integers(0, len(some) - 1), max_size=8)) if some else []
    assert unpack(pairs.take(np.array(rows, dtype=np.int64))) == [some[i] for i in rows]
    skipped = data.draw(st.lists(st.booleans(), min_size=len(some), max_size=len(some)))
    emptied = [([], []) if skip else row for row, skip in zip(some, skipped, strict=True)]
    assert unpack(pairs.without(np.array(skipped, dtype=np.bool_))) == emptied
    assert pairs.source_lengths.tolist() == [len(source) for source, _ in some]
    assert pairs.target_lengths.tolist() == [len(target) for _, target in some]
