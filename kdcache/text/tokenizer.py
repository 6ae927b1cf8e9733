"""The one tokenizer that teacher, cache and student share, and what it makes of text.

The Rust tokenizer of Hugging Face's `tokenizers` package does the work; this module fixes how kdcache uses it: text
is data (a literal `[SEP]` is not a special token), nothing is truncated or padded, and the two files that describe it
are written so that `transformers.AutoTokenizer` opens them and does exactly the same.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from kdcache.errors import KDCacheError, ModelError
from kdcache.files.atomic import replace_file
from kdcache.files.strict_json import canonical_json, read_json, readable_json
from kdcache.text import ragged
from kdcache.text.corpus import Pair
from kdcache.text.encoded_pairs import EncodedPairs, SpecialIds

SPECIAL_NAMES = ("pad_token", "unk_token", "mask_token", "cls_token", "sep_token")
FILES = ("tokenizer.json", "tokenizer_config.json")


class Tokenizer:
    """A tokenizer given by the content of its `tokenizer.json` and the names of its special tokens.

    Raises:
        ModelError: a special token is missing, or the way it joins two texts is none that kdcache knows.
    """

    def __init__(self, definition: dict[str, Any], names: dict[str, str]) -> None:
        from tokenizers import Tokenizer as Backend

        self.definition = {**copy.deepcopy(definition), "truncation": None, "padding": None}
        self.names = {name: names[name] for name in SPECIAL_NAMES if name in names}
        if missing := [name for name in SPECIAL_NAMES if name not in self.names]:
            raise ModelError(f"The tokenizer has no {', '.join(missing)}; a masked language model needs all five.")
        self.backend = Backend.from_str(json.dumps(self.definition))
        self.backend.encode_special_tokens = True
        self.special = self._special_ids()
        self.size = 1 + max(self.backend.get_vocab(with_added_tokens=True).values())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Open the tokenizer in `folder`.

        Raises:
            ModelError: its two files are missing or not those of a tokenizer.
        """
        return cls.parse(lambda name: read_json(folder / name), str(folder))

    @classmethod
    def parse(cls, read: Callable[[str], Any], place: str) -> Self:
        """The tokenizer whose two files `read` returns as parsed JSON, by their names in FILES.

        Raises:
            ModelError: they are missing or not those of a tokenizer; the message opens with `place`.
        """
        try:
            definition, config = (read(name) for name in FILES)
            names = {n: _token_text(config[n]) for n in SPECIAL_NAMES if config.get(n) is not None}
            return cls(definition, names)
        except KDCacheError as error:
            raise ModelError(f"{place}: no usable tokenizer: {error}") from error
        except Exception as error:  # the Rust library raises bare Exception
            raise ModelError(f"{place}/{FILES[0]}: not a tokenizer: {error}") from error
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # how that library fails on what it did not expect
                raise
            raise ModelError(f"{place}/{FILES[0]}: not a tokenizer: {error}") from error

    def save(self, folder: Path, *, max_length: int, segments: bool) -> None:
        """Write the two files that `AutoTokenizer` and `Tokenizer.load` read.

        `segments` says whether the model beside them takes `token_type_ids`; `max_length` is its number of positions.
        """
        inputs = ["input_ids", "token_type_ids", "attention_mask"] if segments else ["input_ids", "attention_mask"]
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **self.names,
            "bos_token": self.names["cls_token"],
            "eos_token": self.names["sep_token"],
            "model_max_length": max_length,
            "model_input_names": inputs,
            "split_special_tokens": True,
            "clean_up_tokenization_spaces": False,
        }
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(folder / FILES[0], canonical_json(self.definition))
        replace_file(folder / FILES[1], readable_json(config))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides which ids a text gets; padding, truncation and file layout do not."""
        return hashlib.sha256(canonical_json([self.definition, self.names])).hexdigest()

    @property
    def kind(self) -> str:
        """The segmentation algorithm: WordPiece, BPE, Unigram or WordLevel."""
        return str(self.definition["model"].get("type", "WordPiece"))

    @property
    def join_mark(self) -> str:
        """What a piece begins with whose word no blank parts from the word before; empty where none has such a mark."""
        decoder = self.definition.get("decoder") or {}
        match [step["type"] for step in decoder.get("decoders", [])]:
            case ["WordPiece", "Replace", "Replace"]:
                return str(decoder["decoders"][-1]["pattern"]["String"])
        return ""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special tokens."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode_sources(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text as a student or teacher reads it: start token, text, end token."""
        return [[self.special.start, *ids, self.special.end] for ids in self.encode(texts)]

    def encode_pairs(self, pairs: Sequence[Pair | None]) -> EncodedPairs:
        """Encode pairs; None, and a side of which no token is left, give a pair of length 0."""
        sources = self.encode([pair.source if pair else "" for pair in pairs])
        targets = self.encode([pair.target if pair else "" for pair in pairs])
        start, end = self.special.start, self.special.end
        usable = [bool(s and t) for s, t in zip(sources, targets, strict=True)]
        source_ids, source_offsets = ragged.from_lists(
            [[start, *ids, end] if ok else [] for ids, ok in zip(sources, usable, strict=True)]
        )
        target_ids, target_offsets = ragged.from_lists(
            [[*ids, end] if ok else [] for ids, ok in zip(targets, usable, strict=True)]
        )
        return EncodedPairs(source_ids, source_offsets, target_ids, target_offsets)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, special tokens left out."""
        return str(self.backend.decode([int(i) for i in ids], skip_special_tokens=True))

    def piece(self, token_id: int) -> str:
        """The piece with this id, as it stands in the vocabulary."""
        piece = self.backend.id_to_token(int(token_id))
        return f"<{token_id}>" if piece is None else str(piece)

    def _special_ids(self) -> SpecialIds:
        ids: dict[str, int] = {}
        for name, text in self.names.items():
            number = self.backend.token_to_id(text)
            if number is None:
                raise ModelError(f"The special token {text} has no id in the tokenizer.")
            ids[name] = number
        start, end = ids["cls_token"], ids["sep_token"]
        return SpecialIds(ids["pad_token"], ids["unk_token"], ids["mask_token"], start, end, self._joint(start, end))

    def _joint(self, start: int, end: int) -> tuple[int, ...]:
        """The ids between the source's end token and the target, read off an encoded pair of texts."""
        pair = self.backend.encode("a", "a")
        # Where the sequence changes: special tokens belong to none (None), texts to 0 and 1.
        first = [i for i, owner in enumerate(pair.sequence_ids) if owner == 0]
        second = [i for i, owner in enumerate(pair.sequence_ids) if owner == 1]
        if first and second:
            before, after = pair.ids[: first[0]], pair.ids[second[-1] + 1 :]
            middle = pair.ids[first[-1] + 1 : second[0]]
            if before == [start] and after == [end] and middle[:1] == [end]:
                return tuple(middle[1:])
        raise ModelError(
            "The tokenizer does not join two texts as `[CLS] x [SEP] y [SEP]` (or with one more separator between "
            "them); kdcache cannot build the teacher's input with it."
        )


def _token_text(value: Any) -> str:
    """The text of a special token, which files hold as a string or as an object."""
    return str(value["content"]) if isinstance(value, dict) else str(value)


def renumbered(definition: dict[str, Any], new_id: dict[int, int]) -> dict[str, Any]:
    """A copy of a `tokenizer.json` with `new_id` of each id; pieces whose id it lacks are left out.

    Raises:
        ModelError: its post-processor is of a kind in which ids cannot be found.
    """
    result = copy.deepcopy(definition)
    vocabulary = result["model"]["vocab"]
    ordered = sorted((new_id[old], piece) for piece, old in vocabulary.items() if old in new_id)
    result["model"]["vocab"] = {piece: new for new, piece in ordered}
    for token in result["added_tokens"]:
        token["id"] = new_id[token["id"]]
    processor = result.get("post_processor") or {}
    match processor.get("type"):
        case "TemplateProcessing":
            for token in processor["special_tokens"].values():
                token["ids"] = [new_id[old] for old in token["ids"]]
        case "BertProcessing" | "RobertaProcessing":
            for end in ("sep", "cls"):
                processor[end][1] = new_id[processor[end][1]]
        case other:
            raise ModelError(f"The ids in a tokenizer's post-processor of type {other} cannot be rewritten.")
    return result
