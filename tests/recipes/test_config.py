"""Configs: strict, overridable, and errors that name the key and the nearest valid one."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fourm_engine.recipes.config import load_config
from fourm_engine.yaml_config import ConfigError
from fourm_plugins.manager import PluginManager

MINIMAL = {
    "run": "runs/x",
    "data": {"train": "data/train"},
    "tokenizers": {"folder": "data/tokenizers"},
    "masking": {},
    "model": {"size": "Ti"},
    "train": {"batch_size": 8, "steps": 10, "lr": 1e-3},
}


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    return path


def test_overrides_reach_any_depth_and_are_yaml(path):
    config = load_config(path, ["train.lr=3e-4", "modalities.select=[a, b]", "tokenizers.fit.steps=7", "seed=5"])
    assert config.train.lr == 3e-4
    assert config.modalities.select == ["a", "b"]
    assert (config.tokenizers.fit.steps, config.seed) == (7, 5)


def with_schedule(path, **train):
    path.write_text(yaml.safe_dump({**MINIMAL, "train": {"batch_size": 8, "lr": 1e-3, **train}}))
    return path


@pytest.mark.parametrize(
    ("schedule", "override", "shortened"),
    [
        ({"steps": 2000, "warmup": 100}, "train.steps=40", {"steps": 40, "warmup": 2}),
        ({"steps": 2000, "warmup": 100}, "train.steps=3", {"steps": 3, "warmup": 1}),
        ({"steps": 2000, "warmup": 100}, "train.steps=100", {"steps": 100, "warmup": 5}),
        ({"steps": 2000, "warmup": 100}, "train.steps=400", {"steps": 400, "warmup": 100}),
        (
            {"steps": 1000, "warmup": 100, "cooldown": 200, "schedule": "wsd"},
            "train.steps=250",
            {"warmup": 25, "cooldown": 50},
        ),
        ({"tokens": 5e11, "warmup_tokens": 1e10}, "train.tokens=1e9", {"tokens": 10**9, "warmup_tokens": 2 * 10**7}),
    ],
)
def test_a_run_that_an_override_makes_short_has_a_shorter_warm_up_and_says_so(
    path, caplog, schedule, override, shortened
):
    masking = ["masking.input_tokens=[1, 64]", "masking.target_tokens=32"]
    train = load_config(with_schedule(path, **schedule), [*masking, override]).train
    assert train.model_dump(include={*shortened}) == shortened
    changed = [
        name for name in shortened if name.startswith(("warmup", "cooldown")) and shortened[name] < schedule[name]
    ]
    assert all(f"train.{name}={shortened[name]} (was " in caplog.text for name in changed)
    assert bool(caplog.messages) == bool(changed)


def test_a_warm_up_that_is_asked_for_and_does_not_fit_is_refused(path):
    with pytest.raises(ConfigError, match=r"warmup=50 and cooldown=0 exceed steps=40"):
        load_config(with_schedule(path, steps=2000), ["train.steps=40", "train.warmup=50"])
    with pytest.raises(ConfigError, match=r"warmup=100 and cooldown=0 exceed steps=40"):
        load_config(with_schedule(path, steps=40, warmup=100))


def test_what_is_saved_loads_as_the_same_config(path, tmp_path):
    config = load_config(path, ["masking.input_tokens=[1, 64]", "masking.target_tokens=32"])
    config.save(tmp_path / "again" / "config.yaml")
    assert load_config(tmp_path / "again" / "config.yaml") == config
    assert [p.name for p in (tmp_path / "again").iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stepz=3", r"train\.stepz: unknown key; did you mean train\.steps\?"),
        ("trian.steps=3", r"trian: unknown key; did you mean train\?"),
        (
            "masking.mixture=[{name: x, wieght: 2}]",
            r"masking\.mixture\.0\.wieght: unknown key; did you mean .*weight\?",
        ),
        ("tokenizers.fit.batchsize=3", r"did you mean tokenizers\.fit\.batch_size\?"),
        ("train.steps=0", r"train\.steps: .*greater than or equal to 1 \(given: 0\)"),
        ("model.size=Q", r"model\.size: .*'Ti'"),
        ("seed=-1", r"seed: .*greater than or equal to 0"),
        ("evaluate.seed=-1", r"evaluate\.seed: .*greater than or equal to 0"),
        ("train", "expected section.key=value"),
        ("run.x=1", "'run' is not a section"),
    ],
)
def test_a_wrong_key_or_value_is_named_by_its_full_path(path, override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(path, [override])


def test_a_missing_section_is_named(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in MINIMAL.items() if k != "train"}))
    with pytest.raises(ConfigError, match="train: is missing"):
        load_config(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\ntrain: [", r"not valid YAML: line 2, column 9: .* the end of the text \(while parsing a flow node\)$"),
        ("- a\n- b", "expected sections such as `data:` and `train:`, but it holds a list$"),
        ("", "but the file is empty$"),
        ("\udcff", "not a text file; name a YAML config"),
        ("base: x", "is for `fourm sweep .*config.yaml`"),
        ("run: a\nrun: b", "'run' appears twice"),
        ("train: {lr:1}", "'lr:1' needs a space after the colon: lr: 1"),
        ("run: !!python/object/apply:os.system ['true']", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_config_is_refused(tmp_path, text, message):
    path = tmp_path / "config.yaml"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError, match=message) as error:
        load_config(path)
    assert "\n" not in str(error.value)


def test_a_folder_instead_of_a_config_is_told_with_the_config_in_it(tmp_path):
    with pytest.raises(ConfigError, match="is a folder; name a YAML config"):
        load_config(tmp_path)
    (tmp_path / "config.yaml").write_text("a: 1")
    with pytest.raises(ConfigError, match=f"is a folder; its config is {tmp_path}/config.yaml"):
        load_config(tmp_path)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.steps=many", "train.steps: must be an integer (given: 'many')"),
        ("train.steps=3.5", "train.steps: must be an integer, got a number with a fractional part (given: 3.5)"),
        ("model=5", "model: must be a section of keys and values (given: 5)"),
        ("run=[https://me:secret@host/, 2, 3, 4, 5]", "run: must be a path (given: ['https://…host/', 2, 3, 4, ...])"),
        (f"seed={'x' * 99}", f"seed: must be an integer (given: '{'x' * 27}...{'x' * 28}')"),
    ],
)
def test_a_value_in_a_message_is_short_whole_and_without_secrets(path, override, words):
    with pytest.raises(ConfigError) as error:
        load_config(path, [override])
    assert str(error.value) == f"{path}: {words}"


@pytest.mark.parametrize("key", ["run", "tokenizers.folder", "data.train", "data.tokens"])
def test_an_empty_path_is_not_the_working_directory(path, key):
    with pytest.raises(ConfigError, match=f"{key}: is empty; name a path, or remove the key$"):
        load_config(path, [f"{key}=''"])


@given(st.floats(1e-8, 1.0))
def test_numbers_in_scientific_notation_are_numbers(tmp_path_factory, lr):
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(yaml.safe_dump(MINIMAL))
    assert load_config(path, [f"train.lr={lr:e}"]).train.lr == pytest.approx(lr)


def test_merged_keys_may_be_overridden(path):
    path.write_text(path.read_text() + "evaluate:\n  <<: {samples: 3, seed: 2}\n  seed: 1\n")
    found = load_config(path).evaluate
    assert (found.samples, found.seed) == (3, 1)


EXAMPLES = sorted((Path(__file__).parents[1] / "examples").rglob("*.yaml"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_configs_are_valid(example):
    assert load_config(example).run


def test_the_names_of_classes_beside_the_data_become_part_of_the_config_that_a_run_stores(path, tmp_path):
    folder = tmp_path / "data/semseg"
    folder.mkdir(parents=True)
    (folder / "classes.json").write_text('["sky", "sea", "land"]')
    config = load_config(path, [f"data.train={tmp_path / 'data'}", "modalities.select=[semseg]"])
    modalities = config.load_modalities(PluginManager())
    assert modalities["semseg"].class_names() == ("sky", "sea", "land")
    config.save(tmp_path / "stored.yaml")
    stored = load_config(tmp_path / "stored.yaml", ["data.train=elsewhere"])
    assert stored.load_modalities(PluginManager()).specs == modalities.specs
