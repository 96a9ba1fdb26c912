"""Streams of random numbers that are functions of a key and a number."""

from __future__ import annotations

import numpy as np

from fourm_engine.masking.noise import keys_of, noise, uniform


def splitmix64(seed: int, n: int) -> list[int]:
    """The slow, obvious way."""
    out, mask = [], (1 << 64) - 1
    for _ in range(n):
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        out.append(z ^ (z >> 31))
    return out


def test_the_numbers_are_those_of_splitmix64():
    keys = np.array([0, 1234567, 2**64 - 1], np.uint64)
    assert noise(keys[:, None], np.arange(5)).tolist() == [splitmix64(int(k), 5) for k in keys]
    # As published with the algorithm's reference implementation.
    assert noise(keys[1:2], np.arange(2)).tolist() == [6457827717110365317, 3203168211198807973]
    assert noise(keys, 3).tolist() == [splitmix64(int(k), 4)[3] for k in keys]


def test_uniform_numbers_are_uniform_and_streams_independent():
    keys = keys_of(*(np.random.default_rng(i) for i in range(200)))
    u = uniform(keys[:, None], np.arange(200))
    assert u.min() >= 0
    assert u.max() < 1
    counts = np.histogram(u, 50, (0, 1))[0]
    assert ((counts - 800) ** 2 / 800).sum() < 49 + 5 * (2 * 49) ** 0.5
    for pairs in (u[:-1] - 0.5, u[1:] - 0.5), (u[:, :-1] - 0.5, u[:, 1:] - 0.5):
        assert abs(np.mean(pairs[0] * pairs[1])) < 5 / 12 / 200


def test_neighbouring_keys_give_unrelated_numbers():
    bits = np.unpackbits(noise(np.arange(2000, dtype=np.uint64), 0).view(np.uint8)).reshape(2000, 64)
    flips = (bits[1:] != bits[:-1]).mean()
    assert abs(flips - 0.5) < 5 * 0.5 / (1999 * 64) ** 0.5
