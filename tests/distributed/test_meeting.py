"""Processes that cannot meet say so in one line."""

from __future__ import annotations

import socket

import pytest

from fourm_engine.train.config import TrainConfig
from fourm_engine.train.distributed import processes


@pytest.mark.parametrize("variables", [{}, {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "abc"}, "taken"])
def test_variables_that_do_not_fit_are_one_line_with_the_remedy(monkeypatch, variables):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        if variables == "taken":
            variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(other.getsockname()[1])}
        for name in ("MASTER_ADDR", "MASTER_PORT"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {"RANK": "0", "WORLD_SIZE": "2", **variables}.items():
            monkeypatch.setenv(name, value)
        config = TrainConfig(batch_size=2, steps=1, lr=1e-3, device="cpu", threads=1)
        with pytest.raises(ValueError, match=r"the processes do not meet: .*torchrun") as caught, processes(config):
            pass
    assert "\n" not in str(caught.value)
