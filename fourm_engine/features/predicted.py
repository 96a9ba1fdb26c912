"""Predicted features: a model's expectation, given any inputs, of a modality with one feature per token, such as global
features of another network (4M-21, arXiv 2406.09406, section 4.3).

In: a model, its inputs and the modality. Out: the mean of the expected features over the modality's tokens. For samples
given as that modality itself, the mean of the given features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fourm_engine.convert.absent import AbsentTokenizer
from fourm_engine.data.raw.aspect import array_aspect
from fourm_engine.features.encoder import Encoder, ReadSample, digest_weights
from fourm_engine.generate.plan import Stage
from fourm_engine.generate.sample import Sample
from fourm_engine.generate.validation import no_such
from fourm_engine.model import FourM
from fourm_plugins import calls
from fourm_plugins.arrays import check_array
from fourm_plugins.modality import Modality
from fourm_plugins.spec import FeatureMap, FeatureVector
from fourm_plugins.view import View

if TYPE_CHECKING:
    from jaxtyping import Float


@dataclass(frozen=True, eq=False)
class GivenSample(ReadSample):
    """A sample whose feature is given."""

    feature: Float[np.ndarray, " D"]


class PredictedFeatures:
    """`target` as predicted by `model` from `inputs`, in one step without sampling; or, if `inputs` is only `target`,
    as given.

    Raises ValueError for a target that the model cannot predict, that has no feature per token, or that is given along
    with other inputs."""

    def __init__(self, model: FourM, inputs: Sequence[str], target: str) -> None:
        if target not in model.modalities:
            raise ValueError(f"--predict: {model.missing.get(target) or no_such(target, model.modalities)}")
        self.model, self.target = model, target
        self.modality: Modality = model.modalities[target]
        spec = self.modality.spec
        of_tokens = isinstance(spec.array, FeatureMap) and spec.patch == (1, 1)
        if not (spec.target and (of_tokens or isinstance(spec.array, FeatureVector))):
            raise ValueError(f"--predict: the model predicts no feature per token of {target!r}; name another modality")
        if isinstance(model.tokenizers[target], AbsentTokenizer):
            without = f"the model comes without the tokenizer of {target!r}"
            raise ValueError(f"--predict: {without}; give one with tokenizers=")
        self.given = list(inputs) == [target]
        if target in inputs and not self.given:
            raise ValueError(f"--predict: {target!r} is among the inputs; give only it, or leave it out")
        self.encoder = None if self.given else Encoder(model, inputs)
        self.reader = model.reader
        self.inputs = {target: target} if self.encoder is None else self.encoder.inputs

    @property
    def num_features(self) -> int:
        array = self.modality.spec.array
        assert isinstance(array, (FeatureMap, FeatureVector))
        return array.channels if isinstance(array, FeatureMap) else array.size

    def fingerprint(self) -> str:
        """16 hex digits of the model and the target, independent of the inputs."""
        digest = hashlib.sha256(f"{self.target} {self.model.tokenizers[self.target].fingerprint}".encode())
        digest_weights(self.model.network, digest)
        return digest.hexdigest()[:16]

    def read(self, inputs: Mapping[str, Any]) -> ReadSample:
        """Like `Encoder.read`; for the target itself, its feature."""
        if self.encoder is not None:
            return self.encoder.read(inputs)
        spec = self.modality.spec
        sample = self.model.reader.read(inputs, ())[0]  # raises ValueError with the names as given
        value = self.modality.value(inputs[self.target])
        shape = array_aspect(spec) or 1.0
        view = View.centre(source_aspect=self.modality.aspect(value) or shape, target_aspect=shape)
        array = self.modality.normalise(self.modality.augment(value, view))
        check_array(spec, array)
        return GivenSample(sample.shown, {}, _mean(np.asarray(array)))

    @torch.inference_mode()
    def __call__(self, samples: Sequence[ReadSample]) -> Float[torch.Tensor, "B D"]:
        features: list[np.ndarray] = [s.feature for s in samples if isinstance(s, GivenSample)]
        if not self.given:
            stage = Stage(target=self.target, scheme="parallel", steps=1, temperature=0.0, readout="expected")
            requests = [Sample(dict(sample.shown)) for sample in samples]
            filled = self.model.sampler.run(requests, [stage], [0] * len(samples))
            expected = [tokens[self.target].probabilities for tokens in filled]
            probabilities = np.stack([p for p in expected if p is not None])
            arrays = calls.decode_expected(self.model.tokenizers[self.target], probabilities)
            features = [_mean(array) for array in arrays]
        return torch.from_numpy(np.stack(features).astype(np.float32))


def _mean(array: np.ndarray) -> np.ndarray:
    return array.mean((1, 2)) if array.ndim == 3 else array
