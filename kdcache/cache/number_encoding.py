"""How numbers are stored, and what rounding them costs.

Log-probabilities are stored as float16, or, in the compact encoding, as the nearest of 256 values −(c · s)², c = 0 …
255: codes of the square root, fine where a word is probable and coarse where it is not. In memory both are float16,
whose values the codes give back exactly. How often a word was drawn is stored as a whole number. Normalizers are
stored as float32: the tail that they give is a difference to 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdcache.labels.soft_labels import LogProbs

# Natural logarithms down to -25 (p = 1.4e-11); what is less probable is stored as that.
_MAX_NEGATIVE_LOG_PROB = 25.0
_STEP = math.sqrt(_MAX_NEGATIVE_LOG_PROB) / 255
_CODED = (-((np.arange(256) * _STEP) ** 2)).astype(np.float16)

# The stored type of log-probabilities.
LOG_PROB_DTYPES: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "sqrt8": np.dtype("u1")}
FILTERS = ("gzip", "none")
NORMALIZER_DTYPE = np.dtype("<f4")


def count_dtype(draws: int) -> np.dtype[Any]:
    """The stored type of how often a word was drawn: the smallest that holds `draws`."""
    return np.dtype("u1" if draws <= np.iinfo(np.uint8).max else "<u2")


@dataclass(frozen=True, slots=True)
class Encoding:
    """How numbers are stored.

    Attributes:
        ids: "uint16" or "uint32".
        log_probs: "float16", or "sqrt8", 8-bit codes of the square root of -log p.
        filters: "gzip" (shuffle and deflate) or "none"; checksums are there in either case.
    """

    ids: str
    log_probs: str = "float16"
    filters: str = "gzip"

    @classmethod
    def named(cls, name: str, vocabulary: int) -> Encoding:
        """The encoding that users call `name`, with the smallest ids that hold 0 … vocabulary - 1."""
        log_probs, filters = NAMES[name]
        return cls("uint16" if vocabulary <= 1 << 16 else "uint32", log_probs, filters)

    @property
    def known(self) -> bool:
        """Whether this kdcache can read it."""
        return self.ids in ("uint16", "uint32") and self.log_probs in LOG_PROB_DTYPES and self.filters in FILTERS

    def round(self, log_probs: npt.NDArray[np.floating]) -> npt.NDArray[np.float16]:
        """The nearest values that can be stored. Rounding keeps their order, and non-finite ones stay non-finite."""
        if self.log_probs == "sqrt8":
            finite = np.isfinite(log_probs)
            return np.where(finite, _CODED[_codes(np.where(finite, log_probs, 0))], np.float16(np.nan))
        return log_probs.astype(np.float16)

    def pack(self, log_probs: LogProbs) -> npt.NDArray[np.generic]:
        """Rounded values as they are stored."""
        return _codes(log_probs) if self.log_probs == "sqrt8" else log_probs

    def unpack(self, stored: npt.NDArray[np.generic]) -> npt.NDArray[np.float16]:
        """Stored values as float16."""
        return _CODED[stored] if self.log_probs == "sqrt8" else stored.astype(np.float16, copy=False)

    def mass_tolerance(self, k: int, log_normalizer: float = 0.0) -> float:
        """How far rounding can lift the sum of the probabilities of k words above 1.

        A step of δ·√(−log p) or δ·|log p| in each log-probability changes the sum by at most δ·√(log k) or δ·log k
        (Jensen); the rest is for terms of higher order. At a temperature T with log Z_T the step is δ·|log p|/T, and
        |log p|/T at most |log p_T| + |log Z_T|.
        """
        if self.log_probs == "sqrt8":
            return 1.1 * _STEP * math.sqrt(math.log(max(k, 2))) + 1e-3
        return 2.0**-11 * (math.log(max(k, 2)) + abs(log_normalizer)) + 1e-3

    def half_step(self, log_probs: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        """The largest distance between a stored value and the value before rounding, above `least`: [...] to [...]."""
        half: npt.NDArray[np.float64] = np.spacing(np.abs(log_probs).astype(np.float16)).astype(np.float64) / 2
        if self.log_probs == "sqrt8":
            # |(√v ± δ/2)² - v| with the step δ of the codes; the codes' own values are float16.
            half += _STEP * np.sqrt(-log_probs.astype(np.float64)) + _STEP**2 / 4
        return half

    @property
    def least(self) -> float:
        """The lower limit of the encoding: smaller log-probabilities are stored as this value."""
        return -_MAX_NEGATIVE_LOG_PROB if self.log_probs == "sqrt8" else -math.inf

    def rounding_error(self, log_probs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """The expected total variation between a teacher's distributions and the stored ones: [n, k] to [n].

        The distributions are over the k words and the rest. A rounding error is taken to be uniform within half a
        step, so its mean size is a quarter of the step; that of the rest is the sum of all k.
        """
        if self.log_probs == "sqrt8":
            steps = 2 * _STEP * np.sqrt(-log_probs)
        else:
            steps = np.spacing(np.abs(log_probs).astype(np.float16)).astype(np.float64)
        errors = np.exp(log_probs) * steps
        rest = np.sqrt((errors**2).sum(axis=1) / 12) * math.sqrt(2 / math.pi)
        error: npt.NDArray[np.float64] = (errors.sum(axis=1) / 4 + rest) / 2
        return error


# What --encoding calls them: how log-probabilities are stored, and the filters.
NAMES = {"float16": ("float16", "gzip"), "compact": ("sqrt8", "gzip"), "uncompressed": ("float16", "none")}


def _codes(log_probs: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    wide = np.sqrt(np.maximum(-log_probs.astype(np.float32), 0)) / np.float32(_STEP)
    return np.minimum(np.rint(wide), 255).astype(np.uint8)
