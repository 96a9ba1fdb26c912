"""The conformance kit: checks of every plugin's contract, which a plugin's own tests run with one subclass.

    from fourm_plugins.testing import ModalityConformance

    class TestThermal(ModalityConformance):
        modality = "thermal"

See docs/conformance.md. Imports neither the engine nor torch, and pytest only inside its tests.
"""

from fourm_plugins.testing.check import Check, CheckFailed, NotRun, Outcome, Report
from fourm_plugins.testing.claims import CLAIMS
from fourm_plugins.testing.harness import Harness, Member, TinyModel
from fourm_plugins.testing.subject import Subject
from fourm_plugins.testing.suite import (
    CHECKS,
    MaskerConformance,
    ModalityConformance,
    TokenizerConformance,
    check_modality,
)

__all__ = [
    "CHECKS",
    "CLAIMS",
    "Check",
    "CheckFailed",
    "Harness",
    "MaskerConformance",
    "Member",
    "ModalityConformance",
    "NotRun",
    "Outcome",
    "Report",
    "Subject",
    "TinyModel",
    "TokenizerConformance",
    "check_modality",
]
