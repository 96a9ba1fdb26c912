"""Sounds, seen by the model as spectrograms: a grid of frequencies and times.

Files: .wav, 16-bit PCM. Value: float32 (samples,) in [-1, 1], one channel. Array: float32 (1, frequencies, frames),
log magnitude, linear from `floor` to 0 dB in [-1, 1]; low frequencies first. The phase is left out, and found again by
the algorithm of Griffin and Lim (1984, "Signal estimation from modified short-time Fourier transform"), so that what is
generated can be heard.
"""

import io
import wave
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image
from pydantic import Field, model_validator

from fourm_plugins import FeatureMap, Metric, SampleError, View, images
from fourm_plugins.bases import GridModality

PHASE_STEPS = 32
QUIET = 1e-10  # keeps the logarithm of silence finite


class SpectrogramSettings(images.TokenSettings):
    #: [frequencies, frames]; a frame is as many samples apart from the next as there are frequencies.
    image_size: int | tuple[int, int] = (128, 64)
    sample_rate: int = Field(default=8000, ge=1000, le=192_000)
    #: dB below a full-scale sine; what is more quiet is clipped.
    floor: float = Field(default=-80.0, lt=0)

    @model_validator(mode="after")
    def _frequencies(self) -> "SpectrogramSettings":
        if self.size[0] < 2:
            raise ValueError("image_size: two frequencies are the least")
        return self


class Spectrogram(GridModality):
    """A sound longer than the array has several segments: view number v takes segment v."""

    Settings = SpectrogramSettings
    extensions = ("wav",)
    alignment = None  # no crop of a picture changes what is heard
    uses_variant = True
    licence = "Apache-2.0"
    description = "sound, as a spectrogram"

    def make_array(self) -> FeatureMap:
        frequencies, frames = self.settings.size
        return FeatureMap(channels=1, height=frequencies, width=frames)

    @property
    def length(self) -> int:
        """Samples that one array covers."""
        frequencies, frames = self.settings.size
        return frequencies * frames

    def read(self, files: Mapping[str, bytes]) -> np.ndarray:
        content = images.only_file(files, self.extensions)[1]
        try:
            with wave.open(io.BytesIO(content)) as sound:
                channels, width, rate, frames = sound.getparams()[:4]
                # No more is read than the file holds, whatever its header declares.
                raw = sound.readframes(min(frames, len(content)))
        except (wave.Error, EOFError, RuntimeError, ValueError) as error:
            raise SampleError(f"not a .wav file: {str(error) or 'it ends early'}") from error
        if width != 2:
            raise SampleError(f"sound of {8 * width} bits; 16-bit PCM is needed")
        if rate != self.settings.sample_rate:
            wanted = self.settings.sample_rate
            raise SampleError(f"sound of {rate} samples/s, {self.name} wants {wanted}; resample, or set sample_rate")
        if not frames or len(raw) != frames * channels * width:
            raise SampleError(f"{frames} samples are declared, {len(raw) // (channels * width)} are there: truncated?")
        return np.frombuffer(raw, "<i2").reshape(-1, channels).mean(1).astype(np.float32) / np.float32(32767)

    def write(self, value: np.ndarray) -> dict[str, bytes]:
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as sound:
            sound.setparams((1, 2, self.settings.sample_rate, len(value), "NONE", ""))
            sound.writeframes(np.rint(np.clip(value, -1, 1) * 32767).astype("<i2").tobytes())
        return {"wav": buffer.getvalue()}

    def aspect(self, value: np.ndarray) -> None:
        return None

    def augment(self, value: np.ndarray, view: View) -> np.ndarray:
        """The segment that the view chooses; silence after the end of a short sound."""
        start = view.variant % max(1, len(value) // self.length) * self.length
        segment = value[start : start + self.length]
        return np.pad(segment, (0, self.length - len(segment)))

    def normalise(self, value: np.ndarray) -> np.ndarray:
        level = 1 - 2 * self._decibels(value) / self.settings.floor
        return np.clip(level, -1, 1).astype(np.float32)[None]

    def denormalise(self, array: np.ndarray | str) -> np.ndarray:
        assert isinstance(array, np.ndarray)
        decibels = (1 - np.clip(array[0].astype(np.float64), -1, 1)) / 2 * self.settings.floor
        magnitude = np.where(decibels > self.settings.floor, 10 ** (decibels / 20), 0)
        return self._sound(magnitude)

    def render(self, value: np.ndarray) -> Image.Image:
        """Time to the right, frequency upwards, from `floor` (dark violet) to 0 dB (yellow)."""
        level = np.clip(1 - self._decibels(value) / self.settings.floor, 0, 1)
        return Image.fromarray(images.colour_map(level[::-1]))

    def metrics(self) -> tuple[Metric, ...]:
        def distance(predictions: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> float:
            floor = self.settings.floor
            pairs = [(self._decibels(p), self._decibels(t)) for p, t in zip(predictions, truths, strict=True)]
            return float(np.mean([np.abs(np.maximum(p, floor) - np.maximum(t, floor)).mean() for p, t in pairs]))

        return (Metric("log-spectral distance", distance, False, "dB"),)

    def constants(self, values: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The sound of the median level everywhere, and of the median spectrogram."""
        arrays = np.stack([self.normalise(value) for value in values])
        image = np.median(arrays, axis=0)
        return {
            "one value": self.denormalise(np.full_like(image, np.median(arrays))),
            "one image": self.denormalise(image),
        }

    def example_samples(self, n: int, seed: int) -> list[dict[str, bytes]]:
        """Two notes after one another, each with its overtones and dying away; one sound in three has two segments."""
        samples, rate = [], self.settings.sample_rate
        for index in range(n):
            rng = np.random.default_rng([seed, index])
            time = np.arange(self.length * (2 if index % 3 == 2 else 1)) / rate
            sound = np.zeros(len(time))
            for onset in (0.0, time[-1] / 2):
                pitch, since = rng.uniform(0.02, 0.1) * rate, np.maximum(time - onset, 0)
                for overtone in (1, 2, 3):
                    tone = np.sin(2 * np.pi * pitch * overtone * since) / overtone
                    sound += 0.25 * tone * np.exp(-4 * since / time[-1]) * (time >= onset)
            samples.append(self.write(sound))
        return samples

    # Short-time Fourier transform: frames of 2 F samples under a Hann window, F apart, of which F frequencies are kept.

    def _window(self) -> np.ndarray:
        width = 2 * self.settings.size[0]
        return np.sin(np.pi * (np.arange(width) + 0.5) / width) ** 2

    def _transform(self, value: np.ndarray) -> np.ndarray:
        """(samples,), at least a frame -> complex (frequencies + 1, frames); a full-scale sine has magnitude 1."""
        frequencies, window = self.settings.size[0], self._window()
        padded = np.pad(value.astype(np.float64), (frequencies // 2, 2 * frequencies))
        frames = max(1, -(-len(value) // frequencies))
        rows = np.lib.stride_tricks.sliding_window_view(padded, len(window))[::frequencies][:frames]
        return np.fft.rfft(rows * window).T * 2 / window.sum()

    def _inverse(self, spectrum: np.ndarray, length: int) -> np.ndarray:
        """The sound of least squared difference to a transform (Griffin and Lim, equation 6)."""
        frequencies, window = self.settings.size[0], self._window()
        rows = np.fft.irfft(spectrum.T * window.sum() / 2, len(window)) * window
        out, weight = np.zeros((2, (len(rows) + 1) * frequencies))
        for k, row in enumerate(rows):
            out[k * frequencies : (k + 2) * frequencies] += row
            weight[k * frequencies : (k + 2) * frequencies] += window**2
        return (out / np.maximum(weight, 1e-3))[frequencies // 2 :][:length]

    def _decibels(self, value: np.ndarray) -> np.ndarray:
        """(frequencies, frames) of any sound; the highest frequency, half the sampling rate, is left out."""
        return 20 * np.log10(np.abs(self._transform(value))[:-1] + QUIET)

    def _sound(self, magnitude: np.ndarray) -> np.ndarray:
        """float32 (length,) whose transform has these magnitudes as nearly as a sound can."""
        magnitude = np.pad(magnitude, ((0, 1), (0, 0)))
        spectrum = magnitude.astype(np.complex128)
        for _ in range(PHASE_STEPS):
            sound = self._inverse(spectrum, self.length)
            spectrum = magnitude * np.exp(1j * np.angle(self._transform(sound)))
        return np.clip(self._inverse(spectrum, self.length), -1, 1).astype(np.float32)
