"""Published models generate here what they generated there: greedy tokens, guided logits."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from fourm_engine.batch import Tokens
from fourm_engine.generate.guidance import branches_of
from fourm_engine.generate.plan import Stage
from fourm_engine.generate.sample import Sample
from fourm_engine.masking.pack import Shown, pack_inputs
from fourm_engine.model import FourM
from tests.golden.cases import Case, cases, model_case, write_checkpoint

LOGITS, GUIDED = 3e-5, 1e-4
_RUN = re.compile(r"out/(rgb|caption)_to_(depth|caption)(?:_1step)?(?:_cfg([\d.]+))?$")
#: How the keys of a case call the domains.
_DOMAINS = {"rgb": "rgb", "tok_rgb": "tok_rgb", "depth": "tok_depth", "caption": "caption"}


def names_of(model: FourM) -> dict[str, str]:
    """Word of a case's keys -> modality."""
    by_stem = {str(m.spec.published_name).partition("@")[0]: name for name, m in model.modalities.items()}
    return {word: by_stem[stem] for word, stem in _DOMAINS.items()}


def raw_caption(model: FourM, samples: list[Sample], stage: Stage, length: int) -> np.ndarray:
    """Ids as they come, beyond any end marker, as the recorded ones."""
    plan = branches_of(stage, samples, model.sampler.sequences)
    rows = plan.rows(samples)
    uniform = torch.zeros(len(samples), length)
    return model.sampler.autoregressive(rows, plan, stage.target, length, stop=(), uniform_BL=uniform)[0].numpy()


@pytest.mark.parametrize("case", cases("generate"))
@torch.inference_mode()
def test_a_published_model_generates_the_recorded_tokens_and_guided_logits(case: Case, tmp_path):
    checkpoint = write_checkpoint(model_case(case), tmp_path / "model.safetensors")
    model = FourM.from_pretrained(checkpoint, device="cpu")
    name, data = names_of(model), case.data()
    caption = Shown.tokens(case.content["caption_ids"])
    spec = model.modalities[name["rgb"]].spec
    pictures = [Shown.continuous(spec, x.astype(np.float32)) for x in data["in/rgb"]]
    runs = [match for key in data if (match := _RUN.match(key))]
    assert runs
    for run in runs:
        given, target, weight = run.groups()
        shown = pictures if given == "rgb" else [caption] * len(data[run[0]])
        samples = [Sample({name[given]: s}) for s in shown]
        guidance, recorded = float(weight or 1), data[run[0]]
        if target == "caption":
            stage = Stage(target=name[target], scheme="autoregressive", guidance=guidance, prompt_sentinel=True)
            np.testing.assert_array_equal(
                raw_caption(model, samples, stage, recorded.shape[1]), recorded, err_msg=run[0]
            )
            continue
        stage = Stage(target=name[target], scheme="parallel", guidance=guidance, prompt_sentinel=True)
        filled = model.sampler.run(samples, [stage], [0] * len(samples))
        np.testing.assert_array_equal([f[stage.target].ids for f in filled], recorded, err_msg=run[0])

    # A partly revealed picture: without condition, with either condition, and their weighted sum.
    depth, target = data["out/rgb_to_depth_1step_cfg2.5"], name["tok_rgb"]
    revealed = data["in/tok_rgb_revealed"]
    samples = [Sample({name["depth"]: Shown.tokens(d), name["caption"]: caption}) for d in depth]
    weights = dict(zip((name["depth"], name["caption"]), case.content["weights"], strict=True))
    plan = branches_of(Stage(target=target, scheme="parallel", guidance=weights), samples, model.sampler.sequences)
    rows = plan.rows(samples)
    for b, row in enumerate(rows):
        row[target] = Shown.tokens(data["in/tok_rgb"][b % len(samples)][revealed], revealed)
    tokens, continuous = pack_inputs(rows, model.vocabulary, max(sum(map(len, r.values())) for r in rows), "cpu")
    context, valid = model.network.encode(tokens, continuous)
    pos = torch.from_numpy(data["out/positions"]).repeat(len(plan), 1)
    mod = torch.full_like(pos, model.vocabulary[target].index)
    asked = Tokens(torch.full_like(pos, -1), pos, mod, torch.zeros_like(pos))
    logits = model.network.logits(model.network.decode(asked, context, valid), target)
    for part, key in zip(
        logits.chunk(len(plan)),
        ["uncond", *("depth" if n == name["depth"] else "caption" for n in sorted(weights))],
        strict=True,
    ):
        np.testing.assert_allclose(part[..., :32], data[f"out/{key}_first32"], rtol=0, atol=LOGITS, err_msg=key)
    guided = plan.combine(logits)
    np.testing.assert_allclose(guided[..., :32], data["out/guided_first32"], rtol=0, atol=GUIDED)
    np.testing.assert_allclose(guided.double().logsumexp(-1), data["out/guided_logsumexp"], rtol=0, atol=GUIDED)
    np.testing.assert_array_equal(guided.argmax(-1), data["out/guided_argmax"])
