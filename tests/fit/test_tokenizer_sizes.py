"""One fitted tokenizer for pictures of several sizes."""

import numpy as np
import pytest
import torch
from test_tokenizer_fit import FIT, Maps

from fourm_engine.data.order import Share
from fourm_engine.fit.adapt import AdaptTask, SizedArrays
from fourm_engine.fit.config import AdaptConfig, FitOverride, TokenizersConfig
from fourm_engine.fit.fitting import Sized, fit_tokenizer, make_tokenizer
from fourm_engine.fit.samples import ArrayData
from fourm_engine.nn.embeddings import sine_cosine_2d
from fourm_engine.tokenizers.store import load_tokenizer, load_tokenizers, save_tokenizer
from fourm_engine.tokenizers.vit import CodecSettings, ViTDecoder, ViTEncoder, resized_positions
from fourm_engine.tokenizers.vqvae import VQVAETokenizer
from fourm_plugins import TokenSpace
from tests.grids import CODES, SMALL, Host, Known, classes, features, map_spec

PATCH, WIDE = 4, (3, 8)  # of `grids`; rows and columns of tokens
ADAPTED = FIT.model_copy(update={"adapt": AdaptConfig(steps=40, sizes=((12, 32),), lr=1e-3)})


class Sizes(Maps):
    """The maps of `test_tokenizer_fit` on a grid of any size, alone in their space or sharing it."""

    def __init__(self, grid=(4, 4), *, name="map", shared=False, settings=SMALL):
        super().__init__(settings)
        space = TokenSpace(name="map", size=CODES, shared=shared)
        self.name = name
        self.spec = self.spec.on_grid(*grid).model_copy(update={"name": name, "token_space": space})


def ramps(n, grid, seed=0):
    """float32 (3, h, w) each: planes of random slope over the picture, whatever its size."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: grid[0] * PATCH, : grid[1] * PATCH]
    y, x = y / y.max() - 0.5, x / x.max() - 0.5
    slopes = rng.uniform(-1, 1, (n, 3, 3, 1, 1))
    return list((slopes[:, 0] * y + slopes[:, 1] * x + 0.5 * slopes[:, 2]).astype(np.float32))


def data(n, grid, seed=0):
    arrays = ramps(n, grid, seed)
    return ArrayData(arrays.__getitem__, n, fingerprint="ramps")


def sized(grid):
    return Sized(Sizes(grid), data(40, grid), ramps(10, grid, seed=1))


def fit(folder, config=ADAPTED, members=None, sizes=(WIDE,)):
    members = members or [Sizes()]
    train = {member.name: data(40, (member.spec.layout.height, member.spec.layout.width)) for member in members}
    val = {m.name: ramps(10, (m.spec.layout.height, m.spec.layout.width), seed=1) for m in members}
    return fit_tokenizer(members, train, val, config, folder, Host(), sizes=[sized(grid) for grid in sizes])


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    made = make_tokenizer([Sizes()], Host(), any_size=True)
    made.network.quantiser.codes.normal_()
    return made


def test_a_codec_takes_any_grid_with_the_positions_of_its_own_resized():
    settings = CodecSettings(width=32, blocks=1, position_grid=(4, 4))
    encoder, decoder = ViTEncoder(3, (4, 4), (4, 4), settings), ViTDecoder(3, (4, 4), (4, 4), settings)
    latents = encoder(torch.randn(2, 3, 12, 32))
    assert latents.shape == (2, 24, 32)
    assert decoder(latents, WIDE).shape == (2, 3, 12, 32)
    made_for_it = ViTEncoder(3, (4, 4), WIDE, settings)
    assert torch.equal(encoder.positions(WIDE), made_for_it.pos_emb)
    # Of twice the size: every position lies between its old neighbours, and not where a grid of that size has it.
    small, large = resized_positions((4, 4), (4, 4), 32), resized_positions((4, 4), (8, 8), 32)
    torch.testing.assert_close(large.reshape(4, 2, 4, 2, 32).mean((1, 3)).reshape(16, 32), small, atol=0.2, rtol=0)
    assert not torch.allclose(large, sine_cosine_2d(8, 8, 32), atol=0.5)


def test_a_tokenizer_serves_another_size_with_the_same_network_and_fingerprint(tokenizer):
    wide = tokenizer.for_spec(Sizes(WIDE).spec)
    ids = wide.encode(ramps(2, WIDE))
    assert [row.shape for row in ids] == [(24,)] * 2
    assert [array.shape for array in wide.decode(ids)] == [(3, 12, 32)] * 2
    assert wide.decode_expected(np.eye(CODES, dtype=np.float32)[np.stack(ids)])[0].shape == (3, 12, 32)
    assert wide.network is tokenizer.network
    assert wide.fingerprint == tokenizer.fingerprint
    assert tokenizer.encode(ramps(1, (4, 4)))[0].shape == (16,)
    with pytest.raises(ValueError, match=r"expected float32 \(3, 12, 32\), found float32 \(3, 16, 16\)"):
        wide.encode(ramps(1, (4, 4)))


def test_two_grids_of_as_many_tokens_are_told_apart(tokenizer):
    wide, tall = (tokenizer.for_spec(Sizes(grid).spec) for grid in ((2, 8), (8, 2)))
    ids = wide.encode(ramps(1, (2, 8)))
    assert wide.decode(ids)[0].shape == (3, 8, 32)
    assert tall.decode(ids)[0].shape == (3, 32, 8)


def test_what_one_network_cannot_serve_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"map has patches of 4x4 pixels, 3 channels, map has patches of 2x2 pixels"):
        tokenizer.for_spec(map_spec(features(), tokens=8))
    with pytest.raises(ValueError, match=r"3 channels, map has patches of 4x4 pixels, 5 classes"):
        tokenizer.for_spec(map_spec(classes()))
    one_size = VQVAETokenizer([Sizes().spec], **SMALL)
    with pytest.raises(ValueError, match=r"for 16x16 pixels alone, not for the 12x32 of map; fit it with `adapt`"):
        one_size.for_spec(Sizes(WIDE).spec)


def test_a_stored_tokenizer_is_loaded_at_any_size(tokenizer, tmp_path):
    save_tokenizer(tokenizer, tmp_path / "map", manager=Host())
    wide = load_tokenizer(tmp_path / "map", [Sizes(WIDE).spec], Host())
    assert wide.fingerprint == tokenizer.fingerprint
    expected = tokenizer.for_spec(Sizes(WIDE).spec).encode(ramps(2, WIDE))
    assert np.array_equal(wide.encode(ramps(2, WIDE)), expected)
    specs = [Sizes(shared=True).spec, Sizes(WIDE, name="map@wide", shared=True).spec]
    members = {spec.name: Known(spec) for spec in specs}
    both = load_tokenizers(tmp_path, {"map": specs}, Host(), modalities=members)
    assert both["map"].network is both["map@wide"].network
    assert np.array_equal(both["map@wide"].encode(ramps(2, WIDE)), expected)
    with pytest.raises(ValueError, match=r"fitted for map with patches of .*height=4.*which is now .*height=2"):
        load_tokenizer(tmp_path / "map", [map_spec(features(), tokens=8)], Host())
    with pytest.raises(ValueError, match="fitted for map with number of codes 24, which is now 48"):
        load_tokenizer(tmp_path / "map", [map_spec(features(), codes=48)], Host())


def test_a_tokenizer_of_one_size_is_not_loaded_at_another(tmp_path):
    save_tokenizer(VQVAETokenizer([Sizes().spec], **SMALL), tmp_path / "map", manager=Host())
    with pytest.raises(ValueError, match=r"fitted for map with array .*height=16.*which is now .*height=12"):
        load_tokenizer(tmp_path / "map", [Sizes(WIDE).spec], Host())


def test_adapting_makes_another_size_better_and_reports_both(tmp_path):
    fitted = fit(tmp_path)
    names = ["map", *(f"map at {size}{when}" for size in ("12x32", "16x16") for when in ("", ", before adapting"))]
    assert sorted(fitted.report) == sorted(names)
    assert fitted.report["map"] == fitted.report["map at 16x16"]
    assert fitted.report["map at 12x32"]["mse"] < 0.9 * fitted.report["map at 12x32, before adapting"]["mse"]
    assert fitted.tokenizer.settings.encoder.position_grid == (4, 4)
    assert not fit(tmp_path).fresh
    assert fit(tmp_path, ADAPTED.model_copy(update={"adapt": AdaptConfig(steps=20, sizes=((12, 32),))})).fresh


def test_a_stopped_adaptation_goes_on_where_it_was(tmp_path, monkeypatch):
    whole = fit(tmp_path / "whole")
    after_step, seen = AdaptTask.after_step, []

    def stop(self, model, step):
        seen.append(step)
        if isinstance(self, AdaptTask) and step == 30:
            raise KeyboardInterrupt
        after_step(self, model, step)

    config = ADAPTED.model_copy(update={"checkpoint_every": 25})
    monkeypatch.setattr(AdaptTask, "after_step", stop)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "stopped", config)
    seen.clear()
    monkeypatch.setattr(AdaptTask, "after_step", lambda s, m, step: (seen.append(step), after_step(s, m, step))[1])
    resumed = fit(tmp_path / "stopped", config)
    assert seen[0] == 25
    assert resumed.tokenizer.fingerprint == whole.tokenizer.fingerprint
    assert resumed.report == whole.report


def test_modalities_that_share_a_space_share_the_tokenizer_of_the_one_called_as_it(tmp_path):
    own, wide = Sizes(shared=True), Sizes(WIDE, name="a@wide", shared=True)
    fitted = fit(tmp_path, FIT, [wide, own], sizes=())
    assert sorted(fitted.report) == ["a@wide", "map"]
    assert fitted.tokenizer.spec == own.spec
    # Nothing changes where another size joins or leaves.
    assert not fit(tmp_path, FIT, [own], sizes=()).fresh
    assert fit(tmp_path, FIT, [own, wide], sizes=()).tokenizer.fingerprint == fitted.tokenizer.fingerprint


def test_every_batch_has_one_size_that_follows_from_its_step(tokenizer, tmp_path):
    sizes = [SizedArrays(tokenizer.for_spec(Sizes(grid).spec), data(10, grid), None) for grid in ((4, 4), WIDE, (2, 2))]
    task = AdaptTask(tokenizer, sizes, start=tmp_path, steps=9, seed=0)
    batches = task.batches(0, Share(0, 1, 4, 1))
    stream = [next(batches) for _ in range(12)]
    assert {tuple(batch.shape[-2:]) for batch in stream} == {(16, 16), (12, 32), (8, 8)}
    assert torch.equal(next(task.batches(7, Share(0, 1, 4, 1))), stream[7])
    halves = [next(task.batches(7, Share(rank, 2, 4, 1))) for rank in range(2)]
    assert torch.equal(torch.cat(halves), stream[7])
    assert task.counts(stream[0])["commitment"] == 4 * stream[0][0, 0].numel() / PATCH**2


def test_settings_of_an_adaptation():
    config = TokenizersConfig(folder="x", spaces={"map": FitOverride(adapt=AdaptConfig(steps=50, sizes=((8, 8),)))})
    assert config.fit_of("other").adapt is None
    how = config.fit_of("map").adapting()
    assert (how.steps, how.lr, how.adapt) == (50, config.fit.lr / 5, None)
    assert config.adapts("map")
    assert not config.adapts("other")
