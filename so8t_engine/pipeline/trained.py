"""The run behind a published output of the training step."""

from __future__ import annotations

import json
from pathlib import Path

from so8t_engine.i18n import _
from so8t_engine.pipeline.errors import PipelineError
from so8t_engine.training.run_directory import RunDirectory


def trained_run(output: Path) -> RunDirectory:
    """The run directory that ``run.json`` names.

    Raises:
        PipelineError: the output names none. RunError: the run is gone.
    """
    try:
        named = json.loads((output / "run.json").read_text(encoding="utf-8"))["run"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PipelineError(
            _("The training step's output %(path)s names no run.") % {"path": str(output)},
            _("Do the training step again, with --from train."),
        ) from error
    return RunDirectory.open(Path(named))
