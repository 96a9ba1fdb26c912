"""Retrieval between indexes: right ranks, exact chance, and no credit for ties or for finding oneself; indexes of
features that the model predicts."""

from __future__ import annotations

import itertools
import json
import os
import resource

import numpy as np
import pytest
import torch

from fourm_engine.batch import Tokens
from fourm_engine.cli.embed import embed, search
from fourm_engine.features import cache
from fourm_engine.features import index as indexing
from fourm_engine.features.index import Index
from fourm_engine.features.retrieval import evaluate
from fourm_engine.files import CannotWrite
from fourm_engine.masking.pack import pack_inputs
from fourm_engine.storage import mapped
from tests.generate.toys import make_model, picture, saved_run
from tests.running import fourm, refused


def index(features, inputs="b", names=None, fingerprint="same") -> Index:
    features = np.asarray(features, np.float32)
    return Index(names or [f"s{i}" for i in range(len(features))], features, [inputs], fingerprint)


def random(n, d=8, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d))


def test_ranks_give_recall_and_ndcg():
    candidates = index(np.eye(4) + 0.01)
    # The right answer of s0 is first, of s1 second, of s2 fourth; s9 has none.
    queries = index([[9, 1, 1, 1], [9, 5, 1, 1], [3, 4, 1, 2], [1, 1, 1, 1]], "a", ["s0", "s1", "s2", "s9"])
    found = evaluate(queries, candidates)
    assert (found.queries, found.candidates) == (3, 4)
    assert found.plain.recall == pytest.approx({1: 1 / 3, 5: 1, 10: 1})
    assert found.plain.ndcg == pytest.approx((1 + 1 / np.log2(3) + 1 / np.log2(5)) / 3)


def test_features_without_difference_are_at_chance():
    found = evaluate(index(np.ones((200, 3)), "a"), index(np.ones((200, 3))))
    assert found.plain.recall[1] == 1 / 200  # some one of them, for all alike
    assert found.plain.recall[10] == pytest.approx(found.chance.recall[10])
    assert found.plain.ndcg == pytest.approx(found.chance.ndcg)


def test_chance_is_the_mean_over_all_rankings():
    labels = {"s0": "x", "s1": "x", "s2": "x", "s3": "y", "s4": "y"}
    found = evaluate(index(random(5), "a"), index(random(5)), labels)
    hits, gains = [], []
    for label, others in (("x", "xxyy"), ("y", "xxxy")):
        for ranking in itertools.permutations(others):
            right = np.array(ranking) == label
            weight = {"x": 3, "y": 2}[label] / 5
            gain = (right / np.log2(np.arange(4) + 2)).sum() / (1 / np.log2(np.arange(right.sum()) + 2)).sum()
            hits.append(weight * right[0])
            gains.append(weight * gain)
    assert found.chance.recall[1] == pytest.approx(np.sum(hits) / 24)
    assert found.chance.ndcg == pytest.approx(np.sum(gains) / 24)


def test_a_constant_between_modalities_hides_what_centring_finds():
    features, constant = random(50, 16), np.zeros(16)
    constant[:2] = 30, -30
    found = evaluate(index(features + constant, "a"), index(features - constant))
    assert found.plain.recall[1] < 0.8 < found.centred.recall[1] == 1


def test_with_classes_a_sample_does_not_find_itself():
    # Pairs of neighbours are of two classes: with itself left out the nearest is always wrong.
    features = np.repeat(np.eye(3), 2, axis=0) + 1e-3 * random(6, 3)
    labels = {f"s{i}": "even" if i % 2 == 0 else "odd" for i in range(6)}
    same = index(features, "a")
    assert evaluate(same, same, labels).plain.recall[1] == 0
    assert evaluate(same, same, {f"s{i}": str(i // 2) for i in range(6)}).plain.recall[1] == 1
    with pytest.raises(ValueError, match="both indexes are of a, and every sample finds itself"):
        evaluate(same, same)


def test_each_of_several_captions_asks_and_any_of_them_answers():
    pictures = index(np.eye(3), "a", ["s0", "s1", "s2"])
    captions = index([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.1, 0, 1]], "b", ["s0", "s0", "s1", "s2"])
    found = evaluate(captions, pictures)
    assert (found.queries, found.candidates) == (4, 3)
    assert found.plain.recall == pytest.approx({1: 2 / 4, 5: 1, 10: 1})
    assert found.chance.recall[1] == pytest.approx(1 / 3)
    found = evaluate(pictures, captions)
    assert found.plain.recall[1] == pytest.approx(1 / 3)  # s0 by its first caption; s2 finds the caption of s1
    assert found.chance.recall[1] == pytest.approx((2 + 1 + 1) / 3 / 4)
    classes = {"s0": "x", "s1": "y", "s2": "y"}
    assert evaluate(captions, captions, classes).queries == 2  # s0 has no other of its class
    assert evaluate(captions, captions, classes).chance.recall[1] == pytest.approx(1 / 3)


def test_a_full_disk_leaves_the_earlier_index(tmp_path):
    index(np.eye(4), names=list("wxyz")).save(tmp_path / "index")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, hard))
    try:
        with pytest.raises(CannotWrite, match="File too large"):
            index(random(12, 32)).save(tmp_path / "index")  # 1.5 KiB
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert Index.load(tmp_path / "index").names == list("wxyz")


def test_a_search_names_a_sample_once_by_its_nearest_caption():
    captions = index([[1, 0], [1, 0.1], [0, 1], [1, 1]], "b", ["s0", "s0", "s1", "s2"])
    nearest = captions.nearest(np.array([1, 0], np.float32), 2)
    assert [name for name, _ in nearest] == ["s0", "s2"]
    assert nearest[0][1] == pytest.approx(1)


@pytest.mark.parametrize(
    ("other", "labels", "message"),
    [
        (index(random(5), "a", fingerprint="other"), None, "of different models"),
        (index(random(5), "a", list("vwxyz")), None, "no sample in common"),
        (index(random(5), "a"), {"s0": "x", "s1": "y"}, "no class with another sample in common"),
    ],
)
def test_indexes_that_do_not_go_together_are_one_line(other, labels, message):
    with pytest.raises(ValueError, match=message) as caught:
        evaluate(other, index(random(5)), labels)
    assert "\n" not in str(caught.value)


def test_a_graph_finds_what_comparing_all_finds(tmp_path, monkeypatch, caplog):
    pytest.importorskip("usearch")
    features = random(400, 16).astype(np.float32)
    index(features).save(tmp_path / "exact")
    monkeypatch.setattr(indexing, "EXACT", 100)
    index(features).save(tmp_path / "graph")
    exact, graph = Index.load(tmp_path / "exact"), Index.load(tmp_path / "graph")
    assert (exact.graph, graph.graph) == (None, tmp_path / "graph/graph.usearch")
    monkeypatch.setattr(np, "empty", None)  # which comparing all needs
    for i in (3, 77):
        name, cosine = graph.nearest(features[i], 5)[0]
        assert (name, cosine) == (f"s{i}", pytest.approx(1, abs=1e-5))
    monkeypatch.undo()
    overlap = [len({*dict(exact.nearest(q, 5))} & {*dict(graph.nearest(q, 5))}) for q in features[:20]]
    assert np.mean(overlap) > 4
    (tmp_path / "graph/graph.usearch").write_bytes(b"\0" * 64)
    with pytest.raises(ValueError, match=r"graph\.usearch: damaged"):
        graph.nearest(features[0], 5)


def test_without_the_extra_every_sample_is_compared(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(indexing, "EXACT", 3)
    monkeypatch.setitem(__import__("sys").modules, "usearch.index", None)
    index(random(5)).save(tmp_path / "index")
    assert "pip install 'fourm-engine[search]'" in caplog.text
    found = Index.load(tmp_path / "index")
    assert found.graph is None
    assert found.nearest(random(5)[2].astype(np.float32), 1)[0][0] == "s2"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run over the toys, with eight samples of three modalities in `tmp_path/data`."""
    values = {"colour": [picture(i) for i in range(8)], "pose": random(8, 6).clip(-1, 1).astype(np.float32)}
    values["words"] = [letter * (i + 1) for i, letter in enumerate("abcdefgh")]
    return saved_run(tmp_path, monkeypatch, values, "s")


def test_predicted_features_are_what_the_model_expects_and_given_ones_are_as_they_are(run, capsys):
    data, out = str(run.parent / "data"), run.parent
    for name, given in (("of-colour", ["colour"]), ("of-words", ["words"]), ("given", ["pose"])):
        embed(str(run), data, given, out / name, predict="pose")
    colour, words, given = (Index.load(out / name) for name in ("of-colour", "of-words", "given"))
    np.testing.assert_allclose(given.features, random(8, 6).clip(-1, 1), atol=1e-6)
    # Five equal bins of [-1, 1], each token twice: the mean of their centres over what the network expects.
    model = make_model()
    shown = [model.reader.read({"colour": picture(i)}, ())[0].shown for i in range(8)]
    three, of_pose = torch.zeros(8, 3, dtype=torch.int64), model.vocabulary["pose"].index
    tokens = Tokens(three - 1, three + torch.arange(3), three + of_pose, three)
    with torch.inference_mode():
        context = model.network.encode(*pack_inputs(shown, model.vocabulary, 16, "cpu"))
        expected = model.network.logits(model.network.decode(tokens, *context), "pose").softmax(-1).numpy()
    centres = (expected @ ((np.arange(5) + 0.5) / 5 * 2 - 1)).repeat(2, axis=1)
    np.testing.assert_allclose(colour.features, centres, atol=1e-5)
    assert np.unique(colour.features.round(5), axis=0).shape == (8, 6)
    assert np.abs(colour.features - words.features).max() > 1e-3
    assert colour.fingerprint == words.fingerprint == given.fingerprint
    capsys.readouterr()
    search(out / "of-words", str(run), ["words=text:ccc"], k=1)
    assert capsys.readouterr().out == "1.0000 s2\n"
    search(out / "given", str(run), [f"pose={data}/pose/s4.npy"], k=1)
    assert capsys.readouterr().out == "1.0000 s4\n"
    words = ["search", out / "of-colour", "--evaluate", out / "of-words", "--out", out / "found.json"]
    assert "recall@10" in fourm(*words)
    found = json.loads((out / "found.json").read_text())
    assert (found["queries"], found["candidates"], found["chance"]["recall"]["1"]) == (8, 8, 1 / 8)


def test_what_cannot_be_predicted_or_evaluated_is_one_line(run):
    data, out = str(run.parent / "data"), run.parent / "index"

    def told(message, *words):
        assert message in refused(*words)

    made = ["embed", run, data, "--out", out]
    told("no feature per token of 'words'", *made, "--input", "colour", "--predict", "words")
    told(
        "--predict: the model predicts no feature per token of 'height'",
        *made,
        "--input",
        "colour",
        "--predict",
        "height",
    )
    told("no modality 'pos'; did you mean 'pose'", *made, "--input", "colour", "--predict", "pos")
    told("'pose' is among the inputs", *made, "--input", "colour", "--input", "pose", "--predict", "pose")
    told("leave --size out", *made, "--input", "colour", "--predict", "pose", "--size", 8)
    assert not out.exists()
    embed(str(run), data, ["colour"], out)
    told("give a run and --query", "search", out)
    told("leave the run and --query out", "search", out, run, "--evaluate", out)
    told("--labels and --out need --evaluate", "search", out, run, "--query", "words=a", "--out", "x.json")


def test_features_that_are_cut_short_while_they_are_searched_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "PAUSE", 0)
    index(random(4000)).save(tmp_path / "index")
    loaded, path = Index.load(tmp_path / "index"), tmp_path / "index/features.npy"
    assert loaded.nearest(loaded.features[3], 1)[0][0] == "s3"
    query = np.array(loaded.features[3])
    os.truncate(path, 200)  # without a check, reading the map would end this process
    with pytest.raises(ValueError, match=r"features\.npy: was cut short .*; make it again with `fourm embed`"):
        loaded.nearest(query, 1)
    with pytest.raises(ValueError, match=r"features\.npy: was cut short .*; make it again with `fourm embed`"):
        evaluate(index(random(4000), "a"), loaded)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_features_that_are_not_finite_are_no_answer(tmp_path, wrong):
    features = random(7)
    index(features).save(tmp_path / "index")
    features[4, 2] = wrong
    np.save(tmp_path / "index/features.npy", features.astype(np.float32))
    for read in (
        lambda damaged: damaged.nearest(np.ones(8), 1),
        lambda damaged: evaluate(index(random(7), "a"), damaged),
    ):
        with pytest.raises(ValueError, match=r"features\.npy: features that are not finite; make it again with"):
            read(Index.load(tmp_path / "index"))


def test_cached_features_that_are_cut_short_while_they_are_in_use_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "PAUSE", 0)
    tokens, pooled = random(40 * 30 * 8).astype(np.float16), random(40).astype(np.float32)
    for kind, array in (("tokens", tokens), ("pooled", pooled)):
        (tmp_path / kind).write_bytes(array.tobytes())
    shapes = {"pooled": [40, 8], "tokens": [40, 30 * 8, 8]}
    facts = {"format": cache.FORMAT, "names": [f"s{i}" for i in range(40)], "shapes": shapes}
    (tmp_path / cache.FACTS).write_text(json.dumps(facts))
    cached = cache._load(tmp_path)
    assert np.array_equal(cached.arrays["tokens"][[7, 3]], tokens.reshape(shapes["tokens"])[[7, 3]])
    for kind in ("tokens", "pooled"):
        os.truncate(tmp_path / kind, 10)
    assert np.array_equal(cached.arrays["pooled"], pooled)
    with pytest.raises(ValueError, match=r"tokens: was cut short .*; start again, and features are computed anew"):
        cached.arrays["tokens"][[30]]
