"""Where the base model is. Imports no torch, so that a wrong path is found before anything starts."""

from __future__ import annotations

from pathlib import Path

from so8t_engine.config.sections import ModelConfig
from so8t_engine.errors import ModelError
from so8t_engine.i18n import _
from so8t_engine.model.inspection import check_model_folder
from so8t_engine.paths import resources_dir
from so8t_engine.safe_paths import is_folder, is_hub_id

EMBEDDED = "embedded"


def model_source(config: ModelConfig) -> str:
    """The folder or Hub id to load from.

    Raises:
        ModelError: what looks like a folder does not exist or is no model folder.
    """
    if config.path == EMBEDDED:
        return str(resources_dir() / "base_model")
    folder = Path(config.path).expanduser()
    if is_folder(folder):
        if not (folder / "config.json").is_file():
            raise ModelError(
                _("%(path)s holds no config.json, so it is no model folder.") % {"path": config.path},
                _("Choose the folder that holds config.json and the safetensors files."),
            )
        check_model_folder(folder)
        return str(folder)
    if not is_hub_id(config.path):
        raise ModelError(
            _("There is no model folder %(path)s.") % {"path": config.path},
            _("Check the path, or give a Hub id (owner/name) or 'embedded'."),
        )
    return config.path
