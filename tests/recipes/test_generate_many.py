"""`fourm generate` for many samples: what lands where, what a second call does; nothing depends on who works."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest

from fourm_engine.cli import main
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.generate.input_types import Condition
from fourm_engine.lock import Busy, at_work
from fourm_engine.model import FourM
from fourm_engine.recipes import generate_files
from fourm_engine.recipes.generate import generate
from fourm_engine.recipes.generate_many import generate_many
from fourm_engine.recipes.open_inputs import is_folder
from fourm_engine.recipes.sample_inputs import LineInputs, wrong_name
from tests.generate.toys import PLUGINS, install, make_model, picture
from tests.running import silent

DRAWN = {"temperature": 1.0, "steps": 4}


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    """The plugins, an exported model `model`, and eight pictures in `photos`, two of them in a sub-folder."""
    folder = tmp_path_factory.mktemp("many")
    install(folder / "site", list(PLUGINS))
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(folder / "site"))
        model = make_model()
        model.save_pretrained(folder / "model")
    for index in range(8):
        path = folder / "photos" / ("day1" if index > 5 else "") / f"{index:02d}.png"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(model.modalities["colour"].write(picture(index))["png"])
    return folder


@pytest.fixture(autouse=True)
def run(made_once, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(made_once / "site"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made_once / "photos", tmp_path / "photos")
    return made_once / "model"


@pytest.fixture
def many(run, tmp_path):
    """many(inputs, targets, out, …) without a word; by default of the pictures."""

    def many(targets=("height", "words"), out="made", inputs=None, **options):
        inputs = {"colour": "photos"} if inputs is None else inputs
        return generate_many(run, inputs, targets, tmp_path / out, print_fn=silent, **options)

    return many


def files(folder):
    """Path below it -> content, of all that is not hidden."""
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {path: content for path, content in found.items() if not path.startswith(".")}


def fourm(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["fourm", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code or 0


def test_processes_compare_their_work_first_and_say_when_another_has_ended(many, tmp_path, monkeypatch):
    def lost(numbers):
        raise RuntimeError("Connection closed by peer")

    compared = {}
    monkeypatch.setattr("fourm_engine.recipes.files_job.check_same", lambda facts, remedy: compared.update(facts))
    monkeypatch.setattr("fourm_engine.recipes.files_job.sum_numbers", lost)
    with pytest.raises(ValueError, match=r"another process of this command has ended; .* run the same command again"):
        many(seed=3)
    assert (compared["--seed"], compared["--input"], compared["number of samples"]) == (3, ["colour"], 8)
    assert "day1/07" in compared["names of samples"]
    assert len(files(tmp_path / "made")) == 2 * 8


def test_a_folder_becomes_a_data_set_with_one_file_a_sample_and_target(run, many, tmp_path):
    report = many(with_inputs=True)
    assert (report.made, report.kept, report.bad) == (8, 0, 0)
    made = files(tmp_path / "made")
    assert {path.partition("/")[0] for path in made} == {"height", "words", "colour"}
    assert "words/day1/07.txt" in made
    assert len(made) == 24
    model = FourM.from_pretrained(run, device="cpu")
    data = AlignedData(tmp_path / "made", {name: model.modalities[name] for name in ("colour", "words")})
    assert data.counts == {"colour": 8, "words": 8}
    # The sample is what the model makes of one picture, with the seed that the record tells.
    lines = [
        json.loads(line)
        for line in (tmp_path / "made/.generated/made-00000-of-00001.jsonl").read_text().split("\n")
        if line
    ]
    seed = next(line["seed"] for line in lines if line["name"] == "03")
    alone = model.generate({"colour": "photos/03.png"}, ["height", "words"], seed=seed)
    assert made["words/03.txt"].decode() == alone["words"].value
    np.testing.assert_allclose(
        np.frombuffer(made["height/03.npy"], np.float32), alone["height"].value.ravel(), atol=1e-5
    )


def test_what_is_there_is_kept_and_what_is_gone_or_new_or_changed_is_made(many, tmp_path):
    many(**DRAWN)
    first = files(tmp_path / "made")
    assert (many(**DRAWN).made, many(**DRAWN).kept) == (0, 8)
    (tmp_path / "made/words/04.txt").unlink()
    shutil.copy(tmp_path / "photos/00.png", tmp_path / "photos/new.png")
    (tmp_path / "photos/05.png").write_bytes((tmp_path / "photos/03.png").read_bytes())
    report = many(**DRAWN)
    assert (report.made, report.kept) == (3, 6)
    again = files(tmp_path / "made")
    changed = {path for path in again if again[path] != first.get(path)}
    assert {path for path in changed if "new" not in path} <= {"height/05.npy", "words/05.txt"}
    assert first["words/04.txt"] == again["words/04.txt"]


def test_a_touched_file_is_read_and_its_results_are_kept(many, tmp_path):
    many()
    photo = tmp_path / "photos/01.png"
    photo.write_bytes(photo.read_bytes())
    import os

    os.utime(photo, ns=(1, 1))
    assert (many().made, many().kept) == (0, 8)


def test_a_killed_writer_leaves_whole_files_and_the_next_call_makes_the_rest(many, tmp_path, monkeypatch):
    whole = many(out="whole", **DRAWN)
    assert whole.made == 8
    write, count = generate_files.write_atomically, iter(range(100))

    def killed(path, content):
        if next(count) == 9:
            raise KeyboardInterrupt
        write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(generate_files, "write_atomically", killed)
        with pytest.raises(KeyboardInterrupt):
            many(batch_size=4, **DRAWN)
    lines = tmp_path / "made/.generated/made-00000-of-00001.jsonl"
    lines.write_text(lines.read_text() + '{"name": "07", "st')
    assert many(batch_size=4, **DRAWN).made == 4
    assert sorted(files(tmp_path / "made")) == sorted(files(tmp_path / "whole"))
    assert many(**DRAWN).kept == 8


def test_shares_and_batches_change_nothing(many, tmp_path):
    many(out="one", batch_size=3, **DRAWN)
    for part in (1, 0):
        many(out="two", batch_size=3, share=(part, 2), **DRAWN)
    assert files(tmp_path / "one") == files(tmp_path / "two")
    many(out="single", batch_size=1, **DRAWN)
    texts = {path: content for path, content in files(tmp_path / "one").items() if path.startswith("words/")}
    single = files(tmp_path / "single")
    assert all(single[path] == content for path, content in texts.items())
    assert len(set(texts.values())) > 3  # drawn by seeds that differ


def test_workers_change_nothing(many, tmp_path):
    many(out="one", **DRAWN)
    many(out="two", workers=1, **DRAWN)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_other_options_inputs_and_models_are_an_error_that_says_so(many, tmp_path):
    many(["words"], temperature=1.0)
    before = files(tmp_path / "made")
    with pytest.raises(ValueError, match=r"settings\.json: --temperature was 1\.0, is 0\.5; restore it, or choose"):
        many(["words"], temperature=0.5)
    with pytest.raises(ValueError, match="--seed was 0, is 1"):
        many(["words"], seed=1, temperature=1.0)
    with pytest.raises(ValueError, match=r'--target\.0 was "words", is "height"'):
        many(["height"], temperature=1.0)
    assert files(tmp_path / "made") == before


def test_files_of_others_are_never_written_over(many, tmp_path):
    (tmp_path / "data/words").mkdir(parents=True)
    (tmp_path / "data/words/00.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"data/words: holds files that this command did not write"):
        many(["words"], out="data")
    assert files(tmp_path / "data") == {"words/00.txt": b"mine"}
    with pytest.raises(ValueError, match=r"would mix with inputs in photos"):
        many(["words"], out="photos/made")


def test_one_result_is_never_written_into_a_data_set_that_was_generated(many, run, tmp_path):
    many(["words"], out="made")
    before = files(tmp_path / "made")
    for out in (tmp_path / "made", tmp_path / "made/words"):
        with pytest.raises(ValueError, match="made holds the results of many samples; choose another folder"):
            generate(run, {"colour": "photos/00.png"}, ["words"], out)
    assert files(tmp_path / "made") == before


def test_a_damaged_picture_is_one_line_the_rest_goes_on_and_the_command_fails(
    monkeypatch, capsys, caplog, run, tmp_path
):
    (tmp_path / "photos/02.png").write_bytes(b"no picture")
    words = ("generate", run, "--input", "colour=photos", "--target", "words", "--out", "made", "--device", "cpu")
    assert fourm(monkeypatch, *words) == 1
    out, err = capsys.readouterr()
    assert "8 samples of colour" in out
    assert "made: 7 samples of words made, 1 could not be used" in out
    assert "error: 1 sample could not be used, such as photos/02.png: colour: no picture" in err
    assert [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()] == [
        next(r.getMessage() for r in caplog.records if "02.png" in r.getMessage())
    ]
    assert len(files(tmp_path / "made")) == 7
    (tmp_path / "photos/02.png").write_bytes((tmp_path / "photos/03.png").read_bytes())
    assert fourm(monkeypatch, *words) == 0
    assert len(files(tmp_path / "made")) == 8


def test_lines_name_files_and_words_seeds_and_names(run, many, tmp_path):
    lines = [
        {"colour": "photos/01.png", "seed": 3, "name": "first"},
        {"words": "photos and words", "colour": "photos/02.png"},
        {"words": "text:a/b.txt"},
    ]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    report = many(["height"], inputs={}, lines=tmp_path / "list.jsonl", samples=2, **DRAWN)
    assert report.made == 3
    made = files(tmp_path / "made")
    assert sorted(made) == [f"height/{name}-{k}.npy" for name in ("000002", "000003", "first") for k in (0, 1)]
    model = FourM.from_pretrained(run, device="cpu")
    for k in (0, 1):
        alone = model.generate({"colour": "photos/01.png"}, "height", seed=3 + k, **DRAWN)["height"].value
        np.testing.assert_allclose(np.frombuffer(made[f"height/first-{k}.npy"], np.float32), alone.ravel(), atol=1e-5)


def test_equal_lines_are_decided_as_each_alone(run, many, tmp_path):
    """Of one answer a line nothing is drawn that is not drawn of one line alone, however many lines are alike."""
    line = json.dumps({"colour": "photos/01.png"})
    (tmp_path / "list.jsonl").write_text(f"{line}\n{line}\n")
    many(["height"], inputs={}, lines=tmp_path / "list.jsonl")
    one, other = files(tmp_path / "made").values()
    assert one == other
    alone = FourM.from_pretrained(run, device="cpu").generate({"colour": "photos/01.png"}, "height")["height"]
    np.testing.assert_allclose(np.frombuffer(one, np.float32), alone.value.ravel(), atol=1e-5)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"colour": "a.png"', r"list\.jsonl, line 2: not JSON"),
        ("[1]", "line 2: not an object"),
        ('{"colur": "a.png"}', "line 2: this model has no modality 'colur'"),
        ('{"height": "a.npy"}', "line 2: 'height' is both given and a target"),
        ('{"colour": "a.png", "name": "../up"}', r"line 2: name is '\.\./up'; expected a path below"),
        ('{"colour": "a.png", "name": ".hidden"}', "line 2: name is '.hidden'; expected a name that is not hidden"),
        ('{"colour": "a.png", "seed": "x"}', "line 2: seed is 'x'; expected a whole number"),
        ('{"colour": "a.png", "name": "one"}', "line 2: same name as line 1"),
    ],
)
def test_a_line_that_is_no_sample_is_named_before_anything_is_made(many, tmp_path, line, says):
    (tmp_path / "list.jsonl").write_text(f'{{"colour": "photos/01.png", "name": "one"}}\n{line}\n')
    with pytest.raises(ValueError, match=says):
        many(["height"], inputs={}, lines=tmp_path / "list.jsonl")
    assert not (tmp_path / "made/height").exists()


@pytest.mark.parametrize(
    "name", ["/etc/a", "a/../../b", "..", "", "a//b", "a\\b", "x" * 300, "a\nb", ".x/y", "_index/a"]
)
def test_no_name_leads_out_of_the_folder(name):
    assert wrong_name(name)
    assert not wrong_name("day 1/a.b-é")


def test_memory_of_lines_is_a_few_bytes_each(tmp_path, many):
    (tmp_path / "list.jsonl").write_text("".join(f'{{"words": "abc {i}"}}\n' for i in range(2000)))
    inputs = LineInputs(
        tmp_path / "list.jsonl", lambda name: make_model().modalities[name] if name == "words" else None, {}
    )
    assert len(inputs.names) == 2000
    assert inputs.given(inputs.names[1234]).values["words"].text == "abc 1234"
    held = [value for value in vars(inputs).values() if isinstance(value, np.ndarray)]
    assert sum(array.nbytes for array in held) == 2000 * 32
    assert not any(isinstance(value, (list, dict)) and len(value) > 10 for value in vars(inputs).values())


def test_a_data_set_with_a_split_is_taken_by_names_of_modalities(many, tmp_path):
    many(["words"], out="data", with_inputs=True)
    (tmp_path / "data/splits.json").write_text(json.dumps({"val": ["01", "02", "day1/07"]}))
    report = many(["height"], out="more", inputs={"colour": None, "words": None}, data="data", split="val")
    assert report.made == 3
    assert sorted(files(tmp_path / "more")) == ["height/01.npy", "height/02.npy", "height/day1/07.npy"]


def test_one_value_is_given_of_every_sample(many, tmp_path):
    many(["height"], inputs={"colour": "photos", "words": "abc"}, out="with")
    many(["height"], inputs={"colour": "photos"}, out="without")
    assert files(tmp_path / "with") != files(tmp_path / "without")
    with pytest.raises(ValueError, match="--input was"):
        many(["height"], inputs={"colour": "photos"}, out="with")


def test_a_text_too_long_for_a_name_is_no_folder():
    assert not is_folder("cat " * 2000)


def test_samples_that_lack_an_input_are_counted(run, tmp_path, capsys):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/01.txt").write_text("abc")
    report = generate_many(run, {"colour": "photos", "words": "texts"}, ["height"], tmp_path / "made")
    assert report.made == 1
    assert "1 sample (7 more lack an input) of colour, words" in capsys.readouterr().out


def test_samples_are_reduced_to_one_result_with_its_spread_and_resume(run, many, tmp_path):
    reduced = {"samples": 4, "reduce": {"height": "mean", "words": "vote"}}
    assert many(**reduced, **DRAWN).made == 8
    made = files(tmp_path / "made")
    assert {path.partition("/")[0] for path in made} == {"height", "words"}
    assert len(made) == 16
    lines = (tmp_path / "made/.generated/made-00000-of-00001.jsonl").read_text().splitlines()
    seed = next(line["seed"] for line in map(json.loads, lines) if line["name"] == "03")
    model, given = FourM.from_pretrained(run, device="cpu"), {"colour": "photos/03.png"}
    alone = model.generate(given, ["height", "words"], seed=seed, n_samples=4, reduce=reduced["reduce"], **DRAWN)
    assert made["words/03.txt"].decode() == alone["words"].value
    np.testing.assert_allclose(
        np.load(tmp_path / "made/.generated/spread/height/03.npy"), alone["height"].spread, atol=1e-5
    )
    (tmp_path / "made/height/03.npy").unlink()
    assert (many(**reduced, **DRAWN).made, files(tmp_path / "made") == made) == (1, True)
    with pytest.raises(ValueError, match="--reduce"):
        many(samples=4, **DRAWN)
    with pytest.raises(ValueError, match="reduce has no effect on one sample"):
        many(out="other", reduce="mean")
    with pytest.raises(ValueError, match="reduce='mean' does not apply to 'words'"):
        many(out="other", samples=4, reduce="mean")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--input", "colour=photos/01.png", "--share", "0/2"), "--share is for many samples"),
        (("--input", "colour=photos", "--share", "2/2"), "--share '2/2': expected K/N"),
        (("--input", "colour=photos", "--split", "val"), "--split is for a data set"),
        (("--input", "colour", "--data", "nowhere"), "nowhere: no such folder"),
        (("--data", "photos"), "with --input NAME"),
        (("--input", "colour=photos", "--lines", "x.jsonl"), "--lines and folders both name the samples"),
        (("--lines", "x.jsonl"), "x.jsonl: no such file"),
        (("--input", "words=photos"), "no file with extension txt"),
        (("--input", "colour=photos", "--target", "colour"), "'colour' is both given and a target"),
        (("--input", "colour=photos", "--steps", "40"), "steps 40 are more than the 16 tokens"),
    ],
)
def test_what_cannot_be_is_one_line(monkeypatch, capsys, run, tmp_path, words, says):
    assert fourm(monkeypatch, "generate", run, "--target", "height", "--out", "made", "--device", "cpu", *words) == 1
    err = [line for line in capsys.readouterr().err.splitlines() if "CPU thread" not in line]
    assert len(err) == 1
    assert says in err[0]
    assert not files(tmp_path / "made") if (tmp_path / "made").exists() else True


def test_what_is_generated_is_said_for_many_samples(many):
    with pytest.raises(ValueError, match="--target is missing"):
        many([])


def test_two_commands_never_do_the_same_part_at_once(many, tmp_path):
    import fcntl

    lock = tmp_path / "made/.generated/part-0-of-1"
    lock.mkdir(parents=True)
    entry = lock / ".fourm-lock-0"
    entry.write_text(json.dumps({"pid": 1, "host": "elsewhere", "command": "fourm generate", "job": ["x"]}))
    with open(entry) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(Busy, match="fourm generate is at work here"), at_work(lock):
            pass
        with pytest.raises(Busy):
            many()


def test_a_region_is_weighed_in_every_sample_and_another_one_is_refused(run, many, tmp_path):
    region = {"colour": [(5.0, [0, 0, 1, 0.5])]}
    many(("height",), regions=region, temperature=0.0, steps=4)
    model = FourM.from_pretrained(run, device="cpu")
    given = Condition("photos/03.png", weight=5, region=(0, 0, 1, 0.5))
    expected = model.generate({"colour": given}, "height", temperature=0, steps=4)["height"]
    assert (tmp_path / "made/height/03.npy").read_bytes() == expected.modality.write(expected.value)["npy"]
    with pytest.raises(ValueError, match="--region"):
        many(("height",), regions={"colour": [(5.0, [0, 0, 1, 1])]}, temperature=0.0, steps=4)
