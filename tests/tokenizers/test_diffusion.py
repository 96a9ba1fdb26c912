"""Noise schedules and samplers against the formulas, written out in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from fourm_engine.tokenizers.diffusion import Diffusion, DiffusionSettings, cumulative_alphas, sampling_timesteps
from fourm_engine.tokenizers.unet import PatchedUNet, UNetSettings, timestep_embedding

PREDICTIONS = ("sample", "epsilon", "v_prediction")


def oracle(diffusion, clean):
    """Predicts as a network would that knows the clean maps."""

    def predict(x, t):
        signal, spread = diffusion._scales(t)
        return diffusion.target(clean, (x - signal * clean) / spread, t)

    return predict


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm_solver"])
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(
    ("schedule", "zero"), [("linear", False), ("squaredcos_cap_v2", True), ("shifted_cosine:0.5", True)]
)
def test_a_perfect_prediction_is_sampled_whatever_is_predicted(sampler, prediction, schedule, zero):
    blind = prediction == "epsilon" and zero  # nothing can be known from the last timestep
    given = {
        "prediction": prediction,
        "schedule": schedule,
        "zero_terminal_snr": zero and not blind,
        "sampler": sampler,
    }
    if blind:
        given["schedule"] = "squaredcos_cap_v2"
    clean = torch.rand(2, 1, 3, 3, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8
    for steps in (4, 30):
        diffusion = Diffusion(DiffusionSettings(**given, steps=steps, clip_sample=prediction == "epsilon"))
        sampled = diffusion.sample(oracle(diffusion, clean), diffusion.noise((2, 1, 3, 3)))
        torch.testing.assert_close(sampled, clean, atol=5e-3, rtol=0)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize(("schedule", "timesteps", "steps"), [("shifted_cosine:0.7", 100, 7), ("linear", 60, 5)])
@pytest.mark.parametrize("clip", [False, True])
def test_ddim_is_the_formula_step_by_step(prediction, schedule, timesteps, steps, clip):
    """Eta 0; ε from the unclipped x0; alpha 1 below 0; timesteps T // steps apart, also where that does not divide."""
    zero = prediction != "epsilon"
    if prediction == "epsilon" and schedule != "linear":
        clip = True
    settings = DiffusionSettings(
        prediction=prediction,
        schedule=schedule,
        timesteps=timesteps,
        zero_terminal_snr=zero,
        steps=steps,
        clip_sample=clip,
    )
    diffusion = Diffusion(settings)
    alphas = cumulative_alphas(schedule, timesteps, zero_terminal_snr=zero).double().numpy()
    shape, gap = (2, 1, 4, 4), timesteps // steps
    x = diffusion.noise(shape).double().numpy()
    predict = lambda x, t: torch.sin(3 * x + 0.01 * t[:, None, None, None])  # noqa: E731 (any function will do)
    sampled = diffusion.sample(predict, diffusion.noise(shape))
    expected = list(range(timesteps - 1, -1, -gap))
    assert sampling_timesteps(timesteps, steps) == expected
    for t in expected:
        a, before = max(alphas[t], 1e-30), alphas[t - gap] if t >= gap else 1.0
        output = np.sin(3 * x + 0.01 * t)
        if prediction == "sample":
            clean, noise = output, (x - a**0.5 * output) / (1 - a) ** 0.5
        elif prediction == "epsilon":
            clean, noise = (x - (1 - a) ** 0.5 * output) / a**0.5, output
        else:
            clean = a**0.5 * x - (1 - a) ** 0.5 * output
            noise = a**0.5 * output + (1 - a) ** 0.5 * x
        x = before**0.5 * (clean.clip(-1, 1) if clip else clean) + (1 - before) ** 0.5 * noise
    np.testing.assert_allclose(sampled, x, atol=2e-3)


def test_the_shifted_cosine_schedule_is_its_formula_and_ends_at_zero():
    alphas = cumulative_alphas("shifted_cosine:0.5", 1000)
    for t in (1, 400, 998):
        log_snr = -2 * (math.log(math.tan(math.pi / 2 * t / 999)) + math.log(0.5))
        assert float(alphas[t]) == pytest.approx(1 / (1 + math.exp(-log_snr)), abs=1e-6)
    assert alphas[-1] == 0
    assert (alphas >= cumulative_alphas("shifted_cosine:1.0", 1000)).all()  # s < 1 raises the SNR
    assert torch.equal(alphas, cumulative_alphas("shifted_cosine:0.5", 1000, zero_terminal_snr=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": "sigmoid"}, "not linear"),
        ({"schedule": "shifted_cosine:0"}, "s > 0"),
        ({"schedule": "shifted_cosine:nan"}, "s > 0"),
        ({"timesteps": 10, "steps": 11}, "more than there are timesteps"),
        ({"prediction": "epsilon", "schedule": "shifted_cosine:1"}, "says nothing of the map"),
        ({"prediction": "epsilon", "zero_terminal_snr": True}, "says nothing of the map"),
    ],
)
def test_settings_that_cannot_be_sampled_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        DiffusionSettings(**settings)


def test_timesteps_are_embedded_as_cosines_then_sines():
    found = timestep_embedding(torch.tensor([0, 17]), 8)
    angles = [17 * 10000 ** (-i / 4) for i in range(4)]
    expected = [[1.0] * 4 + [0.0] * 4, [math.cos(a) for a in angles] + [math.sin(a) for a in angles]]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=0)


def test_the_unet_sees_each_row_alone_its_timestep_and_its_condition():
    torch.manual_seed(0)
    net = PatchedUNet(2, 3, UNetSettings(patch=2, width=16, multipliers=(1, 2), groups=8))
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x, t, condition = torch.randn(3, 2, 8, 12), torch.tensor([3, 500, 500]), torch.randn(3, 3, 2, 3)
    out = net(x, t, condition)
    assert out.shape == x.shape
    torch.testing.assert_close(net(x[1:2], t[1:2], condition[1:2]), out[1:2])
    for other in (net(x, t + 100, condition), net(x, t, condition + 1), net(x + 1, t, condition)):
        assert (other - out).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"width": 15}, "even"), ({"width": 24, "groups": 16}, "not a multiple"), ({"multipliers": (0,)}, "even")],
)
def test_a_unet_that_cannot_be_built_is_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        UNetSettings(**settings)
