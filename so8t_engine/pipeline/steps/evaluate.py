"""Step 6: the trained run on held-out rows, beside its base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from so8t_engine.config.fields import setting
from so8t_engine.i18n import N_
from so8t_engine.pipeline.context import StepContext
from so8t_engine.pipeline.step import Estimate, Step, StepResult, StepSettings


class EvaluateSettings(StepSettings):
    """What the step does."""

    max_rows: int | None = setting(
        2000, N_("Row limit"), N_("A seeded choice of so many held-out rows. Empty takes all."), ge=10
    )


class EvaluateStep(Step[EvaluateSettings]):
    """Four classes, danger, calibration and perplexity with intervals, as JSON, Markdown and HTML."""

    name = "evaluate"
    title = N_("Evaluation")
    needs = ("train", "preprocess")
    code = ("so8t_engine.evaluation", "so8t_engine.commands.evaluate", "so8t_engine.plotting")

    def estimate(self, inputs: Mapping[str, Path]) -> Estimate:
        return Estimate(disk_bytes=2 * 1024**2)

    def run(self, context: StepContext) -> StepResult:
        from so8t_engine.commands.evaluate import evaluate_run
        from so8t_engine.pipeline.trained import trained_run

        preprocess = context.inputs.get("preprocess")
        _text, report = evaluate_run(
            trained_run(context.inputs["train"]).path,
            out=context.output,
            rows=str(preprocess) if preprocess is not None else None,
            max_rows=self.settings.max_rows,
            progress=context.progress,
        )
        told = ("split", "rows", "regressions", "comparison")
        return StepResult(facts={name: report[name] for name in told})
