"""docs/python.md: every recipe runs as written, and nothing that Python users may say is missing from it."""

from __future__ import annotations

import inspect
import json
import pydoc
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fourm_engine as fm
from fourm_engine.generate.keywords import SamplingOptions
from fourm_engine.generate.options import Options
from fourm_engine.model import FourM
from fourm_engine.nn.transformer import ModelConfig, Transformer
from fourm_engine.vocabulary import Vocabulary
from tests.generate.toys import Colour, Height, Words, picture, tokenizers

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "python.md").read_text()
RECIPES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


class Boxes(Words):
    """Words whose first box has a place, one of the letters."""

    def value(self, given):
        return given if isinstance(given, str) and "." not in given else "box"

    def parts(self, value):
        return {"0.x": 0.5}

    def with_part(self, value, part, number):
        return value + "abcdefgh"[int(8 * number)]


class Depth(Height):
    """Read from a picture."""

    def value(self, given):
        return (
            np.linspace(-1, 1, 64, dtype=np.float32).reshape(8, 8) if isinstance(given, str) else super().value(given)
        )


class Regions(Colour):
    """A map with a region that has a size."""

    def make_spec(self):
        return super().make_spec().model_copy(update={"source": "semseg"})

    def parts(self, value):
        return {"cube.size": 1.0}

    def with_part(self, value, part, number):
        return (value * number).clip(0, 255).astype(np.uint8)


@pytest.fixture
def model(tmp_path, monkeypatch) -> FourM:
    """Toys under the names of the page, beside a run with a matrix."""
    mods = {"boxes": Boxes("boxes"), "caption": Words("caption"), "depth": Depth("depth"), "rgb": Colour("rgb")}
    mods |= {"rgb@128": Colour("rgb@128"), "rgb@pixels": Colour("rgb@pixels", pixels=True), "semseg": Regions("semseg")}
    vocabulary = Vocabulary.build(m.spec for m in mods.values())
    network = Transformer(ModelConfig(width=16, encoder_blocks=1, decoder_blocks=1, heads=2), vocabulary)
    nats = {"nothing": {"rgb": 4.0, "depth": 2.0}, "caption": {"rgb": 3.9, "depth": 1.0}, "depth": {"rgb": 2.0}}
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "pairs": nats}))
    (tmp_path / "pictures").mkdir()
    for name in ("photo", "pictures/133", "depth", "flat", "map"):
        Image.fromarray(picture()).save(tmp_path / f"{name}.png")
    Image.fromarray(np.eye(8, dtype=bool)).save(tmp_path / "mask.png")
    (tmp_path / "boxes.json").write_text("[]")
    Image.new("RGB", (24, 16)).save(tmp_path / "large.png")
    np.save(tmp_path / "truth.npy", np.zeros((8, 8), np.float32))
    monkeypatch.chdir(tmp_path)
    made = FourM(network, mods, tokenizers(mods), vocabulary, origin=(tmp_path / "model", None))
    monkeypatch.setattr(FourM, "from_pretrained", lambda path, **options: made)
    return made


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda text: text.split("\n")[0][:30])
def test_every_recipe_runs_and_is_short(model, recipe):
    assert len([line for line in recipe.splitlines() if line.strip()]) <= 5
    exec(compile(recipe, "docs/python.md", "exec"), {"fm": fm, "np": np, "model": model})


def test_every_option_is_in_the_signature_in_its_docstring_and_on_the_page():
    recipes = "\n".join(RECIPES)
    options = inspect.signature(FourM.generate).parameters.keys() - {"self", "inputs", "targets"}
    assert set(Options.model_fields) <= options
    for name in options:
        assert f"{name}=" in recipes or name in ("prompt_sentinel", "batch_size"), name
    told = inspect.getdoc(fm.Stage)
    assert list(inspect.signature(fm.Stage).parameters) == list(fm.Stage.model_fields)
    for name in fm.Stage.model_fields:
        assert re.search(rf"^ +(\w+, )*{name}(, \w+)*: ", told, re.MULTILINE), name
    for name in ("keep", "weight", "region"):
        assert "fm.Condition(" in recipes
        assert f"{name}=" in recipes


@pytest.mark.parametrize("function", [FourM.generate, FourM.generate_batch, FourM.edit, FourM.vary, fm.generate_tiled])
def test_what_generates_has_the_same_options_in_its_signature_and_docstring(function):
    """Whatever `generate` takes, but for what only one request of several samples has."""
    everywhere = inspect.signature(FourM.generate).parameters
    several = SamplingOptions.__annotations__.keys() - {"seed"}
    left_out = several if function in (FourM.vary, fm.generate_tiled) else set()
    taken = inspect.signature(function).parameters
    assert not [one for one in taken.values() if one.kind is one.VAR_KEYWORD]
    for name in everywhere.keys() - {"self", "inputs", "targets"} - left_out:
        assert (taken[name].kind, taken[name].default) == (everywhere[name].kind, everywhere[name].default), name
        assert re.search(rf"^ +(\w+, )*{name}(, \w+)*: ", inspect.getdoc(function), re.MULTILINE), name
    assert not left_out & taken.keys()


def test_an_option_that_does_not_exist_or_does_not_apply_is_one_line(model):
    for call in (model.generate, model.edit):
        given = {"mask": np.ones((8, 8), bool)} if call == model.edit else {"targets": "depth"}
        with pytest.raises(ValueError, match="temprature") as error:
            call({"rgb": picture()}, temprature=1, **given)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="n_samples is for generate; a variation has one result for each value"):
        model.vary({"rgb": picture()}, "depth", vary={"seed": [1, 2]}, n_samples=2)


def test_the_package_lists_and_explains_what_it_has():
    assert set(fm.__all__) <= set(dir(fm))
    assert not [name for name in dir(fm) if name.startswith("_") and not name.startswith("__")]
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", fm.__version__)
    told = pydoc.render_doc(fm, renderer=pydoc.plaintext)
    for name in fm.__all__:
        assert name in fm.__doc__
        assert getattr(fm, name).__doc__
        assert name in told
    with pytest.raises(AttributeError, match="has no attribute 'Stages'"):
        fm.Stages  # noqa: B018


def test_a_model_of_many_modalities_says_what_it_is_in_a_line_each(model):
    assert len(repr(model).splitlines()) == 1 + len(model.modalities)
    assert repr(model).splitlines()[2] == "  caption: input and target, 10 tokens per sample"
