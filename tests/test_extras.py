"""Optional dependencies are imported only where used; an error names the missing extra."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fourm_engine.evaluate.charts import Curve, draw
from fourm_engine.tokenizers.diffusion import cumulative_alphas
from fourm_plugins.extras import optional


@pytest.mark.parametrize(
    ("module", "use", "install"),
    [
        ("matplotlib", lambda folder: draw(Curve("loss", [(0, 1.0), (1, 0.5)])), "fourm-engine[report]"),
        (
            "diffusers.schedulers.scheduling_ddim",
            lambda folder: cumulative_alphas("linear", 10),
            "fourm-engine[diffusion]",
        ),
    ],
)
def test_an_extra_that_is_not_installed_is_named_in_one_line(module, use, install, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)  # as Python sees a package that is not there
    with pytest.raises(ValueError, match="pip install") as caught:
        use(tmp_path)
    assert f"pip install '{install}'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_optional_module_that_is_installed_is_returned():
    assert optional("json", what="tests need", install="python").dumps([1]) == "[1]"


def test_loading_a_model_imports_no_extra_and_nothing_that_opens_data():
    code = (
        "import sys, fourm_engine as fm; fm.FourM\n"
        "assert not {'fourm_engine.storage', 'fourm_engine.data.config', 'fourm_engine.train'} & set(sys.modules)\n"
        "extras = {'s3fs', 'gcsfs', 'aiohttp', 'optuna'}\n"
        "extras |= {'diffusers', 'matplotlib', 'tensorboard', 'transformers', 'torchmetrics', 'scipy'}\n"
        "assert not extras & set(sys.modules), extras & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
