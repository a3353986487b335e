"""Runs that several processes train together, as forked children with a launcher's environment."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from so8t_engine.config import Config
from so8t_engine.training.events import Event
from so8t_engine.training.run_directory import RunDirectory
from tests.faults.harness import fork


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def start(
    config: Config,
    path: Path,
    size: int,
    on_event: Callable[[int, Event | None], None] | None = None,
) -> list[int]:
    """Start the processes of a run, or go on with it. Returns their pids by rank.

    Args:
        on_event: called in the first process with its events, and in the others with None before a step.
    """
    port = free_port()
    resume = (path / "events.jsonl").exists()
    run = RunDirectory.open(path) if resume else RunDirectory.create(config, path)

    def work(rank: int) -> int:
        os.environ |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        }  # fmt: skip
        from so8t_engine.training import follower
        from so8t_engine.training.run import run_training
        from so8t_engine.training.world import World

        world = World.join()
        if world.first:
            take = (lambda event: on_event(0, event)) if on_event else None
            return run_training(run, resume=resume, on_event=take, world=world)
        if on_event is not None:
            call, real = on_event, follower.FollowerObserver.begin_step

            def begin_step(self: follower.FollowerObserver) -> None:
                call(rank, None)
                real(self)

            follower.FollowerObserver.begin_step = begin_step  # type: ignore[method-assign]
        return follower.follow(world)

    return [fork(lambda rank=rank: work(rank), path / f"rank{rank}.log") for rank in range(size)]  # type: ignore[misc]
