"""``so8t``: every job without a window.

Exit 0 done, 1 failed with one sentence and its mend, 2 bad arguments or configuration. ``--json`` prints
one JSON object on standard output and nothing else there; progress goes to standard error.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from so8t_engine import i18n, streams
from so8t_engine.cli_options import ConfigArgument, JsonOption, SetOption, errors
from so8t_engine.cli_options import print_json as _print_json
from so8t_engine.cli_options import print_result as _print_result
from so8t_engine.cli_results import results
from so8t_engine.commands.queue_cli import desktop, queue
from so8t_engine.commands.serve_cli import add_commands
from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _
from so8t_engine.plain_text import visible
from so8t_engine.threads import wait_passively

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help="SO8T Control Panel"
)


@app.command()
def train(
    config: ConfigArgument,
    set_: SetOption = None,
    run_dir: Annotated[Path | None, typer.Option(help="this folder becomes the run's")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="continue the run in --run-dir; --set changes what may change")
    ] = False,
    max_steps: Annotated[int | None, typer.Option(help="end after this many steps")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train without a window; Ctrl+C stops and saves, a second one aborts."""
    from so8t_engine.commands.train import train_headless

    overrides = [*(set_ or []), *([f"training.max_steps={max_steps}"] if max_steps is not None else [])]
    tell = _print_json if as_json else lambda result: None
    raise typer.Exit(train_headless(config, overrides, run_dir, resume, errors, tell))


@app.command()
def estimate(config: ConfigArgument, set_: SetOption = None, as_json: JsonOption = False) -> None:
    """Say before a run whether it fits, term by term; milliseconds, no torch."""
    from so8t_engine.commands.budget import estimate_report

    text, result = estimate_report(config, set_ or [])
    if as_json:
        _print_json(result)
    else:
        sys.stdout.write(text)


@app.command()
def fit(config: ConfigArgument, set_: SetOption = None, as_json: JsonOption = False) -> None:
    """The smallest changes that make a run fit, and the longest sequence that does."""
    from so8t_engine.commands.budget import fit_report

    text, result = fit_report(config, set_ or [])
    if as_json:
        _print_json(result)
    else:
        sys.stdout.write(text)


class BakedDtype(StrEnum):
    """What a baked model's weights are saved in."""

    float32 = "float32"
    bfloat16 = "bfloat16"


@app.command()
def probe(config: ConfigArgument, set_: SetOption = None, as_json: JsonOption = False) -> None:
    """Measure two real steps on the longest rows; the estimate then says "measured"."""
    from so8t_engine.commands.budget import probe_report

    text, result = probe_report(config, set_ or [], errors.print)
    if as_json:
        _print_json(result)
    else:
        sys.stdout.write(text)


@app.command()
def bake(
    run: Annotated[Path, typer.Argument(help="a finished run's folder")],
    out: Annotated[Path, typer.Option(help="the new model's folder; must not exist")],
    dtype: Annotated[BakedDtype, typer.Option(help="of the saved weights")] = BakedDtype.float32,
    untie: Annotated[
        bool, typer.Option("--untie", help="give a head that shares the embedding's weight its own")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Fold a run's gate and LoRA into one plain transformers model, after comparing logits; on the CPU."""
    from so8t_engine.commands.bake import bake_run

    text, result = bake_run(run, out, dtype=dtype.value, untie=untie, console=errors)
    if as_json:
        _print_json(result)
    else:
        sys.stdout.write(text)


@app.command()
def pipeline(
    config: ConfigArgument,
    set_: SetOption = None,
    from_: Annotated[str | None, typer.Option("--from", help="do this step and all after it again")] = None,
    only: Annotated[str | None, typer.Option(help="do this step again, and no other")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done, and why")] = False,
    as_json: JsonOption = False,
) -> None:
    """The eight steps from sources to an uploaded model; what is done already is skipped."""
    from so8t_engine.commands.pipeline import run_pipeline

    status, text, result = run_pipeline(config, set_ or [], from_, only, dry_run, errors)
    if as_json:
        _print_json(result)
    else:
        sys.stdout.write(text)
    raise typer.Exit(status)


app.add_typer(results)  # without a name: its commands stand beside these
app.add_typer(queue, name="queue")
app.command()(desktop)

runs = typer.Typer(no_args_is_help=True, help="History and integrity")
app.add_typer(runs, name="runs")


@runs.command("list")
def runs_list(
    folder: Annotated[Path, typer.Argument(help="the runs folder")] = Path("runs"),
    search: Annotated[str, typer.Option(help="words; tag:x and state:x ask for a tag or a state")] = "",
    as_json: JsonOption = False,
) -> None:
    """Runs below a folder: the pinned first, then the newest."""
    from so8t_engine.commands.runs import list_runs

    found = list_runs(folder, search)
    if not found and not search:
        errors.print(_("No run lies in %(path)s.") % {"path": str(folder)})
    if as_json:
        _print_json({"runs": found})
        return
    for run in found:
        sys.stdout.write(f"{run['id']}  {run['state']}  {run['step']}/{run['of']}  {run['loss']}\n")


@runs.command("show")
def runs_show(run: Annotated[Path, typer.Argument(help="a run folder")], as_json: JsonOption = False) -> None:
    """State, notes, settings that differ from the defaults, and results of a run."""
    from so8t_engine.commands.runs import show_run

    _print_result(*show_run(run), as_json)


@runs.command("compare")
def runs_compare(
    runs: Annotated[list[Path], typer.Argument(help="run folders")],
    defaults: Annotated[bool, typer.Option("--defaults", help="also against the defaults")] = False,
    as_json: JsonOption = False,
) -> None:
    """Settings in which runs differ, and their results."""
    from so8t_engine.commands.runs import compare_runs

    _print_result(*compare_runs(runs, defaults), as_json)


@runs.command("verify")
def runs_verify(
    run: Annotated[Path, typer.Argument(help="a run folder")], as_json: JsonOption = False
) -> None:
    """Check every file: configuration, events, checkpoints, rotations, final."""
    from so8t_engine.commands.verify import verify_run

    result = verify_run(run)
    if as_json:
        _print_json(result)
    else:
        lines = [f"{name}: {verdict}" for name, verdict in result["files"].items()] + result["notes"]
        sys.stdout.write("".join(visible(line, 4096) + "\n" for line in lines))
    raise typer.Exit(0 if result["intact"] else 1)


@runs.command("pin")
def runs_pin(
    run: Annotated[Path, typer.Argument(help="a run folder")],
    step: Annotated[int, typer.Argument(help="of a checkpoint", min=0)],
    remove: Annotated[bool, typer.Option("--remove", help="let it be pruned again")] = False,
    as_json: JsonOption = False,
) -> None:
    """Keep the checkpoint of a step for good."""
    from so8t_engine.commands.runs import pin_checkpoint

    result = pin_checkpoint(run, step, not remove)
    if as_json:
        _print_json(result)
    else:
        sys.stdout.write(" ".join(str(number) for number in result["pinned"]) + "\n")


@runs.command("continue")
def runs_continue(
    folder: Annotated[Path, typer.Argument(help="the runs folder")] = Path("runs"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say which, and do nothing")] = False,
    as_json: JsonOption = False,
) -> None:
    """Continue runs that a crash, a power cut or the end of a session interrupted."""
    from so8t_engine.commands.continue_runs import continue_runs

    status, result = continue_runs(folder, dry_run, errors)
    if as_json:
        _print_json(result)
    raise typer.Exit(status)


class Switch(StrEnum):
    """What to do about the start at logon."""

    on = "on"
    off = "off"
    status = "status"


@app.command()
def autostart(
    action: Annotated[Switch, typer.Argument(help="on, off or status")] = Switch.status,
    runs_folder: Annotated[Path, typer.Option("--runs", help="the runs folder")] = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Continue interrupted runs when you log on (systemd user unit, Windows' task scheduler), or no more."""
    from so8t_engine.commands.continue_runs import set_autostart

    text, result = set_autostart(action.value, runs_folder)
    if as_json:
        _print_json(result)
    else:
        sys.stdout.write(text)


@app.command()
def doctor(
    folder: Annotated[Path, typer.Option("--runs", help="where runs are written")] = Path("runs"),
    as_json: JsonOption = False,
) -> None:
    """Is this computer ready: card, driver, memory, disk, versions, each with its mend."""
    from so8t_engine.doctor import report

    status, text, result = report(folder)
    _print_result(text, result, as_json)
    raise typer.Exit(status)


bench = typer.Typer(no_args_is_help=True, help="Benchmarks, by hand on a quiet machine")
app.add_typer(bench, name="bench")


@bench.command("ui")
def bench_ui(
    steps: Annotated[int, typer.Option(min=1, help="steps of the long run that is made up")] = 1_000_000,
    seconds: Annotated[float, typer.Option(min=0.1, help="how long the latency is measured")] = 30.0,
    hours: Annotated[float, typer.Option(min=0.0, help="hours of a run whose memory is measured")] = 8.0,
    as_json: JsonOption = False,
) -> None:
    """The window: start-up, latency, memory over 8 hours, opening and overlaying long runs."""
    from so8t_engine.commands.bench import bench_window

    status, text, result = bench_window(steps, seconds, hours)
    _print_result(text, result, as_json)
    raise typer.Exit(status)


@bench.command("train")
def bench_train(
    shape: Annotated[
        str, typer.Option(help="auto, demo (the CPU), phi35, llama32_1b or qwen25_15b")
    ] = "auto",
    length: Annotated[list[int] | None, typer.Option(help="tokens of a row; may be repeated")] = None,
    quantization: Annotated[str, typer.Option(help="nf4, int8 or none")] = "nf4",
    stack: Annotated[list[str] | None, typer.Option(help="so8t, plain or liger; may be repeated")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="how often each is measured, in alternation")] = 2,
    as_json: JsonOption = False,
) -> None:
    """Training steps beside plain transformers and peft: speed, memory, losses."""
    from so8t_engine.commands.bench import bench_training

    text, result = bench_training(
        shape, length or [512, 2048], quantization, stack or ["so8t", "plain"], rounds
    )
    _print_result(text, result, as_json)


soul = typer.Typer(no_args_is_help=True, help="Soul files: everything SO8T trained")
app.add_typer(soul, name="soul")
ForceOption = Annotated[bool, typer.Option("--force", help="replace the file if it exists")]


@soul.command("show")
def soul_show(
    file: Annotated[Path, typer.Argument(help="soul.safetensors, a soul.pt, or a run folder")],
    as_json: JsonOption = False,
) -> None:
    """What a soul holds: step, α and g, rotations, heads, PET, and what is missing."""
    from so8t_engine.commands.soul import show

    _print_result(*show(file), as_json)


@soul.command("export")
def soul_export(
    file: Annotated[Path, typer.Argument(help="soul.safetensors, or a run folder")],
    out: Annotated[Path, typer.Argument(help="the soul.pt to write")],
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the historical soul.pt, and say what it holds and what it has no place for."""
    from so8t_engine.commands.soul import export

    _print_result(*export(file, out, force), as_json)


@soul.command("import")
def soul_import(
    file: Annotated[Path, typer.Argument(help="a soul.pt of any known layout")],
    out: Annotated[Path, typer.Argument(help="the soul.safetensors to write")],
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Read a soul.pt without running anything from it, and write soul.safetensors."""
    from so8t_engine.commands.soul import import_

    _print_result(*import_(file, out, force), as_json)


add_commands(app)


def main() -> None:
    """Console entry point."""
    streams.prepare()
    wait_passively()
    i18n.set_language(i18n.system_language())
    try:
        app(standalone_mode=True)
    except SO8TError as error:
        if "--json" in sys.argv[1:]:
            _print_json({"error": {"kind": error.kind, "sentence": error.sentence, "mend": error.mend}})
        lines = f"{error.sentence} {error.mend}".strip().splitlines()
        errors.print("\n".join(visible(line, 4096) for line in lines))  # it may quote a file's contents
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
