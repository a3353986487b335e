"""The step: clean parts on all cores, find duplicates, split, write; a kill costs the chunks in work."""

from __future__ import annotations

import heapq
import json
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from so8t_engine.data.labels import Task
from so8t_engine.files import write_atomically
from so8t_engine.i18n import _
from so8t_engine.pipeline.collect.records import row_files
from so8t_engine.pipeline.context import StepContext
from so8t_engine.pipeline.errors import PipelineError
from so8t_engine.pipeline.preprocess.chunks import META, ROWS, ChunkTask, chunk_files, clean_chunk
from so8t_engine.pipeline.preprocess.duplicates import Duplicates, find_duplicates
from so8t_engine.pipeline.preprocess.pictures import write_pictures
from so8t_engine.pipeline.preprocess.pool import spread
from so8t_engine.pipeline.preprocess.review import read_reviews
from so8t_engine.pipeline.preprocess.settings import PreprocessSettings
from so8t_engine.pipeline.preprocess.splits import NAMES, assign
from so8t_engine.pipeline.preprocess.tables import RowWriter, stored_batches
from so8t_engine.pipeline.step import StepResult

REVIEW = "review.parquet"


def preprocess(settings: PreprocessSettings, context: StepContext) -> StepResult:
    """Fill ``output`` with a Parquet file per split, ``images.parquet``, ``review.parquet``, ``report.json``.

    Raises:
        PipelineError: nothing is left, or Presidio was asked for and is not there.
    """
    if settings.validation_fraction + settings.test_fraction >= 0.8:
        raise PipelineError(
            _("Validation and test parts leave too little to train on."), _("Make them smaller.")
        )
    parts = row_files(context.inputs["collect"])
    began = time.monotonic()
    results = _clean_all(settings, parts, context)
    cleaned = time.monotonic()
    starts = tuple(np.cumsum([0, *(result["rows"] for result in results)]).tolist())
    if starts[-1] == 0:
        raise PipelineError(
            _("Preprocessing left no rows."),
            _("Loosen the settings; the counts name why rows were left out."),
        )
    names = {"bands": _("Looking for alike rows"), "pairs": _("Comparing alike rows")}
    tasks = _meta(context.scratch, starts, "task")
    duplicates = find_duplicates(
        context.scratch, starts, tasks, settings.near_duplicates, context.workers, context.check,
        lambda what, done, of: context.progress(names[what], done, of), context.dask,
    )  # fmt: skip
    del tasks
    compared = time.monotonic()
    keep = _learnable(context.scratch, starts)
    keep &= ~duplicates.dropped
    fractions = (
        1 - settings.validation_fraction - settings.test_fraction,
        settings.validation_fraction,
        settings.test_fraction,
    )
    splits = assign(
        duplicates.groups, _meta(context.scratch, starts, "stratum"), keep, fractions, context.seed
    )
    tally = _write(settings, context, len(parts), starts, splits, duplicates)
    written = time.monotonic()
    report = _report(results, duplicates, keep, tally, settings)
    write_atomically(context.output / "report.json", json.dumps(report, indent=1, ensure_ascii=False))
    rows = report["read"]
    seconds = {"cleaning": cleaned - began, "comparing": compared - cleaned, "writing": written - compared}
    return StepResult(
        {
            **report,
            "seconds": {name: round(value, 3) for name, value in seconds.items()},
            "rows_per_s_per_core": round(rows / max(written - began, 1e-9) / max(context.workers, 1), 1),
            "bytes_in": sum(path.stat().st_size for path in parts),
        }
    )


def _clean_all(settings: PreprocessSettings, parts: list[Path], context: StepContext) -> list[dict[str, Any]]:
    reviewed = read_reviews(context.work)
    results: dict[int, dict[str, Any]] = {}
    tasks = []
    for number, part in enumerate(parts):
        done = chunk_files(context.scratch, number)["counts"]
        if done.exists():
            results[number] = json.loads(done.read_text(encoding="utf-8"))
        else:
            tasks.append(ChunkTask(number, part, context.scratch, settings, context.seed, reviewed))
    what = _("Cleaning")
    context.progress(what, len(results), len(parts))
    for task, result in spread(clean_chunk, tasks, context.workers, context.check, context.dask):
        results[task.number] = result
        context.progress(what, len(results), len(parts))
    return [results[number] for number in range(len(parts))]


def _meta(scratch: Path, starts: tuple[int, ...], name: str) -> NDArray[Any]:
    """One of `META`'s fields of all rows."""
    found = np.empty(starts[-1], META[name])
    for number, (start, end) in enumerate(pairwise(starts)):
        found[start:end] = np.load(chunk_files(scratch, number)["meta"])[name]
    return found


def _learnable(scratch: Path, starts: tuple[int, ...]) -> NDArray[np.bool_]:
    """Whether each row has an answer or a label; a lone prompt teaches nothing and is only reviewed."""
    found = np.empty(starts[-1], np.bool_)
    for number, at in enumerate(starts[:-1]):
        for batch in stored_batches(chunk_files(scratch, number)["rows"]):
            answered = pc.greater(pc.binary_length(batch.column("response")), 0)
            labelled = batch.column("safety").is_valid()
            found[at : at + batch.num_rows] = pc.or_(answered, labelled).to_numpy(zero_copy_only=False)
            at += batch.num_rows
    return found


class _Tally:
    """Counts of what was written, and the rows that most want a person's eye."""

    def __init__(self, limit: int) -> None:
        self.splits: dict[str, Counter[str]] = {name: Counter() for name in NAMES}
        self.languages: dict[str, Counter[str]] = {name: Counter() for name in NAMES}
        self.sources: dict[str, Counter[str]] = {name: Counter() for name in NAMES}
        self.images: Counter[str] = Counter()
        self.image_duplicates = 0
        self.licences: Counter[str] = Counter()
        self._limit = limit
        self._heap: list[tuple[float, str, dict[str, Any]]] = []

    def doubtful(self, row: dict[str, Any]) -> None:
        """Keep ``row`` for the review if it is among the most doubtful; ties go by id."""
        entry = (float(row["doubt"]), str(row["id"]), row)
        if len(self._heap) < self._limit:
            heapq.heappush(self._heap, entry)
        elif self._heap and entry[:2] > self._heap[0][:2]:
            heapq.heapreplace(self._heap, entry)

    def review(self) -> list[dict[str, Any]]:
        return [row for _doubt, _id, row in sorted(self._heap, key=lambda one: (-one[0], one[1]))]


def _write(
    settings: PreprocessSettings,
    context: StepContext,
    chunks: int,
    starts: tuple[int, ...],
    splits_N: NDArray[np.int8],
    duplicates: Duplicates,
) -> _Tally:
    tally = _Tally(settings.review_rows)
    what = _("Writing")
    writers = {name: RowWriter(context.output / f"{name}.parquet", ROWS) for name in NAMES}
    for number in range(chunks):
        context.progress(what, number, chunks)
        at = starts[number]
        for batch in stored_batches(chunk_files(context.scratch, number)["rows"]):
            mine = splits_N[at : at + batch.num_rows]
            dropped = duplicates.dropped[at : at + batch.num_rows]
            at += batch.num_rows
            for split, name in enumerate(NAMES):
                part = batch.filter(pa.array(mine == split))
                if part.num_rows:
                    writers[name].write(part)
                    _count(tally, name, part)
            if settings.review_rows:
                wanted = batch.filter(pa.array(~dropped & (_column(batch, "doubt") > 0)))
                for row in wanted.to_pylist():
                    tally.doubtful(row)
    for writer in writers.values():
        writer.close()
    pq.write_table(pa.Table.from_pylist(tally.review(), ROWS), context.output / REVIEW, compression="zstd")
    tally.images, tally.image_duplicates = write_pictures(settings, context, chunks)
    context.progress(what, chunks, chunks)
    return tally


def _column(batch: pa.RecordBatch, name: str) -> Any:  # noqa: ANN401
    return batch.column(name).to_numpy(zero_copy_only=False)


def _count(tally: _Tally, name: str, part: pa.RecordBatch) -> None:
    for task, count in _counted(part, "task").items():
        tally.splits[name]["unlabelled" if task is None else Task(task).name] += count
    tally.languages[name].update(_counted(part, "language"))
    tally.sources[name].update(_counted(part, "label_source"))
    tally.licences.update(_counted(part, "licence"))


def _counted(part: pa.RecordBatch, column: str) -> dict[Any, int]:
    return {one["values"]: one["counts"] for one in pc.value_counts(part.column(column)).to_pylist()}


def _report(
    results: list[dict[str, Any]],
    duplicates: Duplicates,
    keep_N: NDArray[np.bool_],
    tally: _Tally,
    settings: PreprocessSettings,
) -> dict[str, Any]:
    counts: Counter[str] = Counter()
    personal: Counter[str] = Counter()
    for result in results:
        counts.update(result["counts"])
        personal.update(result["personal"])
    read = counts.pop("read", 0)
    labels = {
        name.removeprefix("label "): counts.pop(name) for name in list(counts) if name.startswith("label ")
    }
    counts["exact duplicate"] = duplicates.exact
    counts["near-duplicate"] = duplicates.near
    counts["neither answer nor label"] = int((~keep_N & ~duplicates.dropped).sum())
    counts["picture: duplicate"] = tally.image_duplicates
    return {
        "read": read,
        "kept": {name: sum(tally.splits[name].values()) for name in NAMES},
        "pictures": dict(tally.images),
        "left_out": {name: count for name, count in sorted(counts.items()) if count},
        "personal_data": {"action": settings.personal_data, "found": dict(sorted(personal.items()))},
        "alike_but_labelled_otherwise": duplicates.contradicting,
        "labels_by_origin": dict(sorted(labels.items())),
        "classes": {name: dict(sorted(tally.splits[name].items())) for name in NAMES},
        "languages": {name: dict(sorted(tally.languages[name].items())) for name in NAMES},
        "label_sources": {name: dict(sorted(tally.sources[name].items())) for name in NAMES},
        "licences": dict(sorted(tally.licences.items())),
        "review": len(tally.review()),
    }
