"""What one may rely on of the small CLIP that the demo trains: it learns, and it loads as a published one does."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "scenes"))

import train_clip
from render import render
from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scenes")
    render(root, train=48, val=16, size=32)
    return root


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["train_clip.py", *map(str, arguments)])
    train_clip.main()


def test_training_tells_pictures_apart_by_their_captions(data: Path) -> None:
    rgb, captions = train_clip.read_split(data / "train")
    model, tokenizer = train_clip.train(rgb, captions, steps=60, batch=16)
    to_caption, to_picture = train_clip.matching_accuracy(model, tokenizer, rgb, captions, group=48)
    assert min(to_caption, to_picture) > 4 / 48  # four times chance


def test_the_loss_is_that_of_a_matched_batch() -> None:
    assert train_clip.contrast(torch.zeros(8, 8)).item() == pytest.approx(np.log(8))
    assert train_clip.contrast(50 * torch.eye(8)).item() == pytest.approx(0, abs=1e-6)


def test_the_folder_loads_as_a_published_clip_and_preprocesses_as_in_training(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "clip_model"
    run(monkeypatch, "--data", data / "train", "--out", out, "--steps", 2)
    model, tokenizer = CLIPModel.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    rgb, captions = train_clip.read_split(data / "train")
    processed = CLIPImageProcessor.from_pretrained(out)(list(rgb[:3]), return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(processed, train_clip.pixels(rgb[:3]).numpy(), atol=1e-5)
    again, own = train_clip.train(rgb, captions, steps=2)
    tokens = tokenizer(captions[0], padding=True, return_tensors="pt")
    assert tokens["input_ids"].tolist() == train_clip.tokenise(own, captions[0])["input_ids"].tolist()
    inputs = {"pixel_values": torch.from_numpy(processed), "input_ids": tokens["input_ids"]}
    inputs["attention_mask"] = tokens["attention_mask"]
    with torch.no_grad():
        torch.testing.assert_close(
            model.eval()(**inputs).logits_per_image, again(**inputs).logits_per_image, atol=1e-4, rtol=1e-4
        )
    assert tokenizer.unk_token_id not in tokens["input_ids"]


def test_a_finished_folder_is_kept_and_an_unfinished_one_is_not_mistaken_for_it(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "clip_model"
    with monkeypatch.context() as patch:
        patch.setattr(CLIPImageProcessor, "save_pretrained", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(monkeypatch, "--data", data / "train", "--out", out, "--steps", 1)
    assert not out.exists()
    run(monkeypatch, "--data", data / "train", "--out", out, "--steps", 1)
    weights = (out / "model.safetensors").stat().st_mtime_ns
    run(monkeypatch, "--data", data / "train", "--out", out, "--steps", 1)
    assert (out / "model.safetensors").stat().st_mtime_ns == weights
    assert [path.name for path in tmp_path.iterdir()] == ["clip_model"]


def test_missing_pictures_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="render the scenes first"):
        train_clip.read_split(tmp_path)
