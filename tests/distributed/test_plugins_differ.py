"""Processes whose plugins differ are told so before any data is read or a model built."""

from __future__ import annotations

import pytest
import yaml

from tests.distributed.launching import launch
from tests.recipes.test_config import MINIMAL
from tests.sdk.sites import GOOD, entry, put


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            {"version": "1.3"},
            "rank 1 differs from rank 0 in plugin thermal (plugin thermal: 'acme-thermal 1.2' in rank 0, "
            "'acme-thermal 1.3' in rank 1)",
        ),
        (
            {"source": GOOD.replace("= 64", "= 32")},
            "rank 1 differs from rank 0 in modality thermal, settings of thermal, vocabulary thermal",
        ),
    ],
    ids=["version", "layout"],
)
def test_another_version_or_layout_is_named_with_rank_and_plugin(tmp_path, other, said):
    put(tmp_path / "a", "acme-thermal", entry("thermal", "acme_thermal:Thermal"))
    put(tmp_path / "b", "acme-thermal", entry("thermal", "acme_thermal:Thermal"), **other)
    # Neither the data nor the tokenizers are there: whoever looked for them first would complain of that.
    config = MINIMAL | {
        "run": str(tmp_path / "run"),
        "modalities": {"select": ["thermal"]},
        "data": {"train": str(tmp_path / "nowhere")},
        "tokenizers": {"folder": str(tmp_path / "none")},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    sites = str(tmp_path / "a"), str(tmp_path / "b")
    error = launch("distributed/plugins_run.py", str(tmp_path / "config.yaml"), *sites, world=2, fail=True)
    assert said in error
    assert "install the same plugins" in error
    assert not (tmp_path / "run").exists()
