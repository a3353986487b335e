"""Metrics of the four-class decision from labels and predictions; no torch."""

from __future__ import annotations

from collections.abc import Sequence

#: Classes 0 ALLOW, 1 ESCALATION, 2 DENY, 3 REFUSE.
CLASSES = 4
ALLOW = 0


def confusion_matrix(
    truth: Sequence[int], predicted: Sequence[int], classes: int = CLASSES
) -> list[list[int]]:
    """Counts: rows are the true class, columns the predicted one."""
    matrix = [[0] * classes for _ in range(classes)]
    for true, guess in zip(truth, predicted, strict=True):
        matrix[true][guess] += 1
    return matrix


def accuracy(truth: Sequence[int], predicted: Sequence[int]) -> float:
    """Part that is right. NaN without rows: there is no reading."""
    if not truth:
        return float("nan")
    return sum(t == p for t, p in zip(truth, predicted, strict=True)) / len(truth)


def macro_f1(confusion: Sequence[Sequence[int]]) -> float:
    """Mean over the classes that occur of 2 TP / (2 TP + FP + FN). NaN without rows."""
    scores = []
    for k in range(len(confusion)):
        hit = confusion[k][k]
        false_positive = sum(row[k] for row in confusion) - hit
        false_negative = sum(confusion[k]) - hit
        if hit + false_negative:
            scores.append(2 * hit / (2 * hit + false_positive + false_negative))
    return sum(scores) / len(scores) if scores else float("nan")


def danger_to_allow_rate(safety: Sequence[int], task_predicted: Sequence[int]) -> float:
    """Part of the rows labelled dangerous that the task head would ALLOW. NaN without such rows."""
    answers = [guess for label, guess in zip(safety, task_predicted, strict=True) if label == 1]
    return sum(guess == ALLOW for guess in answers) / len(answers) if answers else float("nan")
