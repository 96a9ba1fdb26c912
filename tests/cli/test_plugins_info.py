"""`fourm plugins info`: what a plugin says of itself, and what is known of it."""

from __future__ import annotations

import json

import pytest

from fourm_engine.installed.describe import CONFORMANCE
from tests.cli.config_file import write_config
from tests.sdk.sites import GOOD, entry
from tests.trust.test_hostile_checkpoints import vqvae  # noqa: F401 (a fixture: a folder with a fitted tokenizer)


def test_info_says_all_that_a_plugin_says_of_itself(fourm):
    (found,) = json.loads(fourm("plugins", "info", "depth", "--json")[1])
    assert found["layout"] == {"kind": "grid", "height": 14, "width": 14}
    assert (found["tokens"], found["token space"]["size"]) == (196, 8192)
    assert (found["tokenizer"]["kind"], found["tokenizer"]["provided by"]) == ("vqvae", "fourm-engine 0.1.0")
    assert found["files"] == ["depth/<sample>.png", "depth/<sample>.npy"]
    assert found["licence"] == "Apache-2.0"
    assert {"name": "RMSE", "unit": "m", "better": "lower"} in found["metrics"]
    assert "log(depth) mapped linearly" in found["about"]
    assert found["normalisation"]["example"]["array"].startswith("float32 (1, 224, 224), -0.13")
    assert found["conformance"] is None
    settings = {setting["name"]: setting for setting in found["settings"]}
    assert settings["png_unit"]["meaning"] == "Metres per count of the PNG."
    assert settings["patch_size"]["meaning"] == "Pixels per token: one number, or [height, width]."
    assert (settings["max_depth"]["default"], settings["max_depth"]["type"]) == (100.0, "float")


def test_info_of_a_configured_instance_shows_what_is_set_and_of_nested_settings_each(fourm, tmp_path):
    settings = {"big": {"plugin": "boxes", "max_boxes": 7, "text": {"vocabulary_size": 99}}}
    config = write_config(tmp_path, modalities={"settings": settings})
    (found,) = json.loads(fourm("plugins", "info", "big", "--json", "--config", str(config))[1])
    values = {setting["name"]: (setting["default"], setting["value"]) for setting in found["settings"]}
    assert values["max_boxes"] == (40, 7)
    assert values["text.vocabulary_size"] == (30_000, 99)
    assert found["token space"] == {"name": "text", "size": 99, "shared": True}
    assert "not in" in found["tokenizer"]["fitted"]
    text = fourm("plugins", "info", "big", "--config", str(config))[1]
    assert "text.vocabulary_size (int, default 30000, here 99)" in text
    assert "in sequence, decoded left to right" in text


def test_info_tells_the_fingerprint_of_a_fitted_tokenizer(fourm, install, vqvae):  # noqa: F811
    source = GOOD.replace("TokenSpace(name=self.name", "TokenSpace(name='height'")
    install("acme-thermal", entry("thermal", "acme_thermal:Thermal"), source=source + EXAMPLES)
    (found,) = json.loads(fourm("plugins", "info", "thermal", "--json", "--run", str(vqvae[0].parent))[1])
    document = json.loads((vqvae[0] / "tokenizer.json").read_text())
    assert found["tokenizer"]["fitted"]["fingerprint"] == document["fingerprint"]
    assert found["normalisation"]["example"] == {
        "value": "float32 (4, 4), 0 to 0, mean 0",
        "array": "float32 (4, 4), 0 to 0, mean 0",
        "largest difference after denormalising": 0.0,
    }
    (vqvae[0] / "none").mkdir()
    with pytest.raises(ValueError, match="none: holds no fitted tokenizers"):
        fourm("plugins", "info", "thermal", "--run", str(vqvae[0] / "none"))


EXAMPLES = """
    def aspect(self, value): return 1.0
    def read(self, files):
        import numpy
        return numpy.zeros((4, 4), numpy.float32)
    def example_samples(self, n, seed): return [{"npy": b""}] * n
"""


def test_info_shows_the_report_of_the_conformance_kit(fourm, install, tmp_path):
    (tmp_path / "acme_package").mkdir()
    (tmp_path / "acme_package/__init__.py").write_text(GOOD)
    install("acme-package", entry("thermal", "acme_package:Thermal"), source="")
    counts = {"ran": 40, "failed": 1, "expected": 2, "not_claimed": 2, "not_run": 3}
    report = {"plugin": "acme-package", "modality": "thermal", "version": "1.1", **counts, "checks": []}
    path = tmp_path / "acme_package" / CONFORMANCE
    path.write_text(json.dumps(report))
    (found,) = json.loads(fourm("plugins", "info", "thermal", "--json")[1])
    note = {"note": "made with version 1.1, installed is 1.2"}
    assert found["conformance"] == {"report": str(path), "modality": "thermal", "version": "1.1", **counts, **note}
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match=f"{CONFORMANCE}: not a report"):
        fourm("plugins", "info", "thermal")


HOOKS = """
from fourm_plugins import hookimpl
class Best:
    "Keeps the best."
    @hookimpl
    def fourm_evaluated(self, run, step, scores): pass
def rate(step, *, steps, lr, min_lr, warmup, cooldown): return lr
def best(run: str):
    "Shows the best."
"""


def test_info_of_a_hook_says_how_a_config_names_it_and_its_options(fourm, install):
    entries = "[fourm.observers.v1]\nbest = acme_best:Best\n[fourm.commands.v1]\nbest = acme_best:best\n"
    entries += "[fourm.schedules.v1]\nflat = acme_best:rate\n"
    install("acme-best", entries, source=HOOKS)
    text = fourm("plugins", "info", "best")[1]
    assert "observer best: acme-best 1.2" in text
    assert "observers: [best]\nhooks             fourm_evaluated\n\n  Keeps the best." in text
    assert "fourm best --help\n\n  Shows the best." in text
    assert "train.schedule=flat" in fourm("plugins", "info", "flat")[1]
    assert "convolutions (int, default 4)" in fourm("plugins", "info", "fcos")[1]
    (found,) = json.loads(fourm("plugins", "info", "muon", "--json")[1])
    assert found["used as"] == "train.optimiser=muon"
    assert {"name": "momentum", "default": 0.95}.items() <= found["settings"][3].items()


def test_info_of_a_tokenizer_and_of_what_is_not_there(fourm):
    text = fourm("plugins", "info", "wordpiece")[1]
    assert text.startswith("tokenizer wordpiece: fourm-engine")
    assert "coordinate_bins (int, default 1000)\n      Steps into which box coordinates divide the width" in text
    with pytest.raises(ValueError, match=r"no installed plugin is called 'wordpeace'; did you mean 'wordpiece'\?"):
        fourm("plugins", "info", "wordpeace")
