"""Small grids for the tests of tokenizers: specs, arrays with structure to learn, a plugin host."""

import numpy as np

from fourm_engine.tokenizers.divae import DiVAETokenizer
from fourm_engine.tokenizers.vqvae import VQVAETokenizer
from fourm_engine.tokenizers.wordpiece import WordPieceTokenizer
from fourm_plugins import (
    ClassMap,
    FeatureMap,
    Grid,
    Modality,
    ModalitySpec,
    Sequence,
    Settings,
    Text,
    TokenizerRecipe,
    TokenSpace,
)
from fourm_plugins.manager import Plugin, PluginError, PluginManager

SIZE, TOKENS, CODES, CLASSES = 16, 4, 24, 5
SMALL = {"encoder": {"width": 32, "blocks": 0}, "decoder": {"width": 32, "blocks": 1}, "latent_dim": 8}


def map_spec(array, *, name="map", tokens=TOKENS, codes=CODES, settings=SMALL):
    return ModalitySpec(
        name=name,
        layout=Grid(height=tokens, width=tokens),
        array=array,
        token_space=TokenSpace(name=name, size=codes),
        tokenizer=TokenizerRecipe(kind="vqvae", settings=settings),
        source=name,
        extensions=("npy",),
    )


def features(channels=3, *, gaps=False):
    return FeatureMap(channels=channels, height=SIZE, width=SIZE, gaps=gaps)


def classes():
    return ClassMap(classes=CLASSES, height=SIZE, width=SIZE)


def text_spec(name="caption", *, size=2000, tokens=64, space="text", settings=None, max_characters=4096):
    return ModalitySpec(
        name=name,
        layout=Sequence(max_tokens=tokens),
        array=Text(max_characters=max_characters),
        token_space=TokenSpace(name=space, size=size, shared=True),
        tokenizer=TokenizerRecipe(kind="wordpiece", settings=settings or {}),
        source=name,
        extensions=("txt",),
    )


def ramps(n, seed=0, channels=3):
    """float32 (channels, SIZE, SIZE) each: planes of random slope, which patches tell apart."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE - 0.5
    slopes = rng.uniform(-1, 1, (n, 3, channels, 1, 1))
    return list((slopes[:, 0] * y + slopes[:, 1] * x + 0.5 * slopes[:, 2]).astype(np.float32))


def halves(n, seed=0):
    """int64 (SIZE, SIZE) each: two classes divided by a line, -1 in the first row."""
    rng = np.random.default_rng(seed)
    maps = []
    for _ in range(n):
        array = np.full((SIZE, SIZE), rng.integers(CLASSES))
        array[:, rng.integers(SIZE) :] = rng.integers(CLASSES)
        array[0] = -1
        maps.append(array)
    return maps


class Known:
    """What a store needs of a modality: its spec, and what decides its ids."""

    settings, ids_version, identity = Settings(), "", Modality.identity

    def __init__(self, spec):
        self.name, self.spec = spec.name, spec


class Learning:
    """What training asks of a plugin host: the engine's optimisers and schedules, and no observer."""

    def optimiser(self, name):
        return PluginManager().optimiser(name)

    def schedule(self, name):
        return PluginManager().schedule(name)

    def activate_observers(self, names=None):
        pass

    def observers(self, hook):
        return []

    def find(self, kind, name):
        return PluginManager().find(kind, name)


class Host(Learning):
    """Stands for `PluginManager` where only the engine's own kinds are installed."""

    def __init__(self):
        self.kinds = {"divae": DiVAETokenizer, "vqvae": VQVAETokenizer, "wordpiece": WordPieceTokenizer}

    def tokenizer_class(self, kind):
        self.find("tokenizer", kind)
        return self.kinds[kind]

    def find(self, group, kind):
        if group in ("optimiser", "schedule"):
            return super().find(group, kind)
        if kind not in self.kinds:
            raise PluginError(f"no installed plugin provides the {group} {kind!r}")
        return Plugin("tokenizer", kind, "", "fourm-engine", "0.0.1", "")
