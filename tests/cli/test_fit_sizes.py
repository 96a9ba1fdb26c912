"""`fourm tokenizer fit` and `fourm tokenize` for pictures of several sizes that share one tokenizer."""

import numpy as np
import pytest

from fourm_engine.cli.tokenize import tokenize
from fourm_engine.cli.tokenizer import fit
from fourm_engine.modalities import load_manager
from fourm_engine.recipes.config import load_config
from fourm_engine.tokenizers.store import load_tokenizers
from fourm_engine.yaml_config import ConfigError
from tests.configs import GRID, small, store
from tests.folders import write_examples
from tests.tokenized import Tokens

SMALL = {**GRID, "space": "rgb"}


@pytest.fixture
def config(tmp_path):
    """A config, and a function that changes a copy of it."""
    write_examples(tmp_path / "data/rgb", "rgb", 12)
    raw = small(
        tmp_path,
        {"rgb": SMALL, "rgb@64": {**SMALL, "plugin": "rgb", "image_size": 64}},
        data={"val": str(tmp_path / "data"), "tokens": str(tmp_path / "tokens")},
        tokenizers={"spaces": {"rgb": {"adapt": {"steps": 6, "sizes": [[32, 64], [64, 64]]}}}},
    )
    raw["tokenizers"]["fit"]["steps"] = 20
    return store(tmp_path / "config.yaml", raw)


def lines(capsys):
    """What is said of each fitted tokenizer, without the progress of its training (`tokenizer of …`)."""
    printed = capsys.readouterr().out.splitlines()
    return [line.partition(":")[0] for line in printed if line.startswith("tokenizer") and line.split()[1] != "of"]


def test_one_tokenizer_is_fitted_adapted_and_tokenizes_both_sizes(config, tmp_path, capsys):
    fit(config)
    reported = [f"tokenizer rgb, rgb{what}" for what in ("", "@64")]
    for size in ("32x32", "32x64", "64x64"):
        reported += [f"tokenizer rgb, rgb at {size}, before adapting", f"tokenizer rgb, rgb at {size}"]
    assert sorted(lines(capsys)) == sorted(reported)
    assert [path.name for path in (tmp_path / "tokenizers").iterdir() if path.name[0] != "."] == ["rgb"]
    tokenize(config)
    tokens = Tokens(tmp_path / "tokens/train")
    (small,) = tokens.fingerprints("rgb")
    assert tokens.fingerprints("rgb@64") == {small}
    assert (tokens.ids("rgb", "3").shape, tokens.ids("rgb@64", "3").shape) == ((16,), (64,))

    # Another config reads the same tokenizer for pictures that are not square.
    settings = load_config(config, ["modalities.select=[rgb]", "modalities.settings.rgb.image_size=[32, 64]"])
    manager = load_manager(settings.modalities)
    wide = settings.load_modalities(manager)
    tokenizer = load_tokenizers(settings.tokenizers.folder, wide.token_spaces, manager, modalities=wide)["rgb"]
    assert tokenizer.fingerprint == small
    assert tokenizer.encode([np.zeros((3, 32, 64), np.float32)])[0].shape == (32,)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tokenizers.spaces.rgb.adapt.sizes=[[36, 64]]", r"adapt\.sizes: rgb at 36x64: patch_size 8x8 does not divide"),
        ("modalities.settings.rgb@64.patch_size=16", r"rgb@64 has patches of 16x16 pixels.*one tokenizer cannot serve"),
        ("modalities.settings.rgb.space=null", r"token space 'rgb' is owned twice, by rgb and rgb@64.*setting `space`"),
    ],
)
def test_sizes_that_one_tokenizer_cannot_serve_are_named(config, override, message):
    with pytest.raises(ValueError, match=message):
        fit(config, [override])


def test_only_grids_adapt(config):
    words = ["modalities.select=[caption]", "tokenizers.spaces={text: {adapt: {steps: 5, sizes: [[8, 8]]}}}"]
    words.append("modalities.settings.caption={text: {vocabulary_size: 600, coordinate_bins: 32}}")
    (config.parent / "data" / "caption").mkdir()
    (config.parent / "data" / "caption" / "0.txt").write_text("a cat\n")
    with pytest.raises(ValueError, match=r"tokenizers\.spaces\.text\.adapt: caption is not a grid"):
        fit(config, words)
    with pytest.raises(ConfigError, match=r"adapt\.sizes"):
        load_config(config, ["tokenizers.spaces.rgb.adapt={steps: 5, sizes: []}"])
