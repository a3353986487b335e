"""The configuration of a run that is there already; imports no torch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from so8t_engine.config import Config, parse_config
from so8t_engine.errors import ConfigError, RunError
from so8t_engine.files import write_atomically
from so8t_engine.i18n import _
from so8t_engine.training.checkpoint import checkpoints, read_verified
from so8t_engine.training.run_directory import RunDirectory

log = logging.getLogger(__name__)

CONFIG = "config.yaml"
#: Sections that may be changed between two parts of a run; a change of another one makes another run.
FREE = ("name", "run", "checkpoints", "memory")


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


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their dotted names."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def changed_config(run: RunDirectory, overrides: Sequence[str]) -> Config:
    """The run's configuration with ``a.b=value`` texts applied, as far as a run may change.

    Nothing is written.

    Raises:
        ConfigError: a setting that makes another run, an unknown one, or a value out of bounds.
    """
    config = readable_config(run)
    if not overrides:
        return config
    changed = parse_config(config.to_yaml(), name=CONFIG, overrides=overrides)
    then, now = flat(config.model_dump(mode="json")), flat(changed.model_dump(mode="json"))
    for name in sorted(now):
        if now[name] != then.get(name) and name.split(".")[0] not in FREE:
            raise ConfigError(
                _("%(field)s was %(then)s when the run began, and a run keeps it to its end.")
                % {"field": name, "then": then.get(name)},
                _("Leave it out, or start a new run. What may change: %(names)s.")
                % {"names": ", ".join(FREE)},
                field=name,
            )
    return changed
