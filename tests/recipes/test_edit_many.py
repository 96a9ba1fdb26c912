"""`fourm edit` for folders: each result is that of the sample alone, and a second call makes what is missing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from fourm_engine.cli.edit import edit as command
from fourm_engine.model import FourM
from fourm_engine.recipes.edit_many import edit_many
from tests.generate.toys import PLUGINS, install, make_model, picture
from tests.running import silent


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """An exported model and, beside it, the plugins that it needs."""
    folder = tmp_path_factory.mktemp("edits")
    install(folder / "site", list(PLUGINS))
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(folder / "site"))
        make_model().save_pretrained(folder / "model")
        yield folder / "model"


@pytest.fixture(autouse=True)
def album(tmp_path, monkeypatch):
    """Five photographs of different sizes; masks of the first four of them; words for the first five."""
    monkeypatch.chdir(tmp_path)
    for folder in ("album", "masks", "words"):
        (tmp_path / folder).mkdir()
    for index in range(5):
        side = 16 + 5 * index
        Image.fromarray(picture(index, side, side + index)).save(f"album/{index}.png")
        (tmp_path / f"words/{index}.txt").write_text("abc"[: 1 + index % 3])
        if index < 4:
            mask = np.zeros((side, side + index), bool)
            mask[side // 4 : side // 2, side // 3 : side // 2] = True
            Image.fromarray(mask).save(f"masks/{index}.png")


def edited(run, **options):
    options = {"inputs": {"colour": "album"}, "mask": "masks", "workers": 0, **options}
    return edit_many(run, out="made", print_fn=silent, **options)


def pictures(tmp_path):
    return {path.stem: np.asarray(Image.open(path)) for path in sorted((tmp_path / "made/colour").glob("*.png"))}


def seeds(tmp_path):
    record = (tmp_path / "made/.generated/made-00000-of-00001.jsonl").read_text().splitlines()
    return {line["name"]: line["seed"] for line in map(json.loads, record)}


@pytest.mark.parametrize("paste", [False, True])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "steps": 3, "halo": 0}])
def test_each_result_is_that_of_the_sample_alone(run, tmp_path, paste, options):
    report = edited(run, change={"words": "words"}, paste=paste, batch_size=3, **options)
    assert (report.made, report.kept, report.bad) == (4, 0, 0)
    model, made = FourM.from_pretrained(run, device="cpu"), pictures(tmp_path)
    for name, seed in seeds(tmp_path).items():
        files = {"mask": f"masks/{name}.png", "change": {"words": "abc"[: 1 + int(name) % 3]}}
        alone = model.edit({"colour": f"album/{name}.png"}, seed=seed, paste=paste, **files, **options)["colour"]
        assert (made[name] == alone.value).all(), name
        if paste:
            given, mask = (np.asarray(Image.open(f"{folder}/{name}.png")) for folder in ("album", "masks"))
            assert (made[name][~mask] == given[~mask]).all()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "made/colour").iterdir()}
    again = edited(run, change={"words": "words"}, paste=paste, batch_size=3, **options)
    assert (again.made, again.kept) == (0, 4)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "made/colour").iterdir()}


def test_a_new_mask_is_edited_again_and_another_edit_is_refused(run, tmp_path):
    edited(run)
    mask = np.zeros((21, 22), bool)
    mask[15:, 5:12] = True
    Image.fromarray(mask).save("masks/1.png")
    assert (again := edited(run)).made == 1
    assert again.kept == 3
    for option, difference in (("halo", {"halo": 0}), ("paste", {"paste": True}), ("mask", {"mask": np.eye(4) > 0})):
        with pytest.raises(ValueError, match=f"--{option}"):
            edited(run, **difference)


def test_results_are_not_edited_in_their_place(run, tmp_path):
    edited(run, mask=None, outpaint=0.5)
    before = pictures(tmp_path)
    with pytest.raises(ValueError, match="made/colour: results would replace the inputs; choose another --out"):
        edit_many(run, {"colour": "made/colour"}, "made", outpaint=0.5, workers=0, print_fn=silent)
    assert all((before[name] == made).all() for name, made in pictures(tmp_path).items())


def test_one_name_to_keep_is_recorded_as_a_name(run, tmp_path):
    edited(run, keep="words", inputs={"colour": "album", "words": "words"})
    assert json.loads((tmp_path / "made/.generated/settings.json").read_text())["--keep"] == ["words"]


def test_shares_make_what_one_process_makes(run, tmp_path):
    edited(run, batch_size=1)
    whole = pictures(tmp_path)
    (tmp_path / "made").rename(tmp_path / "whole")
    reports = [edited(run, share=(k, 2), batch_size=1) for k in (0, 1)]
    assert [report.made for report in reports] == [2, 2]
    assert all((whole[name] == made).all() for name, made in pictures(tmp_path).items())


def test_processes_that_cannot_meet_are_told_how(run, monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        ValueError, match=r"the processes do not meet: MASTER_ADDR='' .*start the processes with torchrun"
    ):
        edited(run)


def test_one_mask_serves_all_and_outpainting_needs_none(run, tmp_path):
    tokens = np.zeros((4, 4), bool)
    tokens[:2] = True
    assert edited(run, mask=tokens).made == 5
    model, made = FourM.from_pretrained(run, device="cpu"), pictures(tmp_path)
    alone = model.edit({"colour": "album/3.png"}, mask=tokens, seed=seeds(tmp_path)["3"])["colour"]
    assert (made["3"] == alone.value).all()
    (tmp_path / "made").rename(tmp_path / "other")
    assert edited(run, mask=None, outpaint=0.5).made == 5
    alone = model.edit({"colour": "album/3.png"}, outpaint=0.5, seed=seeds(tmp_path)["3"])["colour"]
    assert (pictures(tmp_path)["3"] == alone.value).all()


def test_without_a_mask_all_that_follows_the_change_is_generated(run, tmp_path):
    assert edited(run, mask=None, change={"words": "words"}, with_inputs=True).made == 5
    model = FourM.from_pretrained(run, device="cpu")
    alone = model.edit({"colour": "album/2.png"}, change={"words": "abc"}, seed=seeds(tmp_path)["2"])["colour"]
    assert (pictures(tmp_path)["2"] == alone.value).all()
    assert (tmp_path / "made/words/2.txt").read_text() == "abc"


@pytest.mark.parametrize("paste", [False, True])
def test_a_mask_that_does_not_fit_is_named_and_the_others_are_made(run, tmp_path, paste):
    Image.fromarray(np.ones((3, 9), bool)).save("masks/0.png")
    Image.fromarray(np.zeros((21, 22), bool)).save("masks/1.png")
    with pytest.raises(ValueError, match=r"2 samples could not be used, such as .*0\.png.*mask has shape \(3, 9\)"):
        edited(run, paste=paste)
    assert sorted(pictures(tmp_path)) == ["2", "3"]


def test_the_command_takes_folders_and_says_what_is_for_one_sample(run, tmp_path):
    common = {"given": ["colour=album"], "mask": tmp_path / "masks", "out": tmp_path / "made", "device": "cpu"}
    command(str(run), **common, paste=True)
    assert {name: made.shape[:2] for name, made in pictures(tmp_path).items()} == {
        str(index): (16 + 5 * index, 16 + 6 * index) for index in range(4)
    }
    with pytest.raises(ValueError, match="--animate is for one sample, not for folders"):
        command(str(run), **common, animate=tmp_path / "a.gif")
    with pytest.raises(ValueError, match="--share is for many samples; give a folder"):
        command(str(run), given=["colour=album/1.png"], mask=tmp_path / "masks/1.png", out=tmp_path / "o", share="0/2")
    with pytest.raises(ValueError, match="--with-inputs writes inputs at the model's size"):
        command(str(run), **common, paste=True, with_inputs=True)
