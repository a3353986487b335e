"""SIGKILL in each step of a pipeline, then again to the end: the outputs are those of an undisturbed call.

``python -m tests.faults.pipeline_kills configs/pipeline_demo.yaml [--set a.b=v …] [--kills 1]`` runs the
pipeline once undisturbed and once killed in every step that runs, and prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from so8t_engine.pipeline.config import load_pipeline_config
from so8t_engine.pipeline.graph import Pipeline
from so8t_engine.training.events import PipelineStepEvent, ProgressEvent
from so8t_engine.training.run_directory import EventReader, RunDirectory


def start(config: Path, overrides: list[str]) -> subprocess.Popen[bytes]:
    """The pipeline in a process of its own."""
    command = [sys.executable, "-m", "so8t_engine.cli", "pipeline", str(config), "--json"]
    for one in overrides:
        command += ["--set", one]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def kill_in(child: subprocess.Popen[bytes], work: Path, step: str, progress: int, limit_s: float) -> bool:
    """Kill as soon as ``step`` has told ``progress`` times how far it is; False if it ended first."""
    reader = EventReader(RunDirectory(work).events)
    inside, told = False, 0
    until = time.monotonic() + limit_s
    reader.read()  # what earlier calls told
    while time.monotonic() < until:
        for event in reader.read():
            if isinstance(event, PipelineStepEvent) and event.name == step:
                inside = event.status == "running"
            elif inside and isinstance(event, ProgressEvent):
                told += 1
        if inside and told >= progress:
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            return True
        if child.poll() is not None:
            return False
        time.sleep(0.005)
    child.kill()
    raise TimeoutError(step)


def contents(pipeline: Pipeline) -> dict[str, str]:
    """Step → content digest of its published output."""
    found = {name: pipeline.store(name).manifest() for name in pipeline.names}
    return {name: str(manifest["content"]) for name, manifest in found.items() if manifest is not None}


def undeclared_files(pipeline: Pipeline) -> list[str]:
    """Published files that no glob of their step's ``outputs`` names."""
    return [
        f"{step.name}/{name}"
        for step in pipeline.steps
        for name in (pipeline.store(step.name).manifest() or {"files": {}})["files"]
        if not any(fnmatch(name, glob) for glob in step.outputs)
    ]


def to_the_end(config: Path, overrides: list[str]) -> dict[str, Any]:
    """Run and return the result; raises if it did not finish."""
    child = start(config, overrides)
    output, _errors = child.communicate()
    result: dict[str, Any] = json.loads(output)
    if child.returncode != 0:
        raise RuntimeError(result)
    return result


def measure(
    config: Path,
    overrides: list[str],
    kills: int,
    folder: Path,
    seed: int = 0,
    progress: tuple[int, ...] = (0, 0, 1, 2),
    only: str | None = None,
) -> dict[str, Any]:
    """Undisturbed, then killed ``kills`` times in each step, at a random one of its reports ``progress``.

    ``only``: the one step that is killed.
    """
    rng = random.Random(seed)
    # One place for both: soul files name their rows by path.
    place = [*overrides, f"directory={folder / 'p'}"]
    began = time.monotonic()
    whole = to_the_end(config, place)
    seconds = time.monotonic() - began
    pipeline = Pipeline(load_pipeline_config(config, place))
    reference = contents(pipeline)
    undeclared = undeclared_files(pipeline)
    pipeline.work.rename(folder / "whole")
    steps = [name for name, step in whole["steps"].items() if step["status"] == "done"]
    killed: dict[str, int] = {}
    for name in steps if only is None else [only]:
        for _kill in range(kills):
            child = start(config, place)
            if kill_in(child, pipeline.work, name, rng.choice(progress), 900.0):
                killed[name] = killed.get(name, 0) + 1
    result = to_the_end(config, place)
    again = time.monotonic()
    skipped = to_the_end(config, place)
    again = time.monotonic() - again
    found = contents(pipeline)
    return {
        "steps": steps,
        "undisturbed_s": round(seconds, 1),
        "undeclared": undeclared,
        "killed": killed,
        "identical": {name: found.get(name) == digest for name, digest in reference.items()},
        "last_call": {name: step["status"] for name, step in result["steps"].items()},
        "call_after": {name: step["status"] for name, step in skipped["steps"].items()},
        "call_after_s": round(again, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--kills", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(options.config, options.set, options.kills, Path(folder))
    print(json.dumps(found, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
