"""docs/troubleshooting.md quotes messages of the code, and what it says of resuming is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fourm_engine.train.config import TrainConfig

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/troubleshooting.md").read_text()
#: Not messages: commands, settings, states of plugins, words of the log.
OTHERS = {
    "fourm plugins list",
    "ok",
    "[detect]",
    "generate",
    "embed",
    "probe",
    "data wait",
    "mfu",
    "CPU threads (measured…)",
}
QUOTED = [
    quote
    for cell in re.findall(r"^\| (?!may change|learning rate)([^|]*) \|", PAGE, re.MULTILINE)
    for quote in re.findall(r"`([^`]+)`", cell)
    if quote not in OTHERS
]


@pytest.fixture(scope="module")
def sources() -> str:
    folders = ("fourm_engine", "fourm_plugins")
    text = "\n".join(path.read_text() for folder in folders for path in sorted((ROOT / folder).rglob("*.py")))
    return re.sub(r'"\s*\n\s*f?"', "", text)  # strings continued on the next line


@pytest.mark.parametrize("quote", QUOTED)
def test_each_message_of_the_page_is_one_of_the_code(quote, sources):
    quote = quote.removesuffix(": depth")  # the name of a modality
    for part in re.split(r"…|\(…\)", quote):
        assert part.strip() in sources, quote


def test_the_settings_that_must_not_change_are_those_that_a_run_compares():
    must_not = re.search(r"^\| learning rate.* \| (.*) \|$", PAGE, re.MULTILINE)[1]
    source = (ROOT / "fourm_engine/train/run_identity.py").read_text()
    of_train = set(re.findall(r'"train\.(\w+)": config', source))
    assert of_train == set(re.findall(r"`(\w+)`", must_not)) & set(TrainConfig.model_fields)
