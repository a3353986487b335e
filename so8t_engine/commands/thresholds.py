"""``so8t thresholds``: what each threshold of the decision rule would have done on a run's held-out rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from so8t_engine.commands.bake import _finished_run
from so8t_engine.commands.evaluate import held_out_rows
from so8t_engine.config import Config
from so8t_engine.config.serving import ServingConfig
from so8t_engine.errors import DataError
from so8t_engine.evaluation.held_out_heads import FILE, HeldOutHeads, final_digest, stored_heads
from so8t_engine.evaluation.thresholds import TASKS, Effect, effect, sweep
from so8t_engine.files import write_atomically
from so8t_engine.i18n import _

#: Thresholds that the table for a person has.
SHOWN = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)


def thresholds(
    run_path: Path,
    *,
    allow: float | None = None,
    danger: float | None = None,
    again: bool = False,
    console: Console | None = None,
) -> tuple[str, dict[str, Any]]:
    """Table and curves. What the run stored at its end is used; without it the model is asked once.

    Args:
        allow, danger: the thresholds that are marked; the run's own settings unless given.
        again: ask the model even where something is stored.

    Raises:
        SO8TError: the run is not finished, a part cannot be loaded, or no held-out row is labelled.
    """
    run, config, _state = _finished_run(run_path)
    heads = None if again else stored_heads(run.path)
    if heads is None:
        heads = _ask_model(run.path, config, console)
        folder = run.path / "evaluation"
        folder.mkdir(exist_ok=True)
        told = {**heads.to_json(), "final": final_digest(run.path)}
        write_atomically(folder / FILE, json.dumps(told))
    serving = config.serving
    now = _now(serving, allow, danger)
    here = effect(heads, now.allow_threshold, now.danger_threshold)
    curve = sweep(heads, now.allow_threshold, now.danger_threshold)
    result = {
        "run": run.id,
        "split": heads.split,
        "step": heads.step,
        "rows": len(heads),
        "rows_with_task": int((heads.true_task_N >= 0).sum()),
        "now": here.to_json(),
        "allow_threshold": [one.to_json() for one in curve],
        "danger_threshold": [
            one.to_json() for one in sweep(heads, now.allow_threshold, now.danger_threshold, what="danger")
        ],
    }
    return _table(heads, curve, here), result


def _now(serving: ServingConfig, allow: float | None, danger: float | None) -> ServingConfig:
    given = {"allow_threshold": allow, "danger_threshold": danger}
    return serving.model_copy(update={name: value for name, value in given.items() if value is not None})


def _ask_model(run: Path, config: Config, console: Console | None) -> HeldOutHeads:
    _train, rows, split = held_out_rows(config)
    if all(row.task is None and row.safety is None for row in rows):
        raise DataError(
            _("None of the run's held-out rows is labelled."),
            _("Give rows with 'task' or 'safety' in data.validation, and evaluate again."),
        )
    import torch
    import transformers

    from so8t_engine.data.tokenize import Collator, encode_row
    from so8t_engine.evaluation.outputs import load_tuned, row_outputs
    from so8t_engine.evaluation.run_report import Labels
    from so8t_engine.model.loading import load_tokenizer
    from so8t_engine.training.environment import physical_cores

    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(config.run.cpu_threads or physical_cores())
    if console is not None:
        console.print(_("loading the model"))
    tokenizer = load_tokenizer(config.model)
    tuned = load_tuned(run / "final", config)
    encoded = [encode_row(tokenizer, row, config.data.max_length) for row in rows]
    said = row_outputs(tuned, encoded, Collator(tokenizer.pad_token_id), base=False, losses=False)
    assert said.task_N4 is not None
    assert said.safety_N2 is not None
    assert said.dual_N22 is not None
    labels = Labels.of(encoded)
    return HeldOutHeads(
        split, tuned.soul.step, said.task_N4, said.safety_N2, said.dual_N22, labels.task_N, labels.safety_N
    )


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _line(one: Effect) -> str:
    columns = [
        one.share("ALLOW", "ALLOW"),
        one.share("ALLOW", "ESCALATION"),
        one.share("ESCALATION", "ALLOW"),
        one.share("DENY", "ALLOW"),
        one.share("REFUSE", "ALLOW"),
        one.danger_to_allow,
    ]
    return f"{one.allow_threshold:9.2f}" + "".join(f"{_figure(value):>12}" for value in columns)


def _table(heads: HeldOutHeads, curve: list[Effect], now: Effect) -> str:
    lines = [
        _("%(rows)d rows of %(split)s, step %(step)s; danger from %(danger).2f. Parts of each true class:")
        % {
            "rows": len(heads),
            "split": heads.split,
            "step": "–" if heads.step is None else heads.step,
            "danger": now.danger_threshold,
        },
        f"{'ALLOW ≥':>9}"
        + "".join(
            f"{name:>12}" for name in ("A→ALLOW", "A→ESC", "E→ALLOW", "D→ALLOW", "R→ALLOW", "danger→A")
        ),
    ]
    lines += [_line(curve[round(value * 100)]) for value in SHOWN]
    lines += ["", _("As the run is set:"), _line(now)]
    for true, row in zip(TASKS, now.matrix, strict=True):
        told = ", ".join(f"{name} {count}" for name, count in zip(TASKS, row, strict=True) if count)
        lines.append(f"{true:>12}: {told or '–'}")
    return "\n".join(lines) + "\n"
