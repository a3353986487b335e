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


@results.command()
def thresholds(
    run: RunArgument,
    allow: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="ALLOW from; the run's own")] = None,
    danger: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="danger from; the run's own")] = None,
    again: Annotated[bool, typer.Option("--again", help="ask the model even where it was asked")] = False,
    as_json: JsonOption = False,
) -> None:
    """What each threshold of the decision rule would have done on the run's held-out rows."""
    from so8t_engine.commands.thresholds import thresholds as try_thresholds

    text = try_thresholds(run, allow=allow, danger=danger, again=again, console=errors)
    print_result(*text, as_json)


class GgufKind(StrEnum):
    """What a GGUF file's matrices are stored in."""

    f16 = "f16"
    q8_0 = "q8_0"
    q4_k_m = "q4_k_m"


@results.command()
def export(
    run: Annotated[Path, typer.Argument(help="a finished run's folder, or one that bake made")],
    gguf: Annotated[GgufKind, typer.Option(help="q4_k_m needs llama.cpp's llama-quantize on the PATH")],
    out: Annotated[Path | None, typer.Option(help="the file; beside the run unless told")] = None,
    untie: Annotated[bool, typer.Option("--untie", help="as bake has it")] = False,
    as_json: JsonOption = False,
) -> None:
    """The run, baked and verified, as one GGUF file for llama.cpp, read back and compared."""
    from so8t_engine.commands.export import export_run

    print_result(*export_run(run, gguf.value, out, untie=untie, console=errors), as_json)


@results.command()
def upload(
    run: RunArgument,
    repo: Annotated[str, typer.Option(help="owner/name on the Hub")],
    baked: Annotated[Path | None, typer.Option(help="a folder that bake made, to go to the top")] = None,
    gguf: Annotated[list[Path] | None, typer.Option(help="a GGUF file; may be repeated")] = None,
    public: Annotated[bool, typer.Option("--public", help="private unless this is given")] = False,
    licence: Annotated[
        str | None, typer.Option(help="the model's, as the Hub names it: apache-2.0 …")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="list what would go, and send nothing")] = False,
    endpoint: Annotated[str | None, typer.Option(help="another Hub than huggingface.co")] = None,
    as_json: JsonOption = False,
) -> None:
    """The run to the Hugging Face Hub, with a card of measured figures; a second call goes on."""
    from so8t_engine.commands.upload import upload_run
    from so8t_engine.hub.token import HUB

    text, result = upload_run(
        run, repo, baked=baked, ggufs=gguf or (), public=public, licence=licence, dry_run=dry_run,
        endpoint=endpoint or HUB, told=errors.print,
    )  # fmt: skip
    print_result(text, result, as_json)


@results.command()
def integrate(
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="the result's folder; a second call goes on there")],
    images: Annotated[Path | None, typer.Option(help="Parquet with image, caption, language, split")] = None,
    encoder: Annotated[str, typer.Option(help="embedded, or a CLIP or SigLIP folder or Hub id")] = "embedded",
    steps: Annotated[int, typer.Option(min=1, help="of the projector")] = 200,
    gguf: Annotated[list[GgufKind] | None, typer.Option(help="also write this; may be repeated")] = None,
    untie: Annotated[bool, typer.Option("--untie", help="as bake has it")] = False,
    as_json: JsonOption = False,
) -> None:
    """Pictures through a frozen encoder and a trained projector in front of the run, then bake and GGUF."""
    from so8t_engine.commands.integrate import integrate_run, text_of
    from so8t_engine.vision.training import ProjectorTraining

    report = integrate_run(
        run, out, images=images, encoder=encoder, training=ProjectorTraining(steps=steps),
        gguf=[kind.value for kind in gguf or ()], untie=untie, scratch=out, console=errors,
    )  # fmt: skip
    (out / "projector.pt").unlink(missing_ok=True)
    print_result(text_of(report, out), {"out": str(out), **report}, as_json)
