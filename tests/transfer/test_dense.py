"""Class maps and values a pixel are learned from the layouts of ADE20K and NYUv2, and come back in them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import fourm_engine as fm
from fourm_engine.masking.pack import Shown, pack_inputs
from fourm_engine.modalities import ModalitiesConfig, load_manager, load_modalities
from fourm_engine.transfer.config import RegressionConfig, SegmentationConfig
from fourm_engine.transfer.dense import Regression, Segmentation
from fourm_engine.transfer.map_heads import ConvNeXt, UNet
from fourm_engine.transfer.network import TaskBatch, head_spec, pixels
from fourm_plugins.head import HeadFeatures, HeadSpec
from tests.running import fourm, refused
from tests.transfer.heads import HEAD, nyuv2, regression, run, scores, segmentation

#: Two inputs of 2 x 3 patches.
TWO = {
    name: {"plugin": "rgb@pixels", "image_size": [16, 24], "patch_size": 8, "source": name}
    for name in ("rgb@pixels", "near")
}


def modality(name: str, **settings):
    config = ModalitiesConfig(select=[name], settings={name: {"image_size": 16, "patch_size": 8, **settings}})
    return load_modalities(config, load_manager(config))[name]


@pytest.mark.parametrize("head", ["convnext", "pyramid", "unet"])
def test_ade20k_is_learned_without_its_class_of_none(source, ade, tmp_path, head):
    task = {"head": head, "head_options": {**HEAD, "detail": 8} if head == "convnext" else {"width": 8}}
    folder = run(segmentation(tmp_path, source, ade, task=task), "train.steps=24")
    assert scores(folder)["mIoU"] > 0.5
    assert scores(folder).keys() == {"mIoU", "pixel accuracy", "cross-entropy"}
    picture = next((ade / "images/validation").iterdir())
    told = fm.load_head(folder, device="cpu").predict({"rgb": picture})
    assert set(np.unique(told.value)) <= {1, 2, 3}  # 0 is neither learned nor predicted
    truth = np.asarray(Image.open(ade / f"annotations/validation/{picture.stem}.png").resize((32, 32), 0))
    assert (told.value == truth)[4:].mean() > 0.6


def test_pixels_reach_a_head_as_the_encoder_sees_them_and_are_0_where_a_sample_has_none(source):
    manager = load_manager(config := ModalitiesConfig(select=list(TWO), settings=TWO))
    inputs = load_modalities(config, manager)
    vocabulary = inputs.vocabulary()
    array = np.random.default_rng(0).normal(size=(3, 16, 24)).astype(np.float32)
    samples = [{"near": Shown.continuous(inputs["near"].spec, array)}, {}]
    packed = pack_inputs(samples, vocabulary, 8, "cpu")
    objective = Segmentation(SegmentationConfig(target="semseg"), modality("semseg", num_classes=2))
    seen = pixels(TaskBatch(*packed, {}, 0), head_spec(4, vocabulary, objective, inputs))
    assert seen.keys() == TWO.keys()
    np.testing.assert_array_equal(seen["near"][0], array)
    assert not seen["near"][1].any()
    assert not seen["rgb@pixels"].any()


def of(known, picture):
    """Features of one sample: a map of what the encoder knows, and the picture."""
    valid = torch.ones(1, 6, dtype=torch.bool)
    return HeadFeatures(torch.zeros(1, 6, 4), valid, {"one": known}, {"one": picture})


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_unet_starts_as_that_of_the_pixels_alone_and_learns_from_the_encoder(norm):
    torch.manual_seed(0)
    spec = HeadSpec(4, 2, {"one": (4, 4)}, (32, 32), pixels={"one": (3, 32, 32)})
    head, picture, known = UNet(spec, width=8, norm=norm).eval(), torch.randn(1, 3, 32, 32), torch.randn(1, 4, 4, 4)

    def twice(x, layers):
        for i in (0, 3):
            x = torch.relu(layers[i + 1](F.conv2d(x, layers[i].weight, padding=1)))
        return x

    a = twice(picture, head.down[0])  # as in arXiv 1505.04597, in so many words
    b = twice(F.max_pool2d(a, 2), head.down[1])
    c = twice(F.max_pool2d(b, 2), head.down[2])
    x = twice(F.max_pool2d(c, 2), head.down[3])
    for finer, layers in zip((c, b, a), head.up, strict=True):
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        x = twice(torch.cat([x, finer], 1), layers)
    plain = F.conv2d(x, head.output.weight, head.output.bias)
    assert torch.equal(head(of(known, picture)), plain)
    assert head.project.out_channels == 64  # of the level of 4 x 4, the tokens' grid
    head(of(known, picture)).square().sum().backward()
    assert head.project.weight.grad.abs().max() > 0
    with torch.no_grad():
        head.project.weight -= head.project.weight.grad
    assert (head(of(known, picture)) != plain).any()


def test_a_unet_sees_edges_and_what_the_encoder_knows_of_a_picture_whose_sides_are_no_powers_of_two():
    torch.manual_seed(0)
    spec = HeadSpec(4, 2, {"one": (3, 2)}, (26, 18), pixels={"one": (3, 24, 16)})
    head, picture, known = UNet(spec, width=8).eval(), torch.zeros(1, 3, 24, 16), torch.zeros(1, 4, 3, 2)
    assert head.level == 3  # 26 x 18, 13 x 9, 7 x 5, 4 x 3: the tokens' grid is 3 x 2
    torch.nn.init.normal_(head.project.weight)
    plain = head(of(known, picture))
    assert plain.shape == (1, 2, 26, 18)
    edge = picture.clone()
    edge[..., 8, 5] = 9
    assert (head(of(known, edge)) != plain)[0, :, 8:10, 5:7].all()
    assert (head(of(known + 1, picture)) != plain).any(1).all()
    assert UNet(spec, width=4, levels=2).level == 1  # the coarsest: finer than the tokens


def test_a_unet_that_cannot_be_made_is_refused():
    spec = HeadSpec(4, 2, {"one": (2, 2)}, (16, 16), pixels={"one": (3, 16, 16)})
    with pytest.raises(
        ValueError, match="unet is for inputs of pixels, and all inputs are tokens; use convnext or pyr"
    ):
        UNet(HeadSpec(4, 2, {"one": (2, 2)}, (16, 16)))
    with pytest.raises(ValueError, match="width is 0; it must be a whole number from 1"):
        UNet(spec, width=0)
    with pytest.raises(ValueError, match="norm is 'layer'; it must be batch or group"):
        UNet(spec, norm="layer")


def test_detail_sees_edges_within_the_patch_of_a_token():
    torch.manual_seed(0)
    spec = HeadSpec(4, 2, {"one": (2, 2)}, (16, 16), pixels={"one": (3, 16, 16)})
    tokens, valid = torch.zeros(1, 4, 4), torch.ones(1, 4, dtype=torch.bool)
    picture = torch.zeros(1, 3, 16, 16)
    changed = picture.clone()
    changed[..., 8, 5] = 9

    def answer(head, seen):
        return head(HeadFeatures(tokens, valid, {"one": torch.zeros(1, 4, 2, 2)}, {"one": seen}))

    head = ConvNeXt(spec, width=4, upsample=2, blocks=1, detail=4)
    rows, columns = (answer(head, picture) != answer(head, changed))[0].any(0).nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 11, 2, 8)
    plain = ConvNeXt(spec, width=4, upsample=2, blocks=1)
    assert torch.equal(answer(plain, picture), answer(plain, changed))
    with pytest.raises(ValueError, match="detail is for inputs of pixels, and all inputs are tokens"):
        ConvNeXt(HeadSpec(4, 2, {"one": (2, 2)}, (16, 16)), detail=4)


def test_nyuv2_is_learned_in_metres_and_predicted_as_files(source, nyu, tmp_path):
    folder = run(regression(tmp_path, source, nyu), "train.steps=40")
    assert scores(folder).keys() == {"AbsRel", "delta1", "RMSE", "l1"}
    assert scores(folder)["AbsRel"] < 0.35
    picture = next((nyu / "val/rgb").iterdir())
    fourm("predict", folder, "--input", f"rgb={picture}", "--out", tmp_path / "out")
    counts = np.asarray(Image.open(tmp_path / "out/depth.png"))
    assert counts.dtype == np.uint16
    told = fm.load_head(folder, device="cpu").predict({"rgb": picture}).value
    np.testing.assert_allclose(counts / 1000, told, atol=1e-3)
    assert Image.open(tmp_path / "out/depth.view.png").mode == "RGB"
    said = refused("predict", folder, "--input", f"rgb={picture}")
    assert "predicts a map of 'depth'; name a folder for it: --out" in said


def test_a_target_that_is_among_the_inputs_is_refused(source, nyu, tmp_path):
    both = regression(tmp_path, source, nyu, modalities={"select": ["rgb@pixels", "depth"], "settings": {}})
    assert "'depth' is an input, too, and would tell the answer" in refused("finetune", both)
    task = {"kind": "regression", "target": "copy"}
    settings = {"rgb@pixels": {"source": "rgb"}, "copy": {"plugin": "rgb", "image_size": 32, "patch_size": 8}}
    same = regression(tmp_path, source, nyu, task=task, modalities={"settings": settings})
    said = "'copy' reads the files of the input 'rgb@pixels' (rgb/), and would tell the answer"
    assert said in refused("finetune", same)


def test_two_inputs_are_fused_and_either_alone_is_enough_for_an_answer(source, tmp_path):
    data = nyuv2(tmp_path / "nyu", 4)
    for part in ("train", "val"):
        (data / part / "near").symlink_to(data / part / "rgb")
    settings = {
        "rgb@pixels": {"source": "rgb"},
        "depth": {"image_size": 32, "patch_size": 8, "min_depth": 0.5, "max_depth": 8.0},
    }
    sections = {"modalities": {"select": ["rgb@pixels", "near"], "settings": settings}}
    folder = run(regression(tmp_path, source, data, task={"modality_dropout": 0.5}, **sections))
    model, picture = fm.load_head(folder, device="cpu"), next((data / "val/rgb").iterdir())
    answers = [model.predict(dict.fromkeys(given, picture)).value for given in (("rgb", "near"), ("rgb",), ("near",))]
    assert not np.allclose(answers[0], answers[1])
    assert not np.allclose(answers[1], answers[2])
    batch = [a.value for a in model.predict_batch([{"rgb": picture}, {"rgb": picture, "near": picture}])]
    np.testing.assert_allclose(batch[1], answers[0], rtol=1e-5)  # whatever is beside it
    with pytest.raises(ValueError, match="a sample without any input; give one of near, rgb@pixels"):
        model.predict({})


def test_iou_is_over_all_pixels_of_all_samples_and_leaves_out_what_is_ignored():
    task = Segmentation(SegmentationConfig(target="semseg", ignore=[1]), modality("semseg", num_classes=4))
    assert task.ids.tolist() == [0, 2, 3]
    rng = np.random.default_rng(0)
    true, guess = torch.tensor(rng.integers(-1, 3, (6, 4, 4))), torch.tensor(rng.integers(0, 3, (6, 4, 4)))
    output, metrics = torch.nn.functional.one_hot(guess, 3).permute(0, 3, 1, 2).float(), task.metrics()
    for part in (slice(0, 2), slice(2, 6)):
        metrics.update(output[part], {"classes": true[part]}, [None] * 6)
    known = true >= 0
    iou = [((true == k) & (guess == k)).sum() / (((true == k) | (guess == k)) & known).sum() for k in range(3)]
    found = metrics.scores(metrics.sums)
    assert found["mIoU"] == pytest.approx(float(np.mean(iou)))
    assert found["pixel accuracy"] == pytest.approx(float((true == guess)[known].float().mean()))


def test_unknown_pixels_are_neither_learned_nor_measured():
    depth = modality("depth", min_depth=0.5, max_depth=8.0)
    task = Regression(RegressionConfig(target="depth"), depth)
    truth = np.full((16, 16), 2.0, np.float32)
    truth[:8] = np.nan
    values = torch.tensor(depth.normalise(truth))[None]
    output = values.nan_to_num(nan=5.0).clone().requires_grad_()
    loss = task.loss(output + 0.1, {"values": values})
    loss.backward()
    assert task.count({"values": values}) == 128
    assert float(loss.detach()) == pytest.approx(12.8, rel=1e-4)
    assert not output.grad[0, 0, :8].any()
    metrics = task.metrics()
    metrics.update(torch.tensor(depth.normalise(truth * 1.1))[None].nan_to_num(nan=0.0), {"values": values}, [truth])
    found = metrics.scores(metrics.sums)
    assert (found["AbsRel"], found["RMSE"]) == (pytest.approx(0.1, rel=1e-3), pytest.approx(0.2, rel=1e-3))
    with pytest.raises(ValueError, match="'depth' is a feature map, and segmentation learns a class map"):
        Segmentation(SegmentationConfig(target="depth"), depth)


@pytest.mark.parametrize(("task", "data"), [(regression, "nyu"), (segmentation, "ade")])
def test_maps_of_a_data_set_are_those_of_each_sample(task, data, source, request, tmp_path):
    root = request.getfixturevalue(data)
    trained = run(task(tmp_path, source, root), "train.steps=1")
    model = fm.load_head(trained, device="cpu")
    pictures = root / ("val/rgb" if data == "nyu" else "images/validation")
    fourm("predict", trained, "--input", f"rgb={pictures}", "--out", tmp_path / "out", "--batch-size", 3)
    for picture in pictures.iterdir():
        alone = model.predict({"rgb": picture})
        (file,) = (tmp_path / "out" / alone.modality.spec.source).glob(f"{picture.stem}.*")
        assert file.read_bytes() in alone.modality.write(alone.value).values()
    assert "8 were there" in fourm("predict", trained, "--input", f"rgb={pictures}", "--out", tmp_path / "out")
