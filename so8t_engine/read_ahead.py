"""Several files read at the same time, handed over in order.

Not with `concurrent.futures`: a pool that is made in a thread of Qt's makes `threading` note that thread for
good.
"""

from __future__ import annotations

import _thread
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")
Value = TypeVar("Value")


def read_ahead(
    read: Callable[[Item], Value], items: Iterable[Item], *, readers: int = 2, ahead: int = 6
) -> Iterator[Value]:
    """``read(item)`` for each item, in order; ``readers`` threads are up to ``ahead`` items in front.

    Raises what ``read`` raised for an item when its turn comes. What lies ready takes memory; whoever stops
    early waits for nothing.
    """
    answers: deque[SimpleQueue[Value | BaseException]] = deque()
    tasks: SimpleQueue[tuple[Item, SimpleQueue[Value | BaseException]] | None] = SimpleQueue()
    rest = iter(items)

    def work() -> None:
        while (task := tasks.get()) is not None:
            item, answer = task
            try:
                answer.put(read(item))
            except BaseException as error:  # noqa: BLE001  (raised where it is waited for)
                answer.put(error)

    def ask(count: int) -> None:
        for item in islice(rest, count):
            answers.append(SimpleQueue())
            tasks.put((item, answers[-1]))

    for _reader in range(readers):
        _thread.start_new_thread(work, ())
    try:
        ask(ahead)
        while answers:
            found = answers.popleft().get()
            ask(1)
            if isinstance(found, BaseException):
                raise found
            yield found
    finally:
        try:
            while True:
                tasks.get_nowait()
        except Empty:
            for _reader in range(readers):
                tasks.put(None)
