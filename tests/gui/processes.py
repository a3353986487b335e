"""Processes that the window left behind."""

from __future__ import annotations

import psutil

from tests import warm


def own_children() -> list[psutil.Process]:
    """This process's live descendants, without what lives as long as it: multiprocessing's tracker and the
    server of `tests.warm`. What that one forked counts."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            tracker = "multiprocessing" in " ".join(child.cmdline())
            if not tracker and child.pid != warm.server_pid() and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found
