"""A retrieval task: sides of a sample find each other, are encoded apart, and are searched by their embeddings."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fourm_engine as fm
from fourm_engine.recipes import embed as embedding
from fourm_engine.transfer.config import RetrievalConfig
from fourm_engine.transfer.retrieval import Retrieval
from fourm_engine.transfer.towers import Towers
from fourm_plugins.errors import SampleError
from fourm_plugins.head import HeadFeatures
from tests.running import fourm, refused, silent
from tests.transfer.heads import COLOURS, captioned, picture, retrieval, run, scores
from tests.transfer.test_learning import opened


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return captioned(tmp_path_factory.mktemp("pairs"))


@pytest.fixture(scope="module")
def trained(source, pairs, tmp_path_factory):
    path = retrieval(tmp_path_factory.mktemp("trained"), source, pairs)
    return run(path, "train.steps=60", "train.batch_size=12", "train.keep_best=true", "train.eval_every=20")


def test_pictures_find_the_captions_that_fit_and_captions_the_pictures(trained):
    held_out = scores(trained)
    assert held_out["recall@1"] == held_out["rgb@pixels → caption recall@1"] == 1
    assert (trained / "best/head/config.json").is_file()


def test_an_embedding_has_length_1_and_depends_on_its_own_side_alone(trained):
    model = fm.load_head(trained / "best", device="cpu")
    assert "retrieval of" in repr(model)
    red, blue = (model.predict({"rgb": picture(COLOURS[colour], 7)}) for colour in ("red", "blue"))
    words = model.predict({"caption": "a red square"})
    assert words.vector.dtype == np.float32
    assert np.linalg.norm(words.vector) == pytest.approx(1, abs=1e-5)
    assert words.similarity(red) > words.similarity(blue) + 0.2
    both = model.predict_batch([{"rgb": picture(COLOURS["red"], 7)}, {"caption": "a red square"}])
    np.testing.assert_allclose(both[0].vector, red.vector, atol=1e-5)
    np.testing.assert_allclose(both[1].vector, words.vector, atol=1e-5)
    with pytest.raises(ValueError, match="of more than one side; give inputs of rgb@pixels or caption"):
        model.predict({"rgb": picture(COLOURS["red"], 7), "caption": "a red square"})


def test_the_training_batch_encodes_the_sides_in_rows_of_their_own(source, pairs, tmp_path):
    _, task = opened(retrieval(tmp_path, source, pairs))
    samples = [task.data[i] for i in range(4)]
    batch = task.data.collated(samples)
    index = {entry.name: entry.index for entry in task.inputs}
    for rows, name in ((batch.tokens.mod[:4], "rgb@pixels"), (batch.tokens.mod[4:], "caption")):
        assert set(rows.unique().tolist()) <= {index[name], -1}
    alone = task.data.collated(samples[:1])
    network = task.model().eval()
    torch.testing.assert_close(network(batch)[[0, 4]], network(alone), atol=1e-5, rtol=1e-5)


def obvious(embeddings, content):
    """The loss, one query at a time."""
    total, count = 0.0, 0
    for i in range(len(content)):
        for query in range(content.shape[1]):
            for other in range(content.shape[1]):
                if query == other or not (content[i, query] and content[i, other]):
                    continue
                rows = [j for j in range(len(content)) if content[j, other]]
                products = np.array([float(embeddings[i, query] @ embeddings[j, other]) for j in rows])
                shares = np.exp(products - products.max()) / np.exp(products - products.max()).sum()
                right = [content[j, query] == content[i, query] or content[j, other] == content[i, other] for j in rows]
                total -= np.log(shares[right]).mean()
                count += 1
    return total, count


@given(sides=st.integers(2, 3), seed=st.integers(0, 999))
def test_the_loss_is_that_of_an_obvious_version_with_missing_sides_and_equal_content(sides, seed):
    rng = np.random.default_rng(seed)
    task = Retrieval(RetrievalConfig(between=[f"m{i}" for i in range(sides)], width=5))
    content = rng.integers(0, 4, (6, sides))
    embeddings = torch.tensor(rng.normal(size=(6, sides, 5)), dtype=torch.float32, requires_grad=True)
    targets = {"content": torch.tensor(content)}
    loss = task.loss(embeddings.transpose(0, 1).flatten(0, 1), targets)
    expected, count = obvious(embeddings.detach().numpy(), content)
    assert task.count(targets) == count
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4, abs=1e-5)
    loss.backward()
    assert embeddings.grad.isfinite().all()


def units(rng, *shape):
    rows = rng.normal(size=shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


@given(sides=st.integers(2, 3), seed=st.integers(0, 999))
def test_recall_is_that_of_sorting_all_candidates(sides, seed):
    rng = np.random.default_rng(seed)
    names = [f"m{i}" for i in range(sides)]
    task = Retrieval(RetrievalConfig(between=names, width=4))
    content, unit = rng.integers(1, 9, (12, sides)), units(rng, 12, sides, 4)
    metrics = task.metrics()
    for part in (slice(0, 5), slice(5, 12)):
        output = torch.tensor(unit[part]).transpose(0, 1).flatten(0, 1)
        metrics.update(output, {"content": torch.tensor(content[part])}, [None] * 12)
    found = metrics.compute()
    for query, other in ((0, 1), (1, 0)):
        first = (unit[:, query] @ unit[:, other].T).argmax(1)
        right = (content[first] == content)[:, [query, other]].any(1)
        assert found[f"m{query} → m{other} recall@1"] == pytest.approx(right.mean())
    assert found["recall@1"] <= found["recall@5"] <= found["recall@10"] <= 1


@given(seed=st.integers(0, 999))
def test_every_alternative_asks_and_answers_once(seed):
    rng = np.random.default_rng(seed)
    several, content, sample = rng.integers(1, 4, (9, 2)), list[list[int]](), list[int]()
    for i, counts in enumerate(several.tolist()):
        content += [rng.integers(1, 30, 2).tolist()]
        content += [[int(rng.integers(1, 30)), 0] for _ in range(counts[0] - 1)]
        content += [[0, int(rng.integers(1, 30))] for _ in range(counts[1] - 1)]
        sample += [i] * (len(content) - len(sample))
    rows, shown = units(rng, len(content), 2, 4), np.array(content)
    metrics = (task := Retrieval(RetrievalConfig(between=["a", "b"], width=4))).metrics()
    for part in (slice(0, 5), slice(5, None)):  # a sample may go on in the next batch
        output = torch.tensor(rows[part]).transpose(0, 1).flatten(0, 1)
        metrics.update(output, {"content": torch.tensor(shown[part])}, [None] * len(shown[part]))
    found = metrics.compute()
    for query, other in task.pairs:
        candidates = [j for j in range(len(shown)) if shown[j, other]]
        hits = list[bool]()
        for i in (i for i in range(len(shown)) if shown[i, query]):
            right = [
                any(shown[n, query] == shown[i, query] for n in range(len(shown)) if sample[n] == sample[j])
                or any(shown[n, other] == shown[j, other] for n in range(len(shown)) if sample[n] == sample[i])
                for j in candidates
            ]
            if not all(right):
                hits.append(right[np.argmax([rows[i, query] @ rows[j, other] for j in candidates])])
        assert found[f"{'ab'[query]} → {'ab'[other]} recall@1"] == pytest.approx(np.mean(hits))


def test_loss_and_recall_are_the_same_under_autocast():
    torch.manual_seed(0)
    task, content = Retrieval(RetrievalConfig(between=["a", "b"], width=256)), torch.arange(1, 129).view(64, 2)
    one = torch.nn.functional.normalize(torch.randn(64, 256), dim=1)
    other = torch.nn.functional.normalize(one + 0.3 * torch.randn(64, 256), dim=1)
    output, targets = 10 * torch.cat([one, other]), {"content": content}  # of the least temperature

    def measured():
        metrics = task.metrics()
        near = torch.nn.functional.normalize(torch.ones(64, 256) + 0.3 * one, dim=1)
        metrics.update(torch.cat([near] * 2), targets, [None] * 64)
        return float(task.loss(output, targets)), metrics.compute()

    plain = measured()
    assert plain[0] > 0
    assert plain[1]["recall@1"] > 0.9
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert measured() == plain


def test_embeddings_that_are_all_alike_find_nothing():
    task = Retrieval(RetrievalConfig(between=["a", "b"], width=4))
    metrics = task.metrics()
    metrics.update(torch.ones(24, 4), {"content": torch.arange(1, 25).view(12, 2)}, [None] * 12)
    assert metrics.compute()["recall@10"] == 0


def test_what_every_candidate_answers_is_no_query(caplog):
    task = Retrieval(RetrievalConfig(between=["a", "b"], width=4))
    content = torch.stack([torch.arange(1, 13), torch.full((12,), 7)], 1)  # one caption for all
    metrics = task.metrics()
    metrics.update(torch.randn(24, 4), {"content": content}, [None] * 12)
    assert np.isnan(list(metrics.compute().values())).all()
    assert "all are right answers" in caplog.text


def test_a_single_sample_is_refused(source, tmp_path):
    root = captioned(tmp_path / "data")
    for path in root.glob("val/caption/*"):
        if path.stem != "000":
            path.unlink()
    message = refused("finetune", str(retrieval(tmp_path, source, root)))
    assert "only 1 of the 12 samples has two sides of" in message
    assert str(root / "val") in message


def test_a_side_that_is_missing_neither_learns_nor_counts(source, pairs, tmp_path):
    root = captioned(tmp_path / "data")
    (root / "train/caption/000.txt").unlink()
    (root / "train/near/001.png").unlink()
    for kind in ("near", "caption"):
        (root / f"train/{kind}/002.{'png' if kind == 'near' else 'txt'}").unlink()
    path = retrieval(tmp_path, source, root, {"between": ["rgb@pixels", "near", "caption"]})
    _, task = opened(path)
    assert len(task.data) == 11
    assert "1 without an input or a target" in task.data.describe()
    samples = [task.data.held_out(i)[0] for i in range(2)]  # without a caption, without `near`
    batch = task.data.collated(samples)
    assert (batch.targets["content"] == 0).tolist() == [[False, False, True], [False, True, False]]
    assert batch.count == 4
    network = task.model()
    task.loss(network, batch, 1).sums["contrastive"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    assert 0 < scores(run(path))["recall@5"] <= 1


def test_alternatives_that_cannot_be_counted_leave_the_first(source, pairs, tmp_path, monkeypatch, caplog):
    _, task = opened(retrieval(tmp_path, source, pairs))

    def damaged(self, value):
        raise SampleError("damaged")

    monkeypatch.setattr(type(task.data.data.modalities["caption"]), "alternatives", damaged)
    assert len(task.held_out.held_out(0)) == 1
    assert "damaged" in caplog.text


def test_dropped_inputs_leave_one_on_each_side(source, pairs, tmp_path):
    task = {"between": [["rgb@pixels", "near"], "caption"], "modality_dropout": 0.9}
    _, task = opened(retrieval(tmp_path, source, pairs, task))
    shown = [frozenset(task.data[i].shown) for i in range(40)]
    assert {frozenset({"rgb@pixels", "caption"}), frozenset({"near", "caption"})} <= set(shown)
    assert all("caption" in names and len(names) > 1 for names in shown)


def test_the_scale_of_the_cosines_is_learned_and_bounded():
    class First(torch.nn.Module):
        def forward(self, features):
            return features.tokens[:, 0]

    features = HeadFeatures(torch.eye(4)[None], torch.ones(1, 4, dtype=torch.bool), {})
    towers = Towers([First()], [[0]], 0.07)
    mod = torch.zeros(1, 4, dtype=torch.long)
    assert towers(features, mod).square().sum().item() == pytest.approx(1 / 0.07, rel=1e-5)
    assert towers.eval()(features, mod).square().sum().item() == pytest.approx(1, rel=1e-5)
    towers.train().log_scale.data.fill_(50.0)
    assert towers(features, mod).square().sum().item() == pytest.approx(100, rel=1e-4)
    towers(features, mod).square().sum().backward()
    assert towers.log_scale.grad.item() > 0


def test_an_index_of_pictures_is_searched_by_words_and_by_pictures(trained, pairs, tmp_path):
    index = tmp_path / "index"
    made = embedding.embed(trained, pairs / "val", ["rgb"], index, print_fn=silent)
    assert made.inputs == ["rgb"]
    np.testing.assert_allclose(np.linalg.norm(made.read(), axis=1), 1, atol=1e-5)
    by_words = embedding.search(index, trained, {"caption": "a red square"}, k=4, print_fn=silent)
    assert {name for name, _ in by_words} == {"008", "009", "010", "011"}
    by_picture = embedding.search(index, trained, {"rgb": pairs / "val/rgb/000.png"}, k=1, print_fn=silent)
    assert by_picture[0][0] == "000"
    assert by_picture[0][1] == pytest.approx(1, abs=1e-4)


def test_what_does_not_fit_is_refused_in_one_line(trained, pairs, tmp_path):
    data = str(pairs / "val")
    out = ["--out", str(tmp_path / "index")]
    for words, message in (
        (["embed", trained, data, "--input", "rgb", "--input", "caption", *out], "of more than one side"),
        (["embed", trained, data, "--input", "depth", *out], "'depth'"),
        (["embed", trained, data, "--input", "rgb", "--size", "64", *out], "size: "),
        (["embed", trained, data, "--input", "rgb", "--predict", "caption", *out], "--predict"),
        (["predict", trained, "--input", "caption=a red square"], "fourm embed"),
        (["predict", trained, "--data", data, *out], "fourm embed"),
    ):
        assert message in refused(*map(str, words))
    assert not (tmp_path / "index").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [("{", "", "not JSON"), ('"between": [', '"between": [["sound"],', "task: no modality 'sound' in the vocabulary")],
)
def test_a_damaged_config_of_a_run_is_named(trained, pairs, tmp_path, old, new, message):
    shutil.copytree(trained / "head", tmp_path / "run/head")
    path = tmp_path / "run/head/config.json"
    path.write_text(path.read_text().replace(old, new, 1))
    words = ["embed", tmp_path / "run", pairs / "val", "--input", "rgb", "--out", tmp_path / "index"]
    assert f"{path}: {message}" in refused(*words)


def test_a_sample_without_a_readable_file_is_skipped(trained, pairs, tmp_path):
    (tmp_path / "data/rgb").mkdir(parents=True)
    shutil.copy(pairs / "val/rgb/000.png", tmp_path / "data/rgb")
    (tmp_path / "data/rgb/001.png").write_bytes(b"no picture")
    said = fourm("embed", trained, tmp_path / "data", "--input", "rgb", "--out", tmp_path / "index")
    assert "1 sample, 16 features each, of rgb; 1 could not be used" in said


@pytest.mark.parametrize(
    ("task", "sections", "message"),
    [
        ({"between": ["rgb@pixels"]}, {}, "between: name the inputs"),
        ({"between": ["rgb@pixels", "rgb@pixels"]}, {}, "twice"),
        ({"between": ["rgb@pixels", []]}, {}, "between: name the inputs"),
        ({"between": ["rgb@pixels", "depth"]}, {}, "'depth' is not among modalities.select"),
        ({"between": ["rgb@pixels", "captoin"]}, {}, "did you mean 'caption'?"),
        ({}, {"modalities": {"select": ["rgb@pixels", "near", "caption"]}}, "'near' is on no side"),
        ({"between": ["rgb@pixels", "near", "caption"]}, {"modalities": {"settings": {"near": {"source": "rgb"}}}},
         "read the same files"),
        ({"head": "convnext"}, {}, "task.head=convnext"),
        ({"temperature": 0}, {}, "task.temperature"),
        ({}, {"train": {"accumulate": 6}}, "train.batch_size"),
    ],
)  # fmt: skip
def test_a_config_that_cannot_be_learned_is_refused(source, pairs, tmp_path, task, sections, message):
    path = retrieval(tmp_path, source, pairs, task, **sections)
    assert message in refused("finetune", str(path))


def test_a_dry_run_says_what_is_learned(source, pairs, tmp_path):
    said = fourm("finetune", retrieval(tmp_path, source, pairs), "--dry-run")
    assert "retrieval of" in said
    assert "embeddings of 16 numbers" in said
