"""What a bag of words reaches on the same rows: the figure a trained head has to beat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from so8t_engine.data.rows import Row, Task
from so8t_engine.errors import DataError
from so8t_engine.i18n import _


@dataclass(frozen=True, slots=True)
class BaselineReport:
    """Held-out figures of logistic regressions, as shares in [0, 1]; None where no row is labelled.

    Args:
        task_accuracy: four classes, from word unigrams (single characters in Japanese).
        safety_accuracy: two classes, from the same.
        danger_to_allow_rate: dangerous rows that the unigram task model calls ALLOW.
        ngram_task_accuracy: four classes, from word 1- to 3-grams and character 1- to 4-grams.
        ngram_safety_accuracy: two classes, from the same.
        n_train: labelled training rows.
        n_test: labelled test rows.
    """

    task_accuracy: float | None
    safety_accuracy: float | None
    danger_to_allow_rate: float | None
    ngram_task_accuracy: float | None
    ngram_safety_accuracy: float | None
    n_train: int
    n_test: int


def words(text: str) -> list[str]:
    """Unigrams: runs of letters and digits, each CJK character by itself."""
    import re

    # Hiragana, katakana, CJK ideographs and half-width katakana have no spaces between words.
    return re.findall(
        r"[\u3040-\u30ff\u3400-\u9fff\uff66-\uff9f]|[^\W\u3040-\u30ff\u3400-\u9fff\uff66-\uff9f]+",
        text.lower(),
    )


def _features(ngrams: bool, rows: int) -> Any:  # noqa: ANN401
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.pipeline import make_union

    if not ngrams:
        return CountVectorizer(analyzer=words)
    rarest = 2 if rows >= 100 else 1  # a sequence met once teaches nothing, unless there is little else
    return make_union(
        CountVectorizer(tokenizer=words, token_pattern=None, ngram_range=(1, 3), min_df=rarest),
        CountVectorizer(analyzer="char", ngram_range=(1, 4), min_df=rarest),
    )


def _fit_predict(
    train: Sequence[tuple[str, int]], held: Sequence[tuple[str, int]], ngrams: bool, seed: int
) -> list[int] | None:
    """The label of each held-out text by a model fitted on ``train``; None without rows on either side."""
    if not train or not held:
        return None
    classes = {label for _text, label in train}
    if len(classes) == 1:  # a regression needs two; the constant is what it would say
        return [next(iter(classes))] * len(held)
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped, unused-ignore]

    # C is small for n-grams: there are many times more of them than rows.
    model = LogisticRegression(C=0.1 if ngrams else 1.0, max_iter=2000, random_state=seed)
    pipeline = make_pipeline(_features(ngrams, len(train)), MaxAbsScaler(), model)
    # The products are small; on busy cores BLAS threads wait for each other many times longer.
    with threadpool_limits(1):
        pipeline.fit([text for text, _label in train], [label for _text, label in train])
        return [int(label) for label in pipeline.predict([text for text, _label in held])]


def _accuracy(predicted: Sequence[int] | None, truth: Sequence[int]) -> float | None:
    if predicted is None or not truth:
        return None
    return sum(p == label for p, label in zip(predicted, truth, strict=True)) / len(truth)


def _labelled(rows: Sequence[Row], name: str) -> list[tuple[str, int]]:
    return [(row.prompt, getattr(row, name)) for row in rows if row.prompt and getattr(row, name) is not None]


def _danger_to_allow(predicted: Sequence[int] | None, truth: Sequence[int]) -> float | None:
    if predicted is None:
        return None
    dangerous = (Task.DENY, Task.REFUSE)
    allowed = [p == Task.ALLOW for p, label in zip(predicted, truth, strict=True) if label in dangerous]
    return sum(allowed) / len(allowed) if allowed else None


def bag_of_words_baselines(
    train_rows: Sequence[Row], held_out: Mapping[str, Sequence[Row]], seed: int
) -> dict[str, BaselineReport]:
    """Fit logistic regressions on the prompts of ``train_rows`` once, measure them on each split.

    Rows without a label are left out of that label's model; so are rows without a prompt.

    Raises:
        DataError: scikit-learn is not installed.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise DataError(
            _("The baseline needs scikit-learn, which is not installed."),
            _("Install it with: pip install scikit-learn"),
        ) from error
    # (label, n-grams) → split → predictions
    found: dict[tuple[str, bool], dict[str, list[int] | None]] = {}
    for name in ("task", "safety"):
        train = _labelled(train_rows, name)
        pooled = {split: _labelled(rows, name) for split, rows in held_out.items()}
        for ngrams in (False, True):
            every = _fit_predict(train, [row for rows in pooled.values() for row in rows], ngrams, seed)
            parts: dict[str, list[int] | None] = {}
            start = 0
            for split, texts in pooled.items():
                parts[split] = None if every is None else every[start : start + len(texts)]
                start += len(texts)
            found[name, ngrams] = parts
    reports: dict[str, BaselineReport] = {}
    for split, rows in held_out.items():
        task = [label for _text, label in _labelled(rows, "task")]
        safety = [label for _text, label in _labelled(rows, "safety")]
        reports[split] = BaselineReport(
            task_accuracy=_accuracy(found["task", False][split], task),
            safety_accuracy=_accuracy(found["safety", False][split], safety),
            danger_to_allow_rate=_danger_to_allow(found["task", False][split], task),
            ngram_task_accuracy=_accuracy(found["task", True][split], task),
            ngram_safety_accuracy=_accuracy(found["safety", True][split], safety),
            n_train=len(_labelled(train_rows, "task")),
            n_test=len(task),
        )
    return reports


def bag_of_words_baseline(train_rows: Sequence[Row], test_rows: Sequence[Row], seed: int) -> BaselineReport:
    """`bag_of_words_baselines` for a single split."""
    return bag_of_words_baselines(train_rows, {"test": test_rows}, seed)["test"]
