"""Messages count as people do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fourm_plugins.counting import counted, decimals, number, some

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
    ("value", "said"),
    [
        *((None, "–"), (float("nan"), "–"), (-0.0, "0"), (0.12345, "0.123"), (-2.5, "-2.5"), (512, "512")),
        *((999.4, "999"), (999.6, "1,000"), (2000, "2,000"), (-12345.6, "-12,346")),
    ],
)
def test_a_measure_has_three_digits_and_thousands_set_apart(value, said):
    assert number(value) == said


@pytest.mark.parametrize(
    ("value", "sign", "said"),
    [
        *((-0.0004, "", "0.000"), (-0.0004, "+", "0.000"), (0.0, "+", "0.000"), (-0.0006, "", "-0.001")),
        *((0.5, "", "0.500"), (0.5, "+", "+0.500"), (-10.0, "+", "-10.000")),
    ],
)
def test_what_rounds_to_zero_has_no_sign(value, sign, said):
    assert decimals(value, 3, sign) == said


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
