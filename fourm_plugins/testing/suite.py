"""All checks in their order, and `ModalityConformance`: a plugin's own test in one class.

    from fourm_plugins.testing import ModalityConformance

    class TestThermal(ModalityConformance):
        modality = "thermal"

pytest collects one test per check. `check_modality` runs the same checks without pytest and gives a `Report`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from fourm_plugins.spec import TokenizerRecipe
from fourm_plugins.testing import (
    coexistence,
    imports,
    masker,
    packaging,
    rendering,
    spec,
    tokenizer,
    training,
    transforms,
)
from fourm_plugins.testing.check import BAD, Check, Outcome, Report, check_expectations, run_check
from fourm_plugins.testing.subject import Subject

CHECKS: tuple[Check, ...] = (
    *imports.CHECKS,
    *packaging.CHECKS,
    *spec.CHECKS,
    *transforms.CHECKS,
    *rendering.CHECKS,
    *tokenizer.CHECKS,
    *masker.CHECKS,
    *training.CHECKS,
    *coexistence.CHECKS,
)


class _Conformance:
    """The common base of the kits. A subclass may add tests, but neither replace nor remove the kit's."""

    #: The modality's name: its entry point.
    modality: ClassVar[str]
    #: Settings of a small instance; they override the class's small ones (`Settings.small`).
    settings: ClassVar[Mapping[str, Any]] = {}
    #: Claims beyond those that the spec implies and the class makes; see docs/conformance.md.
    claims: ClassVar[frozenset[str]] = frozenset()
    #: Check -> why it is expected to fail. If it passes after all, that is a failure.
    expected_failures: ClassVar[Mapping[str, str]] = {}
    #: Largest error of decode∘encode, as a share of the best constant array's.
    tolerance: ClassVar[float | None] = None
    #: The package's source tree, if the installed metadata does not name it.
    source: ClassVar[str | Path | None] = None

    checks: ClassVar[tuple[Check, ...]] = ()
    _subject: ClassVar[Subject | None] = None
    _is_kit: ClassVar[bool]

    def __init_subclass__(cls, *, kit: bool = False, **options: Any) -> None:
        super().__init_subclass__(**options)
        if kit:
            cls._is_kit = True
            for check in cls.checks:
                setattr(cls, f"test_{check.name}", _as_test(check))
            return
        (base,) = (c for c in cls.__mro__ if issubclass(c, _Conformance) and "_is_kit" in c.__dict__)
        if cls.checks is not base.checks:
            raise TypeError(f"{cls.__name__} replaces the kit's checks; leave `checks` as it is")
        for test in ("test_no_check_is_missing", *(f"test_{check.name}" for check in base.checks)):
            if getattr(cls, test, None) is not getattr(base, test):
                raise TypeError(
                    f"{cls.__name__} replaces or removes {test}; name it in expected_failures, with the reason"
                )
        try:
            check_expectations(cls.expected_failures, [check.name for check in base.checks])
        except ValueError as error:
            raise TypeError(f"{cls.__name__}: {error}") from None

    @classmethod
    def make_subject(cls) -> Subject:
        source = None if cls.source is None else Path(cls.source)
        return Subject(cls.modality, cls.settings, claims=cls.claims, tolerance=cls.tolerance, source=source)

    @classmethod
    def teardown_class(cls) -> None:
        """Called by pytest."""
        if cls._subject is not None:
            cls._subject.close()
            cls._subject = None

    def test_no_check_is_missing(self) -> None:
        """Every check of the kit is a test of this class."""
        for check in self.checks:
            test = getattr(type(self), f"test_{check.name}", None)
            assert getattr(test, "check", None) is check, f"test_{check.name} is not the kit's any more"


def _as_test(check: Check) -> Callable[[_Conformance], None]:
    """A test method that runs one check and reports its outcome to pytest."""

    def test(self: _Conformance) -> None:
        import pytest

        cls = type(self)
        if cls._subject is None:
            cls._subject = cls.make_subject()
        outcome = run_check(check, cls._subject, cls.expected_failures)
        if outcome.state in BAD:
            pytest.fail(f"{check.name}: {outcome.message}\n  required: {check.says}", pytrace=False)
        if outcome.state == "expected failure":
            pytest.xfail(outcome.message)
        if outcome.state != "passed":
            pytest.skip(f"{outcome.state}: {outcome.message}")

    test.__name__ = f"test_{check.name}"
    test.__doc__ = check.says
    test.check = check  # type: ignore[attr-defined]
    return test


class ModalityConformance(_Conformance, kit=True):
    """Subclass it, name the modality, and run pytest."""

    checks = CHECKS


class TokenizerConformance(_Conformance, kit=True):
    """The checks of a kind of tokenizer, on arrays of a modality that suits it."""

    checks = tokenizer.CHECKS

    #: The tokenizer's kind: its entry point.
    kind: ClassVar[str]
    tokenizer_settings: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def make_subject(cls) -> Subject:
        recipe = TokenizerRecipe(kind=cls.kind, settings=dict(cls.tokenizer_settings))
        return Subject(cls.modality, cls.settings, claims=cls.claims, tolerance=cls.tolerance, tokenizer=recipe)


class MaskerConformance(_Conformance, kit=True):
    """The checks of a masker, on tokens of a modality that suits it."""

    checks = (*masker.CHECKS, *training.CHECKS)

    #: The masker's kind: its entry point.
    kind: ClassVar[str]

    @classmethod
    def make_subject(cls) -> Subject:
        return Subject(cls.modality, cls.settings, claims=cls.claims, masker=cls.kind)


def run_checks(
    subject: Subject, checks: tuple[Check, ...] = CHECKS, expected_failures: Mapping[str, str] | None = None
) -> Iterator[Outcome]:
    """Yield the outcomes. Raises ValueError for an expected failure without a check or a reason."""
    expected = dict(expected_failures or {})
    check_expectations(expected, [check.name for check in checks])
    for check in checks:
        yield run_check(check, subject, expected)


def check_modality(
    modality: str,
    settings: Mapping[str, Any] | None = None,
    *,
    expected_failures: Mapping[str, str] | None = None,
    **options: Any,
) -> Report:
    """Run every check on an installed modality. `options` are those of `Subject`."""
    subject = Subject(modality, settings, **options)
    try:
        outcomes = tuple(run_checks(subject, CHECKS, expected_failures))
        return report(subject, outcomes)
    finally:
        subject.close()


def report(subject: Subject, outcomes: tuple[Outcome, ...]) -> Report:
    """The report of the checks run on a subject."""
    plugins = [p for p in subject.manager.plugins if (p.kind, p.name) == ("modality", subject.name)]
    plugin, version = (plugins[0].distribution, plugins[0].version) if plugins else ("unknown", "unknown")
    return Report(plugin, subject.name, version, outcomes)
