"""Predictions are scored by the modality's own metrics, beside its constants and the tokenizer's ceiling."""

from __future__ import annotations

import numpy as np
import pytest

from fourm_engine.evaluate.agreement import agreement, features_of
from fourm_engine.evaluate.config import EvaluateConfig
from fourm_engine.evaluate.diversity import effective_number
from fourm_engine.evaluate.predict import Predictor, kept_tokens
from fourm_engine.evaluate.tasks import resolve_tasks
from fourm_plugins import Metric
from tests.fakes import fake_modalities


def predictor(model, held_out, *tasks, extra=None, features=None, **settings):
    config = EvaluateConfig(tasks=list(tasks), **settings)
    training = {"a": list(held_out.values["a"].values()), "b": [], "words": []}
    resolved, _ = resolve_tasks(config.tasks, model.modalities)
    return Predictor(model, held_out, training, config, extra_metrics=extra, features=features), resolved


def test_scores_are_the_metrics_of_prediction_ceiling_and_constants(model, held_out):
    found, (task,) = predictor(model, held_out, {"name": "t", "inputs": ["b"], "targets": ["a"]})
    result, _ = found.run(task)
    (score,) = result.scores["a"]
    truths = held_out.values["a"]
    names = [name for name in held_out.names if name in held_out.values["b"]]
    assert result.samples == result.scored["a"] == len(names) == 10
    error = model.modalities["a"].metrics()[0].compute
    ids = {name: model.tokenizers["a"].encode([held_out.arrays["a"][name]])[0] for name in names}
    decoded = [model.modalities["a"].denormalise(model.tokenizers["a"].decode([ids[name]])[0]) for name in names]
    constant = model.modalities["a"].constants(list(truths.values()))["one value"]
    expected = [truths[name] for name in names]
    assert score.ceiling == pytest.approx(error(decoded, expected))
    assert score.constants == {"one value": pytest.approx(error([constant] * len(names), expected))}
    assert score.prediction > score.ceiling


def test_predictions_do_not_depend_on_the_size_of_the_batch(model, held_out):
    task = {"name": "t", "inputs": ["a"], "targets": ["words", "b"], "options": {"b": {"steps": 3, "temperature": 1.0}}}
    scores = []
    for size in (1, 5, 32):
        found, (resolved,) = predictor(model, held_out, task, batch_size=size)
        scores.append({target: s[0].prediction for target, s in found.run(resolved)[0].scores.items()})
    assert scores[0] == pytest.approx(scores[1])
    assert scores[0] == pytest.approx(scores[2])


def test_a_sample_without_the_truth_is_predicted_but_not_scored(model, held_out):
    found, (task,) = predictor(model, held_out, {"name": "t", "inputs": ["words"], "targets": ["b"]}, pictures=12)
    result, pictures = found.run(task)
    assert (result.samples, result.scored["b"]) == (12, 10)
    lacking = [row for row in pictures if row.outputs[0].truth is None]
    assert len(lacking) == 2
    assert all(row.outputs[0].prediction is not None and row.outputs[0].ceiling is None for row in lacking)


def test_the_known_part_of_a_picture_stays_as_it_is(model, held_out):
    found, (task,) = predictor(
        model, held_out, {"name": "t", "inputs": ["a", "b"], "targets": ["a"], "keep": {"a": "left"}}, pictures=1
    )
    names = held_out.with_modalities(["a", "b"])
    for name, predicted in found._predict(task, names).items():
        kept = found.ceiling("a")[name][:, :4]
        assert np.array_equal(predicted["a"][:, :4], kept)
    _, (row,) = found.run(task)
    shown = np.asarray(row.inputs["a (left)"])
    assert (shown[:, 4:] == 128).all()
    assert not (shown[:, :4] == 128).all()


def test_a_caller_may_add_metrics_and_one_that_fails_is_noted(model, held_out):
    def fails(predictions, truths):
        raise ValueError("nothing to count")

    extra = {"words": (Metric("length", lambda p, t: float(len(p)), True), Metric("bad", fails, True))}
    found, (task,) = predictor(model, held_out, {"name": "t", "inputs": ["a"], "targets": ["words"]}, extra=extra)
    result, _ = found.run(task)
    assert [score.metric for score in result.scores["words"]] == ["exact", "length", "bad"]
    assert result.scores["words"][1].prediction == 12
    assert result.scores["words"][2].prediction is None
    assert found.notes == ["words: bad cannot be computed: nothing to count"]


def test_independent_targets_see_the_inputs_alone(model, held_out):
    both = {
        "name": "t",
        "inputs": ["a"],
        "targets": ["b", "words"],
        "chain": False,
        "options": {"words": {"temperature": 0}},
    }
    alone = {**both, "targets": ["words"]}
    chained = {**both, "chain": True}
    values = []
    for entry in (both, alone, chained):
        found, (task,) = predictor(model, held_out, entry)
        values.append([v["words"] for v in found._predict(task, held_out.with_modalities(["a"])).values()])
    assert values[0] == values[1]
    assert values[0] != values[2]


def test_tokenizers_are_described_by_what_they_do_to_held_out_samples(model, held_out):
    found, _ = predictor(model, held_out)
    facts = found.tokenizers()
    assert set(facts) == {"a", "b", "words"}
    used = {i for name in held_out.arrays["b"] for i in model.tokenizers["b"].encode([held_out.arrays["b"][name]])[0]}
    assert facts["b"]["in use"] == len(used)
    assert 1 <= facts["b"]["perplexity"] <= len(used)
    assert facts["a"]["tokens a sample"] == 16


def test_parts_of_a_grid():
    spec, rng = fake_modalities(tokens=4)["a"].spec, np.random.default_rng(0)
    grid = {
        part: kept_tokens(spec, part, rng).reshape(4, 4) for part in ("left", "right", "top", "bottom", "centre", 0.25)
    }
    assert grid["left"][:, :2].all()
    assert not grid["left"][:, 2:].any()
    assert np.array_equal(grid["right"], ~grid["left"])
    assert np.array_equal(grid["top"], grid["left"].T)
    assert np.array_equal(grid["bottom"], ~grid["top"])
    assert grid["centre"][1:3, 1:3].all()
    assert grid["centre"].sum() == grid[0.25].sum() == 4
    with pytest.raises(ValueError, match="grids"):
        kept_tokens(fake_modalities()["words"].spec, "left", rng)


def test_a_task_may_take_fewer_samples_than_the_others(model, held_out):
    few, all_of_them = (
        {"name": name, "inputs": ["a"], "targets": ["words"], **samples}
        for name, samples in (("f", {"samples": 3}), ("g", {}))
    )
    found, tasks = predictor(model, held_out, few, all_of_them, samples=7)
    assert [found.run(task)[0].samples for task in tasks] == [3, 7]


def test_equal_samples_are_predicted_each_alone(model, held_out):
    """No seed asks that two samples of a data set that are alike come out different."""
    found, (task,) = predictor(
        model, held_out, {"name": "t", "inputs": ["a"], "targets": ["b"], "options": {"b": {"temperature": 0}}}
    )
    first, second = held_out.with_modalities(["a"])[:2]
    found.ids("a")
    for cache in (found.ids("a"), held_out.values["a"]):
        cache[second] = cache[first]
    for name, modality in model.modalities.items():
        if modality.spec.source == "a" and name != "a":
            held_out.values[name][second] = held_out.values[name][first]
    predicted = found._predict(task, [first, second])
    assert np.array_equal(predicted[first]["b"], predicted[second]["b"])


def test_samples_of_one_input_differ_by_what_the_metric_says_and_computed_answers_do_not(model, held_out):
    tasks = (
        {"name": "drawn", "inputs": ["words"], "targets": ["b"], "options": {"b": {"steps": 3, "temperature": 5.0}}},
        {"name": "sharp", "inputs": ["words"], "targets": ["b"], "options": {"b": {"steps": 3, "temperature": 1e-3}}},
        {"name": "greedy", "inputs": ["words"], "targets": ["b"], "options": {"b": {"temperature": 0}}},
    )
    found, resolved = predictor(model, held_out, *tasks, draws=3, draw_samples=8)
    drawn, sharp, greedy = (found.run(task)[0].diversity for task in resolved)
    assert (drawn["b"].draws, drawn["b"].inputs) == (3, 8)
    assert 0 < drawn["b"].spreads[0].among < sharp["b"].spreads[0].among == 1  # accuracy of one against another
    truths = [held_out.values["b"][name] for name in held_out.names[:8]]
    apart = model.modalities["b"].metrics()[0].compute([*truths[1:], truths[0]], truths)
    assert drawn["b"].spreads[0].apart == pytest.approx(apart)
    assert greedy == {}
    assert any("'greedy': nothing of b is drawn" in note for note in found.notes)


def test_the_effective_number_of_samples_counts_what_differs():
    assert effective_number(np.eye(4)) == pytest.approx(4)
    assert effective_number(np.eye(4)[[0, 0, 0, 0]]) == pytest.approx(1)
    assert effective_number(np.eye(4)[[0, 0, 1, 1]]) == pytest.approx(2)


def test_agreement_is_that_of_what_was_given_with_what_was_made_of_it(model, held_out, monkeypatch):
    def features(values):
        return np.stack([np.eye(32)[sum(map(ord, str(np.asarray(v).tolist()))) % 32] for v in values])

    modalities = model.modalities
    for name in ("words", "b"):
        monkeypatch.setattr(type(modalities[name]), "contrastive", lambda self, m: features, raising=False)
    task = {"name": "t", "inputs": ["words"], "targets": ["a", "b"]}
    (resolved,), _ = resolve_tasks(EvaluateConfig(tasks=[task]).tasks, modalities)
    made = features_of("any", modalities, [resolved])
    found, (resolved,) = predictor(model, held_out, task, features=made)
    (row,) = found.run(resolved)[0].agreement
    assert (row.given, row.target, row.samples) == ("words", "b", 10)
    assert 0 <= row.cosine <= 1
    unit = np.eye(3)
    perfect = agreement(unit, unit, unit[[1, 2, 0]], given="x", target="y")
    assert (perfect.cosine, perfect.truth, perfect.others) == (1, 0, 0)
    assert (perfect.recall_at_1, perfect.truth_recall_at_1) == (1, 0)
    (alone,), _ = resolve_tasks(EvaluateConfig(tasks=[task | {"inputs": ["a"], "targets": ["b"]}]).tasks, modalities)
    with pytest.raises(ValueError, match="no task has an input and a target that such a model compares"):
        features_of("any", modalities, [alone])
