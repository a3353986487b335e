"""The one thread that runs the model: a bounded queue in front of it, batches out of it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from so8t_engine.serving.generate import Job
from so8t_engine.serving.guard import where

log = logging.getLogger(__name__)


class QueueFullError(Exception):
    """No more requests are taken now."""


class Answers(Protocol):
    """What the worker needs of `so8t_engine.serving.generate.Answerer`."""

    def answer(self, jobs: list[Job]) -> None: ...


class Worker:
    """Takes jobs in order of arrival and answers up to ``batch`` of them together.

    Args:
        answerer: used in the worker's thread alone.
        batch: jobs at once. queue: jobs that may wait.
    """

    def __init__(self, answerer: Answers, batch: int, queue: int) -> None:
        self._answerer, self._batch, self._limit = answerer, batch, queue
        self._waiting: deque[tuple[Job, Callable[[], None]]] = deque()
        self._condition = threading.Condition()
        self._ending = False
        self.busy = 0
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._ending

    def submit(self, job: Job, done: Callable[[], None]) -> None:
        """Queue a job; ``done`` is called in the worker's thread. Raises `QueueFullError`."""
        with self._condition:
            if self._ending or len(self._waiting) >= self._limit:
                raise QueueFullError
            self._waiting.append((job, done))
            self._condition.notify()

    def close(self) -> None:
        """Finish what runs, answer nothing more; whoever waits is told."""
        with self._condition:
            self._ending = True
            self._condition.notify()
        self._thread.join()
        for job, done in self._waiting:
            job.problem = "failed"
            done()
        self._waiting.clear()

    def _run(self) -> None:
        while True:
            with self._condition:
                while not self._waiting and not self._ending:
                    self._condition.wait()
                if self._ending:
                    return
                taken = [self._waiting.popleft() for _i in range(min(self._batch, len(self._waiting)))]
                self.busy = len(taken)
            # A caller who left while waiting costs no work.
            wanted = [job for job, _done in taken if not job.cancelled.is_set()]
            if wanted:
                self._answer(wanted)
            for _job, done in taken:
                done()
            self.busy = 0

    def _answer(self, jobs: list[Job]) -> None:
        try:
            self._answerer.answer(jobs)
        except Exception as error:  # noqa: BLE001  (one bad batch must not end the service)
            log.error("answering failed: %s", where(error))
            if len(jobs) > 1 and all(job.decision is None for job in jobs):
                half = len(jobs) // 2  # memory may do for fewer at once, and one bad job not harm the others
                self._answer(jobs[:half])
                self._answer(jobs[half:])
                return
            for job in jobs:
                if job.final is None:
                    job.problem = job.problem or "failed"
