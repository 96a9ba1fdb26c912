"""Diffusion: noise schedules, prediction targets, and sampling, by the schedulers of `diffusers`.

In: clean maps and noise, or only noise and a prediction function. Out: noisy maps and targets, or sampled maps.

A map at timestep t of T is x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε (Ho et al. 2020, eq. 4), ᾱ falling from 1 towards 0. The
network predicts x_0 ("sample"), ε ("epsilon"), or v = √ᾱ_t ε − √(1 − ᾱ_t) x_0 ("v_prediction", Salimans & Ho 2022).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from fourm_plugins.extras import optional
from fourm_plugins.settings import Settings

_SHIFTED = "shifted_cosine:"
#: Bounds of the log of the signal-to-noise ratio of the shifted cosine schedule.
_LOG_SNR = 15.0
#: ᾱ used for 0 by the fast solver, as in `diffusers`: it works with the log of the signal-to-noise ratio.
_LEAST = 2.0**-24
#: ᾱ used for 0 by the other schedulers, to avoid 0 / 0.
_TINY = 1e-30

#: (x_t (B, C, H, W), t (B,)) -> the network's prediction.
Predict = Callable[[Tensor, Tensor], Tensor]


class DiffusionSettings(Settings):
    """The forward process and its reversal. Decoding is a pure function of the ids, since its noise is fixed."""

    #: "sample" learns fastest on little data.
    prediction: Literal["sample", "epsilon", "v_prediction"] = "sample"
    #: "linear", "squaredcos_cap_v2" (cosine), or "shifted_cosine:s"; s < 1 raises the signal-to-noise ratio.
    schedule: str = "linear"
    #: Timesteps T of the forward process.
    timesteps: int = Field(default=1000, ge=2, le=100_000)
    #: Rescale the schedule so that the last timestep is pure noise (Lin et al. 2023).
    zero_terminal_snr: bool = True
    #: Clip predicted maps to [-1, 1] at every step.
    clip_sample: bool = False
    #: Clip them to a high quantile of their own magnitude instead (Saharia et al. 2022).
    thresholding: bool = False
    #: "ddim": deterministic. "ddpm": ancestral, with noise at every step. "dpm_solver": DPM-Solver++(2M), which needs
    #: the fewest steps.
    sampler: Literal["ddim", "ddpm", "dpm_solver"] = "ddim"
    #: Network calls per decoded map, approximately: see `sampling_timesteps`.
    steps: int = Field(default=25, ge=1)
    #: Seed of the noise from which decoding starts.
    noise_seed: int = Field(default=0, ge=0, lt=1 << 63)

    @field_validator("schedule")
    @classmethod
    def _known(cls, schedule: str) -> str:
        if schedule not in ("linear", "squaredcos_cap_v2"):
            shift = _shift(schedule)
            if shift is None or not 0 < shift < math.inf:
                raise ValueError(f"{schedule!r} is not linear, squaredcos_cap_v2, or shifted_cosine:s with s > 0")
        return schedule

    @model_validator(mode="after")
    def _possible(self) -> DiffusionSettings:
        if self.steps > self.timesteps:
            raise ValueError(f"steps {self.steps} are more than there are timesteps, {self.timesteps}; lower them")
        blind = self.zero_terminal_snr or self.schedule.startswith(_SHIFTED)
        if self.prediction == "epsilon" and blind and not (self.clip_sample or self.thresholding):
            raise ValueError(
                "prediction 'epsilon' says nothing of the map where the signal-to-noise ratio ends at 0; choose "
                "sample or v_prediction, another schedule, or clip_sample"
            )
        return self


def cumulative_alphas(schedule: str, timesteps: int, *, zero_terminal_snr: bool = False) -> Tensor:
    """ᾱ (timesteps,) float32.

    shifted_cosine:s is ᾱ = sigmoid(−2 (ln tan(π u / 2) + ln s)) with the log clamped to ±15, u = t / (timesteps − 1),
    and 0 at the end (Hoogeboom et al. 2023, section 2.1)."""
    if (shift := _shift(schedule)) is not None:
        u = torch.arange(timesteps, dtype=torch.float64) / (timesteps - 1)
        log_snr = -2 * (torch.tan(u * math.pi / 2).log() + math.log(shift))
        alphas = torch.sigmoid(log_snr.clamp(-_LOG_SNR, _LOG_SNR))
        alphas[-1] = 0.0
        return alphas.float()
    return _scheduler_class("ddim", "DDIMScheduler")(
        timesteps, beta_start=1e-4, beta_end=0.02, beta_schedule=schedule, rescale_betas_zero_snr=zero_terminal_snr
    ).alphas_cumprod


def sampling_timesteps(timesteps: int, steps: int) -> list[int]:
    """T − 1, T − 1 − k, … ≥ 0 with k = T // steps. If `steps` does not divide T there are a few more than `steps`.
    Unlike the "trailing" spacing of `diffusers` they are equally spaced, as in the published decoders."""
    return list(range(timesteps - 1, -1, -(timesteps // steps)))


class Diffusion:
    """The diffusion process of the given settings; ᾱ is computed on first use."""

    def __init__(self, settings: DiffusionSettings) -> None:
        self.settings = settings
        self._alphas: dict[torch.device, Tensor] = {}

    def alphas(self, device: torch.device | str = "cpu") -> Tensor:
        """ᾱ (T,)."""
        device = torch.device(device)
        if device not in self._alphas:
            s = self.settings
            made = cumulative_alphas(s.schedule, s.timesteps, zero_terminal_snr=s.zero_terminal_snr)
            self._alphas[device] = made.to(device)
        return self._alphas[device]

    def noisy(self, x_BCHW: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
        """x_t."""
        signal, spread = self._scales(t_B)
        return signal * x_BCHW + spread * noise

    def target(self, x_BCHW: Tensor, noise: Tensor, t_B: Tensor) -> Tensor:
        """The network's target for x_t."""
        if self.settings.prediction == "sample":
            return x_BCHW
        if self.settings.prediction == "epsilon":
            return noise
        signal, spread = self._scales(t_B)
        return signal * noise - spread * x_BCHW

    def noise(self, shape: tuple[int, ...]) -> Tensor:
        """The noise from which decoding starts, a function of seed and shape."""
        generator = np.random.Generator(np.random.Philox(self.settings.noise_seed))
        return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))

    def sample(self, predict: Predict, noise_BCHW: Tensor, *, steps: int | None = None) -> Tensor:
        """Maps (B, C, H, W) sampled from noise, each independent of the others. `steps` defaults to the settings'."""
        scheduler = self._scheduler(steps or self.settings.steps)
        fast, ancestral = self.settings.sampler == "dpm_solver", self.settings.sampler == "ddpm"
        seed = self.settings.noise_seed + 1
        generators = [torch.Generator().manual_seed(seed) for _ in noise_BCHW]  # the same noise, whatever the batch
        options: dict[str, Any] = {"generator": generators} if ancestral else {}
        x = noise_BCHW
        for t in scheduler.timesteps.tolist():
            t_B = torch.full((len(x),), t, device=x.device)
            prediction = predict(x, t_B).float()
            if fast:
                prediction = self._clean(x, prediction, t_B)
            x = scheduler.step(prediction, t, x, return_dict=False, **options)[0]
        return x

    def _clean(self, x_BCHW: Tensor, prediction: Tensor, t_B: Tensor) -> Tensor:
        """The predicted x_0, clipped according to the settings; the fast solver of `diffusers` does not clip."""
        signal, spread = self._scales(t_B)
        clean = prediction
        if self.settings.prediction == "epsilon":
            clean = (x_BCHW - spread * prediction) / signal.clamp(min=_LEAST**0.5)
        elif self.settings.prediction == "v_prediction":
            clean = signal * x_BCHW - spread * prediction
        return clean.clamp(-1, 1) if self.settings.clip_sample and not self.settings.thresholding else clean

    def _scheduler(self, steps: int) -> Any:
        s = self.settings
        alphas, timesteps = self.alphas(), sampling_timesteps(s.timesteps, steps)
        options: dict[str, Any] = {"thresholding": s.thresholding}
        if s.sampler == "dpm_solver":
            options |= {"prediction_type": "sample", "trained_betas": _betas(alphas.double().clamp(min=_LEAST))}
            fast = _scheduler_class("dpmsolver_multistep", "DPMSolverMultistepScheduler")(s.timesteps, **options)
            fast.set_timesteps(timesteps=timesteps)
            return fast
        options |= {"prediction_type": s.prediction, "clip_sample": s.clip_sample}
        options["trained_betas"] = _betas(alphas.double())
        if s.sampler == "ddpm":
            ancestral = _scheduler_class("ddpm", "DDPMScheduler")(s.timesteps, **options)
            ancestral.alphas_cumprod = alphas.clamp(min=_TINY)
            ancestral.set_timesteps(timesteps=timesteps)
            return ancestral
        deterministic = _scheduler_class("ddim", "DDIMScheduler")(s.timesteps, **options)
        deterministic.alphas_cumprod = alphas.clamp(min=_TINY)
        deterministic.set_timesteps(steps)
        deterministic.timesteps = torch.tensor(timesteps)  # its steps are T // steps apart, too
        return deterministic

    def _scales(self, t_B: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ and √(1 − ᾱ) at t, (B, 1, 1, 1) each."""
        alphas = self.alphas(t_B.device)[t_B][:, None, None, None]
        return alphas.sqrt(), (1 - alphas).sqrt()


def _scheduler_class(module: str, name: str) -> Any:
    """A scheduler of `diffusers`; only its module is imported, since the package takes seconds."""
    module = f"diffusers.schedulers.scheduling_{module}"
    return getattr(optional(module, what="diffusion decoders need", install="fourm-engine[diffusion]"), name)


def _betas(alphas: Tensor) -> np.ndarray:
    """β_t = 1 − ᾱ_t / ᾱ_{t−1}."""
    before = torch.cat([torch.ones_like(alphas[:1]), alphas[:-1]])
    return (1 - alphas / before).numpy()


def _shift(schedule: str) -> float | None:
    """s of shifted_cosine:s; None for other schedules."""
    try:
        return float(schedule.removeprefix(_SHIFTED)) if schedule.startswith(_SHIFTED) else None
    except ValueError:
        return None
