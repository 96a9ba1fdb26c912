"""Samples for evaluation, as values and as arrays: view 0 of raw files (the centre crop, the first alternative).

In: a folder of raw data. Out: `Samples` drawn with a seed, in memory, without those that `AlignedData` skips.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.config import DataConfig
from fourm_engine.data.order import epoch_order
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.raw.sample import RawSample
from fourm_engine.data.views import ViewDrawer, view_of
from fourm_plugins.counting import counted


@dataclass(frozen=True)
class Samples:
    """`values[modality][sample]` and `arrays[modality][sample]`; a sample may lack modalities. `errors`: modality ->
    number of unusable files."""

    names: list[str]
    values: dict[str, dict[str, Any]]
    arrays: dict[str, dict[str, Any]]
    errors: dict[str, int] = field(default_factory=dict)

    def with_modalities(self, modalities: Iterable[str]) -> list[str]:
        """Names of the samples with all of `modalities`."""
        wanted = list(modalities)
        return [name for name in self.names if all(name in self.values.get(m, ()) for m in wanted)]


def load_samples(data: AlignedData, config: DataConfig, *, samples: int, seed: int) -> Samples:
    """At most `samples` samples of `data`, drawn with `seed`. Raises ValueError (BadFile) for an unusable file if
    `on_error` is "raise", and if no sample is left."""
    modalities = data.modalities
    drawer = ViewDrawer.from_config(modalities, config, training=False)
    order = epoch_order(len(data.names), seed, 0)[:samples]
    names = [data.names[index] for index in sorted(order)]
    values: dict[str, dict[str, Any]] = {name: {} for name in modalities}
    arrays: dict[str, dict[str, Any]] = {name: {} for name in modalities}
    for sample in names:
        raw = RawSample(data, sample)
        views = drawer.draw(sample, 0, drawer.aspects(data, sample, raw.value))
        for name in sorted(data.has(sample)):
            try:
                value = raw.augmented(name, view_of(modalities[name].spec, views, 0))
                arrays[name][sample] = data.normalise(sample, name, value)
            except BadFile as bad:
                data.skip(sample, bad)
                continue
            values[name][sample] = value
    if not any(values.values()):
        drawn = counted(len(names), "sample")
        raise ValueError(f"{data.root}: none of the {drawn} drawn can be used; see the warnings above")
    return Samples(names, values, arrays, data.errors)
