"""The sections `train` and `evaluate` with any values: a config that is read back as it was stored, or lines that name
file and setting."""

from __future__ import annotations

import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fourm_engine.evaluate.config import EvalTask, EvaluateConfig
from fourm_engine.recipes.config import parse_config
from fourm_engine.train.config import TrainConfig
from fourm_engine.yaml_config import ConfigError
from tests.recipes.test_config import MINIMAL

NUMBERS = st.integers(-2, 70) | st.integers(-(10**40), 10**400) | st.floats()
WORDS = st.sampled_from(["adamw", "cosine", "wsd", "ema", "both", "auto", "bf16", "cpu", "cuda", "*", "", "rgb", "1e3"])
SCALARS = st.none() | st.booleans() | NUMBERS | WORDS | st.text(max_size=9)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS | st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
TRAIN = st.dictionaries(st.sampled_from([*TrainConfig.model_fields, "stepz"]), VALUES, max_size=4)
TASK = st.dictionaries(st.sampled_from([*EvalTask.model_fields, "naem"]), VALUES, max_size=5)
EVALUATE = st.dictionaries(st.sampled_from([*EvaluateConfig.model_fields, "sample"]), VALUES, max_size=4)


@settings(max_examples=150, deadline=None)
@given(train=TRAIN | VALUES, evaluate=EVALUATE | VALUES, tasks=st.lists(TASK, max_size=2))
@example(train={}, evaluate={"a\x1b[2J\x1eb": None}, tasks=[])
@example(train={"tokens": 10**400}, evaluate={}, tasks=[])
@example(train={"steps": 10**400, "base_lr": 1e308, "batch_size": 10**400}, evaluate={}, tasks=[])
@example(train={}, evaluate={"samples": 10**400}, tasks=[{"name": "a", "inputs": ["rgb"], "targets": ["rgb"]}])
def test_any_values_give_a_config_or_lines_that_name_file_and_setting(train, evaluate, tasks):
    raw = yaml.safe_load(yaml.safe_dump(MINIMAL))
    raw["train"] = raw["train"] | train if isinstance(train, dict) else train
    raw["evaluate"] = evaluate
    if tasks and isinstance(evaluate, dict):
        raw["evaluate"] = evaluate | {"tasks": tasks}
    try:
        config = parse_config(raw, "config.yaml")
    except ConfigError as error:
        for line in str(error).splitlines():
            assert line.startswith(("config.yaml: train", "config.yaml: evaluate")), line
            assert len(line) < 600
    else:
        assert parse_config(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json"))), "config.yaml") == config
