"""The four-class figures against scikit-learn and by hand; base against tuned; the pages."""

from __future__ import annotations

import math
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sk

from so8t_engine.evaluation.comparison import compare_decisions, compare_perplexity, perplexity, regressions
from so8t_engine.evaluation.four_class import expected_calibration_error, figures, report
from so8t_engine.evaluation.report_pages import markdown, page, verdicts
from so8t_engine.evaluation.report_plots import pictures

labels = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@given(labels)
def test_the_report_is_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    truth, guess = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    probability = np.full((len(pairs), 4), 0.1)
    probability[np.arange(len(pairs)), guess] = 0.7
    found = report(truth, probability, (truth >= 2).astype(int), None)
    there = sorted(set(truth.tolist()))
    assert found["task_accuracy"] == pytest.approx(sk.accuracy_score(truth, guess))
    assert found["task_macro_f1"] == pytest.approx(
        sk.f1_score(truth, guess, labels=there, average="macro", zero_division=0)
    )
    assert found["confusion"] == sk.confusion_matrix(truth, guess, labels=range(4)).tolist()
    p, r, f, s = sk.precision_recall_fscore_support(truth, guess, labels=range(4), zero_division=0)
    for k, entry in enumerate(found["per_class"].values()):
        assert (entry["support"], entry["precision"] or 0.0) == (s[k], pytest.approx(p[k]))
        assert (entry["recall"] or 0.0, entry["f1"] or 0.0) == (pytest.approx(r[k]), pytest.approx(f[k]))
    hot = np.eye(4)[truth]
    assert found["calibration"]["brier"] == pytest.approx(((probability - hot) ** 2).sum(1).mean())
    assert found["calibration"]["nll"] == pytest.approx(sk.log_loss(truth, probability, labels=range(4)))


def test_danger_and_refusal_by_hand_and_missing_labels_stay_out() -> None:
    task = np.array([0, 1, 2, 3, 3, -1, -1])
    safety = np.array([0, 0, 1, 1, 1, 1, -1])
    guess = np.array([0, 0, 0, 3, 2, 0, 3])
    found = figures(task, guess, safety)
    assert found["danger_to_allow"] == pytest.approx(2 / 4)  # rows 2 and 5 of the four dangerous ones
    assert found["danger_stopped"] == pytest.approx(2 / 4)
    assert found["refusal_recall"] == pytest.approx(1 / 2)
    assert found["task_accuracy"] == pytest.approx(2 / 5)
    nothing = figures(np.array([-1]), np.array([0]), np.array([-1]))
    assert all(math.isnan(value) for value in nothing.values())


def test_calibration_error_by_hand() -> None:
    right = np.array([True, False, True, True])
    confidence = np.array([0.95, 0.95, 0.55, 0.55])
    ece, bins = expected_calibration_error(right, confidence)
    assert ece == pytest.approx(0.5 * abs(0.5 - 0.95) + 0.5 * abs(1.0 - 0.55))
    assert [b["rows"] for b in bins] == [2, 2]
    assert expected_calibration_error(np.array([True]), np.array([1.0]))[0] == 0.0


def test_a_regression_is_found_and_noise_is_not() -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 4, 400)
    safety = (truth >= 2).astype(int)
    good = np.where(generator.random(400) < 0.9, truth, (truth + 1) % 4)
    bad = np.where(generator.random(400) < 0.6, truth, (truth + 1) % 4)
    worse = compare_decisions(truth, safety, tuned_N=bad, base_N=good, seed=1)
    assert worse["task_accuracy"]["better"] is False
    assert worse["task_accuracy"]["mcnemar"]["p"] < 1e-6
    assert "task_accuracy" in regressions(worse)
    same = compare_decisions(truth, safety, tuned_N=good, base_N=good, seed=1)
    assert regressions(same) == []
    assert same["task_accuracy"]["difference"]["value"] == 0.0
    alone = compare_decisions(truth, safety, tuned_N=good, base_N=None, seed=1)
    assert alone["task_accuracy"]["base"] is None
    # Twice the loss on every row: worse, and the interval of the base holds the exact value.
    nll, tokens = generator.random(50) * 30, np.full(50, 10)
    text = compare_perplexity(2 * nll, nll, tokens, seed=1)["perplexity"]
    assert text["better"] is False
    assert text["base"]["value"] == pytest.approx(math.exp(nll.sum() / 500))
    assert text["base"]["low"] < text["base"]["value"] < text["base"]["high"]
    assert math.isnan(perplexity(np.array([]), np.array([], dtype=np.int64)))


class _Structure(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:  # noqa: ANN401
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_pages_say_regressions_first_and_run_nothing() -> None:
    truth = np.arange(200) % 4
    generator = np.random.default_rng(0)
    bad = np.where(generator.random(200) < 0.5, truth, (truth + 1) % 4)
    probability = np.full((200, 4), 0.1)
    probability[np.arange(200), bad] = 0.7
    found = {
        "run": "<script>alert(1)</script>",
        "split": "a|b",
        "rows": 200,
        "response_tokens": 0,
        "probe": {"rows": 10},
        "comparison": compare_decisions(truth, (truth >= 2).astype(int), bad, truth, 0),
        "four_class": report(truth, probability, (truth >= 2).astype(int), None),
        "languages": {},
    }
    assert verdicts(found)[0].startswith("Worse than the base: task accuracy")
    drawn = pictures(found)
    text = page(found, drawn)
    parsed = _Structure()
    parsed.feed(text)
    assert "script" not in parsed.tags
    assert parsed.tags.count("svg") == 3
    assert "<script>alert(1)</script>" in "".join(parsed.text)  # shown, not run
    assert text.index("Worse than") < text.index("<h2>")
    assert "src=" not in text
    assert 'href="http' not in text
    assert "comparison.svg" in markdown(found, drawn)
