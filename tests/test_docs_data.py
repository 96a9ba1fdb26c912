"""The commands and the table of docs/data.md are what the plugins and the command line offer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from fourm_boxes.labeller import DetectionOptions, RegionOptions
from fourm_caption.labeller import CaptionOptions
from fourm_depth.labeller import DepthOptions
from fourm_normal.labeller import NormalOptions
from fourm_semseg.labeller import SemSegOptions
from typer.main import get_command

from fourm_engine.cli.app import app
from fourm_engine.cli.options import by_target, settings_by_target
from fourm_engine.data.raw.label import plan
from fourm_engine.masking.budgets import Budgets
from fourm_engine.masking.config import Component, MaskingConfig
from fourm_engine.modalities import ModalitiesConfig, load_manager, load_modalities
from fourm_plugins.labelling import NetworkOptions

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/data.md").read_text()
COMMANDS = re.search(r"```sh\n(pip install.*?)```", PAGE, re.DOTALL)[1].replace("\\\n", " ")
OPTIONS = {
    ("depth", "a depth model"): DepthOptions,
    ("normal", "geometry of a pinhole camera"): NormalOptions,
    ("semseg", "a semantic or universal segmentation model"): SemSegOptions,
    ("boxes", "an object detection model"): DetectionOptions,
    ("boxes", "a box about each connected region"): RegionOptions,
    ("caption", "a captioning model without a prompt"): CaptionOptions,
    ("clip", "a CLIP model"): NetworkOptions,
}


def test_the_extras_that_the_page_installs_exist():
    named = re.findall(r"'fourm-(\w+)\[(\w+)\]'", PAGE)
    assert {name for name, _ in named} == {"engine", "rgb", "depth", "semseg", "boxes", "caption", "clip"}
    for name, extra in named:
        text = (ROOT / ("." if name == "engine" else f"plugins/{name}") / "pyproject.toml").read_text()
        assert f"\n{extra} = [" in text.split("[project.optional-dependencies]")[1], (name, extra)


def test_the_labelling_command_can_be_carried_out_in_the_order_that_the_table_says():
    words = COMMANDS.split("fourm label ")[1].split()
    given = {flag: [words[i + 1] for i, word in enumerate(words) if word == flag] for flag in words if flag[:2] == "--"}
    targets = given["--to"][0].split(",")
    models, options = (
        by_target("--model", given["--model"], targets),
        settings_by_target("--option", given["--option"], targets),
    )
    modalities = load_modalities(ModalitiesConfig(), load_manager(ModalitiesConfig()))
    steps = plan(modalities, "rgb", targets, models)
    assert {(s.target, s.source) for s in steps} == {
        ("depth", "rgb"), ("normal", "depth"), ("semseg", "rgb"), ("boxes", "rgb"), ("caption", "rgb"), ("clip", "rgb")
    }  # fmt: skip
    assert set(options["normal"]) <= set(NormalOptions.model_fields)
    assert set(options["boxes"]) <= set(DetectionOptions.model_fields)


def test_the_table_names_every_option_of_every_labeller_and_no_other():
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \|(.*?)\|$", PAGE, re.MULTILINE)
    assert {(name, by) for name, _, by, _ in rows} == set(OPTIONS)
    for name, _, by, options in rows:
        fields = set(OPTIONS[name, by].model_fields) - set(NetworkOptions.model_fields)
        named = set(re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", options)))
        assert named == fields, name


def test_the_masking_example_and_table_are_settings_that_these_plugins_serve(caplog):
    masking = MaskingConfig(**yaml.safe_load(re.search(r"```yaml\n(masking:.*?)```", PAGE, re.DOTALL)[1])["masking"])
    budgets = Budgets(masking, load_modalities(ModalitiesConfig(), load_manager(ModalitiesConfig())).specs)
    assert not caplog.records
    assert all(budgets.serve(names) for names in ({"rgb", "depth"}, {"caption", "depth"}))
    table = PAGE.split("## Masking")[1].split("```yaml")[0]
    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE))))
    assert named <= {*MaskingConfig.model_fields, *Component.model_fields}


@pytest.mark.parametrize("name", ["label", "tokenize", "tokenizer eval", "tokenizer fit"])
def test_every_option_of_the_commands_that_the_page_names_exists(name):
    command = get_command(app)
    for part in name.split():
        command = command.commands[part]
    known = {flag for parameter in command.params for flag in parameter.opts if flag.startswith("--")}
    named = {
        "label": {"--from", "--to", "--model", "--option"},
        "tokenizer eval": {"--modality", "--samples", "--features"},
    }.get(name, set())
    assert named <= known
    assert all(flag in PAGE for flag in named)
