"""Step 5: pictures through a projector, bake, GGUF."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from so8t_engine.config.fields import setting
from so8t_engine.i18n import N_
from so8t_engine.pipeline.context import StepContext
from so8t_engine.pipeline.step import Estimate, Step, StepResult, StepSettings

#: Places that a picture with its caption takes, and tokens of text that a conversion is checked on; roughly.
TOKENS_A_PICTURE = 100
CHECKED_TOKENS = 20_000


class IntegrateSettings(StepSettings):
    """What the step does."""

    encoder: str = setting(
        "embedded",
        N_("Vision encoder"),
        N_("Folder or Hub id of a CLIP or SigLIP model; embedded is a small untrained one for trying out."),
        path="folder",
        min_length=1,
    )
    steps: int = setting(200, N_("Steps of the projector"), N_("Optimizer steps."), ge=1, le=1_000_000)
    batch_size: int = setting(8, N_("Pictures a step"), N_("Pictures in one step."), ge=1, le=1024)
    learning_rate: float = setting(
        1e-3, N_("Learning rate"), N_("Peak step size of the projector."), scale="log", gt=0.0, le=1.0
    )
    max_images: int | None = setting(
        None, N_("Picture limit"), N_("Takes the first pictures of each split. Empty takes all."), ge=2
    )
    gguf: list[Literal["f16", "q8_0", "q4_k_m"]] = setting(
        [], N_("GGUF files"), N_("Files for llama.cpp to write; q4_k_m needs its llama-quantize.")
    )
    untie: bool = setting(
        False,
        N_("Untie the head"),
        N_("Give a head that shares the embedding's weight its own, so that the gate can be folded in."),
        advanced=True,
    )


class IntegrateStep(Step[IntegrateSettings]):
    """A projector in front of the trained run, then the run as one plain model, each verified by logits."""

    name = "integrate"
    title = N_("Integration")
    needs = ("train", "preprocess")
    outputs = ("projector.safetensors", "baked/*", "gguf/*.gguf", "integration.json")
    code = (
        "so8t_engine.vision",
        "so8t_engine.export",
        "so8t_engine.commands.integrate",
        "so8t_engine.commands.bake",
        "so8t_engine.so8t",
        "so8t_engine.model",
    )

    def estimate(self, inputs: Mapping[str, Path]) -> Estimate:
        """The projector's passes, two copies of the model for baking, the files."""
        from so8t_engine.pipeline import expected

        known = expected.configured(self.config.train)
        if known is None:
            return Estimate()
        _config, shapes = known
        tokens = self.settings.steps * self.settings.batch_size * TOKENS_A_PICTURE
        # Loading, folding in and comparing logits reads every weight some dozen times.
        operations = 4 * shapes.parameters * (tokens + CHECKED_TOKENS * (1 + len(self.settings.gguf)))
        sizes = {"f16": 2.0, "q8_0": 1.07, "q4_k_m": 0.6}
        disk = shapes.parameters * (4 + sum(sizes[kind] for kind in self.settings.gguf))
        return Estimate(expected.seconds(operations), 2 * 4 * shapes.parameters + 500 * 2**20, int(disk))

    def run(self, context: StepContext) -> StepResult:
        from so8t_engine.commands.integrate import integrate_run
        from so8t_engine.pipeline.trained import trained_run
        from so8t_engine.vision.training import ProjectorTraining

        settings = self.settings
        preprocess = context.inputs.get("preprocess")
        report = integrate_run(
            trained_run(context.inputs["train"]).path,
            context.output,
            images=None if preprocess is None else preprocess / "images.parquet",
            encoder=settings.encoder,
            training=ProjectorTraining(
                steps=settings.steps,
                batch_size=settings.batch_size,
                learning_rate=settings.learning_rate,
                seed=context.seed,
            ),
            max_images=settings.max_images,
            gguf=settings.gguf,
            untie=settings.untie,
            scratch=context.scratch,
            progress=context.progress,
        )
        return StepResult(
            facts={
                "vision": report["vision"],
                "bake": report["bake"]["as_saved"],
                "gguf": [{k: e[k] for k in ("name", "bytes", "kind")} for e in report["gguf"]],
            }
        )
