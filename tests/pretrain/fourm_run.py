"""A tiny 4M over the fake modalities. As a program it trains: `python fourm_run.py DATA RUN CONFIG_JSON`,
the `train` section and, as "data", settings of the `data` section."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch

from fourm_engine.data.config import DataConfig
from fourm_engine.data.samples import MaskedSamples
from fourm_engine.masking.config import Component, MaskingConfig
from fourm_engine.modalities import Modalities
from fourm_engine.model import FourM
from fourm_engine.nn.config import ModelConfig
from fourm_engine.pretrain.config import LossConfig
from fourm_engine.pretrain.task import FourMTask
from fourm_engine.tokenizers import store
from fourm_engine.train.config import TrainConfig
from fourm_engine.train.loop import Trainer
from fourm_plugins.manager import Plugin
from tests.fakes import TOKENIZERS, fake_modalities, fake_tokenizers

MIXTURE = (
    Component(name="pixels to all", weight=2, input={"a@pixels": 1000.0}),
    Component(name="any to any"),
    Component(name="words from nothing", input_tokens=0, target={"words": 1.0}),
)


class Host:
    """Stands for the plugin host, with the fakes installed."""

    plugins = ()

    def find(self, kind, name):
        return Plugin(kind, name, "", "fakes", "1", "")

    def modality(self, name, *, plugin=None, **settings):
        return fake_modalities([name], **settings)[name]

    def tokenizer_class(self, kind):
        return TOKENIZERS[kind]


def make_task(
    data: Path,
    *,
    average_over: str = "present",
    soft_targets: Mapping[str, float] = MappingProxyType({}),
    width: int = 16,
    stem: str = "linear",
    workers: int = 0,
    **data_settings,
) -> FourMTask:
    """Samples of `data/train`, held out `data/val`."""
    members = fake_modalities()
    modalities = Modalities(members.values(), {name: Host().find("modality", name) for name in members})
    tokenizers = fake_tokenizers(modalities)
    config = DataConfig(**{"train": data / "train", "val": data / "val", **data_settings})
    masking = MaskingConfig(input_tokens=(4, 12), target_tokens=16, mixture=MIXTURE)
    parts = (True, False) if config.val else (True,)
    split = [
        MaskedSamples.from_config(
            config, masking, modalities, tokenizers, modalities.vocabulary(), seed=3, training=training
        )
        for training in parts
    ]
    model = ModelConfig(width=width, encoder_blocks=1, decoder_blocks=1, heads=2, stem=stem)
    loss = LossConfig(average_over=average_over, soft_targets=dict(soft_targets))
    return FourMTask(modalities, tokenizers, model, *split, loss=loss, workers=workers)


def config(**changes) -> TrainConfig:
    default = {"batch_size": 8, "steps": 20, "lr": 3e-3, "warmup": 2, "log_every": 1, "device": "cpu"}
    return TrainConfig(**{**default, **changes})


def picture(model: FourM, path: Path) -> None:
    """What is generated, in place of a picture of it."""
    generated = model.generate({"words": "a red ball"}, targets=["a"], seed=0)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(generated["a"].tokens.tobytes())


def main() -> None:
    torch.set_num_threads(1)
    store.PluginManager = Host
    data = Path(sys.argv[1].replace("RANK", os.environ.get("RANK", "0")))  # of each process, where it says so
    run, changes = Path(sys.argv[2]), json.loads(sys.argv[3])
    task = make_task(data, **changes.pop("data", {}))
    task.picture = picture
    Trainer(task, config(**changes), run, seed=3).run()


if __name__ == "__main__":
    main()
