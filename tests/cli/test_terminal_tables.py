"""Tables fit the terminal without breaking a word: cells wrap, or whole columns follow below."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from fourm_engine.cli.tables import Table, show

HEADS = ("run", "what", "state", "step", "best held out", "device")
ROWS = [
    ("runs/first", "fourm", "ended", "2000/2000", "3.263 (2000)", "2 x CPU, 1 thread"),
    ("runs/[second]", "finetuning", "stopped", "10/8000", "", "CPU, 1 thread"),
]


def shown(capsys, monkeypatch, columns, table):
    monkeypatch.setenv("COLUMNS", str(columns))
    show([table])
    return capsys.readouterr().out.splitlines()


def table(heads=HEADS, rows=ROWS, **options):
    made = Table(*heads, **options)
    for row in rows:
        made.add_row(*row)
    return made


@pytest.mark.parametrize("columns", [30, 40, 60, 80, 120])
def test_every_word_is_whole_and_every_row_named_at_every_width(capsys, monkeypatch, columns):
    lines = shown(capsys, monkeypatch, columns, table())
    assert max(map(cell_len, lines)) <= columns
    words = " ".join(lines).split()
    assert {word for cells in (HEADS, *ROWS) for cell in cells for word in cell.split()} <= set(words)
    assert words.count("runs/first") == words.count("run")
    alone = columns == 30  # the best held-out loss, which the second run lacks, is a part of its own
    assert words.count("runs/[second]") == words.count("run") - alone


def test_a_wide_terminal_shows_one_line_a_row(capsys, monkeypatch):
    head, _, first, *_ = shown(capsys, monkeypatch, 120, table())
    assert head.split("  ")[0] == "run"
    assert first == "runs/first     fourm       ended    2000/2000  3.263 (2000)   2 x CPU, 1 thread"


def test_cells_wrap_at_words_where_that_is_enough(capsys, monkeypatch):
    lines = shown(capsys, monkeypatch, 78, table())
    assert lines[2:4] == [
        "runs/first     fourm       ended    2000/2000  3.263 (2000)   2 x CPU, 1",
        " " * 62 + "thread",
    ]


def test_columns_that_name_a_row_together_are_repeated(capsys, monkeypatch):
    rows = [("depth", "AbsRel", "0.1", "0.2"), ("", "RMSE", "0.3", "0.4"), ("rgb", "PSNR", "20", "30")]
    made = table(("target", "metric", "prediction", "constant"), rows, title="scores")
    assert made.keys() == 2
    lines = shown(capsys, monkeypatch, 30, made)
    assert [line.split() for line in lines if "RMSE" in line] == [["RMSE", "0.3"], ["RMSE", "0.4"]]
    assert lines[0] == "scores"


def test_a_part_leaves_out_rows_without_a_cell_in_it_and_names_the_next_in_full(capsys, monkeypatch):
    rows = [
        ("train", "rgb", "file", "0", "120", "70", ""),
        ("", "", "model", "0", "0.1", "1", "2%"),
        ("", "", "", "1", "0.2", "1", ""),
        ("val", "rgb", "file", "0", "110", "60", ""),
    ]
    made = table(("part", "modality", "of", "channel", "mean", "spread", "clipped"), rows)
    lines = shown(capsys, monkeypatch, 44, made)
    assert [line.split() for line in lines[-2:]] == [["train", "rgb", "model", "0", "2%"], []], lines


def test_a_path_that_is_wider_than_the_terminal_breaks_between_its_parts(capsys, monkeypatch):
    path = "somewhere/deep/within/the/tree/there-lies/a-folder"
    lines = shown(capsys, monkeypatch, 30, table(("setting", "one"), [("tokens", path)]))
    assert lines[2:] == ["tokens   somewhere/deep/", "         within/the/tree/", "         there-lies/a-folder", ""]


def test_wide_characters_count_twice(capsys, monkeypatch):
    lines = shown(capsys, monkeypatch, 80, table(("class", "share"), [("深度", "1%"), ("abcd", "2%")]))
    assert lines[2:4] == ["深度   1%", "abcd   2%"]


def test_titles_heads_and_cells_are_shown_verbatim_but_for_what_does_not_print(capsys, monkeypatch):
    lines = shown(
        capsys, monkeypatch, 80, table(("a:key:b", "[red]c"), [(":key:", "[red]d")], title="[bold] :key:\x07")
    )
    assert lines == ["[bold] :key:?", "a:key:b  [red]c", "─" * 15, ":key:    [red]d", ""]
