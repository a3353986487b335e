"""Writes the data card with counts and measured figures: ``python resources/build/four_class/card.py``.

Needs scikit-learn. ``proxy.py --report`` leaves the small transformer's figures beside the rows; the card
takes them up where the file is there.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2]))

from so8t_engine.data.reader import read_rows  # noqa: E402
from so8t_engine.data.rows import Task  # noqa: E402
from so8t_engine.data.similarity import SHINGLE, THRESHOLD, max_cross_similarity  # noqa: E402
from so8t_engine.evaluation.baseline import bag_of_words_baseline  # noqa: E402

DATA = HERE.parents[1] / "data" / "four_class"
TEMPLATE = HERE / "card_template.md"


def counts_table() -> str:
    lines = [
        "| split | language | " + " | ".join(task.name for task in Task) + " | rows |",
        "|---|---|" + "---:|" * 5,
    ]
    for split in ("train", "validation", "test"):
        rows = read_rows(str(DATA / f"{split}.jsonl"))
        for language in ("en", "ja"):
            found = Counter(row.task for row in rows if row.language == language)
            cells = " | ".join(str(found[task]) for task in Task)
            lines.append(f"| {split} | {language} | {cells} | {sum(found.values())} |")
    return "\n".join(lines)


def baseline_table() -> str:
    train = read_rows(str(DATA / "train.jsonl"))
    test = read_rows(str(DATA / "test.jsonl"))
    lines = [
        "| rows | unigrams: task | unigrams: safety | n-grams: task | n-grams: safety |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, languages in (("both languages", ("en", "ja")), ("English", ("en",)), ("Japanese", ("ja",))):
        parts = [[row for row in rows if row.language in languages] for rows in (train, test)]
        report = bag_of_words_baseline(parts[0], parts[1], seed=0)
        figures = [report.task_accuracy, report.safety_accuracy]
        figures += [report.ngram_task_accuracy, report.ngram_safety_accuracy]
        lines.append(
            f"| {name} | " + " | ".join(f"{figure:.3f}" for figure in figures if figure is not None) + " |"
        )
    return "\n".join(lines)


def learned_text() -> str:
    path = DATA / "learned.json"
    if not path.exists():
        return "Not measured."
    report = json.loads(path.read_text(encoding="utf-8"))
    lines = [report["what"], "", "| accuracy | validation | test |", "|---|---:|---:|"]
    for key in report["validation"]:
        lines.append(f"| {key} | {report['validation'][key]:.3f} | {report['test'][key]:.3f} |")
    return "\n".join(lines)


def main() -> None:
    groups = [
        [row.prompt for row in read_rows(str(DATA / f"{name}.jsonl"))]
        for name in ("train", "validation", "test")
    ]
    largest, _one, _other = max_cross_similarity(groups)
    values = {
        "counts": counts_table(),
        "baselines": baseline_table(),
        "learned": learned_text(),
        "largest": f"{largest:.3f}",
        "threshold": f"{THRESHOLD:g}",
        "shingle": str(SHINGLE),
        "total": str(sum(len(group) for group in groups)),
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace("{{" + key + "}}", value)
    (DATA / "README.md").write_bytes(text.encode("utf-8"))


if __name__ == "__main__":
    main()
