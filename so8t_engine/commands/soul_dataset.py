"""``so8t soul-dataset``: the soul dataset into a folder that appears whole or not at all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from so8t_engine.config import load_config
from so8t_engine.errors import ConfigError, DataError
from so8t_engine.i18n import _
from so8t_engine.soul_dataset.settings import SoulDatasetSettings


def soul_dataset(
    config_path: Path, overrides: Sequence[str], out: Path, options: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Write the dataset; returns the report as text and as the object of ``--json``.

    Args:
        options: values of `SoulDatasetSettings` by name; None keeps the default.

    Raises:
        SO8TError: bad settings, a source that cannot be read, or ``out`` exists.
    """
    from pydantic import ValidationError

    from so8t_engine.config.messages import problems

    began = time.perf_counter()
    config = load_config(config_path, overrides)
    try:
        settings = SoulDatasetSettings(**{k: v for k, v in options.items() if v is not None})
    except ValidationError as error:
        first = problems(error, SoulDatasetSettings)[0]
        raise ConfigError(first.sentence, first.mend, field=first.path) from error
    if out.exists():
        raise DataError(
            _("%(folder)s exists already.") % {"folder": out}, _("Choose a folder that does not exist.")
        )
    from so8t_engine.soul_dataset.generate import write_dataset
    from so8t_engine.training.checkpoint import publish_folder

    found: dict[str, Any] = {}

    def write(folder: Path) -> None:
        found.update(write_dataset(folder, config, settings))

    out.parent.mkdir(parents=True, exist_ok=True)
    published = publish_folder(out, write)
    report = {
        "out": str(out),
        "bytes": published.bytes,
        "manifest_sha256": published.sha256,
        "seconds": round(time.perf_counter() - began, 3),
        "peak_memory_bytes": peak_memory(),
        **found,
    }
    return _text(report), report


def peak_memory() -> int | None:
    """The largest resident memory of this process so far in bytes; None where the system does not say."""
    import psutil

    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the process was before it became this program
        found = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return int(found[0].split()[1]) * 1024 if found else None
    peak = getattr(psutil.Process().memory_info(), "peak_wset", None)  # Windows
    return None if peak is None else int(peak)


def _text(report: dict[str, Any]) -> str:
    worst = max(report["orthogonality_max"].values())
    lines = [
        _("%(count)d records from source %(source)s in %(seconds).1f s: %(path)s")
        % {
            "count": report["records"],
            "source": report["source"],
            "seconds": report["seconds"],
            "path": report["out"],
        },
        _("Commutator: mean %(mean).4f, largest %(max).4f. Orthogonality: within %(worst).2g.")
        % {"mean": report["commutator"]["mean"], "max": report["commutator"]["max"], "worst": worst},
    ]
    for split, phases in report["split_phases"].items():
        counts = ", ".join(f"{phase} {count}" for phase, count in phases.items())
        lines.append(f"{split}: {report['splits'][split]} ({counts})")
    if report["records"] < report["records_asked"]:
        lines.append(
            _("The run recorded %(count)d of the %(asked)d records asked for; nothing was repeated.")
            % {"count": report["records"], "asked": report["records_asked"]}
        )
    if report["source"] == "schedule":
        lines.append(_("Synthetic: head values are targets, no trained head spoke here."))
    return "\n".join(lines) + "\n"
