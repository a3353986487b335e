"""``so8t doctor``: is this computer ready, and if not, what mends it. Imports no torch."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import psutil

from so8t_engine.i18n import _
from so8t_engine.memory.nvml import NvmlMissing, read_memory

GIB = 2**30
#: What the preset for an 8 GB card needs besides the card: weights in memory while they are quantised.
ENOUGH_RAM, ENOUGH_DISK, ENOUGH_VRAM = 12 * GIB, 20 * GIB, 7 * GIB
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "safetensors")
Verdict = Literal["good", "note", "bad"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One look at the computer.

    Attributes:
        verdict: ``good``; ``note``: works, with less; ``bad``: something will fail.
        mend: what to do; empty where nothing has to be done.
    """

    key: str
    title: str
    verdict: Verdict
    value: str
    mend: str = ""


def examine(folder: Path) -> list[Finding]:
    """Everything, in the order in which one would look. ``folder`` is where runs are written."""
    return [
        _python(),
        *_packages(),
        *_card(),
        _torch_build(),
        _ram(),
        _disk(folder),
        _writable(folder),
        _window(),
    ]


def _python() -> Finding:
    good = sys.version_info >= (3, 11)
    mend = "" if good else _("Install Python 3.11 or newer and make the virtual environment with it.")
    return Finding("python", "Python", "good" if good else "bad", platform.python_version(), mend)


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            yield Finding(name, name, "good", version(name))
        except PackageNotFoundError:
            mend = _("Install it with: pip install %(name)s") % {"name": name}
            yield Finding(name, name, "bad", _("not installed"), mend)


def _card() -> Iterator[Finding]:
    reading = read_memory()
    title = _("Graphics card")
    if isinstance(reading, NvmlMissing):
        yield Finding(
            "card",
            title,
            "note",
            _("no NVIDIA card: %(reason)s") % {"reason": reading.reason},
            _("The demonstration runs on the CPU. For your own models install the NVIDIA driver and a card."),
        )
        return
    total, free = reading.total, reading.total - reading.used
    yield Finding("card", title, "good", reading.name)
    text = _("%(free).1f of %(total).1f GiB free") % {"free": free / GIB, "total": total / GIB}
    small = free < ENOUGH_VRAM
    yield Finding(
        "vram",
        _("Memory of the card"),
        "note" if small else "good",
        text,
        _("Close programs that use the card, or choose smaller settings; the estimate says what fits.")
        if small
        else "",
    )


def _torch_build() -> Finding:
    title = _("CUDA in PyTorch")
    try:
        build = version("torch")
    except PackageNotFoundError:
        return Finding("cuda", title, "bad", _("PyTorch is not installed"))
    local = build.partition("+")[2]
    has_card = not isinstance(read_memory(), NvmlMissing)
    cuda = local.startswith("cu") or (not local and find_spec("nvidia") is not None)
    if cuda or not has_card:
        return Finding("cuda", title, "good" if cuda else "note", local or build, "")
    return Finding(
        "cuda",
        title,
        "bad",
        _("a build for the CPU: %(build)s") % {"build": build},
        _("Install the CUDA build of torch from PyTorch's own index; else the card stays unused."),
    )


def _ram() -> Finding:
    memory = psutil.virtual_memory()
    low = memory.available < ENOUGH_RAM
    value = _("%(free).1f of %(total).1f GiB free") % {
        "free": memory.available / GIB,
        "total": memory.total / GIB,
    }
    mend = _(
        "A model of 3.8 B parameters is loaded through system memory: close other programs, or add swap."
    )
    return Finding("ram", _("System memory"), "note" if low else "good", value, mend if low else "")


def _existing(folder: Path) -> Path:
    folder = folder.expanduser().absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _disk(folder: Path) -> Finding:
    title = _("Disk where runs are written")
    try:
        free = shutil.disk_usage(_existing(folder)).free
    except OSError as error:
        return Finding("disk", title, "bad", error.strerror or str(error), _("Choose another runs folder."))
    low = free < ENOUGH_DISK
    mend = _("Delete old runs in the history, or choose a runs folder on another disk.")
    text = _("%(size).1f GiB free") % {"size": free / GIB}
    return Finding(
        "disk", title, "bad" if free < GIB else "note" if low else "good", text, mend if low else ""
    )


def _writable(folder: Path) -> Finding:
    place = _existing(folder)
    good = os.access(place, os.W_OK)
    mend = "" if good else _("Choose a runs folder that you may write to, in the settings.")
    return Finding("runs", _("Runs folder"), "good" if good else "bad", str(folder), mend)


def _window() -> Finding:
    found = find_spec("PySide6") is not None and find_spec("pyqtgraph") is not None
    mend = "" if found else _("Install the program with its window: pip install so8t-control-panel")
    value = _version_of("PySide6-Essentials") if found else _("not installed")
    return Finding("window", _("Window (PySide6)"), "good" if found else "note", value, mend)


def _version_of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "—"


def report(folder: Path) -> tuple[int, str, dict[str, Any]]:
    """Exit status (1 where something is bad), text, and one object."""
    findings = examine(folder)
    signs = {"good": "ok  ", "note": "note", "bad": "BAD "}
    lines = []
    for one in findings:
        lines.append(f"{signs[one.verdict]}  {one.title}: {one.value}")
        if one.mend:
            lines.append(f"      {one.mend}")
    ready = all(one.verdict != "bad" for one in findings)
    result = {"ready": ready, "findings": [asdict(one) for one in findings]}
    return 0 if ready else 1, "\n".join(lines) + "\n", result
