"""Commands around and after a run: soul dataset, ablations, evaluation, export, upload."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from so8t_engine.cli_options import ConfigArgument, JsonOption, RunArgument, SetOption, errors, print_result

results = typer.Typer()


class SoulSource(StrEnum):
    """Where the records of a soul dataset come from."""

    schedule = "schedule"
    checkpoint = "checkpoint"


@results.command("soul-dataset")
def soul_dataset(
    config: ConfigArgument,
    out: Annotated[Path, typer.Option(help="the dataset's folder; must not exist")],
    set_: SetOption = None,
    records: Annotated[int | None, typer.Option(help="how many; 5000 unless told")] = None,
    seed: Annotated[int | None, typer.Option(help="same seed, same bytes")] = None,
    source: Annotated[SoulSource | None, typer.Option(help="schedule is synthetic")] = None,
    run: Annotated[Path | None, typer.Option(help="the run that source checkpoint reads")] = None,
    text: Annotated[bool, typer.Option("--text", help="also write each record as sentences")] = False,
    as_json: JsonOption = False,
) -> None:
    """Records of gate, rotations and heads: along the schedule, or out of a trained run."""
    from so8t_engine.commands.soul_dataset import soul_dataset as make

    chosen = source.value if source else ("checkpoint" if run else None)
    options = {"records": records, "seed": seed, "source": chosen, "text": text or None}
    print_result(*make(config, set_ or [], out, options | {"run": str(run) if run else None}), as_json)


@results.command()
def ablate(
    config: ConfigArgument,
    out: Annotated[Path, typer.Option(help="folder of the runs and the table; a second call goes on there")],
    seeds: Annotated[int, typer.Option(min=1, max=100, help="runs of each arm")] = 5,
    arm: Annotated[list[str] | None, typer.Option(help="only this arm; may be repeated")] = None,
    jobs: Annotated[int, typer.Option(min=1, max=64, help="runs at the same time")] = 1,
    set_: SetOption = None,
    max_steps: Annotated[int | None, typer.Option(help="end each run after this many steps")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train without SO8T, with one rotation, with the order swapped, and compare with intervals."""
    from so8t_engine.commands.ablate import ablate as run_all

    overrides = [*(set_ or []), *([f"training.max_steps={max_steps}"] if max_steps is not None else [])]
    print_result(*run_all(config, overrides, out, seeds, arm, jobs, errors), as_json)


@results.command()
def evaluate(
    run: RunArgument,
    out: Annotated[Path | None, typer.Option(help="the report's folder; RUN/evaluation unless told")] = None,
    rows: Annotated[
        str | None, typer.Option(help="other held-out rows: a file, folder or hub:owner/name")
    ] = None,
    max_rows: Annotated[int | None, typer.Option(min=1, help="a seeded choice of so many rows")] = None,
    lm_eval: Annotated[
        list[Path] | None,
        typer.Option("--lm-eval", help="task file of lm-evaluation-harness; may be repeated"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Held-out report of a run beside its base: classes, danger, calibration, perplexity, with intervals."""
    from so8t_engine.commands.evaluate import evaluate_run

    print_result(
        *evaluate_run(run, out=out, rows=rows, max_rows=max_rows, tasks=lm_eval or (), console=errors),
        as_json,
    )
