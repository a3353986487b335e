"""Step 7: the run, baked and evaluated, to the Hub."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from so8t_engine.config.fields import setting
from so8t_engine.files import write_atomically
from so8t_engine.i18n import N_, _
from so8t_engine.pipeline.context import StepContext
from so8t_engine.pipeline.errors import PipelineError
from so8t_engine.pipeline.step import Estimate, Step, StepResult, StepSettings
from so8t_engine.pipeline.store import sha256_json


class UploadSettings(StepSettings):
    """What the step does."""

    repo: str | None = setting(
        None, N_("Repository"), N_("owner/name on the Hub. It is made where it is missing."), max_length=193
    )
    public: bool = setting(False, N_("Public"), N_("When off, the repository must be private."))
    licence: str | None = setting(
        None, N_("Licence"), N_("The model's, as the Hub names it, e.g. apache-2.0. Empty states none.")
    )
    endpoint: str = setting(
        "https://huggingface.co",
        N_("Hub"),
        N_("Address of the Hub, or local-test-server for this program's own stand-in without a network."),
        advanced=True,
    )


class UploadStep(Step[UploadSettings]):
    """One commit with adapter, soul, baked model, GGUF files, evaluation and card; resumed by file."""

    name = "upload"
    title = N_("Upload")
    needs = ("collect", "preprocess", "train", "integrate", "evaluate")
    outputs = ("upload.json",)
    code = ("so8t_engine.hub", "so8t_engine.commands.upload")

    def estimate(self, inputs: Mapping[str, Path]) -> Estimate:
        size = sum(
            file.stat().st_size
            for name in ("train", "integrate", "evaluate")
            if name in inputs
            for file in inputs[name].rglob("*")
            if file.is_file()
        )
        # A home line sends about 2 MB a second; the stand-in copies.
        return Estimate(seconds=10.0 + size / 2e6, memory_bytes=300 * 1024**2, disk_bytes=100_000)

    def retryable(self, error: Exception) -> bool:
        return bool(getattr(error, "transient", False)) or super().retryable(error)

    def run(self, context: StepContext) -> StepResult:
        from so8t_engine.commands.upload import LOCAL, upload_run
        from so8t_engine.pipeline.trained import trained_run

        settings = self.settings
        if not settings.repo:
            raise PipelineError(
                _("The upload step has no repository to upload to."),
                _("Set upload.repo to owner/name, or switch the step off."),
            )
        integrated, evaluated = context.inputs.get("integrate"), context.inputs.get("evaluate")
        baked = integrated / "baked" if integrated is not None and (integrated / "baked").is_dir() else None
        ggufs = sorted((integrated / "gguf").glob("*.gguf")) if integrated is not None else []
        _told, found = upload_run(
            trained_run(context.inputs["train"]).path,
            settings.repo,
            baked=baked,
            ggufs=ggufs,
            gguf_reports=_gguf_reports(integrated),
            evaluation=evaluated,
            public=settings.public,
            licence=settings.licence,
            data=_licences(context.inputs.get("preprocess")),
            pipeline=True,
            endpoint=settings.endpoint,
            stand_in=context.work / "local-hub",
            check=context.check,
            told=lambda what: context.progress(f"upload: {what}", 0),
        )
        write_atomically(context.output / "upload.json", json.dumps(found, indent=1, ensure_ascii=False))
        told = {key: found[key] for key in ("repo", "commit", "url", "private", "endpoint", "bytes")}
        facts = told | {"files": len(found["files"]), "stand_in": settings.endpoint == LOCAL}
        return StepResult(facts, content=_content(found))


def _content(found: Mapping[str, Any]) -> str:
    """A digest of what lies there now; results.json holds seconds, and a commit its time."""
    files = {file["name"]: file["sha256"] for file in found["files"] if file["name"] != "so8t/results.json"}
    return sha256_json({"repo": found["repo"], "endpoint": found["endpoint"], "files": files})


def _gguf_reports(integrated: Path | None) -> list[dict[str, Any]]:
    file = None if integrated is None else integrated / "integration.json"
    if file is None or not file.is_file():
        return []
    found: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")).get("gguf", [])
    return found


def _licences(preprocess: Path | None) -> dict[str, int] | None:
    """Licence → training rows, as preprocessing recorded them; None where it did not."""
    file = None if preprocess is None else preprocess / "train.parquet"
    if file is None or not file.is_file():
        return None
    import pyarrow.parquet as pq

    table = pq.ParquetFile(file)
    name = next((n for n in ("licence", "license") if n in table.schema_arrow.names), None)
    if name is None:
        return None
    counts: Counter[str] = Counter()
    for batch in table.iter_batches(columns=[name]):
        counts.update(value or "not stated" for value in batch.column(0).to_pylist())
    return dict(sorted(counts.items()))
