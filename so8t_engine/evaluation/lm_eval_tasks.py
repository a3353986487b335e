"""Tasks of EleutherAI's lm-evaluation-harness from local files, base and tuned model. An extra."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from pathlib import Path
from typing import Any

from so8t_engine.errors import SO8TError
from so8t_engine.evaluation.lm_eval_files import require_tasks
from so8t_engine.evaluation.outputs import TunedModel
from so8t_engine.i18n import _
from so8t_engine.so8t.attach import attach_from_placement


def harness(tuned: TunedModel, tokenizer: Any, files: Sequence[Path]) -> dict[str, dict[str, Any]]:  # noqa: ANN401
    """Task → figure → base and tuned, each with value and standard error (None: the harness has none).

    Raises:
        ConfigError: a task file is unusable. SO8TError: the harness is not installed or fails.
    """
    tasks = require_tasks(files)
    try:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise SO8TError(
            _("The installed lm-evaluation-harness cannot be used: %(reason)s.")
            % {"reason": _first_line(error)},
            _("Install it with: pip install 'so8t-control-panel[lm-eval]'"),
        ) from error
    model = tuned.causal_lm

    def run() -> dict[str, dict[str, Any]]:
        # As dictionaries: given a folder, the harness reads every YAML below it and may take another file.
        manager = TaskManager(include_defaults=False)
        lm = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=4)
        found: dict[str, dict[str, Any]] = simple_evaluate(
            model=lm, tasks=deepcopy(tasks), task_manager=manager, bootstrap_iters=1000, log_samples=False
        )["results"]
        return found

    try:
        # The harness prints; standard output belongs to --json.
        with redirect_stdout(sys.stderr), _data_and_templates_only():
            with tuned.peft.disable_adapter():
                base = run()
            with attach_from_placement(model, tuned.so8t, tuned.placement):
                after = run()
        return {task["task"]: _figures(base[task["task"]], after[task["task"]]) for task in tasks}
    except SO8TError:
        raise
    except Exception as error:  # a task may fail in any library: templates, data sets, metrics
        raise SO8TError(
            _("lm-evaluation-harness failed: %(reason)s") % {"reason": _first_line(error)},
            _("Check the task file."),
        ) from error


@contextmanager
def _data_and_templates_only() -> Iterator[None]:
    """Templates in Jinja's sandbox, and no metrics that are loaded as code from a folder or the Hub.

    The harness does both without asking: a template of its own environment reaches any Python object.
    """
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils
    from lm_eval.api import metrics as _metrics  # noqa: F401  (fills the registry)
    from lm_eval.api import task as api
    from lm_eval.api.registry import METRIC_REGISTRY

    environment, get_metric = utils.env, api.get_metric
    sandbox = SandboxedEnvironment(
        loader=environment.loader,
        undefined=environment.undefined,
        keep_trailing_newline=environment.keep_trailing_newline,
    )
    sandbox.filters.update(environment.filters)

    def known_metric(name: str, hf_evaluate_metric: bool = False) -> Any:  # noqa: ANN401
        if hf_evaluate_metric or name not in METRIC_REGISTRY:
            raise SO8TError(
                _("lm-evaluation-harness has no metric of its own named %(name)s.") % {"name": name},
                _("Check the task file."),
            )
        return get_metric(name)

    utils.env, api.get_metric = sandbox, known_metric
    try:
        yield
    finally:
        utils.env, api.get_metric = environment, get_metric


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    # A KeyError's text is the key alone.
    name = type(error).__name__
    return name if not lines else f"{name}: {lines[0]}" if isinstance(error, KeyError) else lines[0]


def _figures(base: dict[str, Any], tuned: dict[str, Any]) -> dict[str, Any]:
    kept = [key for key, value in tuned.items() if isinstance(value, float) and "_stderr," not in key]
    pairs = [tuple(key.split(",", 1)) for key in kept if "," in key]
    metrics = [metric for metric, _filter in pairs]
    found: dict[str, Any] = {}
    for metric, filtered in pairs:
        # Several filters of the answers give a figure each.
        name = metric if metrics.count(metric) == 1 else f"{metric} ({filtered})"
        found[name] = {
            which: {
                "value": entry.get(f"{metric},{filtered}"),
                "stderr": error
                if isinstance(error := entry.get(f"{metric}_stderr,{filtered}"), float)
                else None,
            }
            for which, entry in (("base", base), ("tuned", tuned))
        }
    return found
