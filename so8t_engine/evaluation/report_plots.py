"""The evaluation's pictures: differences, confusion, reliability."""

from __future__ import annotations

from typing import Any

from so8t_engine.evaluation.four_class import TASKS
from so8t_engine.evaluation.report_pages import TITLES
from so8t_engine.i18n import _
from so8t_engine.plotting import figure, svg


def pictures(report: dict[str, Any]) -> dict[str, str]:
    """File name → SVG of every picture that the report has figures for."""
    found = {}
    if any(entry["base"] for entry in report["comparison"].values()):
        found["comparison.svg"] = svg(_comparison(report))
    four = report["four_class"]
    if four:
        found["confusion.svg"] = svg(_confusion(four["confusion"]))
        if four["calibration"]["bins"]:
            found["reliability.svg"] = svg(_reliability(four["calibration"]))
    return found


def _comparison(report: dict[str, Any]) -> Any:  # noqa: ANN401
    """Shares of base and tuned with intervals; perplexity is another unit and stands in the table."""
    shares = {name: e for name, e in report["comparison"].items() if name != "perplexity" and e["base"]}
    plot = figure(7.0, 0.7 + 0.42 * max(len(shares), 1))
    axes = plot.subplots()
    for row, entry in enumerate(shares.values()):
        for shift, which, colour in ((-0.12, "base", "#888888"), (0.12, "tuned", "#4477aa")):
            found = entry[which]
            if found["value"] is None:
                continue
            if found["low"] is not None:
                axes.plot([found["low"], found["high"]], [row + shift] * 2, color=colour)
            label = _(which) if row == 0 else None
            axes.plot([found["value"]], [row + shift], "o", color=colour, label=label)
    axes.set_yticks(range(len(shares)), [_(TITLES[name]) for name in shares])
    axes.set_xlim(-0.02, 1.02)
    axes.invert_yaxis()
    if shares:
        axes.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axes.spines["right"].set_visible(False)
    return plot


def _confusion(matrix: list[list[int]]) -> Any:  # noqa: ANN401
    plot = figure(4.6, 3.8)
    axes = plot.subplots()
    totals = [max(sum(row), 1) for row in matrix]
    shares = [[count / total for count in row] for row, total in zip(matrix, totals, strict=True)]
    axes.imshow(shares, cmap="Blues", vmin=0.0, vmax=1.0)
    for i, row in enumerate(matrix):
        for j, count in enumerate(row):
            axes.text(
                j, i, str(count), ha="center", va="center", color="white" if shares[i][j] > 0.5 else "black"
            )
    axes.set_xticks(range(4), TASKS)
    axes.set_yticks(range(4), TASKS)
    axes.set_xlabel(_("predicted"))
    axes.set_ylabel(_("true"))
    return plot


def _reliability(calibration: dict[str, Any]) -> Any:  # noqa: ANN401
    plot = figure(4.6, 4.2)
    upper, lower = plot.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    bins = calibration["bins"]
    upper.plot([0, 1], [0, 1], color="#999999", linestyle=":")
    upper.plot([b["confidence"] for b in bins], [b["accuracy"] for b in bins], "o-", color="#4477aa")
    upper.set_ylabel(_("share that is right"))
    upper.set_ylim(0, 1.02)
    lower.bar(
        [(b["low"] + b["high"]) / 2 for b in bins], [b["rows"] for b in bins], width=1 / 16, color="#4477aa"
    )
    lower.set_xlabel(_("probability of the predicted class"))
    lower.set_ylabel(_("rows"))
    lower.set_xlim(0, 1)
    for axes in (upper, lower):
        axes.spines["right"].set_visible(False)
    return plot
