"""Damaged files of every kind: nothing wrong is loaded, and nobody sees a traceback.

    python -m tests.faults.mutations --count 10000

Truncation, flipped bits, zeroed ranges and tails, inserted, doubled and foreign bytes, and files and folders
that changed places, in checkpoints, soul files, configurations, data sets and event logs. What is loaded in
spite of it must equal what was saved; everything else must be refused with a sentence.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from so8t_engine.commands.verify import verify_run
from so8t_engine.config import Config, load_config
from so8t_engine.data.dataset import Splits, load_splits
from so8t_engine.errors import ConfigError, RunError, SO8TError
from so8t_engine.model.loading import load_tokenizer
from so8t_engine.so8t.soul_file import Soul, load_soul
from so8t_engine.training.checkpoint import checkpoints
from so8t_engine.training.checkpoint_state import Loaded, load_checkpoint, rows_digest
from so8t_engine.training.events import Event, parse_event
from so8t_engine.training.resume import check_rows, starting_point
from so8t_engine.training.run_config import readable_config
from so8t_engine.training.run_directory import EventWriter, RunDirectory
from tests.faults.fault_loop import honest
from tests.faults.harness import fork, same, tiny_run_config, train, wait_for, write_sources

STEPS = 3
KINDS = ("truncate", "bit", "bits", "zero tail", "zeros", "insert", "double", "noise", "swap")


def mutate(data: bytes, other: bytes, choose: random.Random) -> tuple[str, bytes]:
    """A damaged copy of ``data``; ``other`` is a file of the same kind. Returns what was done, too."""
    changed, size = bytearray(data), max(1, len(data))
    at = choose.randrange(size)
    length = min(size - at, choose.choice([1, 8, 64, 512, 4096]))
    kind = choose.choice(
        ["truncate", "bit", "bits", "zero tail", "zeros", "insert", "double", "noise", "swap"]
    )
    if kind == "truncate":
        del changed[at:]
    elif kind in {"bit", "bits"} and changed:
        for _each in range(1 if kind == "bit" else choose.randint(2, 16)):
            changed[choose.randrange(len(changed))] ^= 1 << choose.randrange(8)
    elif kind == "zero tail":
        changed[at:] = bytes(len(changed) - at)
    elif kind == "zeros":
        changed[at : at + length] = bytes(length)
    elif kind == "insert":
        changed[at:at] = choose.randbytes(length)
    elif kind == "double":
        changed[at:at] = changed[at : at + length]
    elif kind == "noise":
        changed[at : at + length] = choose.randbytes(length)
    elif kind == "swap":
        changed = bytearray(other)
    return kind, bytes(changed)


class Campaign:
    """One real run, and what its files hold while nobody has damaged them."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.choose = random.Random(seed)
        self.counts: Counter[str] = Counter()
        self.folder = folder
        model, rows = write_sources(folder)
        self.config = tiny_run_config(
            model, rows, folder / "runs", training={"max_steps": STEPS, "optimizer": "adamw_8bit"}
        )
        path = folder / "run"
        assert wait_for(fork(lambda: train(self.config, path), folder / "log.txt")) == 0
        self.run = RunDirectory.open(path)
        self.tokenizer = load_tokenizer(self.config.model)
        self.loaded = {
            step_of.step: step_of for step_of in map(load_checkpoint, checkpoints(self.run.checkpoints))
        }
        self.soul = load_soul(self.run.final / "soul.safetensors")
        self.events = {event.seq: event for event in self.run.read_events()}
        self.rows = rows

    # -- each returns whether what was damaged was noticed ----------------------------------------

    def checkpoint(self) -> None:
        """The newest checkpoint, or the order of all."""
        folder = self.run.checkpoints
        names = [path.name for path in checkpoints(folder)]
        if self.choose.random() < 0.05:  # two whole checkpoints change places
            one, other = self.choose.sample(names, 2)
            (folder / one).rename(folder / "x"), (folder / other).rename(folder / one)
            (folder / "x").rename(folder / other)
            self._resume("folders swapped")
            (folder / one).rename(folder / "x"), (folder / other).rename(folder / one)
            (folder / "x").rename(folder / other)
            return
        newest = folder / names[-1]
        file = self.choose.choice(sorted(newest.iterdir()))
        elsewhere = self.choose.choice([*newest.iterdir(), folder / names[0] / file.name])
        self._with(file, elsewhere, self._resume)

    def run_config(self) -> None:
        """The run's own config.yaml, from which it is continued."""
        self._with(self.run.config_file, self.folder / "run" / "environment.json", self._resume)
        for left in self.run.path.glob("config.yaml.*"):
            left.unlink()

    def _resume(self, what: str) -> None:
        told: list[Event] = []
        control: Any = SimpleNamespace(emit=told.append, continue_after=lambda seq: None)
        try:
            config = readable_config(self.run)
            found = starting_point(self.run, config, control)
        except SO8TError as error:
            self._refused(error)
            return
        assert found is not None, "a run with checkpoints would begin again"
        _equal(found, self.loaded[found.step])
        for event in told:
            honest(event.sentence)  # type: ignore[attr-defined]
        if config != self.config:
            changed = [e for e in told if getattr(e, "kind", "") == "config"]
            assert changed, f"{what}: another configuration without a word"
            self.counts["another setting, told"] += 1
        elif found.step != STEPS:
            assert told, what
            self.counts["the one before taken and told"] += 1
        else:
            self.counts["the same in spite of it"] += 1

    def soul_file(self) -> None:
        file = self.run.final / "soul.safetensors"
        other = self.run.final / "adapter" / "adapter_model.safetensors"

        def read(what: str) -> None:
            try:
                found = load_soul(file)
            except SO8TError as error:
                self._refused(error)
                return
            assert _soul(found) == _soul(self.soul), what
            assert same(_soul_tensors(found), _soul_tensors(self.soul)), what
            self.counts["the same in spite of it"] += 1

        self._with(file, other, read)

    def config_file(self) -> None:
        """A configuration that a person wrote: refused with file, line and field, or usable."""
        file = self.folder / "config.yaml"
        if not file.exists():
            file.write_text(self.config.to_yaml(), encoding="utf-8")

        def read(what: str) -> None:
            try:
                found = load_config(file)
            except ConfigError as error:
                self._refused(error)
                return
            assert isinstance(found, Config), what
            Config.model_validate(found.model_dump())  # within every bound
            self.counts[
                "another valid configuration" if found != self.config else "the same in spite of it"
            ] += 1

        self._with(file, self.rows / "train.jsonl", read)

    def data_set(self) -> None:
        """Rows: refused with file and line, or read; and a run is not continued with other ones."""
        file = self.rows / self.choose.choice(["train.jsonl", "train.jsonl", "validation.jsonl"])
        other = self.rows / "validation.jsonl"

        def read(what: str) -> None:
            try:
                rows = load_splits(
                    str(self.rows), None, fmt="auto", validation_fraction=0.1, seed=1, max_rows=None
                )
            except SO8TError as error:
                self._refused(error)
                return
            try:
                digest = self._digest(rows)
            except SO8TError as error:
                self._refused(error)
                return
            try:
                check_rows(self.loaded[STEPS], digest)
            except RunError as error:
                self._refused(error)
                return
            assert digest == self.loaded[STEPS].state["rows_sha256"], what
            self.counts["the same in spite of it"] += 1

        self._with(file, other, read)

    def _digest(self, rows: Splits) -> str:
        from so8t_engine.data.tokenize import encode_row

        limit = self.config.data.max_length
        named = {"train": rows.train, "validation": rows.validation}
        return rows_digest(
            {name: [encode_row(self.tokenizer, row, limit) for row in some] for name, some in named.items()}
        )

    def event_log(self) -> None:
        """No event is read that was not written; verify tells; the next trainer numbers on."""
        file = self.run.events

        def read(what: str) -> None:
            damaged = file.read_bytes()
            for event in self.run.read_events():
                assert event == self.events.get(event.seq), f"{what}: another event {event.seq}"
            for line in damaged.split(b"\n")[:50]:
                parse_event(line)
            verdict = verify_run(self.run.path)
            honest(verdict["files"]["events.jsonl"])
            if damaged != whole and verdict["files"]["events.jsonl"] == "intact":
                assert whole.startswith(damaged[: damaged.rfind(b"\n") + 1]), f"{what}: damage not told"
            if self.choose.random() < 0.1:
                EventWriter(self.run).close()
                assert file.read_bytes().endswith(b"\n") or not file.read_bytes()
            self.counts["no other event"] += 1

        whole = file.read_bytes()
        self._with(file, self.run.commands, read)

    # -- what they share -------------------------------------------------------------------------

    def _with(self, file: Path, other: Path, look: Callable[[str], None]) -> None:
        whole = file.read_bytes()
        what, damaged = mutate(whole, other.read_bytes(), self.choose)
        if damaged == whole:
            return
        file.write_bytes(damaged)
        try:
            look(f"{file.name}: {what}")
        finally:
            file.write_bytes(whole)

    def _refused(self, error: SO8TError) -> None:
        honest(error.sentence)
        self.counts["refused with a sentence"] += 1


def _equal(found: Loaded, real: Loaded) -> None:
    for name in ("weights", "optimizer", "rng"):
        assert same(getattr(found, name), getattr(real, name)), f"other {name}"
    assert found.state == real.state
    assert found.trainer_state == real.trainer_state
    assert found.config == real.config


def _soul(soul: Soul) -> tuple[object, ...]:
    return soul.alpha, soul.step, asdict(soul.metadata), soul.pet, soul.report


def _soul_tensors(soul: Soul) -> dict[str, Any]:
    assert soul.theta_safe is not None
    assert soul.theta_cmd is not None
    return {"safe": soul.theta_safe, "cmd": soul.theta_cmd, **soul.heads}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    folder = Path(tempfile.mkdtemp(prefix="so8t-mutations-"))
    began = time.monotonic()
    campaign = Campaign(folder, options.seed)
    kinds = [
        campaign.checkpoint, campaign.run_config, campaign.soul_file,
        campaign.config_file, campaign.data_set, campaign.event_log,
    ]  # fmt: skip
    number = 0
    try:
        for number in range(options.count):
            kind = kinds[number % len(kinds)]
            kind()
            campaign.counts[kind.__name__] += 1
    except Exception as error:  # noqa: BLE001  (any exception is the failure looked for)
        import traceback

        traceback.print_exc()
        print(f"FAILED with --seed {options.seed} at {number} in {folder}: {error!r}")  # noqa: T201
        return 1
    shutil.rmtree(folder)
    counts = dict(campaign.counts)
    figures = {"harness": "mutations", "seed": options.seed, "mutations": options.count, **counts}
    print(f"{json.dumps(figures | {'wrong': 0, 'tracebacks': 0})}  {time.monotonic() - began:.0f} s")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
