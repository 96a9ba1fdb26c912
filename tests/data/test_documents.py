"""Documents beside the data: settings that a config does not give, kept with the tokens; contradictions are named."""

from __future__ import annotations

import json
import logging

import pytest

from fourm_engine.data.raw.documents import copy_documents, documented
from fourm_engine.modalities import ModalitiesConfig, load_modalities
from fourm_plugins.manager import PluginManager

NAMES = ["sky", "sea", "land"]


def semseg(**settings):
    given = {"semseg": settings} if settings else {}
    return load_modalities(ModalitiesConfig(select=["semseg"], settings=given), PluginManager()), given


def write(root, document, name="semseg/classes.json"):
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(document if isinstance(document, str) else json.dumps(document))


@pytest.mark.parametrize(
    "document", [NAMES, {"0": "sky", "1": "sea", "2": "land", "_note": "by eye"}, {"sky": 0, "land": 2, "sea": 1}]
)
@pytest.mark.parametrize("where", ["semseg/classes.json", "classes.json"])
def test_the_names_and_number_of_classes_are_those_of_the_file_where_the_config_says_nothing(tmp_path, document, where):
    write(tmp_path, document, where)
    modalities, given = semseg()
    found = documented(modalities, given, [tmp_path])
    assert found == {"semseg": {"classes": NAMES, "num_classes": 3}}
    assert semseg(**found["semseg"])[0]["semseg"].class_names() == tuple(NAMES)


def test_an_id_apart_means_no_class_and_one_without_a_name_is_numbered(tmp_path):
    write(tmp_path, {"0": "sky", "2": "land", "255": "unlabelled"})
    found = documented(*semseg(), [tmp_path])["semseg"]
    assert found == {"classes": ["sky", "class 1", "land"], "num_classes": 3, "ignore": 255}


def test_the_config_counts_and_a_contradiction_is_named_in_one_line(tmp_path, caplog):
    write(tmp_path, NAMES)
    with caplog.at_level(logging.WARNING):
        assert documented(*semseg(num_classes=3), [tmp_path]) == {}
        assert not caplog.messages
        assert documented(*semseg(num_classes=5), [tmp_path]) == {}
    (line,) = caplog.messages
    assert line.startswith("modalities.settings.semseg.num_classes is 5, which counts, but ")
    assert line.endswith("semseg/classes.json says 3")


@pytest.mark.parametrize("document", ["{", "[1, 2]", '["one"]', "[" * 100_000, '{"99999": "x", "0": "y"}'])
def test_a_file_that_names_no_classes_is_reported_and_not_used(tmp_path, caplog, document):
    write(tmp_path, document)
    with caplog.at_level(logging.WARNING):
        assert documented(*semseg(), [tmp_path]) == {}
    assert "classes.json: not used: no names of classes; write a list of them" in caplog.text


def test_the_names_are_kept_with_the_tokens(tmp_path):
    write(tmp_path / "raw", NAMES)
    modalities, given = semseg()
    copy_documents(modalities["semseg"], tmp_path / "raw", tmp_path / "tokens/train/semseg")
    assert documented(modalities, given, [tmp_path / "tokens/train"])["semseg"]["classes"] == NAMES
