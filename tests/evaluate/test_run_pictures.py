import io

import numpy as np
import pytest
import torch
from PIL import Image

from fourm_engine.data.config import DataConfig
from fourm_engine.evaluate.config import EvalTask, EvaluateConfig
from fourm_engine.evaluate.run_pictures import HeldOutPictures


def test_the_same_samples_are_drawn_each_time_with_truths_that_stay_and_predictions_that_change(model, data, tmp_path):
    config = EvaluateConfig(tasks=[EvalTask(name="pixels to the rest", inputs=["a"], targets=["b", "words"])])
    draw = HeldOutPictures(model.modalities, DataConfig(val=data), config, 2)
    for name in ("one", "again"):
        draw(model, tmp_path / "pictures" / f"{name}.png")
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.neg_()
    draw(model, tmp_path / "pictures" / "other.png")
    one, again, other = ((tmp_path / "pictures" / f"{n}.png").read_bytes() for n in ("one", "again", "other"))
    assert one == again != other
    first, second = (np.asarray(Image.open(io.BytesIO(png))) for png in (one, other))
    assert first.shape == second.shape
    changed = (first != second).any(axis=(1, 2))
    assert 0.1 < changed.mean() < 0.6  # the lines of predictions, and not those of truths


def test_pictures_without_held_out_files_or_inputs_are_refused_at_the_start(model, data):
    with pytest.raises(ValueError, match=r"train\.pictures_every needs held-out files; set data\.val"):
        HeldOutPictures(model.modalities, DataConfig(train=data), EvaluateConfig(), 2)
    config = EvaluateConfig(tasks=[EvalTask(name="t", inputs=["sound"], targets=["a"])])
    with pytest.raises(ValueError, match="no held-out sample has the inputs of a task\ntask 't' is left out"):
        HeldOutPictures(model.modalities, DataConfig(val=data), config, 2)
