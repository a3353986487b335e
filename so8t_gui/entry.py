"""The console's entry to the window: what must be settled before the rest of the program is imported."""

from __future__ import annotations

import gc
import os
from typing import NoReturn

from so8t_engine import streams


def prepare() -> None:
    """Spare the start what it does not need: collecting garbage, pydantic's plugins, a copy of all of Qt.

    `so8t_gui.garbage` collects again once the pages stand.
    """
    streams.prepare()
    gc.disable()
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from so8t_gui import lean_pyqtgraph

    lean_pyqtgraph.prepare()


def run() -> NoReturn:
    """The program ``so8t-gui``."""
    prepare()
    from so8t_gui.app import run as whole

    whole()


if __name__ == "__main__":
    run()
