"""Base against tuned on the same rows: intervals by bootstrap, paired tests, and what got worse."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from so8t_engine.evaluation.four_class import figures
from so8t_engine.evaluation.intervals import mcnemar, percentile_interval

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
#: Figure → whether more is better.
BETTER_UP = {
    "task_accuracy": True,
    "task_macro_f1": True,
    "danger_to_allow": False,
    "refusal_recall": True,
    "danger_stopped": True,
    "safety_accuracy": True,
    "perplexity": False,
}
DRAWS = 2000


def perplexity(nll_N: Floats, tokens_N: Ints) -> float:
    """exp(Σ nll / Σ tokens); NaN without tokens."""
    total = int(tokens_N.sum())
    return math.exp(min(float(np.nansum(nll_N)) / total, 700.0)) if total else math.nan


def resampled(
    metrics: Callable[[Ints], dict[str, float]], rows: int, seed: int
) -> tuple[dict[str, float], dict[str, Floats]]:
    """The figures on all rows, and on each of `DRAWS` resamples of the rows, by name."""
    generator = np.random.default_rng(seed)
    value = metrics(np.arange(rows))
    drawn = [metrics(generator.integers(0, rows, rows)) for _draw in range(DRAWS if rows else 0)]
    return value, {name: np.array([d[name] for d in drawn], dtype=np.float64) for name in value}


def compared(
    tuned: Callable[[Ints], dict[str, float]],
    base: Callable[[Ints], dict[str, float]] | None,
    rows: int,
    seed: int,
) -> dict[str, Any]:
    """Each figure of both models with its 95 % interval, and the difference on the same resampled rows.

    ``better`` is True or False where the interval of tuned − base does not hold 0, else None. Without a
    base, base and difference are None.
    """
    tuned_value, tuned_draws = resampled(tuned, rows, seed)
    base_value, base_draws = resampled(base, rows, seed) if base else ({}, {})
    found: dict[str, Any] = {}
    for name, value in tuned_value.items():
        entry: dict[str, Any] = {
            "base": None,
            "tuned": asdict(percentile_interval(value, tuned_draws[name])),
            "difference": None,
            "better": None,
        }
        if base:
            entry["base"] = asdict(percentile_interval(base_value[name], base_draws[name]))
            change = percentile_interval(value - base_value[name], tuned_draws[name] - base_draws[name])
            entry["difference"] = asdict(change)
            if change.low is not None and change.high is not None and not change.low <= 0.0 <= change.high:
                entry["better"] = bool((change.low > 0) == BETTER_UP[name])
        found[name] = entry
    return found


def compare_decisions(
    task_N: Ints, safety_N: Ints, tuned_N: Ints, base_N: Ints | None, seed: int
) -> dict[str, Any]:
    """The task figures with intervals, and McNemar's test of right and wrong on the labelled rows.

    Args:
        tuned_N: the task head's classes. base_N: those of a probe on the frozen base; None without one.
    """

    def of(guess_N: Ints) -> Callable[[Ints], dict[str, float]]:
        return lambda rows: figures(task_N[rows], guess_N[rows], safety_N[rows])

    found = compared(of(tuned_N), None if base_N is None else of(base_N), len(task_N), seed)
    if base_N is not None:
        known = task_N >= 0
        test = mcnemar((tuned_N == task_N)[known].tolist(), (base_N == task_N)[known].tolist())
        found["task_accuracy"]["mcnemar"] = asdict(test)
    return found


def compare_perplexity(tuned_nll_N: Floats, base_nll_N: Floats, tokens_N: Ints, seed: int) -> dict[str, Any]:
    """exp of the mean loss a response token, both models on the same resampled rows."""

    def of(nll_N: Floats) -> Callable[[Ints], dict[str, float]]:
        return lambda rows: {"perplexity": perplexity(nll_N[rows], tokens_N[rows])}

    return compared(of(tuned_nll_N), of(base_nll_N), len(tokens_N), seed)


def regressions(figures_: dict[str, Any]) -> list[str]:
    """Names of the figures in which tuned is worse than base beyond the interval."""
    return [name for name, entry in figures_.items() if entry["better"] is False]
