"""What a plan's execution may be relied on for, on tokens alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fourm_engine.batch import Tokens
from fourm_engine.generate.guidance import branches_of
from fourm_engine.generate.plan import Stage, default_plan
from fourm_engine.generate.sample import Sample, SequenceIds
from fourm_engine.generate.sampler import Sampler
from fourm_engine.generate.schedules import tokens_per_step
from fourm_engine.masking.pack import Shown, pack_inputs
from tests.generate.toys import modalities, network

MODALITIES = modalities()
IDS = {"words": SequenceIds(end=1, start=3, stop=frozenset(range(1, 8)))}


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    net, vocabulary = network(MODALITIES)
    positions = net.embedding.fixed_positions  # a larger part of them, lest all tokens of so small a grid look alike
    positions.mul_(4).sub_(positions.mean(0))
    return Sampler(net, vocabulary, sequences=IDS, inputs=set(MODALITIES))


def sample(seed: int = 0, *, names: tuple[str, ...] = ("colour@pixels", "words")) -> Sample:
    rng = np.random.default_rng(seed)
    shown = {}
    for name in names:
        spec = MODALITIES[name].spec
        if spec.continuous:
            shown[name] = Shown.continuous(spec, rng.normal(size=(3, 8, 8)).astype(np.float32))
        elif spec.layout.kind == "sequence":
            shown[name] = Shown.tokens([*rng.integers(8, 35, rng.integers(1, 6)), 1])
        else:
            shown[name] = Shown.tokens(rng.integers(0, spec.token_space.size, spec.layout.num_tokens))
    return Sample(shown)


def partly(part: Sample, target: str, positions: list[int], ids: list[int]) -> Sample:
    part.known[target] = Shown.tokens(ids, np.array(positions))
    return part


SAMPLED = {"temperature": 1.0, "top_p": 0.9}
GRID = Stage(target="height", scheme="parallel", steps=4, **SAMPLED)
TEXT = Stage(target="words", scheme="autoregressive", temperature=1.0)


@pytest.mark.parametrize(
    "stage",
    [
        GRID,
        Stage(target="height", scheme="random_order", steps=3, schedule="linear", temperature=2.0, guidance=2.0),
        Stage(target="height", scheme="parallel", steps=16, temperature=3.0, temperature_schedule="onex"),
        Stage(target="pose", scheme="parallel", steps=2, **SAMPLED),
        TEXT,
        TEXT.model_copy(update={"guidance": 1.5, "top_k": 5}),
    ],
)
def test_a_sample_comes_out_the_same_alone_and_in_any_batch(sampler, stage):
    known = partly(sample(2, names=("pose",)), "height", [3, 5, 6], [1, 2, 3])
    batch = [sample(0, names=("colour@pixels", "colour")), sample(1, names=()), known]
    together = sampler.run(batch, [stage, GRID], [5, 6, 7])
    for i, seed in enumerate((5, 6, 7)):
        alone = sampler.run([batch[i]], [stage, GRID], [seed])[0]
        for target in alone:
            assert np.array_equal(alone[target].ids, together[i][target].ids)


def test_the_same_seed_gives_the_same_tokens_and_another_seed_others(sampler):
    runs = [sampler.run([sample()], [GRID], [seed])[0]["height"].ids for seed in (1, 1, 2)]
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_all_tokens_are_filled_with_ids_of_the_modality(sampler):
    filled = sampler.run([sample(), sample(1)], [GRID, TEXT], [0, 1])
    for result in filled:
        assert result["height"].ids.shape == (16,)
        assert result["height"].ids.min() >= 0
        assert result["height"].ids.max() < 8
        assert len(result["words"].ids) <= 10


@pytest.mark.parametrize("scheme", ["parallel", "random_order"])
@pytest.mark.parametrize("steps", [1, 3, 40])
def test_known_tokens_stay_as_they_are(sampler, scheme, steps):
    stage = Stage(target="height", scheme=scheme, steps=steps, **SAMPLED)
    samples = [
        partly(sample(0), "height", [0, 7, 15], [7, 6, 5]),
        sample(1),
        partly(sample(2), "height", list(range(16)), [4] * 16),
    ]
    a, _, c = (result["height"].ids for result in sampler.run(samples, [stage], [0, 1, 2]))
    assert a[[0, 7, 15]].tolist() == [7, 6, 5]
    assert c.tolist() == [4] * 16


def test_one_greedy_step_is_the_argmax_of_the_model(sampler):
    stage = Stage(target="height", scheme="parallel", readout="expected")
    s = sample()
    filled = sampler.run([s], [stage], [0])[0]["height"]
    logits = grid_logits(sampler, s.shown)
    assert np.array_equal(filled.ids, logits.argmax(-1).numpy())
    assert np.allclose(filled.probabilities, logits.softmax(-1).numpy(), atol=1e-6)


@torch.no_grad()
def grid_logits(sampler: Sampler, shown: dict[str, Shown], known: Shown | None = None) -> torch.Tensor:
    """(positions not known, 8), straight from the network."""
    shown = {**shown, "height": known} if known is not None else shown
    tokens, continuous = pack_inputs([shown], sampler.vocabulary, sum(map(len, shown.values())), "cpu")
    context, valid = sampler.network.encode(tokens, continuous)
    left = [p for p in range(16) if known is None or p not in known.pos]
    pos = torch.tensor([left])
    mod = torch.full_like(pos, sampler.vocabulary["height"].index)
    asked = Tokens(torch.full_like(pos, -1), pos, mod, torch.zeros_like(pos))
    return sampler.network.logits(sampler.network.decode(asked, context, valid), "height")[0]


def test_what_is_known_of_a_later_target_is_shown_to_the_earlier_ones(sampler):
    first, later = Stage(target="height", scheme="parallel", readout="expected"), TEXT
    known = Shown.tokens([3, 9, 2], np.array([4, 9, 2]))
    s = Sample({}, {"colour": known, "words": Shown.tokens([10, 11])})
    colour = Stage(target="colour", scheme="parallel")
    filled = sampler.run([s], [first, later, colour], [0])[0]["height"]
    logits = grid_logits(sampler, {"colour": known, "words": Shown.tokens([10, 11, IDS["words"].start])})
    assert np.allclose(filled.probabilities, logits.softmax(-1).numpy(), atol=1e-6)


def test_guidance_with_several_weights_is_u_plus_the_weighted_differences(sampler):
    stage = Stage(target="height", scheme="parallel", readout="expected", guidance={"words": -1.5, "colour": 3.0})
    s = sample(names=("colour", "words"))
    known = Shown.tokens([1, 2, 3], np.array([4, 9, 2]))
    s.known["height"] = known
    filled = sampler.run([s], [stage], [0])[0]["height"]
    u = grid_logits(sampler, {}, known)
    expected = u
    for name, weight in {"colour": 3.0, "words": -1.5}.items():
        expected = expected + weight * (grid_logits(sampler, {name: s.shown[name]}, known) - u)
    left = [p for p in range(16) if p not in known.pos]
    assert np.allclose(filled.probabilities[left], expected.softmax(-1).numpy(), atol=1e-5)
    assert np.allclose(filled.probabilities[4], np.eye(8)[1])


@pytest.mark.parametrize("stage", [GRID, TEXT])
def test_guidance_by_one_is_plain_and_by_nought_is_unconditional(sampler, stage):
    def run(s: Sample, guidance: float | dict | None) -> list[list[int]]:
        filled = sampler.run([s] * 4, [stage.model_copy(update={"guidance": guidance})], range(4))
        return [result[stage.target].ids.tolist() for result in filled]

    given = sample(names=("colour",))
    assert run(given, {"colour": 1.0}) == run(given, 1.0) == run(given, None)
    assert run(given, 0.0) == run(Sample(), None)
    assert run(given, 0.0) != run(given, None)


def test_what_has_no_weight_of_its_own_is_seen_by_every_branch(sampler):
    s = sample(names=("colour", "pose"))
    stage = Stage(target="height", scheme="parallel", guidance={"colour": 0.0})
    filled = sampler.run([s], [stage], [0])[0]["height"].ids
    assert np.array_equal(filled, grid_logits(sampler, {"pose": s.shown["pose"]}).argmax(-1).numpy())


def test_a_weight_of_a_condition_itself_is_the_same_as_in_the_plan(sampler):
    s = sample(names=("colour", "words"))
    weighted = Sample(dict(s.shown), weights={"colour": 2.5})
    plain = Stage(target="height", scheme="parallel")
    by_plan = sampler.run([s], [plain.model_copy(update={"guidance": {"colour": 2.5}})], [0])[0]
    assert np.array_equal(sampler.run([weighted], [plain], [0])[0]["height"].ids, by_plan["height"].ids)
    with pytest.raises(ValueError, match="both with colour and in the plan"):
        sampler.run([weighted], [plain.model_copy(update={"guidance": 2.0})], [0])


def test_weights_of_unknown_conditions_are_named(sampler):
    stage = Stage(target="height", scheme="parallel", guidance={"colours": 2.0})
    with pytest.raises(ValueError, match=r"'colours'.*did you mean 'colour'"):
        sampler.run([sample(names=("colour",))], [stage], [0])


@torch.no_grad()
def greedy_without_cache(sampler: Sampler, shown: dict[str, Shown], steps: int) -> list[int]:
    entry = sampler.vocabulary["words"]
    tokens, continuous = pack_inputs([shown], sampler.vocabulary, sum(map(len, shown.values())), "cpu")
    context, valid = sampler.network.encode(tokens, continuous)
    ids = [3]
    for _ in range(steps):
        rank = torch.arange(len(ids))[None]
        known = Tokens(torch.tensor([ids]) + entry.start, rank, torch.full_like(rank, entry.index), rank)
        y = sampler.network.decode(known, context, valid)
        ids.append(int(sampler.network.logits(y[:, -1], "words").argmax()))
    return ids[1:]


def test_cached_greedy_decoding_equals_running_the_whole_decoder_again(sampler):
    shown = sample(4).shown
    del shown["words"]
    plan = branches_of(Stage(target="words", scheme="autoregressive"), [Sample(shown)], IDS)
    uniform = torch.zeros(1, 20)
    ids, _ = sampler.autoregressive(plan.rows([Sample(shown)]), plan, "words", 20, stop=(), uniform_BL=uniform)
    assert ids[0].tolist() == greedy_without_cache(sampler, shown, 20)


def test_a_sequence_ends_before_its_end_marker_or_at_its_limit(sampler):
    for seed in range(20):
        filled = sampler.run([sample(seed, names=("colour",))], [TEXT], [seed])[0]["words"].ids
        assert len(filled) <= 10
        assert not set(filled.tolist()) & IDS["words"].stop
    short = sampler.run([sample()], [TEXT.model_copy(update={"max_tokens": 2})], [0])[0]["words"].ids
    assert len(short) <= 2


def test_a_begun_sequence_is_continued(sampler):
    s = sample(names=("colour",))
    s.known["words"] = Shown.tokens([10, 11, 12])
    filled = sampler.run([s], [TEXT.model_copy(update={"temperature": 0.0})], [0])[0]["words"].ids.tolist()
    assert filled[:3] == [10, 11, 12]
    # As in training: what is known is shown, and a sentinel in place of the rest.
    rest = greedy_without_cache(sampler, {**s.shown, "words": Shown.tokens([10, 11, 12, 3])}, 7)
    stop = next((i for i, id_ in enumerate(rest) if id_ in IDS["words"].stop), 7)
    assert filled[3:] == rest[:stop]


def test_later_stages_see_what_earlier_ones_made(sampler):
    first = Stage(target="colour", scheme="parallel")
    second = Stage(target="height", scheme="parallel")
    s = sample(names=("pose",))
    chained = sampler.run([s], [first, second], [0])[0]
    shown = {"pose": s.shown["pose"], "colour": Shown.tokens(chained["colour"].ids)}
    assert np.array_equal(chained["height"].ids, grid_logits(sampler, shown).argmax(-1).numpy())
    assert "colour" not in s.shown


def test_prompt_sentinel_shows_the_sentinel_of_a_sequence_being_made_and_of_one_that_is_hidden(sampler):
    s = sample(names=("words",))
    grid = branches_of(Stage(target="height", scheme="parallel", guidance=3.0, prompt_sentinel=True), [s], IDS)
    u, c = grid.rows([s])
    assert u["words"].ids.tolist() == [3]
    assert c["words"] is s.shown["words"]
    weighted = Stage(target="height", scheme="parallel", guidance={"words": 3.0}, prompt_sentinel=True)
    assert branches_of(weighted, [s], IDS).rows([s])[0] == {}
    text = branches_of(
        Stage(target="words", scheme="autoregressive", guidance=2.0, prompt_sentinel=True), [sample()], IDS
    )
    u, c = text.rows([sample()])
    assert u.keys() == {"words"}
    assert u["words"].ids.tolist() == c["words"].ids.tolist() == [3]


def test_guidance_without_any_visible_token_is_finite(sampler):
    stage = Stage(target="height", scheme="parallel", readout="expected", guidance=2.5)
    filled = sampler.run([sample(names=("words",))], [stage], [0])[0]["height"]
    assert np.isfinite(filled.probabilities).all()


def test_schemes_must_fit_the_layout(sampler):
    with pytest.raises(ValueError, match="words is a sequence"):
        sampler.run([sample()], [Stage(target="words", scheme="parallel")], [0])
    with pytest.raises(ValueError, match="height is a grid"):
        sampler.run([sample()], [Stage(target="height", scheme="autoregressive")], [0])
    with pytest.raises(ValueError, match="continuous"):
        sampler.run([sample()], [Stage(target="colour@pixels", scheme="parallel")], [0])


def test_options_that_would_do_nothing_are_refused():
    with pytest.raises(ValueError, match="steps does not apply"):
        Stage(target="words", scheme="autoregressive", steps=3)
    with pytest.raises(ValueError, match="max_tokens applies"):
        Stage(target="height", scheme="parallel", max_tokens=3)


def test_default_plan_takes_one_expected_step_where_the_layout_is_seen_and_several_where_not():
    aligned = default_plan(["height"], MODALITIES, ["colour@pixels"])[0]
    assert (aligned.steps, aligned.temperature, aligned.readout) == (1, 0.0, "expected")
    free = default_plan(["height", "words", "pose"], MODALITIES, ["words"])
    assert [stage.scheme for stage in free] == ["parallel", "autoregressive", "parallel"]
    assert free[0].steps > 1
    assert free[0].temperature > 0
    assert free[2].steps == 1
    chained = default_plan(["colour", "height"], MODALITIES, ["words"])
    assert chained[0].steps > 1
    assert chained[1].steps == 1
    fixed = default_plan(["height", "words"], MODALITIES, steps=5, temperature=0.0, guidance=2.0)
    assert [stage.temperature for stage in fixed] == [0.0, 0.0]
    assert fixed[0].steps == 5
    assert [stage.guidance for stage in fixed] == [2.0, 2.0]


def test_a_course_of_guidance_gives_each_step_its_weight(sampler):
    s = sample(names=("colour",))
    two = GRID.model_copy(update={"steps": 2, "temperature": 0.0, "top_p": None})
    scheduled = sampler.run([s], [two.model_copy(update={"guidance": [3.0, -1.0]})], [0])[0]["height"].ids
    first = sampler.run([s], [two.model_copy(update={"guidance": 3.0})], [0])[0]["height"].ids
    u, c = grid_logits(sampler, {}), grid_logits(sampler, s.shown)
    guided = u + 3 * (c - u)
    kept = guided.log_softmax(-1).amax(-1).topk(tokens_per_step("cosine", 2, 16)[0]).indices.sort().values
    assert scheduled[kept].tolist() == first[kept].tolist() == guided.argmax(-1)[kept].tolist()
    known = Shown.tokens(scheduled[kept.numpy()], kept.numpy())
    u, c = grid_logits(sampler, {}, known), grid_logits(sampler, s.shown, known)
    left = [p for p in range(16) if p not in known.pos]
    assert scheduled[left].tolist() == (u - (c - u)).argmax(-1).tolist()


@pytest.mark.parametrize("stage", [GRID, TEXT])
def test_a_constant_course_is_the_number_and_courses_differ(sampler, stage):
    def run(guidance):
        filled = sampler.run([sample()] * 6, [stage.model_copy(update={"guidance": guidance})], range(6))
        return [result[stage.target].ids.tolist() for result in filled]

    assert run([2.0, 2.0, 2.0]) == run(2.0)
    assert run({"colour@pixels": [2.0, 2.0]}) == run({"colour@pixels": 2.0})
    assert run([0.0, 6.0]) != run([6.0, 0.0])
    assert run([1.0, 1.0]) == run(None)
    assert run(-2.0) != run(2.0)


def test_a_course_needs_steps_and_two_numbers():
    with pytest.raises(ValueError, match="a schedule of guidance has no effect on one step"):
        Stage(target="height", scheme="parallel", guidance=[0.0, 2.0])
    with pytest.raises(ValueError, match="at least two numbers"):
        Stage(target="height", scheme="parallel", steps=4, guidance=[2.0])
    with pytest.raises(ValueError, match="a finite number"):
        Stage(target="height", scheme="parallel", steps=4, guidance={"colour": [1.0, float("nan")]})


class Certain(type(MODALITIES["words"])):
    one_answer = True

    def make_spec(self):
        return super().make_spec().model_copy(update={"alignment": "image"})


def test_a_sequence_with_one_answer_is_drawn_only_where_no_picture_shows_it_or_on_request():
    mods = dict(MODALITIES, words=Certain("words"))
    assert default_plan(["words"], MODALITIES, ["colour"])[0].temperature == 0.7
    assert default_plan(["words"], mods, ["colour"])[0].temperature == 0
    assert default_plan(["words"], mods, ["colour"])[0].deterministic
    assert default_plan(["words"], mods, ["pose"])[0].temperature == 0.7
    assert default_plan(["words"], mods, ["colour"], several=True)[0].temperature == 0.7
    assert default_plan(["words"], mods, ["colour"], temperature=0.3)[0].temperature == 0.3
