"""The trainer's process: ``python -m so8t_engine.training.child RUN_DIR``. Started by `EngineSession`."""

from __future__ import annotations

import argparse
import faulthandler
import json
import logging
import sys
from pathlib import Path

from so8t_engine import i18n
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.resume import readable_config
from so8t_engine.training.run_directory import RunDirectory


def main(arguments: list[str] | None = None) -> int:
    """Train the run in the given directory; standard output and error are its log."""
    parser = argparse.ArgumentParser(prog="so8t-trainer")
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--owner", help="pid and creation time of the program that started this, as JSON")
    options = parser.parse_args(arguments)
    faulthandler.enable()
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    i18n.set_language(i18n.system_language())
    run = RunDirectory.open(options.run_dir)
    owner: ProcessMark | None = None
    if options.owner and readable_config(run).run.when_window_dies == "save_and_stop":
        owner = ProcessMark(*json.loads(options.owner))
    from so8t_engine.training.run import run_training

    return run_training(run, resume=options.resume, owner=owner)


if __name__ == "__main__":
    sys.exit(main())
