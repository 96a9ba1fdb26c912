"""`fourm init` sizes the text vocabulary by the words that it saw."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

from fourm_engine.data.raw.recognition import Match
from fourm_engine.data.raw.survey import Survey
from fourm_engine.device import Machine
from fourm_engine.recipes.init import init
from fourm_engine.recipes.proposal import Sizes
from fourm_plugins.manager import PluginManager
from fourm_plugins.recognition import Recognised
from tests.folders import names, write

CPU = Machine(cores=2, memory=8.0)


def vocabularies(folder):
    settings = init(folder, machine=CPU).config.modalities.settings
    return {name: given["text"]["vocabulary_size"] for name, given in settings.items() if "text" in given}


def test_the_labels_of_boxes_take_a_small_text_vocabulary_and_texts_of_many_words_a_large_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder, kind in (("images", "rgb"), ("objects", "boxes")):
        write(tmp_path / "photos", folder, kind, names(12))
    assert vocabularies("photos") == {"boxes": 1024}

    texts = tmp_path / "photos/texts"
    texts.mkdir()
    for index, name in enumerate(names(12)):
        (texts / f"{name}.txt").write_text(" ".join(f"word{chr(97 + index)}{chr(97 + k)}" for k in range(20)))
    (tmp_path / "photos.yaml").unlink()
    assert set(vocabularies("photos").values()) == {4096}


def test_texts_whose_words_nobody_counted_take_a_large_vocabulary():
    texts = [PluginManager().modality(name) for name in ("boxes", "caption")]

    def vocabulary(*counts):
        matches = []
        for text, words in zip(texts, counts, strict=True):
            found = Recognised(1.0, "files", words=words)
            plugin = SimpleNamespace(name=text.name)
            matches.append(Match(text.name, plugin, text.name, found, text, frozenset(names(9)), 9, 1.0))
        return Sizes.fitting(Survey(Path("photos"), None, matches), 9, CPU).vocabulary

    assert [vocabulary(*counts) for counts in ((30, 70), (30, 71), (30, 0))] == [1024, 4096, 4096]


def test_labels_count_by_their_different_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "photos", "images", "rgb", names(6))
    objects = tmp_path / "photos/objects"
    objects.mkdir()
    for index, name in enumerate(names(6)):
        boxes = [{"label": f"thing {index} {k}", "bbox": [0.1, 0.1, 0.5, 0.5]} for k in range(20)]
        (objects / f"{name}.json").write_text(json.dumps(boxes))
    assert vocabularies("photos") == {"boxes": 1024}  # "thing", and 26 numbers
