"""A model, a tokenizer or a checkpoint from a stranger: names and numbers, never code, never more than it holds."""

from __future__ import annotations

import json
import shutil
import struct
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file

from fourm_engine.convert.published_model import open_checkpoint as open_published
from fourm_engine.data.columns import sealed
from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.tokens.indexing import open_index
from fourm_engine.data.tokens.shards import ShardFile
from fourm_engine.data.tokens.store import TokenStore
from fourm_engine.data.tokens.tokenize import tokenize_split
from fourm_engine.model import FourM
from fourm_engine.tokenizers.store import load_tokenizer, save_tokenizer
from fourm_engine.tokenizers.vqvae import VQVAETokenizer
from fourm_engine.train.checkpoint import FORMAT, CheckpointError, facts_of, open_checkpoint, part_name
from fourm_engine.train.checkpoint import load as load_checkpoint
from fourm_plugins import FeatureMap, Grid, ModalitySpec, TokenizerRecipe, TokenSpace
from fourm_plugins.manager import PluginManager
from tests.fakes import fake_modalities, fake_tokenizers, sample_names, write_data
from tests.generate.toys import PLUGINS, install, make_model
from tests.trust.hostile_files import Evil


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A folder with the toys installed in `site`, and a model of them in `model`."""
    root = tmp_path_factory.mktemp("saved")
    install(root / "site", list(PLUGINS))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root / "site"))
        make_model().save_pretrained(root / "model")
    return root


@pytest.fixture
def model_folder(saved, tmp_path, monkeypatch) -> Path:
    monkeypatch.syspath_prepend(str(saved / "site"))
    shutil.copytree(saved / "model", tmp_path / "model")
    return tmp_path / "model"


def pickled(path: Path) -> None:
    """What torch.save writes, and would run when it is loaded."""
    torch.save({"weights": torch.zeros(3), "evil": Evil()}, path)


def header(path: Path, text: bytes, *, length: int | None = None, body: bytes = b"") -> None:
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)


def one(shape: str, end: int, kind: str = "F32") -> bytes:
    return f'{{"heads.weight": {{"dtype": "{kind}", "shape": {shape}, "data_offsets": [0, {end}]}}}}'.encode()


WEIGHTS = {
    "a pickle under its name": pickled,
    "a header of 2^60 bytes": lambda path: header(path, b"{}", length=1 << 60),
    "a header longer than the file": lambda path: header(path, b"{}", length=1000),
    "a header of a gigabyte": lambda path: header(path, b"{" + b" " * 1000, length=1 << 30),
    "a header that is no JSON": lambda path: header(path, b"\x80\x04K\x01."),
    "a header nested without end": lambda path: header(path, b"[" * 100_000),
    "a shape beyond memory": lambda path: header(path, one(f"[{1 << 40}, {1 << 20}]", 1 << 62)),
    "a shape that overflows": lambda path: header(path, one(f"[{1 << 62}, 8]", 0)),
    "data beyond its end": lambda path: header(path, one("[1024]", 4096), body=bytes(16)),
    "a negative shape": lambda path: header(path, one("[-1, 4]", 16), body=bytes(16)),
    "a type that is none": lambda path: header(path, one("[4]", 16, "canary.Evil"), body=bytes(16)),
    "one tensor of a million": lambda path: header(path, one("[4]", 16), body=bytes(16)),
    "nothing": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("what", WEIGHTS)
def test_hostile_weights_are_refused_by_name_and_at_once(model_folder, what):
    WEIGHTS[what](model_folder / "model.safetensors")
    began = time.process_time()
    with pytest.raises(ValueError, match=r"model\.safetensors") as caught:
        FourM.from_pretrained(model_folder, device="cpu")
    assert time.process_time() - began < 10
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["model.bin", "model.pt", "pytorch_model.bin", "model.ckpt"])
def test_a_pickled_checkpoint_is_no_model_whatever_it_is_called(tmp_path, name):
    (tmp_path / "stranger").mkdir()
    pickled(tmp_path / "stranger" / name)
    for place in (tmp_path / "stranger", tmp_path / "stranger" / name):
        with pytest.raises(ValueError, match=r"holds no exported model|not a safetensors file"):
            FourM.from_pretrained(place)


CONFIGS = {
    "a hidden width without end": lambda c: c["model"].update(mlp_ratio=1e300),
    "a hidden width of NaN": lambda c: c["model"].update(mlp_ratio=float("nan")),
    "no heads": lambda c: c["model"].update(heads=0),
    "blocks in the millions": lambda c: c["model"].update(decoder_blocks=10**7),
    "an importable tokenizer": lambda c: c["modalities"]["height"]["spec"]["tokenizer"].update(kind="canary:Evil"),
    "an importable masker": lambda c: c["modalities"]["height"]["spec"].update(masker="canary:Evil"),
    "a plugin by path": lambda c: c["modalities"]["height"].update(plugin="canary"),
    "a plugin among the settings": lambda c: c["modalities"]["height"]["settings"].update(plugin="canary:Evil"),
    "a class among the settings": lambda c: c["modalities"]["height"]["settings"].update({"__class__": "canary.Evil"}),
    "self among the settings": lambda c: c["modalities"]["height"]["settings"].update(self=1, name="x"),
    "codes without end": lambda c: c["modalities"]["height"]["settings"].update(codes=1 << 60),
    "a name that is a path": lambda c: c["modalities"].update({"../../owned": c["modalities"].pop("height")}),
    "a source that is a path": lambda c: c["modalities"]["height"]["spec"].update(source="../../owned"),
    "channels without end": lambda c: c["modalities"]["height"]["spec"]["array"].update(channels=1 << 60),
}


def load(folder: Path) -> str | list[str]:
    """The error, or the modalities that are missing."""
    try:
        return list(FourM.from_pretrained(folder, device="cpu").missing)
    except ValueError as error:
        return str(error)


@pytest.mark.parametrize("what", CONFIGS)
def test_a_hostile_config_of_a_model_is_refused_or_that_modality_is_missing(model_folder, what):
    path = model_folder / "config.json"
    config = json.loads(path.read_text())
    CONFIGS[what](config)
    path.write_text(json.dumps(config))
    began = time.process_time()
    found = load(model_folder)
    assert found == ["height"] or (isinstance(found, str) and "\n" not in found)
    assert time.process_time() - began < 10


@pytest.fixture
def vqvae(tmp_path) -> tuple[Path, ModalitySpec]:
    """A folder with a tokenizer of the engine's own kind, and its spec."""
    spec = ModalitySpec(
        name="height",
        layout=Grid(height=2, width=2),
        array=FeatureMap(channels=1, height=8, width=8),
        token_space=TokenSpace(name="height", size=8),
        tokenizer=TokenizerRecipe(kind="vqvae"),
        source="height",
        extensions=("npy",),
    )
    small = {"width": 16, "blocks": 1, "heads": 1}
    tokenizer = VQVAETokenizer([spec], encoder=small, decoder=small, latent_dim=4)
    save_tokenizer(tokenizer, tmp_path / "height")
    return tmp_path / "height", spec


def describe(**changes):
    def change(folder: Path) -> None:
        path = folder / "tokenizer.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def settings(**changes):
    def change(folder: Path) -> None:
        document = json.loads((folder / "tokenizer.json").read_text())
        describe(settings=document["settings"] | changes)(folder)

    return change


TOKENIZERS = {
    "a pickle for weights": lambda folder: pickled(folder / "weights.safetensors"),
    "weights without end": lambda folder: header(folder / "weights.safetensors", b"{}", length=1 << 60),
    "no weights": lambda folder: (folder / "weights.safetensors").unlink(),
    "other weights": lambda folder: save_file({"x": torch.zeros(2)}, folder / "weights.safetensors"),
    "a kind to import": describe(kind="canary:Evil"),
    "a kind that is a path": describe(kind="../../canary"),
    "specs that are none": describe(specs=[3]),
    "specs with a path": describe(specs=[{"name": "../../owned"}]),
    "a setting to make": settings(__class__="canary.Evil"),
    "a setting that takes the specs' place": settings(specs=[], self=1),
    "a description without end": lambda folder: (folder / "tokenizer.json").write_text("[" * 200_000),
    "a pickled description": lambda folder: pickled(folder / "tokenizer.json"),
    "a pipe's worth of description": lambda folder: (folder / "tokenizer.json").write_text(" " * (1 << 25)),
}


@pytest.mark.parametrize("what", TOKENIZERS)
def test_a_hostile_tokenizer_is_refused_by_name(vqvae, what):
    folder, spec = vqvae
    assert load_tokenizer(folder, [spec], PluginManager()).fingerprint
    TOKENIZERS[what](folder)
    with pytest.raises(ValueError, match="height") as caught:
        load_tokenizer(folder, [spec], PluginManager())
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    "arguments",
    [
        {"domains_in": "__import__('os').system('touch owned')", "domains_out": "['a']", "dim": "4"},
        {"domains_in": "(" * 30_000, "domains_out": "['a']"},
        {"domains_in": "['a']", "dim": "9" * 60_000},
        {"domains_in": "['../../owned']", "domains_out": "['../../owned']", "dim": "10**9"},
        {"domains_in": "['a']" + " " * 100_000},
    ],
)
def test_hostile_arguments_of_a_published_model_are_data(tmp_path, arguments):
    save_file({"x": torch.zeros(2)}, tmp_path / "model.safetensors", metadata={"format": "pt", **arguments})
    with pytest.raises(ValueError, match=r"model\.safetensors") as caught:
        open_published(tmp_path / "model.safetensors")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


STATES = {
    "a pickle": lambda folder: pickled(folder / "state.json"),
    "no object": lambda folder: (folder / "state.json").write_text("[]"),
    "nested without end": lambda folder: (folder / "state.json").write_text('{"a": ' * 100_000),
    "a part elsewhere": lambda folder: state(folder, files={"../../owned": 3}),
    "a part of another name": lambda folder: state(folder, files={"weights.pt": 3}),
    "a step that is none": lambda folder: state(folder, step="1; touch owned", files=empty_part(folder)),
    "facts that are none": lambda folder: state(folder, files={name: [] for name in empty_part(folder)}),
    "no part at all": lambda folder: state(folder),
}


def empty_part(folder: Path) -> dict:
    path = folder / part_name(0, 1)
    path.touch()
    return {path.name: facts_of(path)}


def state(folder: Path, **changes) -> None:
    document = {"format": FORMAT, "step": 1, "files": {}, "state": {}} | changes
    (folder / "state.json").write_text(sealed(document))


@pytest.mark.parametrize("what", STATES)
def test_a_hostile_checkpoint_of_a_run_is_refused(tmp_path, what):
    (tmp_path / "step").mkdir()
    STATES[what](tmp_path / "step")
    with pytest.raises(CheckpointError, match="step"):
        open_checkpoint(tmp_path / "step")


def test_a_pickled_part_of_a_checkpoint_is_refused(tmp_path):
    path = tmp_path / "part-00000-of-00001.safetensors"
    pickled(path)
    state(tmp_path, files={path.name: facts_of(path)})
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(open_checkpoint(tmp_path), {"x": torch.zeros(3)})


def tokens(root: Path, change: Callable[[Path, dict, dict], None] = lambda *_: None, part: str = "b") -> TokenStore:
    """Opened, with one shard written again after `change(its path, columns, metadata)`."""
    modalities = fake_modalities(["b"])
    tokenizers = fake_tokenizers(modalities)
    write_data(root / "raw", modalities, sample_names(3))
    tokenize_split(AlignedData(root / "raw", modalities), root / "tokens", tokenizers, DataConfig())
    path = root / "tokens" / part / "shard-00000.safetensors"
    columns, metadata = load_arrays(path), ShardFile(path).metadata
    change(path, columns, metadata)
    save_arrays(columns, path, metadata)
    return TokenStore(root / "tokens", modalities, tokenizers)


def setting(**columns: np.ndarray) -> Callable[[Path, dict, dict], None]:
    return lambda path, old, metadata: old.update(columns)


def saying(**metadata: str) -> Callable[[Path, dict, dict], None]:
    return lambda path, columns, old: old.update(metadata)


@pytest.mark.parametrize(
    "change",
    [
        setting(ids=np.full((3, 16), 1 << 20, np.int32)),
        setting(ids=np.full((3, 16), 5, np.int32)),
        setting(ids=np.zeros((0, 16), np.int32)),
        setting(ids=np.zeros((3, 16), np.float32)),
        setting(ids=np.zeros(3, np.int32)),
        setting(digest=np.ones(2, np.uint64)),
        setting(view=np.ones(3, np.int64)),
        saying(views="-1"),
        saying(views="many"),
        saying(identity="[" * 100_000, digest="other"),
        saying(rows="0"),
        saying(format="2"),
    ],
)
def test_hostile_tokens_are_refused_by_the_name_of_their_shard(tmp_path, change):
    with pytest.raises(ValueError, match=r"b/shard-00000\.safetensors"):
        tokens(tmp_path, change).load(1, "b")


@pytest.mark.parametrize(
    "change",
    [
        setting(name_offsets=np.array([0, 4, 2, 12])),
        setting(name_offsets=np.array([0, 4, 8, 1 << 40])),
        setting(name_offsets=np.zeros(0, np.int64)),
        setting(names=np.full(12, 0xFF, np.uint8)),
        setting(kept=np.zeros(9, np.uint8)),
        saying(views="0"),
        saying(groups='{"a": 1}'),
        saying(settings="[" * 100_000),
    ],
)
def test_hostile_views_are_refused_by_the_name_of_their_shard(tmp_path, change):
    with pytest.raises(ValueError, match=r"_views/shard-00000\.safetensors"):
        tokens(tmp_path, change, part="_views")


def pickled_index(path: Path, columns: dict, metadata: dict) -> None:
    index = path.parent.parent / "_index"
    np.save(index / "present.npy", np.array([Evil(), Evil(), Evil()], object), allow_pickle=True)


@pytest.mark.parametrize(
    ("column", "content"),
    [
        ("files", np.full(10, 9, np.uint64)),
        ("shards", np.array([0, 1 << 40, 1], np.uint64)),
        ("shards", np.array([0, 3], np.uint64)),
        ("present", np.zeros(3, np.uint64)),
        ("dropped", np.array([7])),
        ("names.offsets", np.array([0, 4, 8])),
        ("names.blob", np.zeros(0, np.uint8)),
    ],
)
def test_an_index_whose_columns_do_not_fit_is_made_anew(tmp_path, column, content):
    tokens(tmp_path)
    path = tmp_path / "tokens/_index" / f"{column}.npy"
    before = path.read_bytes()
    if column == "files":
        content[[0, 1, 5, 6]] = np.load(path, allow_pickle=False)[[0, 1, 5, 6]]
    np.save(path, content)
    assert open_index(tmp_path / "tokens").names[:] == sample_names(3)
    assert path.read_bytes() == before


@pytest.mark.parametrize("facts", ["[]", "{", "[" * 100_000, '{"format": 1, "modalities": 3}', '{"format": 1}'])
def test_a_hostile_index_is_made_anew_and_nothing_in_it_is_run(tmp_path, facts):
    assert tokens(tmp_path).load(1, "b").shape == (16,)
    pickled_index(tmp_path / "tokens/b/x", {}, {})
    (tmp_path / "tokens/_index/index.json").write_text(facts)
    assert tokens(tmp_path).load(1, "b").shape == (16,)


def test_a_pickle_for_a_token_shard_is_refused(tmp_path):
    tokens(tmp_path)
    pickled(tmp_path / "tokens/b/shard-00000.safetensors")
    with pytest.raises(ValueError, match=r"shard-00000\.safetensors: damaged or no token shard"):
        open_index(tmp_path / "tokens")


def test_what_was_made_hostile_here_loads_when_it_is_left_alone(model_folder, vqvae, tmp_path):
    assert FourM.from_pretrained(model_folder, device="cpu").missing == {}
    assert load_file(vqvae[0] / "weights.safetensors")
    assert tokens(tmp_path).load(1, "b").shape == (16,)
