"""The plugin under test, at a small size, and fixtures that several checks need, each made once.

From the modality's name, settings and claims it makes, lazily, attributes: instance, samples, arrays, fitted tokenizer,
masker, trained model, the findings of a subprocess, the built wheel.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import numpy as np

from fourm_plugins import calls
from fourm_plugins.manager import Plugin, PluginManager
from fourm_plugins.masker import Masker, SpecialTokens
from fourm_plugins.modality import Metric, Modality
from fourm_plugins.spec import ModalitySpec, Text, TokenizerRecipe
from fourm_plugins.suggest import did_you_mean
from fourm_plugins.testing import toys
from fourm_plugins.testing.check import Broken, CheckFailed, NotRun, require
from fourm_plugins.testing.claims import CLAIMS, implied
from fourm_plugins.testing.harness import Harness, Member, TinyModel, find_harness
from fourm_plugins.testing.installed import Wheel, build
from fourm_plugins.testing.probe import Probed, probe
from fourm_plugins.tokenizer import TextTokenizer, Tokenizer
from fourm_plugins.view import View

T = TypeVar("T")

#: Samples for checks, and samples on which tokenizer and model are trained.
SAMPLES, TRAINING_SAMPLES = 6, 64
TRAINING_STEPS = 150


class _Once(Generic[T]):
    """A property with a value that `Subject.once` makes."""

    def __init__(self, owner: str, make: Callable[[Any], T]) -> None:
        self.owner, self.make, self.__doc__ = owner, make, make.__doc__

    def __get__(self, subject: Subject, cls: type | None = None) -> T:
        return subject.once(self.make.__name__, self.owner, lambda: self.make(subject))


def reported_by(owner: str) -> Callable[[Callable[[Any], T]], _Once[T]]:
    """Decorates a method: a property that is made once. If it cannot be, the check `owner` reports it, or else the
    first that needs it."""
    return lambda make: _Once(owner, make)


class Subject:
    """Attributes raise `Broken` if they cannot be made, `NotRun` if something else is missing."""

    def __init__(
        self,
        modality: str,
        settings: Mapping[str, Any] | None = None,
        *,
        claims: frozenset[str] = frozenset(),
        tolerance: float | None = None,
        source: Path | None = None,
        tokenizer: TokenizerRecipe | None = None,
        masker: str | None = None,
    ) -> None:
        """`settings` override the class's small ones (`Settings.small`). `tolerance` is that of the tokenizer's round
        trip, `source` the package's source tree; `tokenizer` and `masker` are checked in place of the modality's."""
        for claim in sorted(claims):
            if claim not in CLAIMS:
                raise ValueError(f"claims: {claim!r} is unknown; {did_you_mean(claim, CLAIMS)}")
        self.name = modality
        self._given_settings, self._given_claims = dict(settings or {}), claims
        self._tolerance, self.source, self._recipe, self._masker_kind = tolerance, source, tokenizer, masker
        #: Failed checks, so that others that depend on them are not run instead of failing again.
        self.blamed: set[str] = set()
        self._made: dict[str, Any] = {}
        self._temporary = tempfile.TemporaryDirectory(prefix="fourm-check-")

    @property
    def folder(self) -> Path:
        """A folder for what the checks write; `close` removes it."""
        return Path(self._temporary.name)

    def close(self) -> None:
        self._temporary.cleanup()
        self._made.clear()

    def once(self, what: str, owner: str, make: Callable[[], T]) -> T:
        """The result of `make`, cached; if it fails, the check `owner` reports it, or else the first that needs it."""
        if what not in self._made:
            try:
                self._made[what] = make()
            except (Broken, NotRun) as error:
                self._made[what] = error
            except Exception as error:
                self._made[what] = Broken(owner, error)
        made = self._made[what]
        if isinstance(made, (Broken, NotRun)):
            raise made
        return cast("T", made)

    # The plugin

    @cached_property
    def manager(self) -> PluginManager:
        """The host of the installed plugins and of the kit's toys."""
        return toys.ToyManager()

    @reported_by("is_activated")
    def plugin(self) -> Plugin:
        return self.manager.find("modality", self.name)

    @property
    def settings(self) -> dict[str, Any]:
        """The small settings, overridden by those of the test."""
        cls = self.once("class", "is_activated", lambda: self.manager.modality_class(self.name))
        return {**getattr(cls.Settings, "small", {}), **self._given_settings}

    def make(self) -> Modality[Any]:
        """Another instance."""
        return self.manager.modality(self.name, **self.settings)

    @reported_by("is_activated")
    def modality(self) -> Modality[Any]:
        modality = self.make()
        replaced = {"tokenizer": self._recipe, "masker": self._masker_kind}
        update = {field: value for field, value in replaced.items() if value is not None}
        modality.spec = modality.spec.model_copy(update=update)
        return modality

    @property
    def spec(self) -> ModalitySpec:
        return self.modality.spec

    @reported_by("examples_are_read")
    def claims(self) -> frozenset[str]:
        stated = frozenset(type(self.modality).claims)
        if unknown := sorted(stated - CLAIMS.keys()):
            known = ", ".join(CLAIMS)
            raise CheckFailed(f"{type(self.modality).__name__}.claims: {unknown[0]!r} is unknown; known: {known}")
        return implied(self.modality, lambda: self.values[0]) | stated | self._given_claims

    # Samples

    @reported_by("examples_are_read")
    def files(self) -> list[dict[str, bytes]]:
        """Example samples."""
        return self._examples(SAMPLES)

    @reported_by("examples_are_read")
    def values(self) -> list[Any]:
        return [self.modality.read(dict(files)) for files in self.files]

    @reported_by("arrays_fit_the_spec")
    def arrays(self) -> list[Any]:
        """Arrays of the examples, with the whole picture in view."""
        return [self.array(value) for value in self.values]

    @reported_by("examples_are_read")
    def training_values(self) -> list[Any]:
        """Other examples, for training."""
        return [self.modality.read(dict(files)) for files in self._examples(TRAINING_SAMPLES)]

    @reported_by("arrays_fit_the_spec")
    def training_arrays(self) -> list[Any]:
        return [self.array(value) for value in self.training_values]

    # Results of the plugin; a check that needs one is not run if the check of that result has failed.

    @reported_by("values_are_shown")
    def seen(self) -> list[Any]:
        """The examples with the whole picture in view, all of which can be rendered."""
        values = [self.modality.augment(value, View()) for value in self.values]
        for value in [*self.values, *values]:
            calls.render(self.modality, value)
            calls.remark(self.modality, value)
        return values

    @reported_by("value_survives_its_array")
    def denormalised(self) -> list[Any]:
        """The values of the arrays of the examples."""
        return [calls.denormalise(self.modality, array) for array in self.arrays]

    @reported_by("files_are_read_back")
    def written(self) -> list[dict[str, bytes]]:
        """The files of the examples."""
        return [calls.write(self.modality, value) for value in self.values]

    @reported_by("metrics_prefer_the_truth")
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics, each of which gives a number for the truth."""
        metrics = calls.metrics(self.modality)
        values = [self.modality.augment(value, View()) for value in self.values]
        for metric in metrics:
            calls.compute(self.modality, metric, values, values)
        return metrics

    @reported_by("decoded_arrays_fit_the_spec")
    def decoded(self) -> list[Any]:
        """The arrays of `ids`."""
        return calls.decode(self.tokenizer, self.ids)

    def need_answers(self) -> None:
        """Raises `Broken` if the results of `decode`, `denormalise`, `render` or `write` on the examples are wrong."""
        _ = self.decoded, self.denormalised, self.seen, self.written

    def array(self, value: Any, view: View | None = None) -> Any:
        """The array of a value through `view`, by default of the whole picture."""
        return self.modality.normalise(self.modality.augment(value, view or View()))

    def _examples(self, n: int) -> list[dict[str, bytes]]:
        samples = self.modality.example_samples(n, 1)
        require(len(samples) == n, f"example_samples({n}, 1) gave {len(samples)} samples")
        for files in samples:
            known = self.spec.extensions
            require(
                isinstance(files, dict) and files and all(isinstance(content, bytes) for content in files.values()),
                "example_samples must give {extension: bytes} for each sample",
            )
            stray = sorted(set(files) - set(known))
            require(not stray, f"an example has a file .{''.join(stray[:1])}; the spec's extensions are {known}")
        return samples

    # Tokenizer, masker, model

    @reported_by("")
    def harness(self) -> Harness:
        return find_harness()

    @property
    def tolerance(self) -> float:
        """Largest error of decode∘encode, as a share of the best constant array's. By default a quarter of a text's
        characters may be lost; any other array must be better than the constant, since the tokenizer was trained
        briefly on few examples."""
        default = 0.25 if isinstance(self.spec.array, Text) else 1.0
        return default if self._tolerance is None else self._tolerance

    def new_tokenizer(self) -> Tokenizer:
        """A tokenizer by the recipe, not fitted."""
        recipe = self.spec.tokenizer
        assert recipe is not None
        if not any((p.kind, p.name) == ("tokenizer", recipe.kind) for p in self.manager.plugins):
            _ = self.harness  # a kind provided by the engine, which is missing
        return self.manager.tokenizer_class(recipe.kind)([self.spec], **recipe.settings)

    @reported_by("tokenizer_is_fitted")
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, fitted on the training arrays."""
        tokenizer, arrays = self.new_tokenizer(), self.training_arrays
        try:
            harness = self.harness
        except NotRun:  # a tokenizer that needs no engine
            tokenizer.fit(lambda: iter(arrays))
        else:
            harness.fit(tokenizer, arrays)
        return tokenizer

    @reported_by("ids_are_in_range")
    def ids(self) -> list[np.ndarray]:
        """Ids of the examples."""
        return calls.encode(self.tokenizer, self.arrays)

    @reported_by("budgets_are_kept")
    def masker(self) -> Masker:
        kind = self.spec.masker_kind
        if not any((p.kind, p.name) == ("masker", kind) for p in self.manager.plugins):
            _ = self.harness
        special_tokens = None
        if self.spec.layout.kind == "sequence":
            tokenizer = self.tokenizer
            require(isinstance(tokenizer, TextTokenizer), f"a sequence needs a TextTokenizer, not {tokenizer.kind!r}")
            assert isinstance(tokenizer, TextTokenizer)
            special_tokens = SpecialTokens(tokenizer.end_id, tuple(tokenizer.sentinel_ids))
        return self.manager.masker_class(kind)(self.spec, special_tokens)

    @reported_by("learns")
    def members(self) -> list[Member]:
        """This modality and the toy, with the same samples."""
        tokenizer = None if self.spec.continuous else self.tokenizer
        member = Member(self.modality, self.plugin, tokenizer, self.masker, self.training_arrays)
        return [member, toys.member(self.manager, toys.TOY, self.training_arrays)]

    @reported_by("learns")
    def model(self) -> TinyModel:
        """A model trained on this modality and the toy."""
        return self.harness.train(self.members, self.manager, steps=TRAINING_STEPS, seed=0)

    # Outside this process

    def probed(self, hash_seed: int = 1) -> Probed:
        """The findings of a fresh process."""

        def make() -> Probed:
            return probe(self.name, self.settings, hash_seed=hash_seed, folder=self.folder)

        _ = self.modality
        return self.once(f"probe {hash_seed}", "is_activated", make)

    @reported_by("wheel_is_built")
    def wheel(self) -> Wheel:
        """The package's wheel, built and installed on its own."""
        _ = self.modality
        return build(self.plugin, self.source, self.folder)
