"""Pseudo-random numbers that are pure functions of whole numbers: there is no state, and the order does not matter.

The mixing function is that of SplitMix64 (Steele, Lea and Flood 2014, *Fast Splittable Pseudorandom Number
Generators*, figure 16), whose stream from a state is `mix(state + γ), mix(state + 2γ), …`.
"""

import numpy as np
import numpy.typing as npt

UInt64s = npt.NDArray[np.uint64]

# The purposes of keys. A key begins with its purpose, so that two uses with the same seed share no key.
MASKINGS, DRAWS, INPUTS, FOLDS = 1, 2, 3, 4
_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(words: UInt64s) -> UInt64s:
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


def keys(*parts: int | npt.NDArray[np.integer]) -> UInt64s:
    """One key for each row of whole numbers from 0 on, uint64 [n]; a single number is the same in all rows.

    The key is the state after one number after the other has been added to it and mixed.
    """
    state = np.zeros(1, dtype=np.uint64)
    for part in parts:
        # Arrays overflow without a warning, as this needs; single numbers would warn.
        state = _mix(state + np.atleast_1d(np.asarray(part)).astype(np.uint64) + _GAMMA)
    return state


def uniforms(key: UInt64s, count: int) -> npt.NDArray[np.float64]:
    """The first `count` numbers of each key's stream, uniform in [0, 1) with 53 bits: [n] to float64 [n, count]."""
    steps = np.arange(1, count + 1, dtype=np.uint64) * _GAMMA
    return (_mix(key[:, None] + steps) >> np.uint64(11)).astype(np.float64) * 2.0**-53
