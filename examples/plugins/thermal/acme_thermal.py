"""Thermal pictures: a grid of one physical quantity, from a radiometric camera.

Files: PNG of 16 bits in hundredths of a kelvin (0 = dead pixel), as radiometric cameras write them, or .npy in degrees
Celsius. Value: float32 (H, W) in degrees Celsius, NaN where a pixel is dead.
"""

from collections.abc import Callable, Sequence

import numpy as np

from fourm_plugins import Metric, images
from fourm_plugins.bases import ScalarGrid, ScalarSettings

CLOSE = 1.0  # °C


class ThermalSettings(ScalarSettings):
    """Degrees Celsius; what lies outside [lowest, highest] is clipped."""

    lowest: float = -20.0
    highest: float = 80.0
    png_unit: float | None = 0.01
    png_zero: float = -273.15


class Thermal(ScalarGrid):
    Settings = ThermalSettings
    unit = "°C"
    gaps = True  # dead pixels are neither learnt from nor counted
    licence = "Apache-2.0"
    description = "temperature in degrees Celsius"

    def metrics(self) -> tuple[Metric, ...]:
        """The base's errors in °C, and how much is right to within a degree."""
        return *super().metrics(), Metric(f"within {CLOSE:g} °C", share_within(CLOSE), True)

    def example_samples(self, n: int, seed: int) -> list[dict[str, bytes]]:
        """Warm bodies before a wall at room temperature, each a little cooler at its edge."""
        samples = []
        for index, regions in enumerate(images.example_regions(n, seed)):
            rng = np.random.default_rng([seed, index])
            celsius = np.where(regions == 0, rng.uniform(15, 25), rng.uniform(30, 37, 4)[regions])
            celsius[:-1] = (celsius[:-1] + celsius[1:]) / 2
            celsius[0, 0] = np.nan  # a dead pixel
            samples.append(self.write(celsius.astype(np.float32)))
        return samples


def share_within(limit: float) -> Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], float]:
    """Share of the living pixels that are wrong by less than `limit`."""

    def compute(predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> float:
        right = [abs(p - t)[np.isfinite(t)] < limit for p, t in zip(predictions, truths, strict=True)]
        return float(np.concatenate(right).mean())

    return compute
