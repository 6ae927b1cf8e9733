"""Everything kdcache raises on purpose.

::

    KDCacheError                 base; a user's mistake or a fault of the machine, never a bug
    ├── UsageError               options that contradict each other or are out of range
    ├── DataError                text that breaks a rule: encoding, line counts, length
    ├── ModelError               a checkpoint that cannot be found, opened or used
    ├── TrainingError            training that cannot go on: non-finite loss, foreign state
    ├── OutputError              a place that cannot be written: full, read-only, taken
    ├── StoppedError             a signal asked to stop; what was finished is kept
    └── CacheError               a cache that cannot be trusted
        ├── MismatchError        sound, but made from something else
        └── CorruptError         bytes that are not those that were committed

A message states the rule that was broken, where (file, line, field), the value found, and what to do about it.
`kdcache.cli` is the one place that turns these into text on the screen and an exit code.
"""

from __future__ import annotations

import signal


class KDCacheError(Exception):
    """Base of all errors that kdcache raises on purpose. Exit code 1."""

    exit_code = 1


class UsageError(KDCacheError):
    """Options contradict each other or a value is outside its range. Exit code 2."""

    exit_code = 2


class DataError(KDCacheError):
    """Text breaks a rule: encoding, line counts, emptiness, length."""


class ModelError(KDCacheError):
    """A checkpoint or tokenizer cannot be found, opened or used."""


class TrainingError(KDCacheError):
    """Training cannot start or go on."""


class OutputError(KDCacheError):
    """An output cannot be written: no room, read-only, or taken by something else."""


class StoppedError(KDCacheError):
    """Work was asked to stop by a signal and did so at a safe point. Exit code 128 + the signal's number.

    Without `kept` the work was a text that a student wrote, which begins anew.
    """

    def __init__(self, number: int, kept: bool = True) -> None:
        what, then = ("all finished work", "continues") if kept else ("nothing of the text", "begins the text anew")
        super().__init__(
            f"Stopped by {signal.Signals(number).name}; {what} is kept. Run the same command again: it {then}."
        )
        self.exit_code = 128 + number
        self._parts = number, kept

    def __reduce__(self) -> tuple[type[StoppedError], tuple[int, bool]]:
        return type(self), self._parts


class CacheError(KDCacheError):
    """A cache cannot be trusted or used."""


class MismatchError(CacheError):
    """A cache or run is sound but was made from something else.

    `field` names the first part of the identity that differs, `stored` and `given` are the two values. `words` say all
    that differs, where there may be more.
    """

    def __init__(self, place: str, field: str, stored: object, given: object, remedy: str, words: str = "") -> None:
        words = words or f"{field} differs: stored {stored!r}, given {given!r}"
        super().__init__(f"{place}: {words}. {remedy}")
        self.field = field
        self.stored = stored
        self.given = given
        self._parts = (place, field, stored, given, remedy, words)

    def __reduce__(self) -> tuple[type[MismatchError], tuple[str, str, object, object, str, str]]:
        return type(self), self._parts


class CorruptError(CacheError):
    """Stored bytes are not the bytes that were committed, or break the format's rules."""


def first_line(error: BaseException) -> str:
    """The first line of what an exception says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
