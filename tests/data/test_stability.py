"""Token shards are stable: what is there stays, what is new or has changed is encoded, what vanished is told."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fourm_engine.data.config import DataConfig
from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.tokens.recording import new_shards
from fourm_engine.data.tokens.tokenize import tokenize_split
from fourm_engine.data.views import DrawnViews, ViewDrawer
from tests.fakes import LevelsTokenizer, fake_modalities, fake_tokenizers, sample_names, to_npy, write_data
from tests.tokenized import Tokens

MODALITIES = fake_modalities()
TOKENIZERS = fake_tokenizers(MODALITIES)
CONFIG = DataConfig(shard_size=3, views=2, augment=True)
EXTENSIONS = {"a": "npy", "b": "npy", "words": "txt"}


@pytest.fixture
def root(tmp_path):
    write_data(tmp_path / "raw", MODALITIES, sample_names(7))
    return tmp_path


def run(root, out="tokens", modalities=MODALITIES, **options):
    return tokenize_split(AlignedData(root / "raw", modalities), root / out, TOKENIZERS, CONFIG, **options)


def tokens_of(folder):
    """(modality, sample) -> ids of each view, and the views themselves."""
    tokens = Tokens(folder)
    return {
        (modality, name): (tokens.all_ids(modality, name), tokens.views.get(name, 0) if modality != "words" else None)
        for modality in tokens.index.modalities
        for name in tokens.names(modality)
    }


def tally(report, modality):
    counts = report.modalities[modality]
    return {k: v for k in ("added", "changed", "unchanged", "vanished", "left_out") if (v := getattr(counts, k))}


def snapshot(root):
    return {p: p.stat().st_mtime_ns for p in (root / "tokens").rglob("*.safetensors")}


def rewrite(path, seed, shape=(12, 16)):
    """Another picture of the same size in bytes."""
    rng = np.random.default_rng(seed)
    words = path.parent.name == "words"
    before = path.stat() if path.exists() else None
    if words:
        path.write_text(f"big {'red ball' if seed % 2 else 'the cube'}")
    elif path.parent.name == "b":
        path.write_bytes(to_npy(rng.integers(0, 5, shape)))
    else:
        path.write_bytes(to_npy(rng.random((*shape, 2), np.float32)))
    if before is not None:  # some file systems count time in steps that a test outruns
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))


def test_a_sample_that_sorts_first_goes_into_a_new_shard_and_no_other_is_touched(root):
    run(root)
    before, tokens = snapshot(root), tokens_of(root / "tokens")
    write_data(root / "raw", MODALITIES, ["0000-earlier", "!first"])
    report = run(root)
    assert tally(report, "a") == {"added": 2, "unchanged": 7}
    assert {p: snapshot(root)[p] for p in before} == before
    assert {p.name for p in snapshot(root).keys() - before.keys()} == {"shard-00003.safetensors"}
    after = tokens_of(root / "tokens")
    assert {key: after[key] for key in tokens} == tokens


def test_annotations_that_come_later_are_tokenized(tmp_path):
    write_data(tmp_path / "raw", fake_modalities(["a", "b"]), {"a": sample_names(7), "b": sample_names(2)})
    run(tmp_path)
    views = (tmp_path / "tokens/_views/shard-00001.safetensors").read_bytes()
    write_data(tmp_path / "raw", MODALITIES, {"a": sample_names(7), "b": sample_names(7), "words": sample_names(4)})
    report = run(tmp_path)
    assert tally(report, "b") == {"added": 5, "unchanged": 2}
    assert tally(report, "words") == {"added": 4}
    assert (tmp_path / "tokens/_views/shard-00001.safetensors").read_bytes() == views
    run(tmp_path, out="anew")
    assert tokens_of(tmp_path / "tokens") == tokens_of(tmp_path / "anew")


def test_a_corrected_file_of_the_same_name_is_tokenized_anew_and_alone(root):
    run(root)
    before = tokens_of(root / "tokens")
    rewrite(root / "raw/a/0004.npy", 99)
    encoded = []

    class Counting(LevelsTokenizer):
        def encode(self, arrays):
            encoded.extend(arrays)
            return super().encode(arrays)

    tokenizers = {**TOKENIZERS, "a": Counting([MODALITIES["a"].spec])}
    report = tokenize_split(AlignedData(root / "raw", MODALITIES), root / "tokens", tokenizers, CONFIG)
    assert tally(report, "a") == {"changed": 1, "unchanged": 6}
    assert len(encoded) == CONFIG.views
    assert report.written == 1
    after = tokens_of(root / "tokens")
    assert [key for key in after if after[key] != before[key]] == [("a", "0004")]
    assert run(root).written == 0


def test_a_file_that_was_touched_alone_is_not_encoded_again(root):
    run(root)
    before = tokens_of(root / "tokens")
    os.utime(root / "raw/a/0004.npy", ns=(1, 1))
    report = run(root)
    assert (report.encoded, tally(report, "a")) == (0, {"unchanged": 7})
    assert tokens_of(root / "tokens") == before
    assert run(root).written == 0  # its new time is known now


def test_content_that_keeps_size_and_time_is_found_where_it_is_verified(root):
    run(root)
    path = root / "raw/a/0004.npy"
    times = path.stat()
    rewrite(path, 99)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert run(root).encoded == 0
    assert tally(run(root, verify=True), "a") == {"changed": 1, "unchanged": 6}
    run(root, out="anew")
    assert tokens_of(root / "tokens") == tokens_of(root / "anew")


def test_members_of_tars_that_changed_are_found(tmp_path):
    write_data(tmp_path / "raw", MODALITIES, sample_names(5), tar=True)
    run(tmp_path)
    write_data(tmp_path / "raw", MODALITIES, sample_names(7), tar=True)
    run(tmp_path)
    run(tmp_path, out="anew")
    assert tokens_of(tmp_path / "tokens") == tokens_of(tmp_path / "anew")


def test_a_repaired_file_is_tokenized_and_a_broken_one_loses_its_tokens(root):
    good = (root / "raw/a/0002.npy").read_bytes()
    (root / "raw/a/0002.npy").write_bytes(b"rubbish")
    assert tally(run(root), "a") == {"added": 6, "left_out": 1}
    (root / "raw/a/0002.npy").write_bytes(good)
    (root / "raw/a/0003.npy").write_bytes(b"rubbish")
    assert tally(run(root), "a") == {"added": 1, "unchanged": 5, "left_out": 1}
    assert "0003" not in Tokens(root / "tokens").names("a")
    run(root, out="anew")
    assert tokens_of(root / "tokens") == tokens_of(root / "anew")


def test_what_vanished_is_told_and_keeps_its_tokens_until_it_is_pruned(root):
    run(root)
    before = tokens_of(root / "tokens")
    for path in ("a/0001.npy", "b/0001.npy", "words/0001.txt", "b/0005.npy"):
        (root / "raw" / path).unlink()
    report = run(root)
    assert tally(report, "b") == {"unchanged": 5, "vanished": 2}
    assert "train, b: 5 unchanged, 2 vanished (their tokens are kept; --prune drops them); 0 shards written" in (
        report.lines("train")
    )
    assert (report.written, tokens_of(root / "tokens")) == (0, before)
    report = run(root, prune=True)
    assert tally(report, "b") == {"unchanged": 5, "vanished": 2}
    assert "0001" not in Tokens(root / "tokens").names()
    assert "0005" in Tokens(root / "tokens").names()
    run(root, out="anew")
    assert tokens_of(root / "tokens") == tokens_of(root / "anew")


def test_pruning_leaves_modalities_that_take_no_part_alone(root):
    run(root)
    for name in sample_names(7):
        (root / f"raw/a/{name}.npy").unlink()
    (root / "raw/a").rmdir()
    (root / "raw/b/0001.npy").unlink()
    run(root, modalities=fake_modalities(["a", "b"]), prune=True)
    tokens = Tokens(root / "tokens")
    assert len(tokens.names("a")) == len(tokens.names("words")) == 7
    assert "0001" not in tokens.names("b")


def test_a_picture_of_another_shape_gets_new_views_and_all_that_is_aligned_with_it_new_tokens(root):
    run(root)
    before = tokens_of(root / "tokens")
    for modality in "ab":
        rewrite(root / f"raw/{modality}/0004.npy", 99, shape=(20, 12))
    report = run(root)
    assert tally(report, "a") == tally(report, "b") == {"changed": 1, "unchanged": 6}
    run(root, out="anew")
    after = tokens_of(root / "tokens")
    assert after == tokens_of(root / "anew")
    assert {key for key in after if after[key] != before[key]} == {("a", "0004"), ("b", "0004")}


def test_views_stay_while_tokens_beside_were_made_through_them_and_the_odd_file_is_blamed(root):
    run(root)
    before = tokens_of(root / "tokens")
    rewrite(root / "raw/a/0004.npy", 99, shape=(20, 12))
    report = run(root)
    assert tally(report, "a") == {"unchanged": 6, "left_out": 1}
    assert "a/0004.npy: a: width / height is 0.600" in report.bad[0]
    after = tokens_of(root / "tokens")
    assert after == {key: value for key, value in before.items() if key != ("a", "0004")}
    rewrite(root / "raw/b/0004.npy", 99, shape=(20, 12))
    assert tally(run(root), "a") == {"added": 1, "unchanged": 6}
    run(root, out="anew")
    assert tokens_of(root / "tokens") == tokens_of(root / "anew")


def test_a_run_killed_after_views_were_drawn_anew_encodes_what_they_show(root, monkeypatch):
    run(root)
    for modality in "ab":
        rewrite(root / f"raw/{modality}/0004.npy", 99, shape=(20, 12))

    class Killed(LevelsTokenizer):
        def encode(self, arrays):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tokenize_split(
            AlignedData(root / "raw", MODALITIES),
            root / "tokens",
            {**TOKENIZERS, "a": Killed([MODALITIES["a"].spec])},
            CONFIG,
        )
    assert tally(run(root), "b") == {"changed": 1, "unchanged": 6}
    run(root, out="anew")
    assert tokens_of(root / "tokens") == tokens_of(root / "anew")


@settings(max_examples=100)
@given(taken=st.sets(st.integers(0, 6)), new=st.integers(1, 30), size=st.integers(1, 4), data=st.data())
def test_new_samples_go_where_they_go_however_many_shards_another_process_has_made(taken, new, size, data):
    names = sample_names(new)
    whole = new_shards(names, taken, size)
    assert [name for _, shard in sorted(whole.items()) for name in shard] == names
    assert not taken & whole.keys()
    made = data.draw(st.sets(st.sampled_from(sorted(whole))))
    left = [name for name in names if all(name not in whole[number] for number in made)]
    assert new_shards(left, taken | made, size) == {n: shard for n, shard in whole.items() if n not in made}


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(["write", "remove", "break"]), st.sampled_from(sorted(EXTENSIONS)), st.integers(0, 5),
        st.integers(0, 1000),
    ),
    min_size=1,
    max_size=8,
)  # fmt: skip


@settings(max_examples=15, deadline=None)
@given(history=st.lists(CHANGES, min_size=1, max_size=4))
def test_any_history_of_files_gives_the_tokens_of_tokenizing_once(history):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_data(root / "raw", MODALITIES, sample_names(1, start=9))
        for changes in history:
            for what, modality, number, seed in changes:
                path = root / "raw" / modality / f"{number:04d}.{EXTENSIONS[modality]}"
                if what == "remove":
                    path.unlink(missing_ok=True)
                elif what == "break":
                    path.write_bytes(b"" if modality == "words" else b"rubbish")
                else:
                    rewrite(path, seed)
            run(root, prune=True)
        run(root, out="anew")
        assert tokens_of(root / "tokens") == tokens_of(root / "anew")


def test_a_picture_without_tokens_of_its_own_that_changes_its_shape_is_noticed(tmp_path):
    modalities = fake_modalities(["a@pixels", "words"])
    write_data(tmp_path / "raw", fake_modalities(["a", "words"]), sample_names(4))
    run(tmp_path, modalities=modalities)
    rewrite(tmp_path / "raw/a/0001.npy", 3, shape=(20, 12))
    run(tmp_path, modalities=modalities)
    drawer = ViewDrawer(modalities, augment=True)
    fresh = DrawnViews(drawer, AlignedData(tmp_path / "raw", modalities), 1).get("0001", 1)
    assert Tokens(tmp_path / "tokens").views.get("0001", 1) == fresh
