"""The model and the held-out data of the tests of evaluation."""

from tests.evaluate.conftest import data, model

__all__ = ["data", "model"]
