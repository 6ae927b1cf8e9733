"""Text and ids: lines, pairs, the one tokenizer, its vocabulary, and checks of what it cannot give back.

This room may import files, process and what is below them. Public names are loaded when they are asked for.
"""

from typing import TYPE_CHECKING

from kdcache.lazy import lazy_names

if TYPE_CHECKING:
    from kdcache.text.corpus import Corpus, Pair, TextFiles
    from kdcache.text.encode_corpus import encode_sections, encode_slice
    from kdcache.text.encoded_pairs import EncodedPairs, SpecialIds
    from kdcache.text.text_checks import TextReport, examine, tokenizer_warnings
    from kdcache.text.tokenizer import Tokenizer

__all__ = [
    "Corpus",
    "EncodedPairs",
    "Pair",
    "SpecialIds",
    "TextFiles",
    "TextReport",
    "Tokenizer",
    "encode_sections",
    "encode_slice",
    "examine",
    "tokenizer_warnings",
]
# What needs only the names of files, such as a command's help, must not wait for numpy and tokenizers.
__getattr__ = lazy_names(
    __name__,
    {
        "Corpus": "corpus",
        "EncodedPairs": "encoded_pairs",
        "Pair": "corpus",
        "SpecialIds": "encoded_pairs",
        "TextFiles": "corpus",
        "TextReport": "text_checks",
        "Tokenizer": "tokenizer",
        "encode_sections": "encode_corpus",
        "encode_slice": "encode_corpus",
        "examine": "text_checks",
        "tokenizer_warnings": "text_checks",
    },
)
