"""The order of rooms that docs/architecture.md draws is the order of imports."""

from __future__ import annotations

import re

from docs.draw_rooms import PAGE, RUN, SAMPLE, draw, drawn
from tests.import_graph import circles, imports, modules, room_of, rooms


def test_every_module_belongs_to_a_room_of_the_page():
    assert {room_of(module) for module in modules()} == set(rooms())


def test_a_module_imports_from_its_own_room_and_from_rooms_below_alone():
    floors = rooms()
    upward = [
        f"{module} imports {other}"
        for module, others in imports().items()
        for other in sorted(others)
        if room_of(module) != room_of(other) and floors[room_of(other)] >= floors[room_of(module)]
    ]
    assert not upward


def test_no_two_modules_import_each_other():
    assert not circles(imports())


def test_the_picture_of_the_rooms_is_up_to_date_and_its_walks_lead_through_rooms():
    assert PAGE.read_text() == drawn(PAGE.read_text()), "python -m docs.draw_rooms"
    assert draw() in PAGE.read_text()
    assert {*SAMPLE, *RUN} <= rooms().keys()


def test_the_page_says_of_every_room_what_it_is_for():
    listed = re.findall(r"\*\*(\w+)\*\*", PAGE.read_text())
    assert sorted(listed) == sorted(rooms())
