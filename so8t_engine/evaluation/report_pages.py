"""The evaluation as Markdown and as one HTML file. What got worse is said first."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from so8t_engine.evaluation.four_class import SAFETIES, TASKS
from so8t_engine.files import write_atomically
from so8t_engine.i18n import N_, _, language

TITLES = {
    "task_accuracy": N_("task accuracy"),
    "task_macro_f1": N_("task macro F1"),
    "danger_to_allow": N_("danger → ALLOW"),
    "danger_stopped": N_("danger → DENY or REFUSE"),
    "refusal_recall": N_("recall of REFUSE"),
    "perplexity": N_("perplexity of the responses"),
}
Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def number(value: float | None, shape: str = ".4f") -> str:
    """A figure, or a dash where there is none."""
    return "—" if value is None else f"{value:{shape}}"


def interval(entry: dict[str, Any] | None, shape: str = ".4f") -> str:
    """A figure with its interval."""
    if entry is None or entry["value"] is None:
        return "—"
    if entry["low"] is None:
        return number(entry["value"], shape)
    return f"{entry['value']:{shape}} [{entry['low']:{shape}}, {entry['high']:{shape}}]"


def verdicts(report: dict[str, Any]) -> list[str]:
    """Sentences: regressions first, then what improved, then that nothing changed."""
    groups: dict[bool, list[str]] = {False: [], True: []}
    for name, entry in report["comparison"].items():
        if entry["better"] is not None:
            groups[entry["better"]].append(f"{_(TITLES[name])} {interval(entry['difference'], '+.4f')}")
    lines = [_("Worse than the base: %(what)s.") % {"what": text} for text in groups[False]]
    lines += [_("Better than the base: %(what)s.") % {"what": text} for text in groups[True]]
    return lines or [_("Nothing differs from the base beyond its interval.")]


def sections(report: dict[str, Any]) -> list[tuple[str, str, Table | None, str]]:
    """Title, sentence, table and picture name of each part of the report."""
    rows = [
        [
            _(TITLES[name]),
            interval(e["base"]),
            interval(e["tuned"]),
            interval(e["difference"], "+.4f"),
            _test(e),
        ]
        for name, e in report["comparison"].items()
    ]
    head = [_("figure"), _("base"), _("tuned"), _("tuned − base"), _("exact McNemar test")]
    probed = report["probe"]
    note = _("%(rows)d rows (%(split)s), %(tokens)d response tokens; bootstrap intervals of 95 %%.") % {
        "rows": report["rows"], "split": report["split"], "tokens": report["response_tokens"],
    }  # fmt: skip
    if probed:
        note += " " + _(
            "The base has no heads: its four-class figures are those of a logistic regression on its hidden "
            "states, fitted on %(rows)d training rows."
        ) % {"rows": probed["rows"]}
    parts: list[tuple[str, str, Table | None, str]] = [
        (_("Base against tuned"), note, (head, rows), "comparison.svg")
    ]
    four = report["four_class"]
    if four:
        parts += _four_class(four)
    if len(report["languages"]) > 1:
        head = [_("language"), _("rows"), _("task accuracy"), _("perplexity"), _("perplexity of the base")]
        table = [
            [name, str(e["rows"]), number(e["task_accuracy"]), number(e["perplexity"], ".3f"),
             number(e["base_perplexity"], ".3f")]
            for name, e in report["languages"].items()
        ]  # fmt: skip
        parts.append((_("Languages"), "", (head, table), ""))
    for name, entry in report.get("lm_eval", {}).items():
        table = [[m, interval_pair(v["base"]), interval_pair(v["tuned"])] for m, v in entry.items()]
        parts.append((f"lm-eval: {name}", "", ([_("figure"), _("base"), _("tuned")], table), ""))
    return parts


def interval_pair(entry: dict[str, Any] | None) -> str:
    """A figure ± its standard error."""
    if entry is None or entry.get("value") is None:
        return "—"
    error = entry.get("stderr")
    return number(entry["value"]) + (f" ± {error:.4f}" if isinstance(error, float) else "")


def _test(entry: dict[str, Any]) -> str:
    test = entry.get("mcnemar")
    if not test:
        return ""
    p = "—" if test["p"] is None else f"{test['p']:.3g}"
    return f"{test['only_first']} : {test['only_second']}, p {p}"


def _four_class(four: dict[str, Any]) -> list[tuple[str, str, Table | None, str]]:
    head = [_("class"), _("precision"), _("recall"), "F1", _("rows")]
    table = [
        [name, number(e["precision"]), number(e["recall"]), number(e["f1"]), str(e["support"])]
        for name, e in four["per_class"].items()
    ]
    calibration = four["calibration"]
    parts: list[tuple[str, str, Table | None, str]] = [
        (_("Four classes"), "", (head, table), ""),
        (
            _("Confusion"),
            _("Rows are the true class, columns the predicted one."),
            _matrix(four, TASKS),
            "confusion.svg",
        ),
        (
            _("Calibration"),
            _("Expected calibration error %(ece)s (15 bins), Brier score %(brier)s, log loss %(nll)s nats.")
            % {k: number(calibration[k]) for k in ("ece", "brier", "nll")},
            None,
            "reliability.svg",
        ),
    ]
    if "safety" in four:
        safety = four["safety"]
        text = _("Accuracy %(accuracy)s on %(rows)d rows, expected calibration error %(ece)s.") % {
            "accuracy": number(safety["accuracy"]), "rows": safety["rows"],
            "ece": number(safety["calibration"]["ece"]),
        }  # fmt: skip
        parts.append((_("Safety head"), text, _matrix(safety, SAFETIES), ""))
    return parts


def _matrix(entry: dict[str, Any], names: tuple[str, ...]) -> Table:
    return ["", *names], [
        [name, *map(str, counts)] for name, counts in zip(names, entry["confusion"], strict=True)
    ]


def markdown(report: dict[str, Any], pictures: dict[str, str]) -> str:
    """The report as Markdown; pictures are files beside it."""
    lines = [f"# {_title(report)}", "", *(f"- {line}" for line in verdicts(report)), ""]
    for title, text, table, picture in sections(report):
        lines += [f"## {title}", ""]
        lines += [text, ""] if text else []
        if table:
            head, rows = table
            lines += ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
            lines += ["| " + " | ".join(_cell(c) for c in row) + " |" for row in rows] + [""]
        if picture in pictures:
            lines += [f"![{title}]({picture})", ""]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def page(report: dict[str, Any], pictures: dict[str, str]) -> str:
    """The report as one HTML file with the pictures in it; nothing is loaded from elsewhere."""
    said: Callable[[str], str] = html.escape
    parts = ["<ul class='verdicts'>"]
    for name_better, line in _marked(report):
        parts.append(f"<li class='{name_better}'>{said(line)}</li>")
    parts.append("</ul>")
    for title, text, table, picture in sections(report):
        parts.append(f"<h2>{said(title)}</h2>")
        parts += [f"<p>{said(text)}</p>"] if text else []
        if table:
            head, rows = table
            cells = "".join(f"<th>{said(c)}</th>" for c in head)
            body = "".join("<tr>" + "".join(f"<td>{said(c)}</td>" for c in row) + "</tr>" for row in rows)
            parts.append(f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>")
        if picture in pictures:
            parts.append(f"<figure>{pictures[picture]}</figure>")
    title = said(_title(report))
    return (
        f"<!doctype html><html lang='{language()}'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'>"
        "<meta http-equiv='Content-Security-Policy' "
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>"
        + "".join(parts)
        + "</body></html>\n"
    )


def _marked(report: dict[str, Any]) -> list[tuple[str, str]]:
    worse = sum(entry["better"] is False for entry in report["comparison"].values())
    lines = verdicts(report)
    return [("worse" if i < worse else "other", line) for i, line in enumerate(lines)]


def _title(report: dict[str, Any]) -> str:
    return _("Evaluation of %(run)s") % {"run": report.get("run", "")}


def write_pages(folder: Path, report: dict[str, Any], pictures: dict[str, str]) -> None:
    """``report.md``, ``report.html`` and the pictures, each whole."""
    for name, svg in pictures.items():
        write_atomically(folder / name, '<?xml version="1.0" encoding="utf-8"?>\n' + svg)
    write_atomically(folder / "report.md", markdown(report, pictures))
    write_atomically(folder / "report.html", page(report, pictures))


_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:15px/1.5 system-ui,'Noto Sans CJK JP','Hiragino Sans','Yu Gothic UI',sans-serif;"
    "max-width:60rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:.5rem 0}"
    "th,td{padding:.2rem .7rem;border-bottom:1px solid #8886;text-align:right;"
    "font-variant-numeric:tabular-nums}th:first-child,td:first-child{text-align:left}"
    "figure{margin:1rem 0;background:#fff;color:#000;padding:.5rem;overflow-x:auto}"
    "figure svg{max-width:100%;height:auto}"
    ".worse{font-weight:600;color:#c0392b}"
)
