"""The command that starts the same run without the window. No Qt."""

from __future__ import annotations

import functools
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from so8t_engine.config import Config, load_config, preset_paths
from so8t_engine.errors import ConfigError
from so8t_gui.forms.fields import flatten


def _scalar(value: Any) -> str:  # noqa: ANN401
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("...").removesuffix("\n")


def differences(config: Config, base: Config) -> list[str]:
    """``a.b=value`` texts that turn ``base`` into ``config``."""
    wanted, given = flatten(config.model_dump(mode="json")), flatten(base.model_dump(mode="json"))
    return [f"{path}={_scalar(value)}" for path, value in wanted.items() if value != given[path]]


@functools.lru_cache(maxsize=64)
def _preset(path: Path, changed_ns: int) -> Config:
    """A preset, parsed once for each state of its file: the command follows each keystroke."""
    return load_config(path)


def _nearest_preset(config: Config) -> tuple[str, list[str]]:
    options: list[tuple[str, list[str]]] = []
    for name, path in preset_paths().items():
        try:
            options.append((name, differences(config, _preset(path, path.stat().st_mtime_ns))))
        except (ConfigError, OSError):
            continue
    return min(options, key=lambda option: len(option[1]), default=("config.yaml", []))


def equivalent_command(config: Config, base: Config | None = None, source: str = "") -> str:
    """``so8t train …`` for ``config``.

    Args:
        config: what is to be run.
        base: what ``source`` holds.
        source: a file or a preset's name; without one the preset that needs the fewest changes is used.
    """
    if base is not None and source:
        name, sets = source, differences(config, base)
    else:
        name, sets = _nearest_preset(config)
    words = ["so8t", "train", name]
    for text in sets:
        words += ["--set", text]
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)
