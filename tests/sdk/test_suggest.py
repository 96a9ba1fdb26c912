"""What a message about an unknown name says."""

from __future__ import annotations

import subprocess
from pathlib import Path

import fourm_plugins
from fourm_plugins.suggest import did_you_mean, nearest, nearest_few


def test_the_nearest_name_is_suggested_and_all_are_listed_where_none_is_near():
    assert did_you_mean("dept", ["rgb", "depth"]) == "did you mean 'depth'?"
    assert did_you_mean("zzz", ["rgb", "depth"]) == "known: depth, rgb"
    assert did_you_mean("zzz", [], otherwise="conditions are:") == "conditions are: none"
    assert nearest("zzz", ["rgb"]) is None


def test_names_are_compared_in_one_place():
    root = Path(fourm_plugins.__file__).parents[1]
    command = ["git", "grep", "-l", "get_close_matches", "--", "*.py", ":!tests"]
    found = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["fourm_plugins/suggest.py"]


def test_the_nearest_few_of_very_many_names_are_told_at_once():
    known = [f"day{k % 7}/{k:012d}" for k in range(100_000)]
    assert nearest_few("000000000123", known)[0] == "day4/000000000123"
    assert all(name.startswith("day4/0000000") for name in nearest_few("day4/000000000124", known))
    assert nearest_few("x", ["abc"]) == []
