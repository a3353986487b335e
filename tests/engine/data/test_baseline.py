"""The baseline sees words and short sequences of words, nothing else, and labelled rows only."""

from __future__ import annotations

import random

from so8t_engine.data.rows import Row
from so8t_engine.evaluation.baseline import bag_of_words_baseline, words


def row(prompt: str, task: int | None) -> Row:
    return Row(prompt, "r", task, None if task is None else int(task >= 2), "en", "rows", 1)


def scenes(rng: random.Random, count: int) -> list[Row]:
    """The label is named by a word of the row."""
    names = ("alpha", "beta", "gamma", "delta")
    return [row(f"{names[t]} {rng.randrange(50)} tail", t) for t in rng.choices(range(4), k=count)]


def test_a_label_named_by_a_word_is_found() -> None:
    rng = random.Random(0)
    report = bag_of_words_baseline(scenes(rng, 200), scenes(rng, 80), seed=0)
    assert report.task_accuracy == report.safety_accuracy == report.ngram_task_accuracy == 1.0
    assert report.danger_to_allow_rate == 0.0
    assert (report.n_train, report.n_test) == (200, 80)


def test_an_order_of_two_neighbours_is_seen_by_ngrams_alone() -> None:
    pairs = [row(f"x{i} red blue y", 0) for i in range(60)] + [row(f"x{i} blue red y", 3) for i in range(60)]
    report = bag_of_words_baseline(pairs, pairs, seed=0)
    assert report.task_accuracy == 0.5
    assert report.ngram_task_accuracy == 1.0


def test_rows_without_a_label_are_left_out() -> None:
    rows = [row("a", 0), row("b", 3), row("c", None), Row("", "text", 1, 0, None, "rows", 1)]
    report = bag_of_words_baseline(rows, rows, seed=0)
    assert (report.n_train, report.n_test) == (2, 2)
    empty = bag_of_words_baseline([row("c", None)], rows, seed=0)
    assert empty.task_accuracy is None
    assert empty.danger_to_allow_rate is None


def test_one_class_alone_predicts_itself() -> None:
    report = bag_of_words_baseline([row("a", 0)], [row("a", 0), row("b", 2)], seed=0)
    assert report.task_accuracy == 0.5
    assert report.danger_to_allow_rate == 1.0


def test_japanese_unigrams_are_characters() -> None:
    assert words("Mail 2を送る") == ["mail", "2", "を", "送", "る"]
