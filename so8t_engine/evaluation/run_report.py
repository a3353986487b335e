"""The evaluation of a finished run: held-out rows through base and tuned model, as one plain report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from so8t_engine.config import Config
from so8t_engine.data.rows import Row
from so8t_engine.data.tokenize import Collator, Encoded, encode_row
from so8t_engine.errors import DataError
from so8t_engine.evaluation.comparison import compare_decisions, compare_perplexity, regressions
from so8t_engine.evaluation.four_class import report as four_class_report
from so8t_engine.evaluation.outputs import RowOutputs, TunedModel, row_outputs
from so8t_engine.i18n import _

Progress = Callable[[str, int, int], None]
Ints = NDArray[np.int64]
#: Training rows that the probe on the frozen base is fitted on, at most.
PROBE_ROWS = 2000


@dataclass(frozen=True)
class Labels:
    """Classes of the rows; −1 where a row has none."""

    task_N: Ints  # noqa: N815
    safety_N: Ints  # noqa: N815

    @classmethod
    def of(cls, rows: Sequence[Encoded]) -> Labels:
        return cls(
            np.array([-1 if row.task is None else row.task for row in rows], dtype=np.int64),
            np.array([-1 if row.safety is None else row.safety for row in rows], dtype=np.int64),
        )


def evaluate_rows(
    tuned: TunedModel,
    config: Config,
    tokenizer: Any,  # noqa: ANN401
    held_out: Sequence[Row],
    train: Sequence[Row],
    *,
    split: str,
    seed: int = 0,
    progress: Progress = lambda what, done, of: None,
) -> dict[str, Any]:
    """The report as plain JSON.

    The base has no heads. What it is compared with on the four classes is a probe: a logistic regression on
    the frozen base's hidden state at the prompt's end, fitted on training rows. On the text both models are
    compared directly.

    Raises:
        DataError: there are no held-out rows.
    """
    if not held_out:
        raise DataError(
            _("There are no held-out rows to evaluate on."),
            _("Name some with --rows, or in data.validation."),
        )
    limit = config.data.max_length
    rows = [encode_row(tokenizer, row, limit) for row in held_out]
    collate = Collator(tokenizer.pad_token_id)
    labels = Labels.of(rows)

    def through(what: str, some: Sequence[Encoded], **options: bool) -> RowOutputs:
        return row_outputs(
            tuned, some, collate, proceed=lambda done: progress(what, done, len(some)), **options
        )

    said = through(_("tuned model"), rows, base=False)
    plain = through(_("base model"), rows, base=True, pooled=True)
    probe_rows = _probe_rows(tokenizer, train, limit, min(PROBE_ROWS, 4 * len(rows)), seed)
    probe_N = _probe(through, plain, labels, probe_rows, seed)
    report: dict[str, Any] = {
        "schema_version": 1,
        "split": split,
        "rows": len(rows),
        "rows_with_task": int((labels.task_N >= 0).sum()),
        "rows_with_safety": int((labels.safety_N >= 0).sum()),
        "response_tokens": int(said.tokens_N.sum()),
        "truncated": sum(row.truncated for row in rows),
        "seed": seed,
        "comparison": {},
        "four_class": None,
        "probe": None,
        "languages": {},
    }
    if (labels.task_N >= 0).any():
        assert said.task_N4 is not None
        report["four_class"] = four_class_report(labels.task_N, said.task_N4, labels.safety_N, said.safety_N2)
        report["probe"] = None if probe_N is None else {"rows": len(probe_rows)}
        report["comparison"] |= compare_decisions(
            labels.task_N, labels.safety_N, said.task_N4.argmax(1), probe_N, seed
        )
    if said.tokens_N.sum():
        report["comparison"] |= compare_perplexity(said.nll_N, plain.nll_N, said.tokens_N, seed)
    report["languages"] = _by_language(held_out, labels, said, plain)
    report["regressions"] = regressions(report["comparison"])
    return report


def _probe_rows(
    tokenizer: Any,  # noqa: ANN401
    train: Sequence[Row],
    limit: int,
    most: int,
    seed: int,
) -> list[Encoded]:
    """A seeded choice of labelled training rows: four times the held-out ones, `PROBE_ROWS` at most."""
    labelled = [row for row in train if row.task is not None]
    if len(labelled) > most:
        chosen = np.random.default_rng(seed).choice(len(labelled), most, replace=False)
        labelled = [labelled[i] for i in sorted(chosen.tolist())]
    return [encode_row(tokenizer, row, limit) for row in labelled]


def _probe(
    through: Callable[..., RowOutputs], plain: RowOutputs, labels: Labels, train: list[Encoded], seed: int
) -> Ints | None:
    """The classes that the probe gives the held-out rows; None without two classes to learn from."""
    known = Labels.of(train).task_N
    if len(set(known.tolist())) < 2 or not (labels.task_N >= 0).any():
        return None
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped, unused-ignore]

    states = through(_("base model on training rows"), train, base=True, losses=False, pooled=True)
    assert states.pooled_NH is not None
    assert plain.pooled_NH is not None
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500, random_state=seed))
    with threadpool_limits(1):
        probe.fit(states.pooled_NH, known)
        return np.asarray(probe.predict(plain.pooled_NH), dtype=np.int64)


def _by_language(
    rows: Sequence[Row], labels: Labels, said: RowOutputs, plain: RowOutputs
) -> dict[str, dict[str, Any]]:
    """Accuracy and perplexity of each language that rows name."""
    from so8t_engine.evaluation.comparison import perplexity

    found: dict[str, dict[str, Any]] = {}
    names = np.array([row.language or "-" for row in rows])
    for name in sorted(set(names.tolist())):
        here = np.flatnonzero(names == name)
        labelled = here[labels.task_N[here] >= 0]
        right = None
        if len(labelled) and said.task_N4 is not None:
            right = float((said.task_N4[labelled].argmax(1) == labels.task_N[labelled]).mean())
        has_text = bool(said.tokens_N[here].sum())
        found[name] = {
            "rows": len(here),
            "task_accuracy": right,
            "perplexity": perplexity(said.nll_N[here], said.tokens_N[here]) if has_text else None,
            "base_perplexity": perplexity(plain.nll_N[here], plain.tokens_N[here]) if has_text else None,
        }
    return found
