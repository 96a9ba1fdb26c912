"""Messages count as people do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fourm_plugins.counting import counted, some

#: What messages count, where a number in front of it may be one.
NOUNS = "samples|shards|files|views|tars|data sets|members|notes"
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("number", "words", "said"),
    [
        (0, ("file",), "0 files"),
        (1, ("file",), "1 file"),
        (1200, ("file",), "1,200 files"),
        (1, ("class", "classes"), "1 class"),
        (2, ("class", "classes"), "2 classes"),
    ],
)
def test_one_is_singular_and_thousands_are_set_apart(number, words, said):
    assert counted(number, *words) == said


@pytest.mark.parametrize(
    ("things", "said"),
    [("", ""), ("a", "a"), ("abcde", "a, b, c, d, e"), ("abcdef", "a, b, c, d, e and 1 more")],
)
def test_the_first_of_many_are_named_and_the_others_counted(things, said):
    assert some(things) == said
    assert some((), "; ") == ""
    assert some("abc", "; ", most=2) == "a; b and 1 more"


def test_no_message_says_that_there_are_1_shards():
    """A number before a plural is counted by the helper, unless the plural is of another number ("1 of 3 samples")."""
    pattern = re.compile(rf"(?<!of )(?<!of its )\{{[^{{}}]*\}} ({NOUNS})\b(?!/)")
    found = []
    for folder in ("fourm_engine", "fourm_plugins", "plugins"):
        for path in (ROOT / folder).rglob("*.py"):
            if "testing" not in path.parts and "tests" not in path.parts:
                for number, line in enumerate(path.read_text().splitlines(), 1):
                    if pattern.search(line):
                        found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert found == []
