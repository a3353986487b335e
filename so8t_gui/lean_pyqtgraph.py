"""pyqtgraph without its copy of all of Qt.

Its module ``pyqtgraph.Qt`` copies every name of QtCore, QtGui and QtWidgets into modules of its own. PySide
makes a class when it is first asked for, so that the copying makes a thousand that nobody uses: 0.2 s of
each start. Here these modules look a name up when it is wanted.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

PARTS = ("QtCore", "QtGui", "QtWidgets")


class _Mirror(ModuleType):
    """Stands for a module of pyqtgraph; what is not set in it is PySide's."""

    def __init__(self, name: str, source: ModuleType) -> None:
        super().__init__(name, source.__doc__)
        self.__dict__["_source"] = source

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        source = self.__dict__["_source"]
        if sys._getframe(1).f_code.co_name == "_copy_attrs":
            return None  # "is there already": the copying asks for each name whether it has to
        found = getattr(source, name)
        self.__dict__[name] = found
        return found

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self.__dict__["_source"])})


def prepare() -> None:
    """Before pyqtgraph is imported for the first time; without effect later."""
    if "pyqtgraph.Qt" in sys.modules:
        return
    for part in PARTS:
        name = f"pyqtgraph.Qt.{part}"
        sys.modules[name] = _Mirror(name, importlib.import_module(f"PySide6.{part}"))
