"""The tiny model and rows of the engine's tests."""

from tests.engine.conftest import few_rows, tiny_config, tiny_model

__all__ = ["few_rows", "tiny_config", "tiny_model"]
