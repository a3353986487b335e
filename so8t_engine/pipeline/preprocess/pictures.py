"""Pictures with their split; the same picture with the same caption once."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from so8t_engine.pipeline.context import StepContext
from so8t_engine.pipeline.preprocess.chunks import IMAGES, chunk_files
from so8t_engine.pipeline.preprocess.external import Rows, Words, equal_pairs
from so8t_engine.pipeline.preprocess.settings import PreprocessSettings
from so8t_engine.pipeline.preprocess.tables import RowWriter, stored_batches


def write_pictures(
    settings: PreprocessSettings, context: StepContext, chunks: int
) -> tuple[Counter[str], int]:
    """Write ``images.parquet``; how many pictures each split has, and how many were left out as repeats."""
    schema = IMAGES.append(pa.field("split", pa.string()))
    writer = RowWriter(context.output / "images.parquet", schema)
    repeated_N = _repeated(context, chunks)
    seen: set[str] = set()  # of those that occur again
    counts: Counter[str] = Counter()
    number = duplicates = 0
    for chunk in range(chunks):
        for batch in stored_batches(chunk_files(context.scratch, chunk)["images"]):
            context.check()
            rows = []
            for row in batch.to_pylist():
                again = row["digest"] in seen
                if repeated_N[number]:
                    seen.add(row["digest"])
                number += 1
                if again:
                    duplicates += 1
                    continue
                # By the digest: the same picture falls into the same split in every collection.
                part = int(row["digest"][:8], 16) / 2**32
                test, validation = settings.test_fraction, settings.validation_fraction
                split = "test" if part < test else "validation" if part < test + validation else "train"
                counts[split] += 1
                rows.append(row | {"split": split})
            if rows:
                writer.write(pa.RecordBatch.from_pylist(rows, schema))
    writer.close()
    return counts, duplicates


def _repeated(context: StepContext, chunks: int) -> NDArray[np.bool_]:
    """Whether another picture's digest begins like that of each: all digests in memory would be too many."""
    columns = [IMAGES.get_field_index("digest")]

    def beginnings() -> Iterator[tuple[Words, Rows]]:
        at = 0
        for chunk in range(chunks):
            for batch in stored_batches(chunk_files(context.scratch, chunk)["images"], columns):
                digests = batch.column("digest").to_pylist()
                keys = np.array([int(digest[:16], 16) for digest in digests], np.uint64)
                yield keys, np.arange(at, at + keys.size, dtype=np.uint32)
                at += keys.size

    count = sum(keys.size for keys, _rows in beginnings())
    folder = context.scratch / "pictures"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    found = np.zeros(count, np.bool_)
    for pairs in equal_pairs(beginnings, count, folder, chain=True):
        found[(pairs >> np.uint64(32)).astype(np.int64)] = True
        found[(pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)] = True
    shutil.rmtree(folder, ignore_errors=True)
    return found
