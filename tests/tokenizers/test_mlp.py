"""Feature vectors to a few tokens and back."""

import numpy as np
import pytest
import torch

from fourm_engine.fit.config import FitConfig
from fourm_engine.fit.fitting import fit_network
from fourm_engine.tokenizers.mlp import MLPTokenizer
from fourm_plugins import ClassMap, FeatureVector, Grid, ModalitySpec, TokenizerRecipe, TokenSpace, Vector

SIZE, TOKENS, CODES = 24, 3, 16
SMALL = {"width": 48, "blocks": 1, "latent_dim": 4}
FIT = FitConfig(steps=150, batch_size=32, lr=3e-3, device="cpu", threads=1, log_every=1000)


def spec(*, tokens=TOKENS, codes=CODES, array=None, layout=None):
    return ModalitySpec(
        name="feature",
        layout=layout or Vector(length=tokens),
        array=array or FeatureVector(size=SIZE),
        token_space=TokenSpace(name="feature", size=codes),
        tokenizer=TokenizerRecipe(kind="mlp"),
        source="feature",
        extensions=("npy",),
    )


def vectors(n, seed=0):
    """float32 (SIZE,) each, of length sqrt(SIZE), on a curved surface of three dimensions."""
    maps = np.random.default_rng(7).normal(size=(3, SIZE))
    found = np.sin(np.random.default_rng(seed).uniform(-1.5, 1.5, (n, 3)) @ maps)
    return list((found * SIZE**0.5 / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32))


def made(**settings):
    torch.manual_seed(0)
    return MLPTokenizer([spec()], **{**SMALL, **settings})


VARIANTS = [{}, {"codebooks": "shared", "loss": {"mse": 1.0, "cosine": 1.0}}, {"quantiser": "lfq", "latent_dim": 16}]


@pytest.mark.parametrize("settings", VARIANTS)
def test_vectors_are_learnt(settings, tmp_path):
    tokenizer = made(**settings)
    report = fit_network(tokenizer, vectors(400), FIT)
    assert report["usage"] > 0.6
    assert report["dead codes"] == round(
        (1 - report["usage"]) * CODES * (1 if settings.get("codebooks") == "shared" else TOKENS)
    )
    held_out = np.stack(vectors(60, seed=1))
    ids = tokenizer.encode(list(held_out))
    decoded = np.stack(tokenizer.decode(ids))
    assert {row.shape for row in ids} == {(TOKENS,)}
    assert decoded.dtype == np.float32
    constant = ((held_out - np.stack(vectors(400)).mean(0)) ** 2).mean()
    assert ((decoded - held_out) ** 2).mean() < 0.6 * constant
    codes = tokenizer.code_vectors()
    assert (codes is None) == tokenizer.positional
    assert codes is None or codes.shape[0] == CODES
    certain = np.eye(CODES, dtype=np.float32)[np.stack(ids)]
    np.testing.assert_allclose(np.stack(tokenizer.decode_expected(certain)), decoded, atol=1e-4)

    tokenizer.save(tmp_path)
    again = MLPTokenizer([spec()], **tokenizer.settings.model_dump(mode="json"))
    again.load(tmp_path)
    assert again.fingerprint == tokenizer.fingerprint
    assert np.array_equal(again.encode(list(held_out)), ids)


def test_tokens_have_codes_of_their_own_unless_they_share_them():
    own, shared = made(), made(codebooks="shared")
    assert own.positional
    assert not shared.positional
    assert sum(name.endswith("codes") for name in own.state()) == TOKENS
    assert sum(name.endswith("codes") for name in shared.state()) == 1
    assert not any("recent" in name or "cluster" in name for name in own.state())


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="makes a vector of tokens of a feature vector, not a grid of a class_map"):
        MLPTokenizer([spec(layout=Grid(height=2, width=2), array=ClassMap(classes=3, height=4, width=4))])
    with pytest.raises(ValueError, match="needs every number"):
        MLPTokenizer([spec(array=FeatureVector(size=SIZE, gaps=True))])
    with pytest.raises(ValueError, match="'cross_entropy' does not fit its feature_vector"):
        made(loss={"cross_entropy": 1.0})
    with pytest.raises(ValueError, match=r"feature: expected float32 \(24,\), found float32 \(5,\)"):
        made().encode([np.zeros(5, np.float32)])


def test_a_network_says_how_it_is_fitted_rather_than_fit_itself():
    with pytest.raises(ValueError, match=r"feature: .*`fourm tokenizer fit`.*fit\.fitting\.fit_network\("):
        made().fit(lambda: vectors(4))
