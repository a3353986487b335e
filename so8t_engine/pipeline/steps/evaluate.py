"""Step 6: the trained run on held-out rows, beside its base."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from so8t_engine.config.fields import setting
from so8t_engine.i18n import N_, _
from so8t_engine.pipeline.context import StepContext
from so8t_engine.pipeline.errors import PipelineError
from so8t_engine.pipeline.step import Estimate, Step, StepResult, StepSettings
from so8t_engine.pipeline.store import sha256_file

#: As the evaluation has it, which is not imported here for its libraries.
PROBE_ROWS = 2000


class EvaluateSettings(StepSettings):
    """What the step does."""

    max_rows: int | None = setting(
        2000, N_("Row limit"), N_("A seeded choice of so many held-out rows. Empty takes all."), ge=10
    )
    lm_eval: list[str] = setting(
        [],
        N_("Harness tasks"),
        N_("Task files (YAML) of lm-evaluation-harness with local data; needs the extra 'lm-eval'."),
        advanced=True,
    )


class EvaluateStep(Step[EvaluateSettings]):
    """Four classes, danger, calibration and perplexity with intervals, as JSON, Markdown and HTML."""

    name = "evaluate"
    title = N_("Evaluation")
    needs = ("train", "preprocess")
    outputs = ("report.json", "report.md", "report.html", "*.svg")
    code = ("so8t_engine.evaluation", "so8t_engine.commands.evaluate", "so8t_engine.plotting")

    def external_inputs(self) -> Mapping[str, str]:
        found = {}
        for name in self.settings.lm_eval:
            file = Path(name).expanduser()
            if not file.is_file():
                raise PipelineError(
                    _("The task file %(path)s does not exist.") % {"path": name}, _("Check evaluate.lm_eval.")
                )
            found[name] = sha256_file(file)
        if found:
            from so8t_engine.evaluation.lm_eval_files import require_tasks

            require_tasks([Path(name).expanduser() for name in self.settings.lm_eval])
        return found

    def estimate(self, inputs: Mapping[str, Path]) -> Estimate:
        """Base and tuned model over the held-out rows, the base over those that its probe is fitted on."""
        from so8t_engine.pipeline import expected

        known = expected.configured(self.config.train)
        if known is None:
            return Estimate(disk_bytes=2 * 1024**2)
        shapes = known[1]
        memory = 4 * shapes.parameters + 500 * 2**20
        rows = expected.tokens_of(inputs["preprocess"] / "test.parquet") if "preprocess" in inputs else None
        if rows is None or not rows[0]:
            return Estimate(None, memory, 2 * 1024**2)
        taken = min(rows[0], self.settings.max_rows or rows[0])
        tokens = (2 * taken + PROBE_ROWS) * rows[1] / rows[0]
        return Estimate(expected.seconds(2 * shapes.parameters * tokens), memory, 2 * 1024**2)

    def run(self, context: StepContext) -> StepResult:
        from so8t_engine.commands.evaluate import evaluate_run
        from so8t_engine.pipeline.trained import trained_run

        preprocess = context.inputs.get("preprocess")
        _text, report = evaluate_run(
            trained_run(context.inputs["train"]).path,
            out=context.output,
            rows=str(preprocess) if preprocess is not None else None,
            max_rows=self.settings.max_rows,
            tasks=[Path(name).expanduser() for name in self.settings.lm_eval],
            progress=context.progress,
        )
        told = ("split", "rows", "regressions", "comparison")
        harness = {"lm_eval": report["lm_eval"]} if "lm_eval" in report else {}
        return StepResult(facts={name: report[name] for name in told} | harness)
