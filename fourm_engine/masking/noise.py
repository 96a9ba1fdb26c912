"""Random numbers of many streams at once, each a pure function of (key of the stream, index in the stream): SplitMix64
(Steele, Lea and Flood, OOPSLA 2014), whose n-th output is a hash of key + n · γ."""

from __future__ import annotations

import numpy as np

_GAMMA, _FIRST, _SECOND = (np.uint64(x) for x in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def noise(keys: np.ndarray, numbers: np.ndarray | int) -> np.ndarray:
    """uint64, uniform: outputs `numbers` of the streams `keys`, uint64; the two broadcast."""
    z = keys + (np.atleast_1d(np.asarray(numbers, np.uint64)) + np.uint64(1)) * _GAMMA
    z ^= z >> np.uint64(30)
    z *= _FIRST
    z ^= z >> np.uint64(27)
    z *= _SECOND
    z ^= z >> np.uint64(31)
    return z


def uniform(keys: np.ndarray, numbers: np.ndarray | int) -> np.ndarray:
    """float64 in [0, 1), likewise."""
    return (noise(keys, numbers) >> np.uint64(11)) * 2.0**-53


def keys_of(*rngs: np.random.Generator) -> np.ndarray:
    """uint64 (n,): the key of a new stream from each generator, one of 2^53."""
    return np.array([rng.random() for rng in rngs]).view(np.uint64)  # the fastest draw available
