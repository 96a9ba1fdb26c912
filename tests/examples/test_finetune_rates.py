"""The rates of the examples of fine-tuning are ones with which a model learns; docs/fine-tuning.md says how much."""

import re
from pathlib import Path

import pytest
import yaml

from fourm_engine.train.config import LENGTHS, TrainConfig

ROOT = Path(__file__).parents[2]
DOCS = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/fine-tuning.md").read_text(), re.DOTALL)
TEXTS = {path: path.read_text() for path in sorted(ROOT.glob("examples/*/*.yaml"))}
EXAMPLES = [path for path, text in TEXTS.items() if "\nfinetune:" in text and "\ntask:" not in text]


@pytest.mark.parametrize("text", [*DOCS, *(path.read_text() for path in EXAMPLES)])
def test_an_example_of_fine_tuning_learns(text):
    raw = yaml.safe_load(text)
    if "train" in raw:
        lengths = {*LENGTHS, *(f"warmup_{name}" for name in LENGTHS), "warmup"}
        train = {name: value for name, value in raw["train"].items() if name not in lengths}
        assert TrainConfig.model_validate(train | {"steps": 1000}).plan().lr >= 1e-4


def test_there_are_such_examples():
    assert {path.name for path in EXAMPLES} >= {"finetune.yaml", "text-to-image.yaml"}
    assert any("lr: 5.0e-4" in text for text in DOCS)
