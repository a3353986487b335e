"""The trainer's process: ``python -m so8t_engine.training.child RUN_DIR``. Started by `EngineSession`."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from so8t_engine import i18n, streams
from so8t_engine.config import Config
from so8t_engine.errors import RunError
from so8t_engine.memory.nvml import NvmlMissing, read_memory
from so8t_engine.redaction import RedactingFormatter, RedactingStream
from so8t_engine.threads import give_way
from so8t_engine.training.control import RunControl, begin
from so8t_engine.training.importing import import_trainer
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.run_config import readable_config
from so8t_engine.training.run_directory import RunDirectory


def leave(status: int) -> NoReturn:
    """End at once: in the middle of whatever is being loaded, or when all is written.

    Taking the interpreter and its libraries apart takes seconds on a busy machine, and nothing hangs on it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _without_card(config: Config) -> bool:
    """Whether the processors do the work: on a card, a launch that comes late leaves the card idle."""
    return config.model.device == "cpu" or (
        config.model.device == "auto" and isinstance(read_memory(), NvmlMissing)
    )


def main(arguments: list[str] | None = None) -> int:
    """Train the run in the given directory; standard output and error are its log."""
    parser = argparse.ArgumentParser(prog="so8t-trainer")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--owner", help="pid and creation time of the program that started this, as JSON")
    parser.add_argument("--give-way", action="store_true", help="a window is looked at beside it")
    options = parser.parse_args(arguments)
    streams.prepare(utf8=True)  # the run's log
    faulthandler.enable()
    os.umask(0o077)
    # faulthandler keeps the file itself; what libraries print goes through the redaction.
    sys.stdout = RedactingStream(sys.stdout)
    sys.stderr = RedactingStream(sys.stderr)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    i18n.set_language(i18n.system_language())
    run = RunDirectory.open(options.run_dir)
    config = readable_config(run)
    settings = config.run
    if options.give_way and _without_card(config):
        give_way()
    owner: ProcessMark | None = None
    if options.owner and settings.when_window_dies == "save_and_stop":
        owner = ProcessMark.parse(options.owner)
        if owner is None:
            parser.error("--owner is no process")
    # Before torch is imported: a stop is taken from the first moment on.
    try:
        control = RunControl(run, owner=owner, leave=leave, hang_s=settings.stall_s)
    except RunError as error:  # another process trains this run: nothing of it is touched
        logging.error("%s", error)
        return 1
    ProcessMark.current(run.id).write(run.process)
    begin(control, options.resume)
    return import_trainer()(run, resume=options.resume, control=control)


if __name__ == "__main__":
    leave(main())
