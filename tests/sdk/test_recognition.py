"""What a plugin says of files by default, and the helpers it may use."""

from __future__ import annotations

import numpy as np
import pytest

from fourm_plugins import Settings
from fourm_plugins.bases import ScalarGrid, ScalarSettings
from fourm_plugins.recognition import next_power, rounded
from tests.fakes import fake_modalities
from tests.folders import png
from tests.plugins.instances import npy

LEVELS = [{"npy": npy(np.linspace(3, 41, 64, dtype=np.float32).reshape(8, 8) + k)} for k in range(3)]


class Level(ScalarGrid):
    """Of which a config must say the range."""


class Heat(ScalarGrid):
    class Settings(ScalarSettings):
        lowest: float = -20
        highest: float = 60


def test_a_plugin_that_says_nothing_recognises_weakly_what_its_defaults_read():
    plugin = type(fake_modalities()["b"])
    assert plugin.recognise(fake_modalities()["b"].example_samples(3, 0)).score < 0.5
    assert plugin.recognise([{"npy": b"no array"}] * 3) is None
    assert plugin.recognise([{"other": b""}]) is None


def test_a_plugin_whose_settings_have_no_defaults_recognises_nothing_by_default():
    class Needs(type(fake_modalities()["b"])):
        class Settings(Settings):
            size: int

    assert Needs.recognise(fake_modalities()["b"].example_samples(3, 0)) is None


def test_a_quantity_gets_the_range_that_is_seen_unless_its_own_holds_it():
    assert Heat.recognise(LEVELS).settings == {}
    settings = Level.recognise(LEVELS).settings
    assert {key: value for key, (value, _) in settings.items()} == {"lowest": 3.5, "highest": 43}
    assert Level.recognise([{"npy": npy(np.full((8, 8), np.nan))}]) is None
    wide = Heat.recognise([{"npy": npy(np.full((8, 8), 500.0))}])
    assert wide.settings["highest"][0] > 500


def test_a_quantity_gets_the_range_that_is_seen_where_it_fills_little_of_its_own():
    warm = [{"npy": npy(np.linspace(15.2, 33.8, 64, dtype=np.float32).reshape(8, 8))}] * 3
    seen = Heat.recognise(warm)
    assert {key: value for key, (value, _) in seen.settings.items()} == {"lowest": 15, "highest": 34}
    assert seen.score == Heat.recognise(LEVELS).score  # it lies within the quantity's range all the same


def test_counts_of_pictures_are_a_quantity_where_the_plugin_has_their_unit():
    class Kelvin(ScalarGrid):
        gaps = True

        class Settings(ScalarSettings):
            lowest: float = -20
            highest: float = 60
            png_unit: float | None = 0.01
            png_zero: float = -273.15

    counts = np.linspace(27315, 31315, 64).astype(np.uint16).reshape(8, 8)
    counts[0, 0] = 0  # not measured, rather than absolute zero
    pictures = [{"png": png(counts)}] * 3
    seen = Kelvin.recognise(pictures)
    assert (seen.settings, seen.size, seen.what) == ({}, (8, 8), "numbers from 0.62 to 40")
    assert seen.score > 0.6 * 0.9  # more than depth in a folder with the name of the plugin
    assert Heat.recognise(pictures) is None


@pytest.mark.parametrize(
    ("low", "high", "expected"), [(0.8345, 3.311, (0.83, 3.4)), (-12.3, 1234, (-13, 1300)), (0, 0.001234, (0, 0.0013))]
)
def test_ranges_are_rounded_outwards(low, high, expected):
    assert rounded(low, high) == expected


def test_lengths_are_rounded_up_to_powers_of_two():
    assert [next_power(x, least=32) for x in (1, 32, 33, 64, 65.1)] == [32, 32, 64, 64, 128]
