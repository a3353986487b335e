"""The same work on Dask: workers of this machine, or of a scheduler that others keep.

Workers read and write the pipeline's folder, so it must be reachable for all of them under the same path. A
worker that dies costs the chunk it had in work; Dask gives it to another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from typing import Any, TypeVar

from so8t_engine.i18n import _
from so8t_engine.pipeline.errors import PipelineError

Task = TypeVar("Task")
Result = TypeVar("Result")
#: Starts workers on this machine instead of asking a scheduler.
LOCAL = "local"
CONNECT_S = 10


def spread_on_dask(
    function: Callable[[Task], Result],
    tasks: Iterable[Task],
    address: str,
    workers: int,
    check: Callable[[], None],
) -> Iterator[tuple[Task, Result]]:
    """Each task with its result, in any order.

    Args:
        address: of the scheduler, e.g. ``tls://host:8786``, or `LOCAL`.
        workers: processes to start for `LOCAL`, one thread each.
        check: raises to stop; called ten times a second.

    Raises:
        PipelineError: Dask is not installed, or no scheduler answers.
    """
    with ExitStack() as stack:
        client = _client(address, workers, stack)
        from distributed import wait

        waiting: dict[Any, Task] = {}
        remaining = iter(tasks)
        try:
            while True:
                # Few ahead, so that a stop leaves little to cancel.
                while len(waiting) < 2 * max(1, sum(client.nthreads().values())):
                    task = next(remaining, None)
                    if task is None:
                        break
                    waiting[client.submit(function, task, pure=False)] = task
                if not waiting:
                    return
                check()
                try:
                    done = wait(list(waiting), timeout=0.1, return_when="FIRST_COMPLETED").done
                except TimeoutError:
                    continue
                for future in done:
                    yield waiting.pop(future), future.result()
        finally:
            client.cancel(list(waiting))


def _client(address: str, workers: int, stack: ExitStack) -> Any:  # noqa: ANN401  (an optional package)
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise PipelineError(
            _("Dask is not installed."),
            _("Install the extra 'dask', or leave the pipeline's dask setting empty."),
        ) from error
    if address == LOCAL:
        # A scheduler runs whatever reaches its port: certificates made for this call keep others out.
        stack.enter_context(dask.config.set({"distributed.worker.daemon": False}))
        cluster = stack.enter_context(
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=True,
                security=True,
                dashboard_address=None,
                host="127.0.0.1",
                silence_logs=40,
            )
        )
        return stack.enter_context(Client(cluster))
    try:
        return stack.enter_context(Client(address, timeout=CONNECT_S))
    except (OSError, TimeoutError, ValueError) as error:
        raise PipelineError(
            _("No Dask scheduler answers at %(address)s.") % {"address": address},
            _("Start one with dask scheduler, or set dask to local."),
        ) from error
