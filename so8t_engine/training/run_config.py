"""The configuration of a run that is there already; imports no torch."""

from __future__ import annotations

import logging
from pathlib import Path

from so8t_engine.config import Config, parse_config
from so8t_engine.errors import ConfigError, RunError
from so8t_engine.files import write_atomically
from so8t_engine.training.checkpoint import checkpoints, read_verified
from so8t_engine.training.run_directory import RunDirectory

log = logging.getLogger(__name__)

CONFIG = "config.yaml"


def readable_config(run: RunDirectory) -> Config:
    """The run's configuration; if the file is damaged, the copy in the newest whole checkpoint.

    The damaged file is kept beside it as ``config.yaml.damaged``.

    Raises:
        ConfigError: the file is damaged and no checkpoint has a copy.
    """
    try:
        return run.config()
    except ConfigError:
        for path in reversed(checkpoints(run.checkpoints)):
            try:
                text = read_verified(path, keep=(CONFIG,))[CONFIG].decode("utf-8")
                config = parse_config(text, name=str(path / CONFIG))
            except (RunError, ConfigError, KeyError, ValueError):
                continue
            log.warning("%s was damaged; its copy in %s is taken", run.config_file, path)
            damaged = Path(f"{run.config_file}.damaged")
            try:
                run.config_file.replace(damaged)
                write_atomically(run.config_file, text)
            except OSError as error:
                log.warning("%s could not be put back: %s", run.config_file, error)
            return config
        raise
