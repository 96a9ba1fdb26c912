"""What a task's run does beside its loss: drop path, layer-wise decay, mixing, inputs that are left out, plugins."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fourm_engine as fm
from fourm_engine.masking.pack import Shown
from fourm_engine.modalities import load_manager
from fourm_engine.nn.blocks import EncoderBlock, drop_path
from fourm_engine.recipes.finetune_task import modalities_of, task_of
from fourm_engine.recipes.task_config import load_task_config
from fourm_engine.train.optimiser import parameter_groups
from fourm_engine.transfer.config import ClassificationConfig
from fourm_engine.transfer.mixup import Mixing
from fourm_engine.transfer.source import open_source
from fourm_engine.vocabulary import Entry, Vocabulary
from fourm_plugins.spec import Grid
from tests.running import fourm, refused
from tests.transfer.heads import config, run, scores, segmentation, silent

CLASSES = {"kind": "classification"}


def opened(path, *overrides):
    """The task of a config."""
    loaded = load_task_config(path, overrides)
    manager = load_manager(loaded.modalities)
    inputs, target = modalities_of(loaded, manager)
    return loaded, task_of(loaded, open_source(loaded.finetune.source, inputs, manager), target, manager, silent)


def test_drop_path_leaves_branches_out_of_whole_samples_in_training_alone():
    torch.manual_seed(0)
    branch = torch.ones(4000, 3, 2)
    kept = drop_path(branch, 0.25)
    each = kept.flatten(1)
    assert (each == each[:, :1]).all()
    assert each.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert float(kept.mean()) == pytest.approx(1, abs=0.03)
    block = EncoderBlock(8, 2, mlp="gelu", mlp_ratio=2.0, bias=True, qk_norm=False)
    x, mask = torch.randn(6, 5, 8), torch.ones(6, 1, 1, 5, dtype=torch.bool)
    block.drop_path = 0.9
    assert not torch.equal(block(x, mask), block(x, mask))
    assert torch.equal(block.eval()(x, mask), block(x, mask))


def test_the_drop_path_of_blocks_rises_and_the_rate_of_layers_falls_from_the_head_down(source, pictures, tmp_path):
    path = config(tmp_path, source, pictures, {**CLASSES, "drop_path": 0.2}, train={"layer_decay": 0.5})
    loaded, task = opened(path)
    network = task.model()
    assert [block.drop_path for block in network.blocks()] == [0.0, 0.2]
    groups = parameter_groups(network, task, loaded.train)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    rates = {names[id(p)]: group["lr_scale"] for group in groups for p in group["params"]}
    decays = {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}
    assert rates["head.output.weight"] == 1
    assert rates["backbone.encoder_norm.weight"] == rates["backbone.encoder.1.attn.qkv.weight"] == 0.5
    assert rates["backbone.encoder.0.mlp.fc1.weight"] == 0.25
    assert rates["backbone.embedding.projections.rgb@pixels.weight"] == rates["backbone.embedding.modality"] == 0.125
    assert decays["backbone.embedding.modality"] == 0 < decays["backbone.embedding.projections.rgb@pixels.weight"]


def test_from_scratch_the_encoder_is_drawn_by_the_seed_and_learns(source, pictures, tmp_path):
    path = config(tmp_path, source, pictures, CLASSES)
    trained = opened(path)[1].model().backbone.state_dict()
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(opened(path, "finetune.from_scratch=true")[1].model().backbone)
    first, again, other = (network.state_dict() for network in drawn)
    matrices = [name for name in first if name.startswith("encoder.") and first[name].ndim == 2]
    assert trained.keys() == first.keys()
    for name in matrices:
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])
        assert not torch.equal(first[name], trained[name])
        assert float(first[name].std() / trained[name].std()) == pytest.approx(1, abs=0.2)
    assert all(parameter.requires_grad for name, parameter in drawn[0].named_parameters() if name in matrices)
    with pytest.raises(ValueError, match="finetune: from_scratch draws weights that freeze would keep from learning"):
        load_task_config(path, ["finetune.from_scratch=true", "finetune.freeze=['*']"])


def test_a_sample_is_the_same_whatever_is_beside_it_and_mixes_with_its_partner(source, pictures, tmp_path):
    task = {**CLASSES, "mixup": 1.0, "cutmix": 1.0}
    _, task = opened(config(tmp_path, source, pictures, task, data={"augment": True}))
    data = task.data
    together, shares = data.__getitems__(range(12)), []
    for position, sample in enumerate(together):
        alone = data[position]
        assert np.array_equal(alone.shown["rgb@pixels"].features, sample.shown["rgb@pixels"].features)
        assert alone.target["share"] == sample.target["share"]
        shares.append(float(sample.target["share"]))
    assert shares[::2] == shares[1::2]
    assert len(set(shares)) > 3
    assert all(a.target["label"] == b.target["other"] for a, b in zip(together[::2], together[1::2], strict=True))
    assert task.held_out.mixing is None


def test_the_share_of_a_mixed_sample_is_the_share_of_its_numbers():
    entry = Entry("a", 0, 0, 0, Grid(height=4, width=4), 3)
    one, other = (
        {"a": Shown(np.arange(16), np.full(16, -1), np.full((16, 3), value, np.float32))} for value in (1.0, 0.0)
    )
    for settings in ({"mixup": 0.8}, {"cutmix": 1.0}):
        mixing = Mixing(ClassificationConfig(**settings), Vocabulary([entry]))
        for seed in range(20):
            drawn = mixing.draw(np.random.default_rng(seed))
            features = mixing.mixed(one, other, drawn)["a"].features
            assert float(features.mean()) == pytest.approx(drawn.share, abs=1e-6)
            assert ("cutmix" in settings) == (set(np.unique(features)) <= {0.0, 1.0})
    tokens = Entry("ids", 0, 0, 9, Grid(height=4, width=4), 0)
    with pytest.raises(ValueError, match=r"task\.mixup mixes numbers, and 'ids' is token ids"):
        Mixing(ClassificationConfig(mixup=1.0), Vocabulary([tokens]))


def test_the_best_weights_are_kept_beside_the_last_also_by_a_run_that_goes_on(source, pictures, tmp_path):
    """A rate that is far too high spoils what was learned; a later evaluation that is as good does not count."""
    train = {"keep_best": True, "eval_every": 10, "steps": 20, "schedule": "constant"}
    path = config(tmp_path, source, pictures, CLASSES, train=train)
    then = load_file(run(path, "train.steps=10") / "head/model.safetensors")
    assert scores(tmp_path / "run")["top-1"] == 1
    folder = run(path, "train.lr=10")
    assert json.loads((folder / "best/best.json").read_text()) == {"step": 10, "measure": "top-1", "score": 1.0}
    best, last = (load_file(folder / part / "model.safetensors") for part in ("best/head", "head"))
    assert all(torch.equal(best[name], then[name]) for name in then)
    assert not all(torch.equal(best[name], last[name]) for name in best)
    model = fm.load_head(folder / "best", device="cpu")
    told = [next(iter(model.predict({"rgb": p}).probabilities)) for p in sorted((pictures / "val").rglob("0.png"))]
    assert told == ["blue", "green", "red"]


PAGE = (Path(__file__).parents[2] / "docs/hooks.md").read_text()
HEADS = (
    re.search(r"```python\n(.*?)```", PAGE[PAGE.index("## Heads") :], re.DOTALL)[1]
    + """
class Flat(Tiles):
    def forward(self, features):
        return features.pooled()

def none(spec):
    return 3
"""
)


def test_a_dry_run_says_what_would_learn_from_what_at_which_cost_and_trains_nothing(source, pictures, tmp_path):
    path = config(tmp_path, source, pictures, CLASSES)

    def told(*overrides):
        said = fourm("finetune", path, "--dry-run", *overrides)
        return said, float(re.search(r"([\d.]+) MFLOP", said)[1])

    said, whole = told()
    assert "task: classification of rgb@pixels: 3 classes  head: linear" in said
    assert re.search(r"training: .*12 samples", said)
    assert "a step: 6 samples  96 tokens" in said
    assert "8 steps: 4 times all training samples" in said
    said, head = told("finetune.freeze=['*']")
    assert re.search(r"encoder: \S+ k parameters, 0 learn, \S+ k are frozen", said)
    assert head < 0.5 * whole  # no backward pass through the encoder
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tiles", {"hidden": 5}, None),
        ("tiles", {"hiden": 5}, "task.head=tiles with {'hiden': 5}: there is no option hiden; did you mean 'hidden'"),
        ("acme-flat", {}, r"task.head=acme-flat: it makes \(2, 32\), and the task needs \(2, 3, 32, 32\)"),
        ("acme-none", {}, "task.head=acme-none: acme_heads:none made a int, no torch.nn.Module"),
    ],
)
def test_a_head_of_an_installed_package_learns_and_one_that_does_not_fit_is_named(
    source, ade, tmp_path, install, name, options, message
):
    points = {"tiles": "Tiles", "acme-flat": "Flat", "acme-none": "none"}
    lines = [f"{point} = acme_heads:{value}" for point, value in points.items()]
    install("acme-heads", "[fourm.heads.v1]\n" + "\n".join(lines), source=HEADS)
    path = segmentation(tmp_path, source, ade, task={"head": name, "head_options": options})
    if message is not None:
        with pytest.raises(ValueError, match=message):
            run(path, "train.steps=2")
        return
    folder = run(path, "train.steps=2")
    model = fm.load_head(folder, device="cpu")
    assert type(model.network.head).__name__ == "Tiles"
    assert model.network.head.layers[0].out_channels == 5
    assert model.predict({"rgb": next((ade / "images/validation").iterdir())}).value.shape == (32, 32)


def test_resuming_with_another_head_is_told_so_and_not_to_install_what_is_there(source, pictures, tmp_path):
    path = config(tmp_path, source, pictures, CLASSES)
    run(path, "train.steps=1")
    message = refused("finetune", path, "task.head=attentive", "train.steps=2")
    assert 'task.head was "linear", is "attentive"' in message
    assert "pip install" not in message
