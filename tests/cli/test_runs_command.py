import json
import subprocess
import sys

import pytest

from tests.recipes.test_runs import write
from tests.running import fourm


def run(*words):
    return fourm("runs", *words)


def test_runs_are_listed_without_naming_a_sub_command(tmp_path, monkeypatch):
    write(tmp_path / "runs" / "one", record={"state": "failed", "error": "the disk is full"})
    out = run(tmp_path / "runs")
    assert all(word in out for word in ("one", "fourm", "failed", "100/100", "CPU, 1 thread", "the disk is full"))
    assert json.loads(run("list", tmp_path, "--json"))[0]["state"] == "failed"
    monkeypatch.chdir(tmp_path)
    assert json.loads(run("--json"))[0]["run"] == "runs/one"
    (tmp_path / "none").mkdir()
    assert run("none") == "no run in none\n"


def test_machines_have_a_table_apart_and_a_loss_that_one_run_lacks_is_in_the_whole_comparison_only(tmp_path):
    one, two = write(tmp_path / "one", record={"commit": "abc"}), write(tmp_path / "two", lr=0.2, factor=2.0)
    path = two / "metrics.jsonl"
    path.write_text(path.read_text().replace('"a"', '"b"'))
    out = run("compare", one, two)
    settings, rest = out.split("machines and versions that differ")
    machines, losses = rest.split("after 100 steps")
    assert "commit" not in settings
    assert ["commit", "abc", "-"] in [line.split() for line in machines.splitlines()]
    assert ["loss", "1", "2"] in [line.split() for line in losses.splitlines()]
    assert not any(line.split()[:1] == ["b"] for line in losses.splitlines())
    assert any(line.split()[:1] == ["b"] for line in run("compare", one, two, "--all").splitlines())


def test_two_are_compared_and_drawn(tmp_path):
    one, two = write(tmp_path / "one"), write(tmp_path / "two", lr=0.2)
    out = run("compare", one, two)
    assert "train.lr" in out
    assert json.loads(run("compare", one, two, "--json"))["settings"] == {"train.lr": [0.1, 0.2]}
    assert run("plot", one, two, "--out", tmp_path / "c.png", "--by", "samples").strip() == str(tmp_path / "c.png")


def test_a_comparison_is_brief_and_eighty_columns_wide_and_all_of_it_on_demand(tmp_path):
    one, two = write(tmp_path / ("long/" * 20) / "one"), write(tmp_path / ("long/" * 20) / "two", lr=0.2)
    section = {"a": list(range(99)), "b": {"c": 1, "d": 2}}
    for folder, more in ((one, {"left": None}), (two, {"left": 3, "section": section})):
        path = folder / "config.yaml"
        path.write_text(json.dumps(json.loads(path.read_text()) | more | {"both": {"list": [0] * 50}}))
    (two / "config.yaml").write_text((two / "config.yaml").read_text().replace("[0, 0,", "[1, 0,"))
    out = run("compare", one, two)
    assert max(map(len, out.splitlines())) <= 80
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if len(line.split()) > 1}
    assert rows["setting"] == ["one", "two"]
    assert rows["train.lr"] == ["0.1", "0.2"]
    assert rows["left"] == ["null", "3"]
    assert rows["section"] == ["-", "3", "settings"]
    assert "after 100 steps" not in out  # the losses are the same
    assert "more rows: --all" in out
    whole = run("compare", one, two, "--all")
    assert max(map(len, whole.splitlines())) <= 80
    assert all(word in whole for word in ("section.b.d", "after 100 steps", "after 10 seconds", "held out a", "98"))
    assert list(json.loads(run("compare", one, two, "--json"))["settings"])[:2] == ["both.list", "left"]


def test_the_matrix_is_a_table(tmp_path):
    folder = write(tmp_path / "one")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 100, "pairs": {"nothing": {"b": 2.0}, "a": {"b": 1.5}}}) + "\n")
    assert "1.5*" in run("pairs", folder)
    assert json.loads(run("pairs", folder, "--json")) == {
        "step": 100,
        "pairs": {"nothing": {"b": 2.0}, "a": {"b": 1.5}},
    }


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="absent: no such folder"):
        run(tmp_path / "absent")


def test_listing_imports_no_torch(tmp_path):
    write(tmp_path / "one", record={"state": "ended"})
    program = (
        "import sys; from fourm_engine.cli.app import app; app(['runs', sys.argv[1]], standalone_mode=False); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True, capture_output=True)


def test_the_name_of_a_setting_is_on_one_line_and_the_values_beside_it_wrap(tmp_path):
    one, two = write(tmp_path / "one"), write(tmp_path / "two")
    for folder, value in ((one, "x" * 60), (two, "y")):
        (folder / "config.yaml").write_text(json.dumps({"masking": {"mixture": {"any to any": {"keep": value}}}}))
    assert "\nmasking.mixture.any to any.keep " in run("compare", one, two)
