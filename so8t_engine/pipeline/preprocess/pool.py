"""Processes for work on chunks: all cores, stoppable, and gone when their parent is gone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def _prepare(parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    os.environ["OMP_NUM_THREADS"] = "1"

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    if os.name != "nt":  # there, a child of a dead parent keeps its number; the broken pipe ends it
        threading.Thread(target=watch, daemon=True).start()


def spread(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    workers: int,
    check: Callable[[], None],
    dask: str = "",
    count: int | None = None,
) -> Iterator[tuple[Task, Result]]:
    """Each task with its result, in any order.

    Args:
        function: of a module, so that a spawned process finds it.
        workers: processes; with one of them, or one task, the work is done here.
        check: raises to stop; called ten times a second.
        dask: where it is not empty, Dask does the work of several tasks: ``local``, or a scheduler's address.
        count: how many tasks there are, where they have no length.
    """
    if count is None:
        count = len(tasks) if isinstance(tasks, Sized) else 2 * workers
    if dask and count > 1:
        from so8t_engine.pipeline.preprocess.cluster import spread_on_dask

        yield from spread_on_dask(function, tasks, dask, workers, check)
        return
    if workers <= 1 or count <= 1:
        for task in tasks:
            check()
            yield task, function(task)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        min(workers, count), mp_context=context, initializer=_prepare, initargs=(os.getpid(),)
    )
    waiting: dict[Future[Result], Task] = {}
    remaining = iter(tasks)
    try:
        for task in remaining:
            waiting[pool.submit(function, task)] = task
            if len(waiting) >= 2 * workers:
                break
        while waiting:
            done, _pending = wait(waiting, timeout=0.1, return_when=FIRST_COMPLETED)
            check()
            for future in done:
                task = waiting.pop(future)
                for following in remaining:
                    waiting[pool.submit(function, following)] = following
                    break
                yield task, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
