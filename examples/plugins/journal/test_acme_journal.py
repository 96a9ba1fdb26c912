"""The journal tells of a run from its start to its end, and the command shows it."""

import pytest
from acme_journal import Journal, journal

from fourm_plugins import Run


def test_the_journal_tells_of_a_run_from_start_to_end(tmp_path, capsys):
    run = Run(tmp_path, task="fourm", first_step=0, steps=20, parameters=1234, processes=1, config={})
    observer = Journal()
    observer.fourm_run_started(run)
    observer.fourm_evaluated(run, 10, {"loss": 2.5, "other": None})
    observer.fourm_run_ended(run, 12, "failed", "the disk is full")
    journal(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("fourm starts: 1,234 parameters, 20 steps")
    assert lines[1].endswith("step 10: loss 2.500")
    assert lines[2].endswith("failed after step 12: the disk is full")


def test_a_folder_without_a_journal_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"journal\.md: no such file"):
        journal(tmp_path)
