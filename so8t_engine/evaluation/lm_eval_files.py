"""Task files of EleutherAI's lm-evaluation-harness: read and judged without the harness and without torch."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from so8t_engine.errors import ConfigError, SO8TError
from so8t_engine.i18n import _

#: Keys with which a task file takes more than itself: other files, Python classes, groups of tasks.
_ELSEWHERE = ("include", "class", "group", "task_list", "use_prompt", "custom_dataset")


def read_task(file: Path) -> dict[str, Any]:
    """The harness task that a file declares; its name is ``["task"]``.

    Raises:
        ConfigError: it cannot be read, declares none, or would run code (``!function``, ``include``, …).
    """
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            _("%(path)s cannot be read: %(reason)s.") % {"path": str(file), "reason": error.strerror}
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            _("%(path)s is no plain task file: it is not YAML, or names code to be run (!function).")
            % {"path": str(file)},
            _("Only tasks made of data and templates are run."),
        ) from error
    if not isinstance(found, dict) or not isinstance(found.get("task"), str):
        raise ConfigError(
            _("%(path)s declares no task of its own.") % {"path": str(file)},
            _("Write 'task: name' at the top."),
        )
    if found.get("dataset_path") == "pandas":
        raise ConfigError(
            _("%(path)s reads pickled data, which can run code.") % {"path": str(file)},
            _("Use json, csv or parquet as dataset_path."),
        )
    metrics = found.get("metric_list") or []
    others = any(isinstance(metric, dict) and metric.get("hf_evaluate") for metric in metrics)
    for key in (*(key for key in _ELSEWHERE if key in found), *(("hf_evaluate",) if others else ())):
        raise ConfigError(
            _("%(path)s takes more than itself: '%(key)s'.") % {"path": str(file), "key": key},
            _("Only tasks made of data and templates are run."),
        )
    return found


def require_tasks(files: Sequence[Path]) -> list[dict[str, Any]]:
    """The tasks of ``files``; cheap, so that it can be asked before hours of work.

    Raises:
        ConfigError: a file is unusable, or two declare the same name.
        SO8TError: the harness is not installed.
    """
    tasks = [read_task(file) for file in files]
    names = [task["task"] for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                _("Two task files declare the task %(name)s.") % {"name": name}, _("Rename one of them.")
            )
    if tasks and find_spec("lm_eval") is None:
        raise SO8TError(
            _("lm-evaluation-harness is not installed."),
            _("Install it with: pip install 'so8t-control-panel[lm-eval]'"),
        )
    return tasks
