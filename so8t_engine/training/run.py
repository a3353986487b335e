"""One training run from its directory to its end, in the process that calls it."""

from __future__ import annotations

import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
import transformers

from so8t_engine.config import Config
from so8t_engine.errors import DivergedError, MemoryLimitError, NoRoomError, RunError, SO8TError
from so8t_engine.i18n import _
from so8t_engine.memory.allocator import keep_freed_memory, prefer_expandable_segments
from so8t_engine.training.checkpoint import settle
from so8t_engine.training.checkpoint_state import Loaded, rows_digest
from so8t_engine.training.control import AbortRequested, RunControl, StopRequested, begin, install_signals
from so8t_engine.training.environment import physical_cores, write_environment
from so8t_engine.training.events import (
    EndEvent,
    ErrorEvent,
    Event,
    InfoEvent,
)
from so8t_engine.training.final import save_final
from so8t_engine.training.heldout import HeldOut
from so8t_engine.training.kernels import tell_trouble
from so8t_engine.training.limit import cap_allocator
from so8t_engine.training.observer import StepObserver
from so8t_engine.training.preparation import Prepared, prepare
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.resume import check_rows, starting_point
from so8t_engine.training.room import RoomWait
from so8t_engine.training.run_config import readable_config
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.samples import SampleWriter
from so8t_engine.training.sampling import (
    MemorySampler,
    card_used,
    memory_facts,
    peak_facts,
    predict,
    remember_run,
)
from so8t_engine.training.schedules import gate_schedule, planned_steps
from so8t_engine.training.states import State
from so8t_engine.training.trainer import SO8TTrainer, seed_everything
from so8t_engine.training.world import LostError, World

log = logging.getLogger(__name__)


def run_training(
    run: RunDirectory,
    *,
    resume: bool = False,
    on_event: Callable[[Event], None] | None = None,
    handle_signals: bool = True,
    owner: ProcessMark | None = None,
    control: RunControl | None = None,
    world: World | None = None,
) -> int:
    """Train the run in ``run`` to its end.

    Args:
        run: a created run directory.
        resume: continue from the newest checkpoint that verifies.
        on_event: also called with each event, in the thread that causes it.
        handle_signals: Ctrl+C, SIGTERM and a closing session stop and save; a second one aborts.
        owner: the process on whose death the run saves and stops.
        control: where the caller has made it already; ``on_event`` and ``owner`` are then its own.
        world: the processes that train it together, of which this is the first.

    Returns:
        0 when it finished, stopped or was aborted as asked; 1 when it failed. Nothing is raised for a
        failure of the run itself: it is an event.

    Raises:
        RunError: another process is training this run; nothing was written.
    """
    # Before anything touches the card.
    prefer_expandable_segments()
    control = control or RunControl(run, on_event, owner, hang_s=readable_config(run).run.stall_s)
    world = world or World()
    began = time.monotonic()
    outcome = _Outcome()
    ProcessMark.current(run.id).write(run.process)
    restore = install_signals(control) if handle_signals else None
    try:
        begin(control, resume)
        control.check_loading()
        world.exchange("begin", {"config": readable_config(run).to_yaml()})
        _train(run, control, resume, outcome, world)
    except StopRequested as stop:
        outcome.status = "stopped"
        world.fail(stop)
    except AbortRequested as abort:
        outcome.status = "aborted"
        world.fail(abort)
    except Exception as error:
        log.exception("the run failed")
        world.fail(error)
        outcome.status = "failed"
        control.emit(_error_event(error))
        outcome.reason = str(error)
    finally:
        if restore is not None:
            restore()
    end = EndEvent(
        status=outcome.status,
        step=outcome.step,
        seconds=time.monotonic() - began,
        summary=outcome.summary,
    )
    status = control.finish(end, outcome.reason)
    control.close()
    return 1 if status == "failed" else 0


class _Outcome:
    """How the run ended, filled as it goes."""

    def __init__(self) -> None:
        self.card_used_before: int | None = None
        self.status: Literal["finished", "stopped", "aborted", "failed"] = "finished"
        self.reason = ""
        self.step = 0
        self.summary: dict[str, Any] = {}


def _train(run: RunDirectory, control: RunControl, resume: bool, outcome: _Outcome, world: World) -> None:
    config = readable_config(run)
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(config.run.cpu_threads or max(1, physical_cores() // world.size))
    seed_everything(config.training.seed)
    write_environment(run.environment)
    settle(run.checkpoints)
    settle(run.path)
    loaded = starting_point(run, config, control) if resume else None
    outcome.card_used_before = None if config.model.device == "cpu" else card_used()
    prepared = prepare(config, control)
    on_card = prepared.device.type == "cuda"
    if on_card and config.memory.cap_allocator:
        cap_allocator(config.memory.limit_gib)
    if not on_card:
        keep_freed_memory()
    sampler = MemorySampler(control.emit, on_card, world.cards)
    try:
        with tempfile.TemporaryDirectory(prefix="so8t-", ignore_cleanup_errors=True) as scratch:
            control.before_leaving = lambda: shutil.rmtree(scratch, ignore_errors=True)
            _train_prepared(run, control, prepared, loaded, outcome, Path(scratch), world)
    finally:
        sampler.close()


def _train_prepared(
    run: RunDirectory,
    control: RunControl,
    prepared: Prepared,
    loaded: Loaded | None,
    outcome: _Outcome,
    scratch: Path,
    world: World | None = None,
) -> None:
    world = world or World()
    config, model = prepared.config, prepared.model
    start: str | None = None
    tell_trouble(control, prepared.device)
    held_out = HeldOut(prepared, control)
    observer = StepObserver(model, config, run, control, held_out)
    if config.samples.every is not None:
        observer.samples = SampleWriter(prepared, control)
    rows_sha256 = rows_digest({"train": prepared.train, **prepared.held_out})
    if loaded is not None:
        check_rows(loaded, rows_sha256)
        observer.restore(loaded.state)
    trainer = SO8TTrainer(
        model,
        config,
        prepared.train,
        prepared.collate,
        control,
        observer,
        rows_sha256,
        scratch,
        world,
    )
    total = planned_steps(config, len(prepared.train), len(trainer.batches))
    trainer.schedule = gate_schedule(config, total)
    estimated = predict(prepared.as_chosen or config)
    predicted = memory_facts(estimated)
    facts = {"steps": total, "resumed_from": str(loaded.path) if loaded else ""}
    if world.size > 1:
        facts |= {"processes": world.size}
    control.emit(InfoEvent(facts=prepared.facts | facts | predicted))
    _agree(world, config, rows_sha256, loaded, prepared.device.type)
    control.check_loading()
    control.move_if({State.LOADING}, State.RUNNING)
    if loaded is None:
        observer.rotation(0)
        held_out.before()
    control.begin_training()
    complete = loaded is not None and loaded.step >= total
    world.exchange("train", {"steps": not complete})
    if loaded is not None:
        observer.saver.saved_step = loaded.step
        start = trainer.continue_from(loaded, scratch)
    try:
        if complete:  # only what comes after the last step is missing
            trainer.take_over(start)
        else:
            trainer.train(resume_from_checkpoint=start)
        world.close()
    except (MemoryLimitError, LostError):
        # The step in flight changed nothing: what stands is the state after the last whole step.
        outcome.step = trainer.state.global_step
        observer.save_once(trainer, "failed" if world.over else "oom")
        raise
    except DivergedError:  # these weights are not worth a checkpoint
        outcome.step = trainer.state.global_step
        raise
    finally:
        observer.saver.wait()
    outcome.step = trainer.state.global_step
    control.check()
    stopped = control.is_(State.STOPPING)
    reached_end = trainer.state.global_step >= trainer.state.max_steps
    room = RoomWait(control, run.path, config.checkpoints.wait_minutes)
    reason = "stop" if stopped else "end"
    saved = complete or observer.save(trainer, reason)
    while not saved and observer.saver.no_room and room.again():
        saved = observer.save(trainer, reason)
    if stopped and not saved and observer.saver.saved_step is None:
        raise RunError(
            _("The run stopped, but its state could not be saved."),
            _("Free some disk space; the log names the reason."),
        )
    outcome.summary = {
        "steps": outcome.step,
        "trained_seconds": observer.trained_s,
        "last_loss": observer.last_loss,
        "alpha": float(model.so8t.alpha.detach()),
        "alpha_source": "learned" if model.so8t.gate_learned else "scheduled",
        "alpha_converged_at": observer.converged_at,
    }
    if stopped and not reached_end:
        outcome.status = "stopped"
    else:
        observer.rotation(trainer.state.global_step)
        held_out.after(trainer.state.global_step)
        outcome.status = "stopped" if control.is_(State.STOPPING) else "finished"
    control.check()
    peaks = peak_facts(prepared.device.type == "cuda")
    changes = trainer.recovery.changes
    outcome.summary |= held_out.summary() | {"memory": predicted | peaks | {"changes": changes}}
    if outcome.status == "finished":
        fills = prepared.facts.get("tokens_longest", 0) >= config.data.max_length
        remember_run(
            config.name, estimated, peaks, fills=fills and not changes, before=outcome.card_used_before
        )
    while True:
        try:
            save_final(
                run, prepared, outcome.step, outcome.summary, held_out.heads, observer.saver.saved_step
            )
        except NoRoomError:
            if not room.again():
                raise
        else:
            return


def _agree(world: World, config: Config, rows_sha256: str, loaded: Loaded | None, device: str) -> None:
    """All processes have loaded: see that it was the same, and say where the run goes on."""
    checkpoint = str(loaded.path) if loaded else ""
    rows = config.training.batch_size * config.training.accumulation
    if rows < world.size and not config.training.packing:
        raise RunError(
            _("A step has %(rows)d rows, which %(count)d processes cannot share.")
            % {"rows": rows, "count": world.size},
            _("Raise training.accumulation or start fewer processes."),
        )
    said = world.exchange("loaded", {"rows": rows_sha256, "checkpoint": checkpoint, "device": device})
    for rank, heard in enumerate(said):
        if heard["rows"] != rows_sha256:
            raise RunError(
                _("Process %(rank)d of the run has other rows than the first.") % {"rank": rank},
                _("Every process must read the same data."),
            )
        if heard["device"] != device:
            raise RunError(
                _("Process %(rank)d of the run has no graphics card of its own.") % {"rank": rank},
                _("Start as many processes as there are cards."),
            )
        if rank and heard["card"] is not None:
            world.cards[rank] = {"index": int(heard["card"])}
    if device == "cuda":
        world.use_card()


def _error_event(error: Exception) -> ErrorEvent:
    if isinstance(error, SO8TError):
        return ErrorEvent(kind=error.kind, sentence=error.sentence, mend=error.mend)
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return ErrorEvent(
            kind="oom",
            sentence=_("The run needed more memory than its limit."),
            mend=_("Shorten the sequence, switch gradient checkpointing on, or raise the memory limit."),
        )
    lines = str(error).strip().splitlines()
    if _is_card_error(error):
        return ErrorEvent(
            kind="cuda",
            sentence=_("The graphics card reported an error: %(what)s.")
            % {"what": lines[0].rstrip(".") if lines else type(error).__name__},
            mend=_(
                "Continue from the last checkpoint. If it comes again, restart the computer, and check the "
                "driver, the card's temperature and its overclocking."
            ),
        )
    return ErrorEvent(
        kind="unexpected",
        sentence=_("The run failed: %(what)s.")
        % {"what": f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__},
        mend=_("log.txt in the run folder holds the details."),
    )


_CARD_WORDS = ("CUDA error", "cuDNN error", "cuBLAS", "CUBLAS_STATUS", "CUDNN_STATUS")


def _is_card_error(error: Exception) -> bool:
    """Whether CUDA or one of its libraries failed; the process's context is then of no more use."""
    kinds = tuple(
        kind for name in ("AcceleratorError",) if isinstance(kind := getattr(torch, name, None), type)
    )
    text = str(error)
    return isinstance(error, kinds) or (
        isinstance(error, RuntimeError)
        and any(
            word in text for word in ("CUDA error", "cuDNN error", "cuBLAS", "CUBLAS_STATUS", "CUDNN_STATUS")
        )
    )
