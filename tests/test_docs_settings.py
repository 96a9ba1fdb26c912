"""docs/settings.md lists the settings that there are, each with an explanation."""

from __future__ import annotations

import re

import pytest
from pydantic import BaseModel

from docs import list_settings
from fourm_engine.recipes.config import RunConfig
from fourm_engine.recipes.task_config import TaskRunConfig
from fourm_engine.transfer.config import KINDS


def test_the_page_is_up_to_date():
    assert list_settings.PAGE.read_text() == list_settings.write(), "run `python -m docs.list_settings`"


@pytest.mark.parametrize(("heading", "model"), [one[:2] for one in list_settings.SECTIONS], ids=lambda x: str(x))
def test_every_setting_of_a_section_is_explained(heading, model):
    for row in list_settings.rows(model):
        assert row.text or row.names == ["kind"], f"{heading}: {row.names}"


def test_every_section_of_a_config_is_on_the_page():
    headings = set(re.findall(r"^## ([\w.]+)", list_settings.PAGE.read_text(), re.MULTILINE))
    assert {*RunConfig.model_fields, *TaskRunConfig.model_fields} - {"run", "seed", "observers"} <= headings
    for name in KINDS:
        assert f"## task, kind: {name}" in list_settings.PAGE.read_text()


def test_settings_below_one_comment_share_a_row_and_defaults_are_yaml():
    class Some(BaseModel):
        #: The length, one of
        #: these.
        steps: int | None = None
        samples: int | None = None
        #: A pair | of <numbers>, `a | b`.
        pair: tuple[float, float] = (0.5, 1.0)

    assert [row.names for row in list_settings.rows(Some)] == [["steps", "samples"], ["pair"]]
    assert list_settings.section("some", Some, "").splitlines()[4:] == [
        "| `steps`, `samples` | `null` | The length, one of these |",
        r"| `pair` | `[0.5, 1.0]` | A pair \| of &lt;numbers&gt;, `a \| b` |",
    ]
