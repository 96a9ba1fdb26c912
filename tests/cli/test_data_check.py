"""`fourm data check`: exit codes, what is printed and written, and tokens beside the files that they were made from."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from fourm_engine.cli.app import app
from fourm_engine.data.checks.tokens import Files, TokenCheck
from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.tokens.prepare import content_digest
from fourm_engine.data.tokens.shards import ShardFile, save_shard
from fourm_engine.data.tokens.tokenize import tokenize_split
from tests.configs import small, store
from tests.fakes import fake_modalities, fake_tokenizers, sample_names, write_data, write_tar
from tests.folders import write_examples
from tests.plugins.instances import modality

NAMES = sample_names(5)


def fourm(*arguments):
    return CliRunner().invoke(app, ["data", "check", *map(str, arguments), "--workers", "0"])


@pytest.fixture
def pictures(tmp_path):
    """Pictures and captions, in two splits."""
    root = tmp_path / "data"
    for name in ("rgb", "caption"):
        write_examples(root / name, name, 6)
    (root / "splits.json").write_text(json.dumps({"train": ["0", "1", "2", "3"], "val": ["4", "5"]}))
    return root


def test_a_sound_folder_exits_0_and_writes_json_and_a_page(pictures, tmp_path):
    ran = fourm(pictures, "--json", tmp_path / "check.json", "--report", tmp_path / "report")
    assert ran.exit_code == 0, ran.output
    assert "0 problems" in ran.output
    document = json.loads((tmp_path / "check.json").read_text())
    assert document["ok"]
    assert [part["part"] for part in document["parts"]] == ["train", "val"]
    assert document["parts"][0]["modalities"]["rgb"]["arrays"]["channels"] == 3
    page = (tmp_path / "report" / "report.html").read_text()
    assert page.count("<img") >= 6
    assert (tmp_path / "report" / "sheet.png").is_file()


def test_some_shards_are_checked_by_their_pattern(tmp_path):
    for number in range(3):
        files = modality("rgb").example_samples(1, seed=number)[0]
        write_tar(tmp_path / f"shard-{number}.tar", {f"{number}.rgb.png": files["png"] if number < 2 else b"damaged"})
    ran = fourm(tmp_path / "shard-{0..1}.tar")
    assert ran.exit_code == 0, ran.output
    assert fourm(tmp_path).exit_code == 1  # all of them, the damaged one, too
    assert "1 of 2 tars are missing" in str(fourm(tmp_path / "shard-{2..3}.tar").exception)


def test_a_damaged_file_exits_1_and_is_named_with_what_to_do(pictures):
    (pictures / "rgb" / "3.png").write_bytes(b"no picture")
    ran = fourm(pictures)
    assert ran.exit_code == 1
    said = ran.output[ran.output.index("problem: damaged") :]
    assert "rgb/3.png" in said
    assert "→ mend or remove them" in said


def test_notes_exit_1_only_if_strict(pictures):
    (pictures / "caption" / "3.txt").unlink()
    assert fourm(pictures).exit_code == 0
    ran = fourm(pictures, "--strict")
    assert ran.exit_code == 1
    assert "note: lacking: train: 1 of 4 samples lack caption, such as 3" in ran.output


def test_names_in_a_report_are_escaped(pictures, tmp_path):
    (pictures / "caption" / "3.txt").write_bytes(b"<script>alert(1)</script>\n")
    (pictures / "rgb" / "<b>.png").write_bytes(b"")
    fourm(pictures, "--report", tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<script>" not in page
    assert "<b>.png" not in page


def test_a_config_is_checked_with_its_splits(pictures, tmp_path):
    data = {"train": str(pictures), "val": str(pictures), "train_split": "train"}
    path = store(tmp_path / "config.yaml", small(tmp_path, {"rgb": {}, "caption": {}}, data=data))
    ran = fourm(path)
    assert ran.exit_code == 1
    assert "every training sample is a held-out sample" in ran.output
    ran = fourm(path, "data.val_split=val")
    assert ran.exit_code == 0, ran.output
    assert "no fitted tokenizer" not in ran.output  # which is no finding before the first is fitted
    (tmp_path / "tokenizers/rgb").mkdir(parents=True)
    assert "no fitted tokenizer for rgb" in fourm(path, "data.val_split=val").output


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"held_out": 0.3}, "is not used: data.held_out is set\n  → to use it, set data.val to the folder"),
        (
            {},
            "is not used: data.train_split is not set\n  → to use it, set data.train_split to one of its lists",
        ),
        ({"val": "val"}, "→ to use it, set data.train_split to one of its lists\n"),
        ({"train_split": "train", "val": "train", "val_split": "val"}, None),
    ],
)
def test_lists_that_no_setting_uses_are_noted(pictures, tmp_path, data, says):
    folders = {"train": str(pictures), "val": str(tmp_path / "val")}
    data = {"train": str(pictures), **data, **({"val": folders[data["val"]]} if "val" in data else {})}
    shutil.copytree(pictures, tmp_path / "val", ignore=lambda *_: ["splits.json"])
    path = store(tmp_path / "config.yaml", small(tmp_path, {"rgb": {}, "caption": {}}, data=data))
    output = fourm(path).output
    assert output.count("splits.json is not used") == (says is not None)
    assert says is None or f"note: settings: {pictures}/splits.json is not used" in output
    assert says is None or says in output
    (pictures / "splits.json").unlink()
    assert (
        "splits.json" not in fourm(path, *(["data.train_split=null", "data.val=null"] if says is None else [])).output
    )


def test_a_folder_that_a_config_gives_names_to_is_checked_by_that_config(pictures, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (pictures / "rgb").rename(pictures / "photographs")
    settings = {"rgb": {"source": "photographs"}, "caption": {}}
    assert "→ `fourm plugins list` shows" in fourm("data").output
    store(tmp_path / "data.yaml", small(tmp_path, settings, data={"train": str(tmp_path / "other")}))
    assert "instead" not in fourm("data").output  # which trains on another folder
    store(tmp_path / "data.yaml", small(tmp_path, settings, data={"train": str(pictures)}))
    ran = fourm("data")
    assert "no modality reads: photographs\n  → check data.yaml instead" in ran.output
    shutil.rmtree(pictures / "caption")
    assert "; check data.yaml instead" in str(fourm("data").exception)


def test_of_a_folder_nothing_but_modalities_can_be_set(pictures):
    ran = fourm(pictures, "train.steps=3")
    assert "a folder has no config; only modalities.… can be set" in str(ran.exception)
    assert fourm(pictures, "modalities.settings.rgb.image_size=32").exit_code == 0


# Tokens


@pytest.fixture
def tokens(tmp_path):
    """Tokens of grids, one of 5 samples without words, in two shards."""
    modalities = fake_modalities(["a", "words"])
    write_data(tmp_path / "raw", modalities, {"a": NAMES, "words": NAMES[:2]})
    data = AlignedData(tmp_path / "raw", modalities)
    tokenize_split(data, tmp_path / "tokens/train", fake_tokenizers(modalities), DataConfig(shard_size=3))
    return tmp_path / "tokens/train"


def check_tokens(tokens, **changes):
    modalities = fake_modalities(["a", "words"])
    data = AlignedData(tokens.parent.parent / "raw", modalities)
    files = {}
    for name in modalities:
        having = [sample for sample in data.names if name in data.has(sample)]
        contents = {sample: content_digest(data.files(sample, name)) for sample in having}
        files[name] = Files(contents, having, lambda sample, name=name: data.stamp(sample, name))
    arguments = {"modalities": modalities, "tokenizers": fake_tokenizers(modalities), "files": files} | changes
    return TokenCheck(tokens, "train", *arguments.values())


def rewrite(path, change):
    columns = load_file(path)
    metadata = {key: value for key, value in ShardFile(path).metadata.items() if key != "format"}
    change(columns)
    save_shard(path, columns, metadata)


def messages(check, level="problem"):
    return [finding.message for finding in check.findings if finding.level == level]


def test_sound_tokens_are_counted(tokens):
    check = check_tokens(tokens)
    assert check.findings == []
    a, words = check.entries
    assert (a["samples"], a["shards"], a["ids"], words["samples"]) == (5, 2, 16, 2)
    assert 1 <= a["perplexity"] <= a["used"] <= 16
    assert words["tokens"]["most"] == 12


def test_ids_that_were_not_written_are_named(tokens):
    def damage(columns):
        columns["ids"][0, 0] ^= 1

    rewrite(tokens / "a" / "shard-00001.safetensors", damage)
    (message,) = messages(check_tokens(tokens))
    assert "1 sample of a, such as 0003: ids that were not written" in message


def test_views_that_were_not_recorded_are_named(tokens):
    def damage(columns):
        columns["views.image"][0, 0, 0] += 0.01

    rewrite(tokens / "_views" / "shard-00000.safetensors", damage)
    assert "views of 1 sample, such as 0000, are not those that were recorded" in messages(check_tokens(tokens))[0]


def test_a_shard_that_is_cut_off_is_named(tokens):
    path = tokens / "a" / "shard-00001.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    assert "shard-00001.safetensors" in messages(check_tokens(tokens))[0]


def test_tokens_of_files_that_have_changed_and_samples_without_tokens_are_problems(tokens):
    raw = tokens.parent.parent / "raw"
    shutil.copy(raw / "a" / "0000.npy", raw / "a" / "0001.npy")
    shutil.copy(raw / "a" / "0000.npy", raw / "a" / "0007.npy")
    changed, absent = messages(check_tokens(tokens))
    assert "1 sample of a, such as 0001: the files hold something else" in changed
    assert "1 sample of a, such as 0007: no tokens" in absent


def test_tokens_whose_file_is_gone_and_files_that_were_touched_are_notes(tokens):
    raw = tokens.parent.parent / "raw"
    (raw / "a" / "0001.npy").unlink()
    (raw / "words" / "0000.txt").write_text("red\nred ball")
    modalities = fake_modalities(["a", "words"])
    data = AlignedData(raw, modalities)
    unread = {
        name: Files({}, list(data.having(name)), lambda sample, name=name: data.stamp(sample, name))
        for name in modalities
    }
    gone, touched = messages(check_tokens(tokens, files=unread), "note")
    assert "1 sample of a, such as 0001: tokens, but no file" in gone
    assert "1 sample of words, such as 0000: files that were not read have another size or time" in touched


def test_tokens_of_another_tokenizer_and_of_other_settings_are_problems(tokens):
    others = fake_tokenizers(fake_modalities(["a", "words"]))
    others["a"].salt = "!"
    assert (
        "made by tokenizer fake_levels; that of a is fake_levels!"
        in messages(check_tokens(tokens, tokenizers=others))[0]
    )
    resized = fake_modalities(["a", "words"], size=16)
    assert any("size" in message for message in messages(check_tokens(tokens, modalities=resized)))


def test_pictures_of_one_id_are_notes(tokens):
    from fourm_engine.data.tokens.token_shards import row_digest

    def flatten(columns):
        columns["ids"][0] = 3
        columns["digest"][0] = np.uint64(row_digest(columns["ids"][:1]))

    rewrite(tokens / "a" / "shard-00000.safetensors", flatten)
    check = check_tokens(tokens)
    assert "1 sample of a, such as 0000: one id alone" in messages(check, "note")[0]


def test_a_folder_of_tokens_is_checked_without_a_config(tokens):
    ran = fourm(tokens.parent)
    assert ran.exit_code == 0, ran.output
    assert "0 problems" in ran.output

    def damage(columns):
        columns["ids"][0, 0] ^= 1

    rewrite(tokens / "a" / "shard-00001.safetensors", damage)
    ran = fourm(tokens)
    assert ran.exit_code == 1
    assert "such as 0003" in ran.output
