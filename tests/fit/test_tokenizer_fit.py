"""Fitting a token space: what is stored, when it is done again, how it goes on after a stop."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fourm_engine.data.order import Share
from fourm_engine.fit.config import FitConfig, FitOverride, TokenizersConfig
from fourm_engine.fit.fitting import fit_tokenizer, make_tokenizer
from fourm_engine.fit.samples import ArrayData
from fourm_engine.fit.task import TokenizerTask
from fourm_plugins import Metric
from tests.distributed.launching import run
from tests.grids import CODES, SIZE, SMALL, Host, Known, features, map_spec, ramps, text_spec

FIT = FitConfig(steps=60, batch_size=4, lr=3e-3, device="cpu", threads=1, log_every=1000)
#: An average of the weights is kept, too.
AVERAGED = FIT.model_copy(update={"steps": 25, "ema": 0.8})
QUANTISERS = {
    "batch": {"restart_below": 0.3},
    "split": {"restart_below": 0.3, "restart": "split", "kmeans_start": False},
    "product": {"heads": 2, "normalise_codes": False},
    "fsq": {"quantiser": "fsq", "levels": [4, 4], "latent_dim": 16},
    "lfq": {"quantiser": "lfq", "latent_dim": 16},
}


class Maps(Known):
    """What `fit` needs of a modality: its values are its arrays."""

    def __init__(self, settings=SMALL, *, codes=CODES):
        self.name = "map"
        self.spec = map_spec(features(), settings=settings, codes=codes)

    def normalise(self, value):
        return value

    def denormalise(self, array):
        return array

    def metrics(self):
        return (Metric("mse", lambda a, b: float(np.mean((np.stack(a) - np.stack(b)) ** 2)), higher_is_better=False),)


class Words(Maps):
    def __init__(self, name):
        self.name = name
        self.spec = text_spec(name, settings={"coordinate_bins": 64})

    def metrics(self):
        return (Metric("same", lambda a, b: float(np.mean([x == y for x, y in zip(a, b, strict=True)])), True),)


def data(arrays, fingerprint="one"):
    return ArrayData(lambda i: arrays[i], len(arrays), fingerprint=fingerprint)


def fit(folder, *, config=FIT, modality=None, fingerprint="one", seed=0, refit=False):
    maps = modality or Maps()
    train = {"map": data(ramps(40), fingerprint)}
    return fit_tokenizer([maps], train, {"map": ramps(10, seed=1)}, config, folder, Host(), seed=seed, refit=refit)


def test_fitting_stores_a_tokenizer_and_reports_in_the_modalitys_own_metric(tmp_path):
    fitted = fit(tmp_path)
    assert fitted.fresh
    assert sorted(fitted.report["map"]) == ["dead codes", "mse", "perplexity", "usage"]
    assert 0 < fitted.report["map"]["mse"] < 0.2
    assert sorted(path.name for path in (tmp_path / "map").iterdir()) == ["tokenizer.json", "weights.safetensors"]
    assert not list((tmp_path / ".fit").iterdir())


def test_the_same_request_is_not_fitted_again(tmp_path):
    first, again = fit(tmp_path), fit(tmp_path, config=FIT.model_copy(update={"log_every": 7, "pictures": 9}))
    assert not again.fresh
    assert again.tokenizer.fingerprint == first.tokenizer.fingerprint
    assert again.report == first.report


def test_the_same_seed_gives_the_same_tokenizer(tmp_path):
    first, again = fit(tmp_path / "a"), fit(tmp_path / "b")
    assert first.tokenizer.fingerprint == again.tokenizer.fingerprint
    assert first.tokenizer.fingerprint != fit(tmp_path / "c", seed=1).tokenizer.fingerprint


CHANGES = [
    ({"config": FIT.model_copy(update={"steps": 50})}, "fit.steps was 60, is 50"),
    ({"fingerprint": "two"}, 'data.map.0 was "one", is "two"'),
]


@pytest.mark.parametrize(("change", "reason"), CHANGES)
def test_other_steps_or_data_are_fitted_anew_and_said(tmp_path, change, reason, caplog):
    fit(tmp_path)
    assert fit(tmp_path, **change).fresh
    assert f"fitting again, since {reason}" in caplog.text


def test_another_recipe_is_refused_and_replaces_the_tokenizer_only_on_request(tmp_path):
    before, other = fit(tmp_path), Maps({**SMALL, "latent_dim": 4})
    with pytest.raises(ValueError, match=r"map: .*latent_dim.* was 8, is 4; .*--refit"):
        fit(tmp_path, modality=other)
    assert not fit(tmp_path).fresh
    assert fit(tmp_path, modality=other, refit=True).tokenizer.fingerprint != before.tokenizer.fingerprint


@pytest.mark.parametrize("quantiser", QUANTISERS)
def test_a_stopped_fit_goes_on_where_it_was(tmp_path, monkeypatch, quantiser):
    maps = Maps({**SMALL, **QUANTISERS[quantiser]}, codes=16)
    whole = fit(tmp_path / "whole", config=AVERAGED, modality=maps)
    seen = []
    after_step = TokenizerTask.after_step

    def stop(self, model, step):
        seen.append(step)
        if step == 15:
            raise KeyboardInterrupt
        after_step(self, model, step)

    config = AVERAGED.model_copy(update={"checkpoint_every": 10})
    monkeypatch.setattr(TokenizerTask, "after_step", stop)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "stopped", config=config, modality=maps)
    seen.clear()
    monkeypatch.setattr(TokenizerTask, "after_step", lambda s, m, step: (seen.append(step), after_step(s, m, step))[1])
    resumed = fit(tmp_path / "stopped", config=config, modality=maps)
    assert seen[0] == 10
    assert resumed.tokenizer.fingerprint == whole.tokenizer.fingerprint


@pytest.mark.parametrize("name", ["weights.safetensors", "tokenizer.json"])
def test_a_damaged_tokenizer_is_fitted_again(tmp_path, name, caplog):
    config = FIT.model_copy(update={"steps": 30})
    before = fit(tmp_path, config=config)
    path = tmp_path / "map" / name
    path.write_bytes(path.read_bytes()[:-9])
    again = fit(tmp_path, config=config)
    assert again.fresh
    assert again.tokenizer.fingerprint == before.tokenizer.fingerprint
    assert str(path) in caplog.text


def test_one_vocabulary_is_fitted_for_all_who_share_it(tmp_path):
    members = [Words("caption"), Words("boxes")]
    texts = {"caption": data(["a red cube"] * 3), "boxes": data(["v0=1 v1=2 v2=3 v3=4 zebra"] * 3)}
    fitted = fit_tokenizer(members, texts, {"caption": ["a red cube"], "boxes": []}, FIT, tmp_path, Host())
    assert fitted.report == {"caption": {"same": 1.0}, "boxes": {}}
    assert len(fitted.tokenizer.encode(["zebra"])[0]) == 1
    assert not fit_tokenizer(members, texts, {}, FIT, tmp_path, Host()).fresh


def test_nothing_to_fit_on_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no training data for the tokenizer of map"):
        fit_tokenizer([Maps()], {"map": data([])}, {}, FIT, tmp_path, Host())


def test_a_recipe_that_its_kind_refuses_is_named():
    with pytest.raises(
        ValueError, match=r"tokenizer 'vqvae' of map: latent_dimm: unknown key; did you mean latent_dim\?"
    ):
        make_tokenizer([Maps({"latent_dimm": 4})], Host())


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"encoder": {"width": 130}}, "encoder: width 130 must be a multiple of 4"),
        ({"decoder": {"width": 32, "heads": 5}}, "decoder: width 32 must be .* of heads 5"),
        ({"decoder": {"widht": 32}}, r"decoder.widht: unknown key; did you mean decoder.width\?"),
    ],
)
def test_sizes_that_cannot_be_built_are_refused_by_name(settings, reason):
    with pytest.raises(ValueError, match=f"tokenizer 'vqvae' of map: {reason}"):
        make_tokenizer([Maps(settings)], Host())


# Small steps: a latent that lies between two codes to within rounding goes to one or the other, and large steps make of
# that another run.
SHORT = FIT.model_copy(update={"steps": 14, "lr": 1e-3})


def test_a_diffusion_decoder_is_fitted_on_a_fitted_encoder_and_again_when_that_changes(tmp_path):
    unet = {"width": 16, "groups": 8}
    settings = {"encoder": SMALL["encoder"], "latent_dim": 8, "decoder": unet}
    maps = Maps({**settings, "encoder_from": str(tmp_path / "source" / "map")})
    recipe = maps.spec.tokenizer.model_copy(update={"kind": "divae"})
    maps.spec = maps.spec.model_copy(update={"tokenizer": recipe})
    config = FIT.model_copy(update={"steps": 8})
    source = fit(tmp_path / "source", config=FIT.model_copy(update={"steps": 20}))
    first, again = (fit(tmp_path / "out", config=config, modality=maps) for _ in range(2))
    assert first.fresh
    assert not again.fresh
    assert sorted(first.report["map"]) == ["dead codes", "mse", "perplexity", "usage"]
    assert np.array_equal(again.tokenizer.encode(ramps(5)), source.tokenizer.encode(ramps(5)))
    fit(tmp_path / "source", config=FIT.model_copy(update={"steps": 20}), seed=1)
    assert fit(tmp_path / "out", config=config, modality=maps).fresh


PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_tokenizer_fit import FIT, SHORT, Words, data, fit, fit_tokenizer, Host
from fourm_engine.train.distributed import processes
folder = Path(sys.argv[2])
with processes(FIT):
    for _ in range(2):
        fit(folder, config=SHORT)
        fit_tokenizer([Words("caption")], {"caption": data(["a red cube"] * 3)}, {}, FIT, folder, Host())
    fit(folder / "sharded", config=SHORT.model_copy(update={"parallel": "shard"}))
"""


def test_two_processes_fit_the_tokenizer_of_one(tmp_path):
    ended = run([sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(tmp_path / "two")], world=2)
    assert not any(code for code, _, _ in ended), ended
    # In micro-batches of the size that the processes have, so that all products are of the same shapes.
    fit(tmp_path / "one", config=SHORT.model_copy(update={"accumulate": 2}))
    folders = ("one", "two", "two/sharded")
    one, *others = (load_file(tmp_path / folder / "map" / "weights.safetensors") for folder in folders)
    # Not all weights: the keys' bias has no gradient but rounding errors, which Adam blows up.
    for name in ("quantiser.codes", "encoder.proj.weight", "decoder.out_proj.bias"):
        for two in others:
            torch.testing.assert_close(two[name], one[name], atol=1e-4, rtol=1e-4)
    assert (tmp_path / "two" / "text" / "wordpiece.json").exists()


def test_batches_depend_on_the_step_alone_and_split_over_processes():
    tokenizer = make_tokenizer([Maps()], Host())
    task = TokenizerTask(tokenizer, data(ramps(10)), None, steps=9, seed=0)
    batches = task.batches(0, Share(0, 1, 4, 1))
    stream = [next(batches) for _ in range(6)]
    later = task.batches(5, Share(0, 1, 4, 1))
    assert (next(later) == stream[5]).all()
    halves = [next(task.batches(3, Share(rank, 2, 4, 1))) for rank in range(2)]
    assert (np.concatenate(halves) == stream[3].numpy()).all()
    assert stream[0].shape == (4, 3, SIZE, SIZE)
    firsts = {float(x[0, 0, 0]) for batch in stream[:5] for x in batch}  # two epochs of ten
    assert len(firsts) == 10


def test_arrays_are_read_once_and_unusable_ones_are_passed_over():
    reads = []

    def get(index):
        reads.append(index)
        return None if index == 1 else np.full(4, index, np.float32)

    arrays = ArrayData(get, 3, fingerprint="x")
    assert [int(a[0]) for a in arrays] == [0, 2]
    assert int(arrays[1][0]) == 2
    assert reads == [0, 1, 2]
    with pytest.raises(ValueError, match="none of the 2"):
        ArrayData(lambda i: None, 2, fingerprint="x")[0]
    big = ArrayData(get, 3, fingerprint="x", cache_bytes=0)
    reads.clear()
    assert (big[0] == big[0]).all()
    assert reads == [0, 0]


def test_overrides_of_a_token_space_replace_what_they_name():
    config = TokenizersConfig(folder="x", fit=FitConfig(steps=100), spaces={"map": FitOverride(lr=1e-4)})
    assert config.fit_of("map").lr == 1e-4
    assert config.fit_of("map").steps == 100
    assert config.fit_of("other") == config.fit
    with pytest.raises(ValueError, match=r"spaces\.map: warmup=50 .* steps=20"):
        TokenizersConfig(folder="x", fit=FitConfig(warmup=50), spaces={"map": FitOverride(steps=20)})


def test_the_average_of_the_weights_is_what_is_fitted(tmp_path):
    plain, averaged = (
        fit(tmp_path / "a", config=FIT.model_copy(update={"steps": 25})),
        fit(tmp_path / "b", config=AVERAGED),
    )
    ours, theirs = averaged.tokenizer.state(), plain.tokenizer.state()
    # The codebook, too, in step with the encoder; codes stay of unit length.
    assert not torch.equal(ours["quantiser.codes"], theirs["quantiser.codes"])
    torch.testing.assert_close(ours["quantiser.codes"].norm(dim=-1), torch.ones(CODES))
    assert not torch.equal(ours["decoder.out_proj.weight"], theirs["decoder.out_proj.weight"])


def test_a_fit_whose_codebook_never_started_is_refused(tmp_path):
    tokenizer = make_tokenizer([Maps()], Host())
    task = TokenizerTask(tokenizer, data(ramps(8)), None, steps=4, seed=0)
    with pytest.raises(ValueError, match="tokenizer of map: its codebook was never started"):
        task.export(tokenizer.network.state_dict(), tmp_path, {})
    assert not list(tmp_path.iterdir())


def test_a_fit_follows_its_codes(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr("fourm_engine.fit.fitting.shutil.rmtree", lambda folder, **_: kept.append(folder))
    fit(tmp_path, config=AVERAGED.model_copy(update={"log_every": 5, "eval_every": 10}))
    run = next(folder for folder in kept if (folder / "metrics.jsonl").exists() or any(folder.glob("*/metrics.jsonl")))
    rows = [json.loads(line) for line in next(run.rglob("metrics.jsonl")).read_text().splitlines()]
    lines = [row for row in rows if "losses" in row]
    assert [row["step"] for row in lines] == [5, 10, 15, 20, 25]
    assert {"mse", "commitment", "share of codes used", "perplexity/codes"} == set(lines[-1]["losses"])
    assert {"mse", "commitment"} == set(lines[0]["losses"])  # before the codebook starts
    assert lines[-1]["losses"]["mse"] < lines[0]["losses"]["mse"]
    assert 0 < lines[-1]["losses"]["perplexity/codes"] <= lines[-1]["losses"]["share of codes used"] <= 1
    assert [row["step"] for row in rows if "eval" in row] == [10, 20, 25]


def test_a_step_in_bf16_is_finite_and_close(tmp_path):
    """Under autocast; quantising itself stays in float32."""
    config = FIT.model_copy(update={"steps": 2, "batch_size": 2})
    maps = Maps({**SMALL, "warmup": 0.0})
    reports = [
        fit(tmp_path / precision, config=config.model_copy(update={"precision": precision}), modality=maps).report[
            "map"
        ]
        for precision in ("fp32", "bf16")
    ]
    assert reports[1]["mse"] == pytest.approx(reports[0]["mse"], rel=0.05)
    assert reports[1]["mse"] != reports[0]["mse"]


def test_the_number_of_codes_is_the_token_spaces():
    assert make_tokenizer([Maps()], Host()).network.quantiser.size == CODES


def test_a_fit_may_be_as_long_as_its_samples_and_as_fast_as_its_batch():
    config = TokenizersConfig(folder="t", fit={"samples": 160, "base_lr": 1e-2, "batch_size": 16},
                              spaces={"map": {"steps": 7, "lr": 1e-4}, "other": {"samples": 32}})  # fmt: skip
    assert (config.fit.plan().steps, config.fit.plan().lr) == (10, pytest.approx(1e-2 / 16))
    assert (config.fit_of("map").plan().steps, config.fit_of("map").plan().lr) == (7, 1e-4)
    assert config.fit_of("other").plan().steps == 2
    assert (FitConfig().plan().steps, FitConfig().plan().lr) == (2000, 1.5e-3)
    for settings, message in (({"tokens": 100}, "no fixed number of tokens"), ({"layer_decay": 0.5}, "layer_decay"),
                              ({"ema": 0.9, "export": "both"}, "one tokenizer")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            FitConfig(**settings)


@pytest.mark.parametrize("settings", [{"profile": [1, 2]}, {"pairs_every": 5}, {"pictures_every": 5}])
def test_what_only_models_show_is_refused(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} is for models"):
        FitConfig(**settings)
