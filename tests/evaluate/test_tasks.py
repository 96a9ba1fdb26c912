"""Which tasks are run, given what is installed."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from fourm_engine.evaluate.config import EvaluateConfig
from fourm_engine.evaluate.tasks import default_tasks, resolve_tasks, task_notes
from tests.fakes import fake_modalities


def tasks(*entries):
    return EvaluateConfig(tasks=list(entries)).tasks


def test_a_task_lacking_an_input_is_left_out_with_a_note():
    wanted = tasks(
        {"name": "one", "inputs": ["gone", "a"], "targets": ["b"]}, {"name": "two", "inputs": ["a"], "targets": ["b"]}
    )
    found, notes = resolve_tasks(wanted, fake_modalities(), {"gone": "pip install fourm-gone"})
    assert [task.name for task in found] == ["two"]
    assert len(notes) == 1
    assert "'one'" in notes[0]
    assert "pip install fourm-gone" in notes[0]


def test_a_task_goes_without_a_lacking_target_and_is_left_out_without_any():
    wanted = tasks(
        {
            "name": "one",
            "inputs": ["a"],
            "targets": ["gone", "b"],
            "options": {"gone": {"steps": 3}, "b": {"steps": 2}},
        },
        {"name": "two", "inputs": ["a"], "targets": ["gone", "a@pixels"]},
    )
    found, notes = resolve_tasks(wanted, fake_modalities())
    assert [(task.name, task.targets, sorted(task.options)) for task in found] == [("one", ["b"], ["b"])]
    assert [note for note in notes if "'gone'" in note]
    assert [note for note in notes if "'two' is left out" in note]


def test_what_tasks_will_go_without_is_known_before_training():
    wanted = tasks({"name": "one", "inputs": ["a"], "targets": ["bb", "b"]})
    assert task_notes(wanted, fake_modalities()) == [
        "evaluate.tasks: task 'one' goes without its target 'bb': not in the model"
    ]
    assert task_notes([], fake_modalities()) == []


def test_a_picture_is_shown_as_pixels_unless_its_rest_is_asked_for():
    wanted = tasks(
        {"name": "all", "inputs": ["a"], "targets": ["*"]},
        {"name": "rest", "inputs": ["a", "b"], "targets": ["a", "words"], "keep": {"a": "left"}},
    )
    (whole, rest), notes = resolve_tasks(wanted, fake_modalities())
    assert whole.inputs == {"a": "a@pixels"}
    assert whole.targets == ["b", "words"]
    assert rest.inputs == {"a": "a", "b": "b"}
    assert notes == []


def test_without_tasks_everything_is_predicted_from_every_single_input():
    found, _ = resolve_tasks([], fake_modalities())
    assert {task.name: task.targets for task in found} == {
        "a@pixels → everything": ["b", "words"],
        "b → everything": ["a", "words"],
        "words → everything": ["a", "b"],
    }
    assert default_tasks(fake_modalities(["a"])) == []


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"inputs": ["a"], "targets": ["a"]}, "both an input in full and a target"),
        ({"inputs": ["a"], "targets": ["b"], "keep": {"c": "left"}}, "keep names 'c'"),
        ({"inputs": ["a"], "targets": ["b"], "keep": {"a": "lefty"}}, "keep"),
        ({"inputs": ["a"], "targets": ["b", "b"]}, "twice"),
        ({"inputs": [], "targets": ["b"]}, "inputs"),
        ({"inputs": ["a"], "targets": ["b"], "steps": 3}, "steps"),
    ],
)
def test_a_task_that_makes_no_sense_is_refused(entry, message):
    with pytest.raises(ValidationError, match=message):
        tasks({"name": "x", **entry})


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"options": {"words": {"steps": 3}}}, "evaluate: task 'x', 'words': steps has no effect on words"),
        ({"options": {"b": {"steps": 17}}}, "evaluate: task 'x', 'b': steps 17 are more than the 16 tokens of 'b'"),
        ({"keep": {"a": 0.01}}, "evaluate: task 'x', 'a': keep 0.01 is none or all of its 4x4 tokens"),
    ],
)
def test_options_and_parts_without_effect_are_refused_before_anything_is_computed(entry, message):
    with pytest.raises(ValueError, match=message):
        resolve_tasks(tasks({"name": "x", "inputs": ["a"], "targets": ["b", "words"], **entry}), fake_modalities())
