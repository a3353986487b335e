"""A run of the engine under the pipeline's eyes: started or resumed, stopped when the pipeline is."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from so8t_engine.config import Config, load_config
from so8t_engine.errors import RunError
from so8t_engine.files import write_atomically
from so8t_engine.i18n import _
from so8t_engine.pipeline.context import StepContext
from so8t_engine.pipeline.errors import PipelineError, PipelineStopped
from so8t_engine.pipeline.step import StepResult
from so8t_engine.pipeline.steps.train import TrainSettings
from so8t_engine.pipeline.store import sha256_file, sha256_json
from so8t_engine.pipeline.train.soul import compare_with_run, rows_with_soul
from so8t_engine.training.checkpoint import newest_usable
from so8t_engine.training.events import (
    ErrorEvent,
    EvaluationEvent,
    Event,
    StateEvent,
    StepEvent,
    WarningEvent,
)
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.session import EngineSession
from so8t_engine.training.states import Command, State

#: Seconds that a trainer of a killed pipeline gets to save and stop by itself.
ORPHAN_S = 120.0


def train(settings: TrainSettings, context: StepContext) -> StepResult:
    """Train to the end and copy what the run leaves into ``output``.

    Raises:
        PipelineError: the run failed; its own sentence is told.
    """
    run, resume = _run_directory(settings, context)
    context.info({"run": str(run.path)})
    if not _finished(run):
        _follow(run, resume, context)
    return _result(settings, run, context)


def _run_directory(settings: TrainSettings, context: StepContext) -> tuple[RunDirectory, bool]:
    """The run that an interrupted call began, or a new one; and whether it is resumed."""
    note = context.scratch / "run.json"
    if note.exists():
        run = RunDirectory(Path(json.loads(note.read_text(encoding="utf-8"))["run"]))
        if run.events.exists():
            _await_orphan(run, context)
            if _finished(run) or newest_usable(run.checkpoints)[0] is not None:
                return run, True
        shutil.rmtree(run.path, ignore_errors=True)  # it had saved nothing yet
    # The name stands in reports, model card and GGUF files: what is done again alike gets the same.
    name = f"{context.work.name}-{context.digest[:8]}"
    run, number = RunDirectory((context.work / "runs" / name).absolute()), 1
    while run.path.exists():
        number += 1
        run = RunDirectory(run.path.with_name(f"{name}_{number}"))
    write_atomically(note, json.dumps({"run": str(run.path)}))
    config = _config(settings, context, run)
    return RunDirectory.create(config, run.path), False


def _config(settings: TrainSettings, context: StepContext, run: RunDirectory) -> Config:
    rows = context.inputs["preprocess"]
    if settings.soul == "text" and "soul" in context.inputs:
        rows = rows_with_soul(
            rows, context.inputs["soul"], run.path / "data", settings.soul_text_share, context.seed
        )
    config = load_config(settings.config, [f"training.seed={context.seed}", *settings.changes])
    data = config.data.model_copy(update={"train": str(rows), "validation": None, "format": "auto"})
    placed = config.run.model_copy(
        update={
            "directory": str(run.path.parent),
            "placement": "process",
            "when_window_dies": "save_and_stop",
        }
    )
    return config.model_copy(update={"data": data, "run": placed})


def _await_orphan(run: RunDirectory, context: StepContext) -> None:
    """Wait for the trainer of a killed pipeline: it saves and stops as soon as it notices."""
    until = time.monotonic() + ORPHAN_S
    while (mark := ProcessMark.read(run.process)) is not None and mark.alive():
        context.check()
        if time.monotonic() > until:
            raise PipelineError(
                _("The run %(name)s is still being trained by process %(pid)d.")
                % {"name": run.id, "pid": mark.pid},
                _("Stop it on the history page, then start the pipeline again."),
            )
        time.sleep(0.2)


def _follow(run: RunDirectory, resume: bool, context: StepContext) -> None:
    session = EngineSession(run, placement="process", resume=resume)
    what, errors = _("Training steps"), []
    over = threading.Event()

    def take(events: list[Event]) -> None:
        for event in events:
            if isinstance(event, StepEvent):
                context.emit_progress(what, event.step, event.of)
            elif isinstance(event, EvaluationEvent):
                metrics = {name: round(value, 4) for name, value in event.metrics.items()}
                context.info({"split": event.split, "step": event.step, "loss": event.loss, **metrics})
            elif isinstance(event, WarningEvent):
                context.warn(event.kind, event.sentence, event.mend)
            elif isinstance(event, ErrorEvent):
                errors.append(event)

    def pass_on_the_stop() -> None:
        while not over.wait(0.2):
            if context.stopping():
                try:
                    session.send(Command.STOP)
                except RunError:
                    continue  # not possible in this state yet, or over already
                return

    watcher = threading.Thread(target=pass_on_the_stop, daemon=True)
    watcher.start()
    try:
        status = session.follow(take)
    finally:
        over.set()
        watcher.join()
    if context.stopping() and not _finished(run):
        raise PipelineStopped
    if status == 0 and not _finished(run) and (run.final / "results.json").exists():
        raise PipelineError(
            _("The run %(name)s was stopped before its end.") % {"name": run.id},
            _("Start the pipeline again: it goes on from the last checkpoint."),
        )
    if not _finished(run):
        error = errors[-1] if errors else None
        raise PipelineError(
            error.sentence if error else _("The run ended without a result."),
            (error.mend if error else "")
            or _("log.txt in %(path)s holds the details.") % {"path": str(run.path)},
        )


def _finished(run: RunDirectory) -> bool:
    """Whether it trained to its end; a run that stopped and saved has a ``final`` too."""
    ends = [event for event in run.read_events() if isinstance(event, StateEvent)]
    return bool(ends) and ends[-1].to == State.FINISHED and (run.final / "results.json").exists()


def _result(settings: TrainSettings, run: RunDirectory, context: StepContext) -> StepResult:
    target = context.output / "final"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(run.final, target)
    write_atomically(context.output / "run.json", json.dumps({"run": str(run.path), "id": run.id}))
    results: dict[str, Any] = json.loads((run.final / "results.json").read_text(encoding="utf-8"))
    facts: dict[str, Any] = {"run": str(run.path), "results": results}
    if settings.soul != "none" and "soul" in context.inputs:
        facts["soul"] = compare_with_run(context.inputs["soul"], run)
        write_atomically(context.output / "soul_telemetry.json", json.dumps(facts["soul"], indent=1))
    return StepResult(facts, content=_content(target))


def _content(final: Path) -> str:
    """A digest of the weights alone: names, shapes and bytes, not where or when they were made."""
    weights: dict[str, str] = {}
    for path in sorted(final.rglob("*.safetensors")):
        weights[path.relative_to(final).as_posix()] = _tensors(path)
    for path in sorted(final.rglob("adapter_config.json")):
        weights[path.relative_to(final).as_posix()] = sha256_file(path)
    return sha256_json(weights)


def _tensors(path: Path) -> str:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header.pop("__metadata__", None)
        digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
