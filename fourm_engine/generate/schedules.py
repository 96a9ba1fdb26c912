"""Schedules of parallel decoding: how many tokens each step reveals, and at which temperature, as in the published
models (MaskGIT, arXiv 2202.04200)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Schedule = Literal["cosine", "linear"]
TemperatureSchedule = Literal["constant", "linear", "onex"]

#: Keeps the division finite; in float32, sampling at lower temperatures is greedy anyway.
MIN_TEMPERATURE = 1e-9


def tokens_per_step(schedule: Schedule, steps: int, tokens: int) -> list[int]:
    """Tokens revealed at each step, summing to `tokens`.

    Cosine: with s_i = ½(1 + cos(π i/n)), step i reveals round(N (s_i − s_{i+1})) tokens (halves to even), and the last
    step reveals the rest; a step may reveal none. Linear: min(n, N) steps of equal size, the larger ones first."""
    if schedule == "linear":
        steps = max(1, min(steps, tokens))
        return [tokens // steps + (i < tokens % steps) for i in range(steps)]
    shares = [0.5 * (1 + math.cos(math.pi * i / steps)) for i in range(steps + 1)]
    counts, left = [], tokens
    for i in range(steps - 1):
        # Many steps that round up would reveal more tokens than are left.
        counts.append(min(left, round(tokens * (shares[i] - shares[i + 1]))))
        left -= counts[-1]
    return [*counts, left]


def temperatures(
    schedule: TemperatureSchedule,
    counts: Sequence[int],
    *,
    temperature: float,
    minimum: float = 0.5,
    power: float = 0.5,
) -> list[float]:
    """The temperature of each step, given the `counts` of tokens that the steps reveal.

    Constant: `temperature`. Linear: `temperature` times the fraction of tokens left before the step. Onex: the excess
    over `minimum` falls as x^−power, x_k = 1 + 99 k/(N − 1) at step k, and with the fraction of tokens left after the
    step. The last two are at least 1e-9. Only onex uses `minimum` and `power`."""
    total, done, result = max(1, sum(counts)), 0, []
    for step, count in enumerate(counts):
        if schedule == "constant":
            result.append(temperature)
        elif schedule == "linear":
            # A sample that finishes before others has no tokens left, but its temperature must not be 0.
            result.append(max(temperature * (total - done) / total, MIN_TEMPERATURE))
        else:
            x = 1 + 99 * step / max(1, total - 1)
            y = (x**-power - 100**-power) / (1 - 100**-power)
            value = minimum + (temperature - minimum) * y * (1 - (done + count) / total)
            result.append(max(value, MIN_TEMPERATURE))
        done += count
    return result
