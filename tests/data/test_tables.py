"""Tables: the texts of many samples in one file, whatever its layout, and errors that name the line."""

from __future__ import annotations

import json

import pytest

from fourm_engine.data.raw import tables
from fourm_engine.data.raw.local_sources import open_source
from fourm_engine.data.raw.tables import Table, write_texts

LINES = [("a", "first of a"), ("a", "second of a"), ("b", "of b"), ("gone", "of none")]
WANTED = {"a": ["first of a", "second of a"], "b": ["of b"]}


def json_lines(path):
    rows = [json.dumps({"image": f"images/{name}.jpg", "says": text, "score": 0.5}) for name, text in LINES]
    path.write_text("\n\n".join(rows) + "\n")


def one_object(path):
    path.write_text(json.dumps({"a.jpg": ["first of a", "second of a"], "b.jpg": "of b", "gone": "of none"}))


def as_list(path):
    path.write_text(json.dumps([{"name": name, "says": [text]} for name, text in LINES]))


def coco(path):
    numbers = {"a": 1, "b": 2, "gone": 3}
    images = [{"id": number, "file_name": f"{name}.jpg", "url": "http"} for name, number in numbers.items()]
    rows = [{"id": k, "image_id": numbers[name], "says": text} for k, (name, text) in enumerate(LINES)]
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": rows}))


def separated(delimiter):
    def write(path):
        rows = [f'{name}.jpg{delimiter}"{text}"' for name, text in LINES]
        path.write_text("\n".join([f"file name{delimiter}says", *rows]), encoding="utf-8-sig")

    return write


@pytest.mark.parametrize(
    ("file", "write"),
    [
        ("says.jsonl", json_lines),
        ("says.json", one_object),
        ("list.json", as_list),
        ("coco.json", coco),
        ("says.csv", separated(",")),
        ("other.csv", separated(";")),
        ("says.tsv", separated("\t")),
    ],
)
def test_all_texts_of_a_sample_are_read_from_any_usual_layout_of_a_table(tmp_path, file, write):
    write(tmp_path / file)
    table = Table(tmp_path / file)
    assert table.columns == ["says"]
    texts = table.texts("says", {"a", "b", "c"})
    assert texts.samples == WANTED
    assert (texts.unmatched, texts.example.partition(".")[0].rpartition("/")[2]) == (1, "gone")


def test_written_texts_are_a_source_aligned_by_name(tmp_path):
    write_texts(tmp_path / "says", {"day/b": ["of b"], "a": ["1", "2"]})
    source = open_source(tmp_path, "says", ("txt",))
    assert {name: source.files(name) for name in source.names} == {"a": {"txt": b"1\n2\n"}, "day/b": {"txt": b"of b\n"}}


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("t.jsonl", b'{"name": "a", "says": "x"}\n{"name": ', "t.jsonl: line 2 is not JSON"),
        ("t.jsonl", b"[1]\n", "line 1 is not an object"),
        (
            "t.json",
            b'{"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}], "annotations": [{"x": 1}]}',
            r"images\[1\] has the id of images\[0\], 1; remove one",
        ),
        ("t.jsonl", b'{"name": "a"}' + b" " * 100, "line 1 is longer than"),
        ("t.jsonl", b'{"name": "\xff"}', "not UTF-8; save it as UTF-8"),
        ("t.csv", b"name,says\na," + b"x" * 100, "line 2 is longer than"),
        ("t.csv", b"title,says\nx,y\n", r"no column names the samples; call it file_name.*\(there: title, says\)"),
        ("t.json", b'{"images": 3}', "no list of rows"),
        ("t.json", b"[" * 10, "not JSON"),
        ("t.json", b"[{}" + b" " * 300 + b"]", "MiB; at most"),
    ],
)
def test_a_table_that_cannot_be_read_is_one_line_that_names_it(tmp_path, monkeypatch, file, content, says):
    monkeypatch.setattr(tables, "MAX_LINE", 64)
    monkeypatch.setattr(tables, "MAX_JSON", 200)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=says) as error:
        Table(tmp_path / file)
    assert file in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["../a", "/a", "x/../a", "a" * 1000])
def test_a_row_that_names_a_path_elsewhere_is_no_sample(tmp_path, name):
    (tmp_path / "t.jsonl").write_text(json.dumps({"name": name, "says": "x"}))
    assert Table(tmp_path / "t.jsonl").texts("says", {"a", name}).samples == {}


def test_a_text_is_one_line_of_bounded_length_and_a_sample_has_bounded_many(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MAX_TEXT", 5)
    monkeypatch.setattr(tables, "MAX_TEXTS", 2)
    (tmp_path / "t.json").write_text(json.dumps([{"name": "a", "says": ["x\ny", "long text", "third"]}] * 2))
    assert Table(tmp_path / "t.json").texts("says", {"a"}).samples == {"a": ["x y", "long"]}
