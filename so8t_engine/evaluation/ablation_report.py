"""The ablation table as Markdown and as a picture. What got worse with SO8T is said first."""

from __future__ import annotations

from typing import Any

from so8t_engine.evaluation.ablation import METRICS
from so8t_engine.i18n import N_, _

TITLES = {
    "task_accuracy": N_("task accuracy"),
    "task_macro_f1": N_("task macro F1"),
    "safety_accuracy": N_("safety accuracy"),
    "danger_to_allow": N_("danger → ALLOW"),
    "loss": N_("loss, nats a token"),
}
ARM_TITLES = {
    "full": N_("SO8T"),
    "no_so8t": N_("no SO8T"),
    "safe_only": N_("R_safe only"),
    "cmd_only": N_("R_cmd only"),
    "swapped": N_("order swapped"),
}


def findings(found: dict[str, Any]) -> list[str]:
    """Sentences: first where leaving a part out is better than SO8T, then where it is worse."""
    better: list[str] = []
    worse: list[str] = []
    for arm, metrics in found["differences"].items():
        for metric, entry in metrics.items():
            if entry["better"] is None:
                continue
            text = _("%(arm)s: %(metric)s %(change)+.4f [%(low)+.4f, %(high)+.4f] against SO8T") % {
                "arm": _(ARM_TITLES[arm]),
                "metric": _(TITLES[metric]),
                "change": entry["value"],
                "low": entry["low"],
                "high": entry["high"],
            }
            (better if entry["better"] else worse).append(text)
    lines = [_("Better without the part: %(what)s.") % {"what": text} for text in better]
    lines += [_("Worse without the part: %(what)s.") % {"what": text} for text in worse]
    if not lines:
        lines = [_("No arm differs from SO8T beyond its interval.")]
    return lines


def markdown(report: dict[str, Any]) -> str:
    """The whole ablation as a Markdown page; figures are means over seeds with 95 % intervals."""
    found = report["table"]
    head = [_("arm"), *(_(TITLES[m]) for m in METRICS)]
    lines = ["# " + _("Ablation"), "", *(f"- {text}" for text in findings(found)), ""]
    lines += [
        _("%(seeds)d seeds, %(steps)s steps each, %(rows)s rows of the %(split)s split. ")
        % {k: report[k] for k in ("seeds", "steps", "rows", "split")}
        + _("Mean over seeds and Student's 95 % interval; differences are paired by seed."),
        "",
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
    ]
    for arm, metrics in found["arms"].items():
        lines.append("| " + " | ".join([_(ARM_TITLES[arm]), *(_cell(metrics[m]) for m in METRICS)]) + " |")
    lines += ["", _("Difference to SO8T (p after Holm over all of them):"), ""]
    lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for arm, metrics in found["differences"].items():
        cells = [_cell(metrics[m], signed=True) + _p(metrics[m]["p_holm"]) for m in METRICS]
        lines.append("| " + " | ".join([_(ARM_TITLES[arm]), *cells]) + " |")
    lines += ["", f"`{report['command']}`", ""]
    return "\n".join(lines)


def _cell(entry: dict[str, Any], signed: bool = False) -> str:
    if entry["value"] is None:
        return "—"
    shape = "+.4f" if signed else ".4f"
    if entry["low"] is None:
        return f"{entry['value']:{shape}}"
    return f"{entry['value']:{shape}} [{entry['low']:{shape}}, {entry['high']:{shape}}]"


def _p(value: float | None) -> str:
    return "" if value is None else f", p {value:.3f}" if value >= 0.001 else ", p < 0.001"


def picture(report: dict[str, Any]) -> Any:  # noqa: ANN401
    """Each arm's seeds as dots, mean and interval, one panel a metric."""
    from so8t_engine.plotting import figure

    arms = report["table"]["arms"]
    plot = figure(9.0, 0.5 + 0.38 * len(arms))
    panels = plot.subplots(1, len(METRICS), sharey=True)
    for axes, metric in zip(panels, METRICS, strict=True):
        for row, entry in enumerate(metrics[metric] for metrics in arms.values()):
            values = [v for v in entry["seeds"].values() if v == v]
            axes.plot(values, [row] * len(values), "o", color="#999999", markersize=3)
            if entry["low"] is not None:
                axes.plot([entry["low"], entry["high"]], [row, row], color="#222222")
            if entry["value"] is not None:
                axes.plot([entry["value"]], [row], "|", color="#222222", markersize=11)
        axes.set_title(_(TITLES[metric]), fontsize=8)
        axes.tick_params(labelsize=7)
        axes.locator_params(axis="x", nbins=4)
        axes.set_yticks(range(len(arms)), [_(ARM_TITLES[arm]) for arm in arms])
        axes.spines["right"].set_visible(False)
    panels[0].invert_yaxis()
    return plot
