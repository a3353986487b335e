"""Processes that the window left behind."""

from __future__ import annotations

import psutil


def own_children() -> list[psutil.Process]:
    """This process's live descendants, without the tracker that multiprocessing keeps for its whole life."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            tracker = "multiprocessing" in " ".join(child.cmdline())
            if not tracker and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found
