"""``so8t evaluate``: a finished run on its held-out rows, beside its base, as JSON, Markdown and HTML."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from so8t_engine.commands.bake import _finished_run
from so8t_engine.config import Config
from so8t_engine.data.rows import Row
from so8t_engine.errors import DataError
from so8t_engine.files import write_atomically
from so8t_engine.i18n import _

Progress = Callable[[str, int, int], None]


def evaluate_run(
    run_path: Path,
    *,
    out: Path | None = None,
    rows: str | None = None,
    max_rows: int | None = None,
    tasks: Sequence[Path] = (),
    console: Console | None = None,
    progress: Progress | None = None,
) -> tuple[str, dict[str, Any]]:
    """Evaluate and write ``report.json``, ``report.md``, ``report.html`` and pictures into ``out``.

    Args:
        out: RUN/evaluation unless given.
        rows: a source of rows as ``data.train`` takes it; the run's test split, else its validation rows.
        max_rows: a seeded choice of so many of them.
        tasks: lm-evaluation-harness task files (YAML) with local data.

    Raises:
        SO8TError: the run is not finished, a part cannot be loaded, or there are no rows.
    """
    run, config, state = _finished_run(run_path)
    if tasks:
        from so8t_engine.evaluation.lm_eval_files import require_tasks

        require_tasks(tasks)
    train, held_out, split = held_out_rows(config, rows, max_rows)
    import torch
    import transformers

    from so8t_engine.evaluation.outputs import load_tuned
    from so8t_engine.evaluation.report_pages import verdicts, write_pages
    from so8t_engine.evaluation.report_plots import pictures
    from so8t_engine.evaluation.run_report import evaluate_rows
    from so8t_engine.model.loading import load_tokenizer
    from so8t_engine.training.environment import physical_cores

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(config.run.cpu_threads or physical_cores())
    if console is not None:
        console.print(_("loading the model"))
    tokenizer = load_tokenizer(config.model)
    tuned = load_tuned(run.final, config)
    report = evaluate_rows(
        tuned, config, tokenizer, held_out, train,
        split=split, seed=config.training.seed, progress=progress or _Lines(console),
    )  # fmt: skip
    report = {
        "run": run.id,
        "state": state,
        "step": tuned.soul.step,
        "variant": tuned.soul.metadata.variant or "full",
        "base_model": config.model.path,
        "config_digest": config.digest(),
        **report,
    }
    if tasks:
        from so8t_engine.evaluation.lm_eval_tasks import harness

        report["lm_eval"] = harness(tuned, tokenizer, tasks)
    folder = out or run.path / "evaluation"
    folder.mkdir(parents=True, exist_ok=True)
    write_pages(folder, report, pictures(report))
    write_atomically(folder / "report.json", json.dumps(report, indent=1, ensure_ascii=False))
    lines = [*verdicts(report), _("Report: %(path)s") % {"path": str(folder / "report.html")}]
    return "\n".join(lines) + "\n", {"out": str(folder), **report}


class _Lines:
    """A line at the end of each pass."""

    def __init__(self, console: Console | None) -> None:
        self._console = console

    def __call__(self, what: str, done: int, of: int) -> None:
        if self._console is not None and done == of:
            self._console.print(f"{what}: {done}/{of}")


def held_out_rows(
    config: Config, source: str | None = None, max_rows: int | None = None
) -> tuple[list[Row], list[Row], str]:
    """Training rows, held-out rows and the name of what they are."""
    import random

    from so8t_engine.data.dataset import load_splits
    from so8t_engine.data.reader import has_split, read_rows

    data = config.data
    splits = load_splits(
        data.train, data.validation, fmt=data.format, validation_fraction=data.validation_fraction,
        seed=config.training.seed, max_rows=data.max_rows,
    )  # fmt: skip
    if source is not None:
        wanted = "test" if has_split(source, "test") else "train"
        held = read_rows(source, fmt="auto", split=wanted)
        split = "test" if wanted == "test" else Path(source).name
    elif splits.test:
        held, split = splits.test, "test"
    else:
        held, split = splits.validation, "validation"
    if max_rows is not None and len(held) > max_rows:
        held = random.Random(config.training.seed).sample(held, max_rows)
    if not held:
        raise DataError(
            _("There are no held-out rows to evaluate on."),
            _("Name some with --rows, or in data.validation."),
        )
    return splits.train, held, split
