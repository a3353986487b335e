"""Typed configuration: declaration, loading with line-precise errors, saving."""

from so8t_engine.config.config import SCHEMA_VERSION, Config
from so8t_engine.config.loading import load_config, parse_config, preset_paths, validate_config
from so8t_engine.config.messages import FieldProblem

__all__ = [
    "SCHEMA_VERSION",
    "Config",
    "FieldProblem",
    "load_config",
    "parse_config",
    "preset_paths",
    "validate_config",
]
