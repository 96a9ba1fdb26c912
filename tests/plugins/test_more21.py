"""The further modalities of 4M-21: each passes the conformance kit; values become the published texts and come back."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from fourm_plugins import SampleError, View
from fourm_plugins.manager import PluginManager
from fourm_plugins.testing import check_modality
from tests.plugins import more21

installed = pytest.fixture(more21.installed, autouse=True)
NAMES = ("canny_edge", "dinov2", "dinov2_global", "metadata", "color_palette", "human_poses", "sam_instance")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_passes_the_conformance_kit(name):
    report = check_modality(name)
    assert report.failed == report.count("not run") == 0, [o for o in report.checks if o.state in ("failed", "not run")]


@pytest.mark.parametrize("name", ["metadata", "color_palette"])
def test_values_become_the_published_text_and_come_back(name):
    modality, folder = PluginManager().modality(name), os.environ.get("FOURM_GOLDEN21")
    bins = "v1=0 v0=23 v1=10 v0=20 v1=20 v0=2"
    known = {
        "metadata": [
            {"value": {"original_width": 742, "brightness": 107.9683, "aesthetic_score": 5.7956}, "text": bins}
        ],
        "color_palette": [{"value": [[0, 128, 255]], "text": "v1=1 v0=0 v0=128 v0=255", "parsed": [[0, 128, 255]]}],
    }[name]
    if folder:
        entries = json.loads((Path(folder) / "text_formats.json").read_text("utf-8"))
        known += [entry for entry in entries if entry["modality"] == name]
    for entry in known:
        assert modality.normalise(modality.value(entry["value"])) == entry["text"]
        back = modality.denormalise(entry["text"])
        assert modality.normalise(back) == entry["text"]
        if name == "color_palette":
            assert [list(colour) for colour in back] == entry["parsed"]
        assert modality.value(entry["text"]) == back


def test_the_order_of_metadata_is_the_views_and_what_is_no_kind_is_left_out():
    modality = PluginManager().modality("metadata")
    value = modality.value({"brightness": 1, "contrast": 2, "entropy": 3, "n_humans": 4, "mood": 5})
    assert sorted(value) == ["brightness", "contrast", "entropy", "n_humans"]
    orders = {tuple(modality.augment(value, View(variant=v))) for v in range(8)}
    assert len(orders) > 1
    assert modality.augment(value, View(variant=3)) == value
    assert modality.augment(value, View()) == modality.augment(dict(reversed(value.items())), View())


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("metadata", {"mood": 3}, "none of the known kinds of metadata; they are original_width"),
        ("metadata", {"brightness": "high"}, "metadata 'brightness' is 'high'; a number is needed"),
        ("metadata", "v1=4 and so on", "is no metadata; type `v1=kind v0=bin ...`, or JSON"),
        ("color_palette", [[0, 0, 300]], "a colour lies outside 0 to 255"),
        ("color_palette", [["255", "0", "0"]], "wanted: colours, [[r, g, b], ...] of 0 to 255"),
        ("color_palette", [[True, False, True]], "wanted: colours"),
        ("color_palette", [[0, 0]], "(1, 2) numbers are no palette"),
        ("color_palette", "red", "is no palette; type `v1=n v0=r v0=g v0=b ...`, or [[r, g, b], ...]"),
        ("dinov2_global", np.ones(5), "a feature of shape (5,); channels is set to 768"),
        ("dinov2_global", np.full(768, np.nan), "the feature is zero, or holds NaN or infinity"),
    ],
)
def test_a_wrong_value_is_told_in_one_line(name, given, words):
    with pytest.raises(SampleError) as caught:
        PluginManager().modality(name).value(given)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
