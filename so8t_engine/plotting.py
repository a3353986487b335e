"""Pictures for reports: matplotlib without pyplot or a display, SVG that is the same for the same data."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any


def figure(width: float, height: float) -> Any:  # noqa: ANN401  (imported lazily)
    """A matplotlib figure of so many inches; texts stay texts, so that any language and search work."""
    import logging

    import matplotlib

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    matplotlib.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "so8t",
            "font.family": ["sans-serif"],
            "font.size": 9,
            "axes.spines.top": False,
            "figure.constrained_layout.use": True,
        }
    )
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def svg(plot: Any) -> str:  # noqa: ANN401
    """The figure as an ``<svg>`` element, without date and prologue."""
    buffer = io.StringIO()
    plot.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def save_svg(plot: Any, file: Path) -> None:  # noqa: ANN401
    """Write the figure as a file of its own."""
    file.write_text('<?xml version="1.0" encoding="utf-8"?>\n' + svg(plot), encoding="utf-8")
