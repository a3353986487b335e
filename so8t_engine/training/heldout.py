"""Evaluations of a run: before the first step, during it, and at its end, beside a baseline."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from so8t_engine.data.tokenize import Encoded
from so8t_engine.errors import DataError, MemoryLimitError
from so8t_engine.evaluation.baseline import bag_of_words_baselines
from so8t_engine.evaluation.evaluate import Evaluation, evaluate
from so8t_engine.evaluation.held_out_heads import HeldOutHeads
from so8t_engine.i18n import _
from so8t_engine.so8t.adapter import AdapterOutput
from so8t_engine.training.control import RunControl
from so8t_engine.training.events import EvaluationEvent, ProgressEvent, WarningEvent
from so8t_engine.training.kernels import go_on_without
from so8t_engine.training.preparation import Prepared
from so8t_engine.training.recovery import release_memory

log = logging.getLogger(__name__)


class _Seen:
    """Takes the heads' probabilities of rows as they are evaluated, in any order and also twice."""

    def __init__(self, rows: Sequence[Encoded]) -> None:
        self._rows = rows
        self._found: dict[int, tuple[Any, Any, Any]] = {}

    def take(self, places: Sequence[int], out: AdapterOutput) -> None:
        task_N4 = out.task_logits_N4.double().softmax(-1).cpu().numpy()
        safety_N2 = out.safety_logits_N2.double().softmax(-1).cpu().numpy()
        dual_N22 = out.dual_logits_N22.double().softmax(-1).cpu().numpy()
        for i, row in enumerate(places):
            self._found[row] = (task_N4[i], safety_N2[i], dual_N22[i])

    @property
    def labelled(self) -> bool:
        return any(row.task is not None or row.safety is not None for row in self._rows)

    def heads(self, split: str, step: int | None) -> HeldOutHeads:
        found = [self._found[i] for i in range(len(self._rows))]
        return HeldOutHeads(
            split=split,
            step=step,
            task_N4=np.array([one[0] for one in found]),
            safety_N2=np.array([one[1] for one in found]),
            dual_N22=np.array([one[2] for one in found]),
            true_task_N=np.array([-1 if row.task is None else row.task for row in self._rows], np.int64),
            true_safety_N=np.array(
                [-1 if row.safety is None else row.safety for row in self._rows], np.int64
            ),
        )


class HeldOut:
    """Evaluates and reports; remembers first and last results for the summary.

    The validation split is looked at during a run, the test split (where the source has one) only before
    and after it.
    """

    def __init__(self, prepared: Prepared, control: RunControl) -> None:
        self._prepared = prepared
        self._control = control
        self._first: dict[str, Evaluation] = {}
        self._last: dict[str, Evaluation] = {}
        self._baseline: dict[str, dict[str, float]] = {}
        self._tokens = prepared.max_evaluation_tokens
        #: Of the last split with labels, test before validation, as it was `after` the run.
        self.heads: HeldOutHeads | None = None

    def state(self) -> dict[str, Any]:
        """First and last results and the baseline, for a checkpoint."""
        return {
            "first": {split: asdict(found) for split, found in self._first.items()},
            "last": {split: asdict(found) for split, found in self._last.items()},
            "baseline": self._baseline,
            "tokens": self._tokens,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """As it was when `state` was called."""
        self._first = {split: Evaluation(**found) for split, found in state["first"].items()}
        self._last = {split: Evaluation(**found) for split, found in state["last"].items()}
        self._baseline = state["baseline"]
        self._tokens = min(self._tokens, int(state["tokens"]))

    def before(self) -> None:
        """All splits, with the untrained heads, and the baseline."""
        self._fit_baseline()
        for split in self._prepared.held_out:
            self._run(split, 0)

    def during(self, step: int) -> float | None:
        """The validation split; returns its loss, None where there is none or it was broken off."""
        found = self._run("validation", step)
        return found.loss if found is not None else None

    def after(self, step: int) -> None:
        """All splits; the heads' probabilities of the last one are kept for trying thresholds."""
        for split, rows in self._prepared.held_out.items():
            seen = _Seen(rows)
            if self._run(split, step, seen) is not None and seen.labelled:
                self.heads = seen.heads(split, step)

    def summary(self) -> dict[str, Any]:
        """Per split: loss and metrics before and after, and the baseline's."""

        def result(found: Evaluation | None) -> dict[str, Any] | None:
            if found is None:
                return None
            return {"loss": found.loss, "rows": found.rows, **found.metrics, "confusion": found.confusion}

        return {
            "evaluation": {
                split: {
                    "before": result(self._first.get(split)),
                    "after": result(self._last.get(split)),
                    "bag_of_words": self._baseline.get(split),
                }
                for split in self._prepared.held_out
            }
        }

    def _run(self, split: str, step: int, seen: _Seen | None = None) -> Evaluation | None:
        rows = self._prepared.held_out[split]
        if not rows:
            return None
        what = _("evaluating %(split)s") % {"split": split}

        def proceed(done: int) -> bool:
            self._control.emit(ProgressEvent(what=what, done=done, of=len(rows)))
            self._control.check()
            return not self._control.ending

        found = self._evaluate(rows, proceed, seen or _Seen(rows))
        if found is None:
            return None
        if step == 0:
            self._first[split] = found
        else:
            self._last[split] = found
        baseline = {f"baseline_{name}": value for name, value in self._baseline.get(split, {}).items()}
        self._control.emit(
            EvaluationEvent(
                step=step,
                split=split,
                rows=found.rows,
                loss=found.loss,
                metrics=found.metrics | baseline,
                confusion=found.confusion,
            )
        )
        return found

    def _evaluate(
        self, rows: list[Encoded], proceed: Callable[[int], bool], seen: _Seen
    ) -> Evaluation | None:
        """Evaluate, in smaller batches where memory runs out. Raises `MemoryLimitError`."""
        while True:
            try:
                return evaluate(
                    self._prepared.model,
                    rows,
                    self._prepared.collate,
                    self._tokens,
                    autocast_dtype=self._prepared.autocast_dtype,
                    proceed=proceed,
                    see=seen.take,
                )
            except torch.OutOfMemoryError as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
            except Exception as error:
                if not go_on_without(self._control, self._prepared.device, error):
                    raise
                continue
            release_memory()
            longest = max(len(row.input_ids) for row in rows)
            if self._tokens <= longest:
                raise MemoryLimitError(
                    _("Not even one held-out row of %(count)d tokens fits into the memory limit.")
                    % {"count": longest},
                    _("Shorten the sequence or raise the memory limit."),
                )
            self._tokens = max(self._tokens // 2, longest)
            self._control.emit(
                WarningEvent(
                    kind="oom",
                    sentence=_("Memory ran out in an evaluation (%(reason)s); it is repeated.")
                    % {"reason": reason},
                    mend=_("Held-out rows are evaluated %(count)d tokens at a time from now on.")
                    % {"count": self._tokens},
                )
            )

    def _fit_baseline(self) -> None:
        """The same rows judged by words alone. A baseline that cannot be fitted is a warning, not a zero."""
        rows = self._prepared.rows
        held = {
            split: found
            for split, found in (("validation", rows.validation), ("test", rows.test))
            if any(row.task is not None for row in found)
        }
        if not held or len({row.task for row in rows.train if row.task is not None}) < 2:
            return
        self._control.emit(ProgressEvent(what=_("fitting the word baseline"), done=0, of=None))
        self._control.check_loading()
        try:
            reports = bag_of_words_baselines(rows.train, held, self._prepared.config.training.seed)
        except (ValueError, DataError) as error:
            log.exception("baseline")
            self._control.emit(
                WarningEvent(
                    kind="baseline",
                    sentence=_("The word baseline could not be computed: %(reason)s.") % {"reason": error},
                )
            )
            return
        for split, report in reports.items():
            values = {
                "task_accuracy": report.task_accuracy,
                "safety_accuracy": report.safety_accuracy,
                "danger_to_allow": report.danger_to_allow_rate,
                "ngram_task_accuracy": report.ngram_task_accuracy,
                "ngram_safety_accuracy": report.ngram_safety_accuracy,
            }
            self._baseline[split] = {k: v for k, v in values.items() if v is not None}
