"""How many tokens each step of parallel decoding reveals, and at which temperature they are drawn.

In: a number of tokens and of steps. Out: one number a step. Both follow the published models (MaskGIT, arXiv
2202.04200, section 3.2, for the cosine).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

Schedule = Literal["cosine", "linear"]
TemperatureSchedule = Literal["constant", "linear", "onex"]

#: Below this a draw is greedy in float32 anyway; it keeps the division finite.
MIN_TEMPERATURE = 1e-9


def tokens_per_step(schedule: Schedule, steps: int, tokens: int) -> list[int]:
    """Tokens revealed at each step; they sum to `tokens`.

    Cosine: with s_i = ½(1 + cos(π i/n)), step i takes round(N (s_i − s_{i+1})), halves to even, the last the rest;
    single steps may take none. Linear: min(n, N) steps as equal as can be, the larger ones first."""
    if schedule == "linear":
        steps = max(1, min(steps, tokens))
        return [tokens // steps + (i < tokens % steps) for i in range(steps)]
    shares = [0.5 * (1 + math.cos(math.pi * i / steps)) for i in range(steps + 1)]
    counts, left = [], tokens
    for i in range(steps - 1):
        # Many steps that all round up would otherwise reveal more tokens than there are.
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
    """Temperature of each step that reveals `counts` tokens.

    Constant: `temperature`. Linear: `temperature` times the share of tokens left before the step. Onex: the excess
    over `minimum` falls like x^−power, x_k = 1 + 99 k/(N − 1) at step k, and with the share of tokens left after the
    step. Both at least 1e-9. `minimum` and `power` matter to onex alone."""
    total, done, result = max(1, sum(counts)), 0, []
    for step, count in enumerate(counts):
        if schedule == "constant":
            result.append(temperature)
        elif schedule == "linear":
            # Of a sample that is done, while others of its batch go on, nothing is left; 0 could not be divided by.
            result.append(max(temperature * (total - done) / total, MIN_TEMPERATURE))
        else:
            x = 1 + 99 * step / max(1, total - 1)
            y = (x**-power - 100**-power) / (1 - 100**-power)
            value = minimum + (temperature - minimum) * y * (1 - (done + count) / total)
            result.append(max(value, MIN_TEMPERATURE))
        done += count
    return result
