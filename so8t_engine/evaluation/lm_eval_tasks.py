"""Tasks of EleutherAI's lm-evaluation-harness from local files, base and tuned model. An extra."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from so8t_engine.errors import ConfigError, SO8TError
from so8t_engine.evaluation.outputs import TunedModel
from so8t_engine.i18n import _
from so8t_engine.so8t.attach import attach_from_placement


def task_name(file: Path) -> str:
    """The task that a harness file declares.

    Raises:
        ConfigError: it cannot be read, declares none, or would run code (``!function``, ``include``).
    """
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            _("%(path)s cannot be read: %(reason)s.") % {"path": str(file), "reason": error.strerror}
        ) from error
    except yaml.YAMLError as error:
        raise ConfigError(
            _("%(path)s is no plain task file: it is not YAML, or names code to be run (!function).")
            % {"path": str(file)},
            _("Only tasks made of data and templates are run."),
        ) from error
    if not isinstance(found, dict) or not isinstance(found.get("task"), str) or "include" in found:
        raise ConfigError(
            _("%(path)s declares no task of its own.") % {"path": str(file)},
            _("Write 'task: name' at the top, and no include."),
        )
    return str(found["task"])


def harness(tuned: TunedModel, tokenizer: Any, files: Sequence[Path]) -> dict[str, dict[str, Any]]:  # noqa: ANN401
    """Task → figure → base and tuned, each with value and standard error as the harness gives them.

    Raises:
        ConfigError: a task file is unusable. SO8TError: the harness is not installed or fails.
    """
    names = [task_name(file) for file in files]
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise SO8TError(
            _("lm-evaluation-harness is not installed."),
            _("Install it with: pip install 'so8t-control-panel[lm-eval]'"),
        ) from error
    folders = sorted({str(file.absolute().parent) for file in files})
    model = tuned.causal_lm

    def run() -> dict[str, dict[str, Any]]:
        manager = TaskManager(include_path=folders, include_defaults=False)
        lm = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=4)
        found: dict[str, dict[str, Any]] = simple_evaluate(
            model=lm, tasks=names, task_manager=manager, bootstrap_iters=1000, log_samples=False
        )["results"]
        return found

    try:
        with tuned.peft.disable_adapter():
            base = run()
        with attach_from_placement(model, tuned.so8t, tuned.placement):
            after = run()
    except (ValueError, KeyError, OSError, RuntimeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise SO8TError(
            _("lm-evaluation-harness failed: %(reason)s") % {"reason": lines[0]}, _("Check the task file.")
        ) from error
    return {name: _figures(base[name], after[name]) for name in names}


def _figures(base: dict[str, Any], tuned: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tuned.items():
        metric, _comma, filtered = key.partition(",")
        if metric.endswith("_stderr") or not isinstance(value, float) or not filtered:
            continue
        error = f"{metric}_stderr,{filtered}"
        found[metric] = {
            which: {"value": entry.get(key), "stderr": entry.get(error)}
            for which, entry in (("base", base), ("tuned", tuned))
        }
    return found
