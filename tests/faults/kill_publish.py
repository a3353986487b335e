"""A light process that only publishes real checkpoints, killed at random times and at every system call.

    python -m tests.faults.kill_publish --kills 1000

The publisher tells through a pipe what stands. After each kill, everything it told of that the rules keep
must stand and hold what it should; what was in the making must be gone after `settle`, or be whole. Every
other child works as on a system that cannot exchange two folders in one step.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from so8t_engine import files
from so8t_engine.errors import RunError
from so8t_engine.training.checkpoint import (
    MANIFEST,
    checkpoint_path,
    checkpoints,
    newest_usable,
    prune,
    publish_folder,
    settle,
    standing,
    step_of,
    verify_folder,
)
from so8t_engine.training.checkpoint_state import OPTIMIZER, RNG, STATE, WEIGHTS, Snapshot, load_checkpoint
from tests.faults.harness import fork, kill, tiny_run_config, train, wait_for, write_sources

KEEP = 3
#: The calls by which a publication reaches the disk.
CALLS = ("open", "write", "fsync", "close", "mkdir", "rename", "replace", "unlink", "rmdir", "ftruncate")


def real_snapshot(folder: Path) -> Snapshot:
    """What a real (tiny) run saved: 8-bit moments, generators, state."""
    model, rows = write_sources(folder)
    training = {"optimizer": "adamw_8bit", "max_steps": 2}
    config = tiny_run_config(model, rows, folder / "runs", training=training)
    path = folder / "source"
    assert wait_for(fork(lambda: train(config, path), folder / "log.txt")) == 0
    found = load_checkpoint(checkpoints(path / "checkpoints")[-1])
    texts = {STATE: json.dumps(found.state), "trainer_state.json": found.trainer_state}
    tensors = {WEIGHTS: found.weights, OPTIMIZER: found.optimizer, RNG: found.rng}
    return Snapshot(found.step, tensors, texts | {"config.yaml": found.config})


def at_step(base: Snapshot, step: int, salt: int = 0) -> Snapshot:
    """The same run at another step: every file's content depends on it."""
    state = json.loads(base.texts[STATE]) | {"step": step, "salt": salt}
    tensors = {name: dict(named) for name, named in base.tensors.items()}
    tensors[WEIGHTS]["so8t.alpha"] = torch.tensor(float(step * 1000 + salt))
    return Snapshot(step, tensors, base.texts | {STATE: json.dumps(state)})


def publish_for_ever(folder: Path, base: Snapshot, tell: int, first: int, seed: int) -> int:
    """Publish new steps, now and then the same step again, and a ``final`` that replaces the last one."""
    choose = random.Random(seed)
    if seed % 2:
        files.exchange = lambda one, other: False  # type: ignore[assignment]
    settle(folder)
    step = first
    while True:
        step += 1
        for salt in range(choose.choice([1, 1, 2])):
            publish_and_tell(folder, at_step(base, step, salt), tell)
        prune(folder, KEEP)
        final = at_step(base, step)
        name = folder / "final"
        manifest = publish_folder(name, lambda path, final=final: final.write(path)).sha256  # type: ignore[misc]
        os.write(tell, f"final {step} {manifest}\n".encode())


def publish_and_tell(folder: Path, snapshot: Snapshot, tell: int) -> None:
    published = publish_folder(
        checkpoint_path(folder, snapshot.step), snapshot.write, needed_bytes=snapshot.nbytes
    )
    salt = json.loads(snapshot.texts[STATE])["salt"]
    os.write(tell, f"step {snapshot.step} {published.sha256}-{salt}\n".encode())


def check(folder: Path, told: dict[str, list[tuple[int, str]]], counts: Counter[str]) -> None:
    """Compare what stands with what was told. Raises `AssertionError` or `RunError` at a loss."""
    manifests: dict[int, str] = {}
    for step, sha256 in told["step"]:
        manifests[step] = sha256
    # What the next trainer sees, before and after it has put things in order.
    for settled in (False, True):
        if settled:
            settle(folder)
            left = [path.name for path in folder.glob(".*")]
            assert not left, left
        found = {step_of(path): path for path in checkpoints(folder)}
        for step, path in found.items():
            loaded = load_checkpoint(path)
            assert loaded.step == step
            assert int(loaded.weights["so8t.alpha"]) == step * 1000 + loaded.state["salt"]
            counts["checkpoints loaded"] += 1
            told_of = manifests.get(step)
            if told_of is not None:
                sha256, _dash, salt = told_of.partition("-")
                # Killed after replacing a checkpoint and before telling of it, the newer one stands.
                assert loaded.state["salt"] >= int(salt), f"step {step} is an older one"
                if loaded.state["salt"] == int(salt):
                    assert hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest() == sha256
        kept = set(sorted(found.keys() | manifests.keys())[-KEEP:]) & manifests.keys()
        assert kept <= found.keys(), f"lost: {sorted(kept - found.keys())}, standing: {sorted(found)}"
        newest, damaged = newest_usable(folder)
        assert not damaged, damaged
        if manifests:
            assert newest is not None
            assert step_of(newest) >= max(manifests)
        if told["final"]:
            final = standing(folder / "final")
            verify_folder(final)
            step = json.loads((final / STATE).read_text())["step"]
            assert step >= told["final"][-1][0], "final is an older one"


def read_told(handle: int, told: dict[str, list[tuple[int, str]]]) -> None:
    data = b""
    while part := os.read(handle, 65536):
        data += part
    for line in data.decode().splitlines():
        kind, step, sha256 = line.split()
        told[kind].append((int(step), sha256))


def random_kills(base: Snapshot, folder: Path, kills: int, seed: int, counts: Counter[str]) -> None:
    """Kill publishers of one folder, one after the other, at random moments."""
    choose = random.Random(seed)
    told: dict[str, list[tuple[int, str]]] = {"step": [], "final": []}
    for number in range(kills):
        reader, writer = os.pipe()
        first = max((step for step, _sha in told["step"]), default=0)
        standing_now = [step_of(path) for path in checkpoints(folder)]
        start, work_seed = max([first, *standing_now]), choose.randrange(2**31)

        def work(start: int = start, work_seed: int = work_seed, writer: int = writer) -> int:
            return publish_for_ever(folder, base, writer, start, work_seed)

        pid = fork(work)
        os.close(writer)
        wait_for(pid, choose.uniform(0.0, 0.4))
        assert kill(pid) == -signal.SIGKILL, f"publisher {number} ended by itself"
        read_told(reader, told)
        os.close(reader)
        check(folder, told, counts)
        counts["kills"] += 1
    counts["published"] += len(told["step"]) + len(told["final"])


class Stop:
    """Ends this process with SIGKILL before, or right after, the n-th of the calls; counts them."""

    def __init__(self, at: int, after: bool) -> None:
        self.count, self._at, self._after = 0, at, after
        for name in CALLS:
            setattr(os, name, self._wrapped(getattr(os, name), name))

    def _wrapped(self, real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401
            self.count += 1
            if self.count == self._at and not self._after:
                os.kill(os.getpid(), signal.SIGKILL)
            if self.count == self._at and name == "write":
                half = arguments[1][: len(arguments[1]) // 2]  # killed in the middle of a write
                real(arguments[0], half)
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*arguments, **named)
            if self.count == self._at:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call


def every_boundary(base: Snapshot, folder: Path, stride: int, counts: Counter[str]) -> None:
    """One kill before and one after each call: a first publication, a replacing one, with and without
    the exchange of folders, each followed by pruning."""
    for replacing in (False, True):
        for exchanging in (True, False):
            for after in (False, True):
                at = 1 + (stride // 2) * after  # another phase, where only each n-th is tried
                while _boundary(
                    base,
                    folder / f"b{replacing}{exchanging}{after}{at}",
                    at,
                    after,
                    replacing,
                    exchanging,
                    counts,
                ):
                    at += stride


def _boundary(
    base: Snapshot,
    folder: Path,
    at: int,
    after: bool,
    replacing: bool,
    exchanging: bool,
    counts: Counter[str],
) -> bool:
    folder.mkdir(parents=True)
    told: dict[str, list[tuple[int, str]]] = {"step": [], "final": []}
    for step in range(1, KEEP + 1):
        published = publish_folder(checkpoint_path(folder, step), at_step(base, step).write)
        told["step"].append((step, f"{published.sha256}-0"))
    reader, writer = os.pipe()

    def work() -> int:
        if not exchanging:
            files.exchange = lambda one, other: False  # type: ignore[assignment]
        snapshot = at_step(base, KEEP if replacing else KEEP + 1, salt=7)
        stop = Stop(at, after)
        published = publish_folder(checkpoint_path(folder, snapshot.step), snapshot.write)
        prune(folder, KEEP)
        stop._at = -1
        os.write(writer, f"step {snapshot.step} {published.sha256}-7\n".encode())
        return 0

    pid = fork(work)
    os.close(writer)
    code = wait_for(pid)
    read_told(reader, told)
    os.close(reader)
    assert code in {0, -signal.SIGKILL}, code
    check(folder, told, counts)
    shutil.rmtree(folder)
    counts["boundaries"] += code != 0
    return code != 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**31))
    parser.add_argument("--stride", type=int, default=1, help="each boundary, or each n-th")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="so8t-publish-"))
    began = time.monotonic()
    counts: Counter[str] = Counter()
    try:
        base = real_snapshot(folder / "base")
        every_boundary(base, folder / "boundaries", options.stride, counts)
        (folder / "published").mkdir()
        random_kills(base, folder / "published", options.kills, options.seed, counts)
    except (AssertionError, RunError) as error:
        traceback.print_exc()
        print(f"FAILED with --seed {options.seed}; everything is in {folder}: {error!r}")  # noqa: T201
        return 1
    with suppress(OSError):
        shutil.rmtree(folder)
    figures = json.dumps({"harness": "kill_publish", "seed": options.seed, **counts, "lost": 0})
    print(f"{figures}  {time.monotonic() - began:.0f} s")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
