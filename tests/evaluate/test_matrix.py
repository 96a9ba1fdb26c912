"""The any-to-any matrix is what its definition says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fourm_engine.batch import Patches, Tokens
from fourm_engine.evaluate.config import EvaluateConfig
from fourm_engine.evaluate.matrix import measure_matrix
from fourm_engine.evaluate.predict import Predictor
from fourm_engine.evaluate.results import NOTHING, Cell
from tests.fakes import END, FIRST_SENTINEL


@pytest.fixture
def matrix(model, held_out):
    config = EvaluateConfig(batch_size=5, matrix_samples=12)
    return measure_matrix(model, held_out, Predictor(model, held_out, {}, config).ids, config)


def tokens(model, name, ids, decoder=False):
    """One row, written down token by token."""
    entry = model.vocabulary[name]
    n = len(ids)
    return Tokens(
        torch.tensor([[i if i < 0 else entry.start + int(i) for i in ids]]),
        torch.arange(n)[None],
        torch.full((1, n), entry.index),
        torch.arange(n)[None] if decoder and entry.layout.kind == "sequence" else torch.zeros(1, n, dtype=torch.int64),
    )


@torch.no_grad()
def slow_nats(model, held_out, sample, given, target):
    """One sample, one pair: -log p summed token by token, over the number of tokens."""
    network = model.network.eval()
    empty = Tokens(*(torch.tensor([[x]]) for x in (-1, 0, -1, 0)))
    encoder, continuous = empty, {}
    if given == "a@pixels":
        picture = held_out.arrays[given][sample]  # (2, 8, 8), patches of 2 x 2
        patches = [
            picture[:, i : i + 2, j : j + 2].transpose(1, 2, 0).reshape(-1) for i in (0, 2, 4, 6) for j in (0, 2, 4, 6)
        ]
        encoder = tokens(model, given, [-1] * 16)
        continuous = {
            given: Patches(torch.tensor(np.stack(patches)), torch.zeros(16, dtype=torch.int64), torch.arange(16))
        }
    elif given != NOTHING:
        ids = model.tokenizers[given].encode([held_out.arrays[given][sample]])[0]
        encoder = tokens(model, given, [*ids, END] if given == "words" else ids)
    context, valid = network.encode(encoder, continuous)
    labels = list(model.tokenizers[target].encode([held_out.arrays[target][sample]])[0])
    if target == "words":
        labels.append(END)
        asked = tokens(model, target, [FIRST_SENTINEL + 1, *labels[:-1]], decoder=True)
    else:
        asked = tokens(model, target, [-1] * len(labels))
    logits = network.logits(network.decode(asked, context, valid), target)[0].double()
    return -sum(float(row.log_softmax(-1)[label]) for row, label in zip(logits, labels)) / len(labels)


def test_every_cell_is_the_mean_of_what_a_slow_computation_gives(model, held_out, matrix):
    assert matrix.inputs == [NOTHING, "a", "a@pixels", "b", "words"]
    assert matrix.targets == ["a", "b", "words"]
    for given in matrix.inputs:
        for target in matrix.targets:
            if given == target:
                assert target not in matrix.cells[given]
                continue
            names = held_out.with_modalities([target] if given == NOTHING else [given, target])
            own = np.array([slow_nats(model, held_out, s, given, target) for s in names])
            nothing = np.array([slow_nats(model, held_out, s, NOTHING, target) for s in names])
            cell = matrix.cells[given][target]
            assert cell.samples == len(names) == (10 if "b" in (given, target) else 12)
            assert cell.nats == pytest.approx(own.mean(), abs=1e-4)
            assert cell.error == pytest.approx(own.std(ddof=1) / len(own) ** 0.5, abs=1e-4)
            assert cell.difference == pytest.approx((own - nothing).mean(), abs=1e-4)
            assert cell.difference_error == pytest.approx((own - nothing).std(ddof=1) / len(own) ** 0.5, abs=1e-4)


def test_pixels_tell_of_their_own_tokens_and_the_diagonal_is_left_out(matrix):
    assert "a" in matrix.cells["a@pixels"]
    assert "a" not in matrix.cells["a"]
    assert all(matrix.cells[NOTHING][target].difference == 0 for target in matrix.targets)


def test_an_input_lowers_a_target_only_beyond_two_standard_errors():
    assert Cell(1.0, 0.1, -0.5, 0.2, 9).lowers
    assert not Cell(1.0, 0.1, -0.5, 0.3, 9).lowers
    assert Cell(1.0, 0.1, 0.5, 0.2, 9).raises
    assert not Cell(1.0, 0.1, -0.5, float("nan"), 1).lowers
