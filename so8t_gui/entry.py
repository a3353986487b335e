"""The console's entry to the window: what must be settled before the rest of the program is imported."""

from __future__ import annotations

import gc
import os
from typing import NoReturn


def prepare() -> None:
    """Spare the start what costs a fifth of it: collecting garbage, and looking for pydantic's plugins.

    `so8t_gui.garbage` collects again once the pages stand.
    """
    gc.disable()
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def run() -> NoReturn:
    """The program ``so8t-gui``."""
    prepare()
    from so8t_gui.app import run as whole

    whole()


if __name__ == "__main__":
    run()
