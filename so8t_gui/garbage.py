"""Python's garbage collection in a window: never over all that the window is made of while somebody looks.

A full collection walks several hundred thousand objects of imports and widgets, during which the window hears
nothing: 50 to 250 ms, now and then. What stands once the pages are built is therefore set aside.
"""

from __future__ import annotations

import gc


def set_aside(*, rebuilt: bool) -> None:
    """The window is complete: collect from now on only what comes later.

    Args:
        rebuilt: there were pages before these, whose remains are collected first.
    """
    if rebuilt:
        gc.collect()
    gc.freeze()
    gc.enable()


def take_back() -> None:
    """The pages are going: what they leave is to be found by the next collection."""
    gc.unfreeze()
    gc.enable()
