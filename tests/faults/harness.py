"""What the fault harnesses share: a tiny run, forked children that die on command, and comparisons.

A child is forked from a parent that has imported everything, so that a whole training run takes a few
seconds and a publishing process some milliseconds. The parent computes nothing itself: what a child has
in memory dies with it.
"""

from __future__ import annotations

import faulthandler
import gc
import importlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from so8t_engine.config import Config
from so8t_engine.training.checkpoint import checkpoints
from so8t_engine.training.checkpoint_state import WEIGHTS
from so8t_engine.training.events import Event, StepEvent
from so8t_engine.training.run import run_training
from so8t_engine.training.run_directory import RunDirectory
from tests.engine.tiny import tiny_values, write_few_rows, write_tiny_model

#: 24 rows in steps of 2 × 2: an epoch has 6 steps, and a run of 10 ends inside its second one.
STEPS = 10


def write_sources(folder: Path) -> tuple[Path, Path]:
    """A tiny model and rows below ``folder``."""
    model, rows = folder / "model", folder / "rows"
    for path in (model, rows):
        path.mkdir(parents=True)
    write_tiny_model(model)
    write_few_rows(rows)
    for module in ("bitsandbytes", "peft", "sklearn.feature_extraction.text", "sklearn.linear_model"):
        importlib.import_module(module)  # once, instead of in every child
    gc.freeze()  # no child walks, and so copies, what was imported
    return model, rows


def tiny_run_config(model: Path, rows: Path, runs: Path, /, **sections: dict[str, Any]) -> Config:
    """Dropout, shuffling, accumulation, evaluation and a checkpoint after each step."""
    training = {"max_steps": STEPS, "epochs": 4.0, "evaluate_every": 4} | sections.pop("training", {})
    settings = {"every_steps": 1} | sections.pop("checkpoints", {})
    values = tiny_values(model, rows, runs, training=training, checkpoints=settings, **sections)
    return Config.model_validate(values)


def fork(work: Callable[[], int], log: Path | None = None) -> int:
    """Start a child that does ``work`` and exits with its result; returns its pid."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        os.setsid()
        if log is not None:
            handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            faulthandler.enable()
            logging.basicConfig(level=logging.INFO, stream=sys.stderr, force=True)
        status = work()
    except BaseException:
        logging.exception("child")
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait_for(pid: int, timeout_s: float | None = None) -> int | None:
    """The child's exit code (negative: the signal that ended it); None if it still runs after the time."""
    until = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        found, status = os.waitpid(pid, 0 if until is None else os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if until is not None and time.monotonic() >= until:
            return None
        time.sleep(0.002)


def kill(pid: int) -> int:
    """End a child with SIGKILL, if it still runs, and return its exit code."""
    os.kill(pid, signal.SIGKILL)
    code = wait_for(pid)
    assert code is not None
    return code


def train(config: Config, path: Path) -> int:
    """Train the run in ``path``, from where it stands."""
    resume = (path / "events.jsonl").exists()
    run = RunDirectory.open(path) if resume else RunDirectory.create(config, path)
    return run_training(run, resume=resume)


def last_weights(path: Path) -> dict[str, Tensor]:
    """What the newest checkpoint of a run says it learned."""
    return load_file(checkpoints(path / "checkpoints")[-1] / WEIGHTS)


def final_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor below ``final/``, by file and name."""
    return {
        f"{file.name}/{name}": tensor
        for file in sorted((path / "final").rglob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def losses(path: Path) -> dict[int, float]:
    """Step → loss, as the last part of the run that did the step told it."""
    return {event.step: event.loss for event in events(path) if isinstance(event, StepEvent)}


def events(path: Path) -> list[Event]:
    return RunDirectory(path).read_events()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two sets of tensors are equal, bit for bit."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and torch.equal(one[name].flatten().view(torch.uint8), other[name].flatten().view(torch.uint8))
        for name in one
    )
