"""Arrow files that chunks leave, and the Parquet files made of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def stored_batches(path: Path, columns: list[int] | None = None) -> Iterator[pa.RecordBatch]:
    """The batches of an Arrow file, of the columns with these numbers only if any are given."""
    options = pa.ipc.IpcReadOptions(included_fields=columns)
    with pa.OSFile(str(path), "rb") as file, pa.ipc.open_file(file, options=options) as reader:
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)


class RowWriter:
    """A Parquet file, written beside its place in row groups of some thousand rows."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._path, self._temporary = path, path.with_name(f"{path.name}.tmp")
        self._writer = pq.ParquetWriter(self._temporary, schema, compression="zstd")
        self._pending: list[pa.RecordBatch] = []
        self._rows = self._total = 0

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows."""
        self._pending.append(batch)
        self._rows += batch.num_rows
        self._total += batch.num_rows
        if self._rows >= 8192:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self._writer.write_table(pa.Table.from_batches(self._pending))
        self._pending, self._rows = [], 0

    def close(self) -> None:
        """Publish the file; one without rows is not written, because readers want rows."""
        self._flush()
        self._writer.close()
        if self._total:
            self._temporary.replace(self._path)
        else:
            self._temporary.unlink()
