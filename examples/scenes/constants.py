"""Scores of the best constant predictors on held-out scenes, in each modality's metrics:

    python examples/scenes/constants.py examples/scenes/demo-full.yaml [section.key=value …]

A tokenizer must beat these. Fitted to the first 500 training scenes.
"""

from __future__ import annotations

import sys

from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.views import ViewDrawer
from fourm_engine.fit.samples import held_out_values
from fourm_engine.modalities import load_manager
from fourm_engine.recipes.config import load_config

SCENES = 500


def main() -> None:
    config = load_config(sys.argv[1], sys.argv[2:])
    modalities = config.load_modalities(load_manager(config.modalities))
    drawer = ViewDrawer.from_config(modalities, config.data, training=False)
    train, val = (AlignedData.from_config(modalities, config.data, training=training) for training in (True, False))
    for name, modality in modalities.items():
        if modality.spec.continuous or modality.spec.layout.kind != "grid":
            continue
        truths = held_out_values(val, name, drawer)
        constants = modality.constants(held_out_values(train, name, drawer, limit=SCENES))
        for what, value in constants.items():
            scores = {m.name: m.compute([value] * len(truths), truths) for m in modality.metrics()}
            print(f"{name}, {what}: {', '.join(f'{metric} {score:.4g}' for metric, score in scores.items())}")


if __name__ == "__main__":
    main()
