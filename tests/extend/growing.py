"""A tiny 4M of the fake modalities `a`, `a@pixels` and `words`, and what it may grow by: class maps `b`, pixels
`c@pixels`, further text `more` in the vocabulary of `words`, two numbers `pair`.

As a program it extends: `python growing.py FOLDER RUN CONFIG_JSON`, of what `prepare(FOLDER)` left."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from fourm_engine.data.samples import MaskedSamples
from fourm_engine.extend.task import ExtendTask
from fourm_engine.masking.grid import GridMasker
from fourm_engine.masking.span import SpanMasker
from fourm_engine.modalities import Modalities
from fourm_engine.pretrain.task import FourMTask
from fourm_engine.recipes.config import RunConfig
from fourm_engine.recipes.extend import open_extension, train_extension
from fourm_engine.tokenizers import store
from fourm_engine.train.loop import Trainer
from fourm_plugins import FeatureVector, ModalitySpec, Tokenizer, TokenizerRecipe, TokenSpace, Vector
from fourm_plugins.manager import Plugin, PluginError
from tests.fakes import TOKENIZERS, Labels, Picture, Pixels, Unfitted, Words, fake_tokenizers, sample_names, write_data
from tests.grids import Learning

KNOWN = ("a", "a@pixels", "words")
PAIR_IDS = 8


class Pair(Picture):
    """Two numbers: the channels' means, each of `PAIR_IDS` levels."""

    def make_spec(self) -> ModalitySpec:
        return ModalitySpec(
            name=self.name,
            layout=Vector(length=2),
            array=FeatureVector(size=2),
            token_space=TokenSpace(name=self.name, size=PAIR_IDS),
            tokenizer=TokenizerRecipe(kind="fake_pair"),
            source=self.name,
            extensions=("npy",),
        )

    def normalise(self, value):
        return value.mean((0, 1)).astype(np.float32)

    def denormalise(self, array):
        return np.broadcast_to(array, (8, 8, 2))


class PairTokenizer(Unfitted, Tokenizer):
    kind = "fake_pair"

    def encode(self, arrays):
        return [np.clip((array * PAIR_IDS).astype(np.int64), 0, PAIR_IDS - 1) for array in arrays]

    def decode(self, ids):
        return [((row + 0.5) / PAIR_IDS).astype(np.float32) for row in ids]


class Uneven(Labels):
    """Class maps of which some classes are frequent, so that there is something to learn."""

    def example_samples(self, n, seed):
        rng = np.random.default_rng(seed)
        return [self.write(rng.choice(5, (12, 16), p=[0.6, 0.2, 0.1, 0.05, 0.05])) for _ in range(n)]


class Clash(Labels):
    """A grid whose token space bears the name of another's."""

    def make_spec(self) -> ModalitySpec:
        return super().make_spec().model_copy(update={"token_space": TokenSpace(name="a", size=5)})


CLASSES = {"a": Picture, "a@pixels": Pixels, "b": Uneven, "words": Words}
CLASSES |= {"more": Words, "c@pixels": Pixels, "pair": Pair, "clash": Clash}


class Host(Learning):
    """Stands for the plugin host, with all of these installed but `absent`."""

    plugins = ()
    active: ClassVar[dict] = {}

    def __init__(self, absent=()):
        self.absent = set(absent)

    def find(self, kind, name):
        if kind in ("optimiser", "schedule"):
            return super().find(kind, name)
        return Plugin(kind, name, "", "fakes", "1", "")

    def modality(self, name, *, plugin=None, **settings):
        if name in self.absent:
            raise PluginError(f"no installed plugin provides the modality {name!r}")
        return CLASSES[name](name, **settings)

    def tokenizer_class(self, kind):
        return (TOKENIZERS | {"fake_pair": PairTokenizer})[kind]

    def masker_class(self, kind):
        return {"grid": GridMasker, "span": SpanMasker}[kind]

    def freeze(self):
        pass


def run_config(folder: Path, run: Path, *, extend: dict | None = None, **changes) -> RunConfig:
    """`changes`: sections, or keys of `train`."""
    train = {"batch_size": 8, "steps": 6, "lr": 1e-2, "weight_decay": 0.3, "checkpoint_every": 2, "log_every": 1}
    sections = {name: changes.pop(name) for name in ("data", "model", "modalities", "masking") if name in changes}
    return RunConfig.model_validate(
        {
            "run": run,
            "seed": 3,
            "data": {"train": folder / "train", "val": folder / "val"},
            "tokenizers": {"folder": folder / "tokenizers"},
            "masking": {
                "input_tokens": (4, 12),
                "target_tokens": 16,
                "mixture": [
                    {"name": "pixels to all", "weight": 2.0, "input": {"a@pixels": 1000.0}},
                    {"name": "any to any"},
                    {"name": "words from nothing", "input": {}, "input_tokens": 0, "target": {"words": 1.0}},
                ],
            },
            "model": {"width": 16, "encoder_blocks": 1, "decoder_blocks": 1, "heads": 2},
            "train": {**train, "device": "cpu", **changes},
            "extend": extend and {"source": str(folder / "base"), **extend},
            **sections,
        }
    )


def prepare(folder: Path) -> dict[str, float]:
    """Data of all sources, tokenizers of what the model does not know, and `folder/base`, a trained run of `KNOWN`; its
    last held-out scores."""
    host = Host()
    everything = {name: cls(name) for name, cls in CLASSES.items()}
    write_data(folder / "train", everything, sample_names(16))
    write_data(folder / "val", everything, sample_names(9, start=100))
    for name in ("b", "pair", "clash"):
        tokenizer = fake_or_pair(everything[name].spec)
        store.save_tokenizer(tokenizer, folder / "tokenizers" / name, manager=host)
    config = run_config(folder, folder / "base")
    modalities = Modalities([everything[name] for name in KNOWN], {name: host.find("modality", name) for name in KNOWN})
    tokenizers = fake_tokenizers(modalities)
    data = [
        MaskedSamples.from_config(
            config.data, config.masking, modalities, tokenizers, modalities.vocabulary(), seed=3, training=training
        )
        for training in (True, False)
    ]
    task = FourMTask(modalities, tokenizers, config.model, *data)
    return Trainer(task, config.train, config.run, seed=3).run()


def fake_or_pair(spec: ModalitySpec) -> Tokenizer:
    return Host().tokenizer_class(spec.tokenizer.kind)([spec])


def extend(config: RunConfig, host: Host | None = None) -> dict[str, float]:
    return train_extension(config, open_extension(config, host or Host()))


def main() -> None:
    torch.set_num_threads(1)
    store.PluginManager = Host
    folder, run, changes = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    if (kill_at := changes.pop("kill_at", None)) is not None:

        def killed(self, model, batch, step):
            if step == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return FourMTask.loss(self, model, batch, step)

        ExtendTask.loss = killed
    extend(run_config(folder, run, **changes))


if __name__ == "__main__":
    main()
