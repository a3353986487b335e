"""``so8t export``: a finished run, baked and verified, as one GGUF file that is read back and compared."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from so8t_engine.errors import ModelError, SO8TError
from so8t_engine.files import move
from so8t_engine.i18n import _

Kind = Literal["f16", "q8_0", "q4_k_m"]


def export_run(
    run_path: Path, kind: Kind, out: Path | None, *, untie: bool, console: Console
) -> tuple[str, dict[str, Any]]:
    """Bake the run in a temporary folder, write the file, read it back; the file appears whole or not.

    ``run_path`` may also be a folder that ``so8t bake`` made.

    Raises:
        SO8TError: gguf or llama-quantize is missing, the run cannot be baked, or the file differs.
    """
    from so8t_engine.export.gguf_file import require_gguf

    require_gguf()
    quantizer = _quantizer() if kind == "q4_k_m" else None
    baked_before = (run_path / "bake.json").is_file()
    name = run_path.absolute().name
    target = (out or run_path / f"{name}-{kind}.gguf").absolute()
    if target.exists():
        raise ModelError(
            _("%(folder)s exists already.") % {"folder": target}, _("Choose a file that does not exist.")
        )
    with tempfile.TemporaryDirectory(
        prefix=".so8t-export-", dir=target.parent, ignore_cleanup_errors=True
    ) as scratch:
        work = Path(scratch)
        folder = run_path
        if baked_before:
            baked = json.loads((run_path / "bake.json").read_text(encoding="utf-8"))
        else:
            from so8t_engine.commands.bake import bake_run

            folder = work / name
            _told, baked = bake_run(run_path, folder, dtype="float32", untie=untie, console=console)
        report = write_checked(folder, work / target.name, kind, name, console, quantizer)
        (work / target.name).chmod(0o644)
        move(work / target.name, target)
    report |= {
        "out": str(target),
        "bytes": target.stat().st_size,
        "bake": {key: baked.get(key) for key in ("run", "step", "gate", "comparison")},
    }
    return _text(report), report


def write_checked(
    folder: Path, file: Path, kind: Kind, name: str, console: Console | None, quantizer: str | None
) -> dict[str, Any]:
    """Write ``file`` from a baked folder and compare it with it. Raises `SO8TError`."""
    from so8t_engine.export.gguf_check import check_gguf
    from so8t_engine.export.gguf_file import write_gguf

    if console is not None:
        console.print(_("writing GGUF"))
    first = file.with_suffix(".f16.gguf") if kind == "q4_k_m" else file
    limits = write_gguf(folder, first, "q8_0" if kind == "q8_0" else "f16", name=name)
    if kind == "q4_k_m":
        _quantise(quantizer or _quantizer(), first, file)
        first.unlink()
    if console is not None:
        console.print(_("reading it back"))
    return {"kind": kind, "check": asdict(check_gguf(file, folder, kind)), "limits": limits}


def _quantizer() -> str:
    found = shutil.which("llama-quantize")
    if found is None:
        raise SO8TError(
            _("q4_k_m is made by llama.cpp's llama-quantize, which is not on the PATH."),
            _("Install llama.cpp, or choose f16 or q8_0, which need nothing else."),
        )
    return found


def _quantise(program: str, source: Path, target: Path) -> None:
    done = subprocess.run(
        [program, str(source), str(target), "Q4_K_M"],
        capture_output=True, text=True, encoding="utf-8", errors="replace", check=False,
    )  # fmt: skip
    if done.returncode or not target.exists():
        lines = (done.stderr or done.stdout).strip().splitlines() or [str(done.returncode)]
        # Its last line only repeats the file's name; the reason stands before it.
        told = next((line for line in reversed(lines) if "failed to quantize: " in line), lines[-1])
        reason = told.rpartition("failed to quantize: ")[2]
        raise SO8TError(_("llama-quantize failed: %(reason)s") % {"reason": reason})


def _text(report: dict[str, Any]) -> str:
    check = report["check"]
    lines = [
        _("%(path)s: %(size).1f MB, %(kind)s.")
        % {"path": report["out"], "size": report["bytes"] / 1e6, "kind": report["kind"]},
        _("Read back: %(count)d tensors, off by at most %(off).2g of their size (%(name)s).")
        % {"count": check["tensors"], "off": check["max_relative"], "name": check["worst"]},
        *report["limits"],
    ]
    return "\n".join(lines) + "\n"
