"""How checks end, what is counted, and that no check can be got rid of."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fourm_engine.cli.app import app
from fourm_plugins.testing import (
    CHECKS,
    CLAIMS,
    Check,
    CheckFailed,
    MaskerConformance,
    ModalityConformance,
    NotRun,
    Report,
    Subject,
    TokenizerConformance,
    installed,
    suite,
)
from fourm_plugins.testing.check import Broken, check_expectations, run_check


class Claiming:
    """Stands for a subject in checks that look at nothing else."""

    claims = frozenset({"tokens"})

    def __init__(self):
        self.blamed = set()

    def close(self):
        """Nothing to close."""


def fine(subject):
    """It is fine."""


def wrong(subject):
    """It is right."""
    raise CheckFailed("it is wrong")


def crashes(subject):
    """It does not crash."""
    {}["missing"]


def depends(subject):
    """It depends."""
    raise Broken("wrong", ValueError("x"))


def absent(subject):
    """It is there."""
    raise NotRun("fourm-engine is not installed")


def unclaimed(subject):
    """It is claimed."""
    raise AssertionError("never run")


TOY_CHECKS = (
    *(Check(f) for f in (fine, wrong, crashes, depends, absent)),
    Check(unclaimed, claims=("tokens", "directions")),
)


class ToyKit(suite._Conformance, kit=True):
    checks = TOY_CHECKS

    @classmethod
    def make_subject(cls):
        return Claiming()


def outcome(name, expected=None):
    (check,) = (c for c in TOY_CHECKS if c.name == name)
    return run_check(check, Claiming(), expected or {})


def test_every_way_a_check_ends_has_its_own_state():
    assert outcome("fine").state == "passed"
    assert (outcome("wrong").state, outcome("wrong").message) == ("failed", "it is wrong")
    assert outcome("crashes").state == "failed"
    assert outcome("crashes").message.startswith("KeyError at test_kit.py:")
    assert (outcome("absent").state, outcome("absent").message) == ("cannot run", "fourm-engine is not installed")
    assert (outcome("depends").state, outcome("depends").message) == ("failed", "ValueError: x")
    assert outcome("unclaimed").state == "not claimed"
    assert "directions" in outcome("unclaimed").message


def test_an_expected_failure_says_why_and_one_that_passes_is_a_failure():
    expected = outcome("wrong", {"wrong": "known since 1.2"})
    assert (expected.state, expected.message) == ("expected failure", "known since 1.2 (it is wrong)")
    passing = outcome("fine", {"fine": "known since 1.2"})
    assert passing.state == "unexpected pass"
    assert "passes" in passing.message
    assert outcome("unclaimed", {"unclaimed": "reason"}).state == "not claimed"


def test_the_report_counts_each_state_apart():
    expected = {"fine": "reason", "crashes": "reason"}
    subject = Claiming()
    report = Report("acme", "thermal", "1.2", tuple(run_check(c, subject, expected) for c in TOY_CHECKS))
    found = json.loads(json.dumps(report.to_json()))
    counts = {k: found[k] for k in ("ran", "cannot_run", "failed", "expected", "not_claimed", "not_run")}
    assert counts == {"ran": 3, "cannot_run": 1, "failed": 3, "expected": 1, "not_claimed": 1, "not_run": 1}
    assert (found["plugin"], found["modality"], found["version"]) == ("acme", "thermal", "1.2")
    assert [check["name"] for check in found["checks"]] == [check.name for check in TOY_CHECKS]
    assert all(check.keys() == {"name", "state", "seconds", "message"} for check in found["checks"])


def test_pytest_is_told_how_each_check_ended():
    class Declared(ToyKit):
        modality = "thermal"
        expected_failures = {"crashes": "known since 1.2"}  # noqa: RUF012

    tests = Declared()
    tests.test_fine()
    with pytest.raises(pytest.fail.Exception, match=r"wrong: it is wrong\n  required: It is right"):
        tests.test_wrong()
    with pytest.raises(pytest.xfail.Exception, match=r"known since 1\.2"):
        tests.test_crashes()
    with pytest.raises(pytest.fail.Exception, match="absent: fourm-engine is not installed"):
        tests.test_absent()
    for name in ("depends", "unclaimed"):
        with pytest.raises(pytest.skip.Exception, match=r"not run|not claimed"):
            getattr(tests, f"test_{name}")()
    tests.test_no_check_is_missing()
    Declared.teardown_class()


def test_one_test_a_check_is_collected():
    tests = {name for name in vars(ModalityConformance) if name.startswith("test_")}
    assert tests == {f"test_{check.name}" for check in CHECKS}
    assert len(CHECKS) == len({check.name for check in CHECKS}) > 40
    assert all(check.says.endswith(".") for check in CHECKS)
    assert {claim for check in CHECKS for claim in check.claims} <= set(CLAIMS)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"test_learns": None}, "replaces or removes test_learns"),
        ({"test_learns": lambda self: None}, "replaces or removes test_learns"),
        ({"test_no_check_is_missing": None}, "replaces or removes test_no_check_is_missing"),
        ({"checks": CHECKS[1:]}, "replaces the kit's checks"),
        ({"expected_failures": {"learns": " "}}, "'learns' has no reason"),
        ({"expected_failures": {"lerns": "slow"}}, "no check is called 'lerns'; did you mean 'learns'"),
    ],
)
def test_a_check_can_neither_be_removed_nor_expected_to_fail_without_a_reason(body, message):
    with pytest.raises(TypeError, match=message):
        type("TestThermal", (ModalityConformance,), {"modality": "thermal", **body})


def test_a_check_removed_later_is_missed():
    cls = type("TestThermal", (ToyKit,), {"modality": "thermal", "test_own": lambda self: None})
    cls.test_wrong = None
    with pytest.raises(AssertionError, match="test_wrong is not the kit's"):
        cls().test_no_check_is_missing()


def test_misspelt_expectations_and_claims_are_refused_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'learns'"):
        check_expectations({"lerns": "slow"}, ["learns"])
    with pytest.raises(ValueError, match="'direction' is unknown; did you mean 'directions'"):
        Subject("caption", claims=frozenset({"direction"}))


def test_the_kit_imports_neither_torch_nor_pytest_nor_the_engine():
    code = (
        "import sys, fourm_plugins.testing\n"
        "bad = {'torch', 'pytest', 'hypothesis', 'fourm_engine'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# On the command line


QUICK = tuple(
    c for c in CHECKS if c.name in ("examples_are_read", "spec_survives_json", "flip_mirrors", "files_are_exact")
)


@pytest.fixture
def command(monkeypatch):
    """`fourm plugins check …` with four quick checks."""
    monkeypatch.setattr(suite, "CHECKS", QUICK)
    return lambda *arguments: CliRunner().invoke(app, ["plugins", "check", *map(str, arguments)])


def test_the_command_checks_without_code_and_writes_the_report(command, tmp_path):
    done = command(
        "caption", "--set", "max_tokens=20", "--set", "text.vocabulary_size=400", "--json", tmp_path / "r.json"
    )
    assert done.exit_code == 0, done.output
    assert "caption (fourm-caption 0.1.0): 3 ran, 0 failed, 0 expected to fail, 1 not claimed" in done.output
    assert json.loads((tmp_path / "r.json").read_text())["not_claimed"] == 1


def test_the_command_fails_where_a_check_does_or_passes_against_expectation(command):
    done = command("depth", "--claim", "files_are_exact")
    assert isinstance(done.exception, ValueError)  # a claim, not a check
    assert "exact_files" in str(done.exception)
    done = command("normal", "--claim", "exact_files")  # vectors are stored in 8 bits
    assert done.exit_code == 1
    assert "! failed          spec         files_are_exact: written and read again" in done.output
    known = "files_are_exact=stored in 8 bits a component"
    assert command("normal", "--claim", "exact_files", "--expect", known).exit_code == 0
    done = command("caption", "--expect", "spec_survives_json=known since 1.2")
    assert done.exit_code == 1
    assert "unexpected pass" in done.output
    done = command("caption", "--expect", "spec_survives_json")
    assert "has no reason" in str(done.exception)


def test_the_command_names_the_nearest_of_an_unknown_modality(command):
    assert "did you mean 'caption'" in str(command("captoin").exception)


def test_the_command_refuses_settings_that_the_modality_does_not_know_before_the_first_check(command):
    done = command("caption", "--set", "maxtokens=20")
    assert "maxtokens: unknown key; did you mean max_tokens?" in str(done.exception)
    assert not done.output


def test_the_command_counts_the_checks_that_need_a_failed_one_in_a_line(command, monkeypatch):
    monkeypatch.setattr(Subject, "make", lambda self: 1 / 0)
    monkeypatch.setattr(suite, "CHECKS", CHECKS[:8])
    done = command("caption")
    assert "! failed          imports      is_activated: ZeroDivisionError" in done.output
    assert "  not run         7 checks (needs what is_activated asks for, which failed)" in done.output
    assert len(done.output.splitlines()) == 3


def test_the_page_lists_every_check_and_claim():
    page = (Path(__file__).parents[2] / "docs/conformance.md").read_text()
    for check in CHECKS:
        assert f"| `{check.name}` | {check.says} | {', '.join(check.claims)} |" in page
    for name, meaning in CLAIMS.items():
        assert f"| `{name}` | {meaning} |" in page


def test_a_wheel_of_unknown_source_cannot_be_built_and_what_to_name_is_said(monkeypatch, tmp_path):
    (check,) = (c for c in CHECKS if c.name == "wheel_is_built")
    monkeypatch.setattr(installed, "source_tree", lambda distribution: None)
    for source, state, message in (
        (None, "cannot run", "the source tree of fourm-caption is not known"),
        (tmp_path, "failed", "has no pyproject.toml"),
    ):
        subject = Subject("caption", source=source)
        found = run_check(check, subject, {})
        subject.close()
        assert found.state == state
        assert message in found.message


def test_the_source_tree_is_where_a_distribution_was_installed_from():
    assert installed.source_tree("numpy") is None
    assert installed.source_tree("no-such-distribution") is None


def test_an_installed_wheel_is_checked_by_the_files_that_it_installed(install, tmp_path):
    files = ("acme_thermal.py", "acme_thermal-1.2.dist-info/METADATA", "acme_thermal-1.2.dist-info/entry_points.txt")
    requires = "fourm-engine>=0.1,<0.2"
    install("acme-thermal", "[fourm.modalities.v1]\nthermal = acme_thermal:Thermal\n", files=files, requires=requires)
    packaging = [c for c in CHECKS if c.name in ("wheel_is_built", "wheel_is_found", "requirements_are_declared")]
    subject = Subject("thermal")
    assert [run_check(check, subject, {}).state for check in packaging] == ["passed"] * 3
    subject.close()
    (tmp_path / "acme_thermal.py").write_text("import yaml\n" + (tmp_path / "acme_thermal.py").read_text())
    subject = Subject("thermal")
    assert "imports yaml" in run_check(packaging[-1], subject, {}).message
    subject.close()


def test_the_egg_info_of_a_build_does_not_hide_the_source_tree(install, tmp_path, monkeypatch):
    """pytest puts the source folder first on the path."""
    source = tmp_path / "source"
    (source / "acme_thermal.egg-info").mkdir(parents=True)
    (source / "acme_thermal.egg-info/PKG-INFO").write_text("Metadata-Version: 2.1\nName: acme-thermal\nVersion: 1.2\n")
    install("acme-thermal", "[fourm.modalities.v1]\nthermal = acme_thermal:Thermal\n")
    direct = json.dumps({"url": source.as_uri(), "dir_info": {"editable": True}})
    (tmp_path / "acme_thermal-1.2.dist-info/direct_url.json").write_text(direct)
    monkeypatch.syspath_prepend(str(source))
    assert installed.source_tree("acme-thermal") == source


def test_what_a_build_needs_is_fetched_unless_it_is_here_in_a_version_that_serves(tmp_path):
    for requires, here in (
        ("", True),
        ('"packaging>=20"', True),
        ('"packaging>=999"', False),
        ('"no-such-build"', False),
    ):
        (tmp_path / "pyproject.toml").write_text(f"[build-system]\nrequires = [{requires}]\n")
        assert installed._backend_is_here(tmp_path) is here


@pytest.mark.parametrize("kit", [ModalityConformance, TokenizerConformance, MaskerConformance])
def test_a_kit_for_what_is_not_installed_fails_with_one_line(kit):
    """Whichever of its tests are selected: the first fails, the others are skipped."""
    cls = type("TestSonar", (kit,), {"modality": "sonar", "kind": "bins"})
    ended = []
    for check in cls.checks:
        try:
            getattr(cls(), f"test_{check.name}")()
            ended.append("passed")
        except pytest.fail.Exception as error:
            ended.append(str(error))
        except pytest.skip.Exception:
            ended.append("skipped")
    cls.teardown_class()
    assert [end for end in ended if end != "skipped"] == ended[:1]
    assert "no installed plugin provides the modality 'sonar'" in ended[0]
    assert "pip install fourm-sonar" in ended[0]
