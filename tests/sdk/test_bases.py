"""The base classes: a plugin that states its facts and nothing else works, each nature with its own defaults."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fourm_plugins import SampleError, View, images
from fourm_plugins.bases import (
    ClassGrid,
    ClassSettings,
    Column,
    FeatureGrid,
    FeatureSettings,
    PictureGrid,
    ScalarGrid,
    ScalarSettings,
    ScalarVector,
    TextSequence,
    VectorSettings,
)

SMALL = {"image_size": 32, "patch_size": 8}


class Heat(ScalarGrid):
    class Settings(ScalarSettings):
        lowest: float = -20
        highest: float = 60

    unit = "°C"


class Gappy(Heat):
    gaps = True


class Sketch(PictureGrid):
    pass


class Ground(ClassGrid):
    class Settings(ClassSettings):
        classes: tuple[str, ...] = ("grass", "rock", "sand")


class Look(FeatureGrid):
    class Settings(FeatureSettings):
        channels: int = 6


class Station(ScalarVector):
    class Settings(VectorSettings):
        columns: tuple[Column, ...] = (
            Column(name="warmth", lowest=-30, highest=50, unit="°C"),
            Column(name="wind", lowest=0, highest=40),
        )


class Failing(Station):
    gaps = True


class Market(ScalarVector):
    gaps = True

    class Settings(VectorSettings):
        columns: tuple[Column, ...] = (
            Column(name="price", lowest=1, highest=10_000, unit="€", scale="log"),
            Column(name="change", lowest=-1, highest=1),
        )


class Note(TextSequence):
    pass


MINIMAL = [Heat, Gappy, Sketch, Ground, Look, Station, Failing, Market, Note]


@pytest.fixture(params=MINIMAL, ids=lambda cls: cls.__name__)
def minimal(request):
    """An instance `my_<class>@small` of a class without any method."""
    grid = request.param not in (Station, Failing, Market, Note)
    return request.param(f"my_{request.param.__name__.lower()}@small", **(SMALL if grid else {}))


def close(a, b):
    if isinstance(a, np.ndarray):
        return np.allclose(a, b, atol=1e-3, equal_nan=True)
    return a == (pytest.approx(b, nan_ok=True) if isinstance(b, dict) else b)


def test_a_class_without_methods_reads_writes_sees_normalises_shows_and_measures(minimal):
    view = View(0.1, 0.1, 0.6, 0.8, flip=True, variant=1)
    samples = minimal.example_samples(4, seed=0)
    assert samples == minimal.example_samples(4, seed=0)
    seen = [minimal.augment(minimal.read(files), view) for files in samples]
    for files, value in zip(samples, seen, strict=True):
        assert close(minimal.read(minimal.write(minimal.read(files))), minimal.read(files))
        again = minimal.denormalise(minimal.normalise(value))
        if isinstance(minimal, Look):  # features lose their length, which says nothing of their direction
            assert minimal.metrics()[0].compute([again], [value]) > 0.999
        else:
            assert close(again, value)
        assert minimal.render(value)
    best = minimal.metrics()[0]
    perfect, shuffled = best.compute(seen, seen), best.compute(seen[1:] + seen[:1], seen)
    assert perfect > shuffled if best.higher_is_better else perfect < shuffled
    for constant in minimal.constants(seen).values():
        assert np.isfinite(best.compute([constant] * 4, seen))


def test_the_folder_is_the_name_without_the_instance_unless_set(minimal):
    assert minimal.spec.source == minimal.name.partition("@")[0]
    settings = minimal.settings.model_dump() | {"source": "elsewhere"}
    assert type(minimal)(minimal.name, **settings).spec.source == "elsewhere"


def test_a_config_may_choose_masker_and_kind_of_tokenizer(minimal):
    settings = minimal.settings.model_dump() | {"masker": "blocks"}
    own, other = minimal.spec.tokenizer, {"kind": "kmeans", "rounds": 3}
    if isinstance(minimal, TextSequence):
        settings["text"] = settings["text"] | {"tokenizer": other}
    else:
        settings["tokenizer"] = other
    spec = type(minimal)(minimal.name, **settings).spec
    assert spec.masker == "blocks"
    assert spec.tokenizer.model_dump() == {"kind": "kmeans", "settings": {"rounds": 3}}  # nothing of its own kind
    assert own.kind != "kmeans"


def test_settings_of_the_own_kind_are_laid_over_the_modalitys():
    for given in ({"decay": 0.9}, {"kind": "vqvae", "decay": 0.9}):
        recipe = Heat("heat", **SMALL, tokenizer=given).spec.tokenizer
        assert recipe.model_dump() == {"kind": "vqvae", "settings": {"loss": {"l1": 1.0}, "decay": 0.9}}


def test_scalars_are_clipped_to_their_range_and_its_ends_are_reached():
    array = Heat("heat", **SMALL).normalise(np.array([[-50, -20, 20, 60, 99]], np.float32))
    assert array.tolist() == [[[-1, -1, 0, 1, 1]]]


def test_scalars_in_a_png_have_a_unit_and_a_zero():
    heat = Heat("heat", **SMALL, png_unit=0.01, png_zero=-273.15)
    content = images.encode_png(np.array([[27315, 29815]], np.uint16))
    assert heat.read({"png": content}) == pytest.approx(np.array([[0, 25]]), abs=1e-4)
    assert heat.spec.extensions == ("npy", "png")
    assert set(heat.write(np.full((2, 2), 20, np.float32))) == {"png"}
    assert set(heat.write(np.full((2, 2), 999, np.float32))) == {"npy"}  # beyond 16 bits
    with pytest.raises(SampleError, match="16 bits"):
        heat.read({"png": images.encode_png(np.zeros((2, 2), np.uint8))})
    with pytest.raises(SampleError, match=r"no file of \.npy"):
        Heat("heat", **SMALL).read({"png": content})


def test_gaps_are_kept_apart_and_count_nowhere():
    heat = Gappy("heat", **SMALL, png_unit=0.01, png_zero=-273.15)
    value = np.array([[np.nan, 20, 30]], np.float32)
    assert np.allclose(heat.read(heat.write(value)), value, atol=0.01, equal_nan=True)
    assert np.isnan(heat.normalise(value)[0, 0, 0])
    guess = np.array([[99, 21, np.nan]], np.float32)  # a missing prediction counts as the lowest
    assert heat.metrics()[0].compute([guess], [value]) == pytest.approx((1 + 50) / 2)
    assert np.isfinite(heat.constants([value, value])["one image"]).all()
    with pytest.raises(SampleError, match="nothing was measured"):
        heat.read({"npy": images.encode_array(np.full((2, 2), np.nan))})
    with pytest.raises(SampleError, match="row 0, column 1"):
        Heat("heat", **SMALL).read({"npy": images.encode_array(np.array([[1, np.inf]]))})


def test_no_other_constant_has_a_lower_absolute_error():
    rng = np.random.default_rng(0)
    values = [rng.normal(20, 8, (5, 6)).astype(np.float32) for _ in range(7)]
    heat = Heat("heat", **SMALL)
    error = heat.metrics()[0].compute
    best = {name: error([constant] * 7, values) for name, constant in heat.constants(values).items()}
    assert best["one image"] <= best["one value"]
    for other in (15, 19, 21, 25):
        assert best["one value"] <= error([np.full((5, 6), other)] * 7, values) + 1e-6


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[1, 2]", "JSON object of columns, not list"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"warmth": 3}', "column 'wind' holds None"),
        (b'{"warmth": "3", "wind": 1}', "column 'warmth' holds '3'; a number is needed"),
        (b'{"warmth": true, "wind": 1}', "a number is needed"),
        (b'{"warmth": NaN, "wind": 1}', "finite"),
        (b'{"warmth": 1' + b"0" * 400 + b', "wind": 1}', "number"),
    ],
)
def test_a_row_that_cannot_be_used_is_refused_with_its_reason(content, reason):
    with pytest.raises(SampleError, match=reason):
        Station("station").read({"json": content})


def test_a_row_keeps_its_columns_alone_and_is_shown_with_units():
    station = Station("station")
    assert station.read({"json": b'{"wind": 4, "warmth": 10, "colour": 5}'}) == {"warmth": 10, "wind": 4}
    assert station.render({"warmth": 10, "wind": 4}) == "warmth 10 °C\nwind 4"
    assert station.normalise({"warmth": 10, "wind": 99}).tolist() == [0, 1]
    assert station.metrics()[0].compute([{"warmth": 18, "wind": 4}], [{"warmth": 10, "wind": 4}]) == pytest.approx(0.05)


def test_numbers_that_a_row_lacks_stay_apart_and_count_nowhere():
    station = Failing("station")
    row = station.read({"json": b'{"warmth": null, "wind": 4}'})
    assert station.write(row) == {"json": b'{"warmth": null, "wind": 4.0}'}
    assert station.render(row) == "warmth \u2013 \u00b0C\nwind 4"
    assert station.normalise(row) == pytest.approx([np.nan, -0.8], nan_ok=True)
    guess = {"warmth": 99.0, "wind": np.nan}  # a missing prediction is wrong by the whole range
    assert [metric.compute([guess], [row]) for metric in station.metrics()] == [1, 0, 40]
    assert station.constants([row, row]) == {"one value": {"warmth": 10, "wind": 4}}
    with pytest.raises(SampleError, match="no column holds a number"):
        station.read({"json": b"{}"})


def test_equal_ratios_of_a_logarithmic_column_are_equally_far_apart():
    market = Market("market")
    rows = [{"price": price, "change": 0.0} for price in (1, 10, 100, 1000, 10_000)]
    assert [market.normalise(row)[0] for row in rows] == pytest.approx([-1, -0.5, 0, 0.5, 1])
    assert [market.denormalise(market.normalise(row))["price"] for row in rows] == pytest.approx(
        [1, 10, 100, 1000, 1e4]
    )
    outside = [{"price": price, "change": 0.0} for price in (-3, 0, 1e9)]
    assert [market.normalise(row)[0] for row in outside] == [-1, -1, 1]
    codes = market.normalise({"price": math.nan, "change": 0.0})
    assert np.isnan(codes[0])


def test_the_error_of_a_logarithmic_column_is_a_ratio():
    market = Market("market")
    share, ratio, change = market.metrics()
    assert (ratio.name, ratio.unit, ratio.higher_is_better) == ("price, mean ratio", "×", False)
    truths = [{"price": price, "change": 0.0} for price in (20.0, 200.0)]
    guesses = [{"price": 40.0, "change": 0.0}, {"price": 100.0, "change": 0.0}]  # twice and half as much
    assert ratio.compute(guesses, truths) == pytest.approx(2)
    assert share.compute(guesses, truths) == pytest.approx(math.log(2) / math.log(10_000) / 2)
    assert (ratio.compute(truths, truths), change.compute(guesses, truths)) == (1, 0)
    missing = [{"price": math.nan, "change": 0.0}] * 2  # wrong by the whole range
    assert ratio.compute(missing, truths) == pytest.approx(10_000)
    assert ratio.compute(truths, missing) == 1
    assert market.constants(missing)["one value"]["price"] == pytest.approx(100)


@pytest.mark.parametrize(
    ("cls", "settings", "reason"),
    [
        (Heat, {"lowest": 60}, "lowest 60.* is not below highest 60"),
        (ScalarGrid, {}, "lowest"),
        (Ground, {"num_classes": 4}, "num_classes is 4 but 3 classes are named"),
        (ClassGrid, {}, "num_classes"),
        (FeatureGrid, {}, "channels"),
        (Station, {"columns": [{"name": "a", "lowest": 1, "highest": 0}]}, "a: lowest 1.0 is not below"),
        (Station, {"columns": [{"name": "a", "lowest": 0, "highest": 1}] * 2}, "column 'a' appears twice"),
        (
            Station,
            {"columns": [{"name": "a", "lowest": 0, "highest": 1, "scale": "log"}]},
            "lowest 0.0 has no logarithm",
        ),
        (ScalarVector, {"columns": []}, "columns"),
    ],
)
def test_settings_that_contradict_themselves_or_lack_a_fact_are_refused(cls, settings, reason):
    with pytest.raises(ValueError, match=reason):
        cls("thing", **settings)


def test_class_names_of_the_subclass_count_them():
    assert Ground("ground").spec.array.classes == 3
    assert Ground("ground", classes=["a", "b"]).spec.array.classes == 2
