"""One layout for all that is collected: text and pictures, a row each, in Parquet that ``datasets`` reads."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from so8t_engine.files import move
from so8t_engine.pipeline.store import sha256_json

_FEATURES = {
    "id": "string", "kind": "string", "prompt": "string", "response": "string", "system": "string",
    "task": "int8", "safety": "int8", "language": "string", "title": "string", "caption": "string",
    "width": "int32", "height": "int32", "source": "string", "origin": "string", "document": "string",
    "licence": "string", "retrieved": "float64", "digest": "string",
}  # fmt: skip
_TYPES = {"string": pa.string(), "int8": pa.int8(), "int32": pa.int32(), "float64": pa.float64()}
_HUGGINGFACE = {
    "info": {
        "features": {
            **{name: {"dtype": kind, "_type": "Value"} for name, kind in _FEATURES.items()},
            "image": {"_type": "Image"},
        }
    }
}
SCHEMA = pa.schema(
    [
        *((name, _TYPES[kind]) for name, kind in _FEATURES.items()),
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
    ],
    metadata={"huggingface": json.dumps(_HUGGINGFACE)},
)
CONTENT = ("kind", "prompt", "response", "system", "task", "safety", "caption")
PART_ROWS = 10_000
PART_BYTES = 64 * 2**20
_CONSUMED = b"so8t.consumed"


@dataclass(slots=True)
class Record:
    """One collected row.

    Args:
        kind: ``text`` or ``image``.
        prompt, response: as `so8t_engine.data.rows.Row`; plain text stands in ``response`` alone.
        origin: file and line, or address. document: rows of one document share it.
        licence: SPDX name; empty where nobody names one.
        retrieved: seconds since 1970.
        image: the picture's file as it came. caption: what it shows, written by a person or the source.
    """

    kind: str
    source: str
    origin: str
    document: str
    licence: str
    retrieved: float
    prompt: str = ""
    response: str = ""
    system: str | None = None
    task: int | None = None
    safety: int | None = None
    language: str | None = None
    title: str | None = None
    caption: str | None = None
    width: int | None = None
    height: int | None = None
    image: bytes | None = None
    image_path: str | None = None

    def row(self) -> dict[str, Any]:
        """The row with its id and digest."""
        values: dict[str, Any] = {
            name: getattr(self, name) for name in _FEATURES if name not in {"id", "digest"}
        }
        picture = hashlib.sha256(self.image).hexdigest() if self.image is not None else None
        values["digest"] = sha256_json([*(values[name] for name in CONTENT), picture])
        values["id"] = hashlib.sha256(f"{self.origin}\0{values['digest']}".encode()).hexdigest()[:32]
        values["image"] = None if self.image is None else {"bytes": self.image, "path": self.image_path}
        return values


@dataclass
class PartWriter:
    """Rows of one source in numbered parts; each is whole or not there, and says how far it reaches.

    Args:
        folder: of the source; parts already there are kept.
        consumed: records of the source that were looked at. rows: written. taken: written or pending.
        counts: reason → refused records. licences: name → rows taken.
    """

    folder: Path
    consumed: int = 0
    rows: int = 0
    taken: int = 0
    pictures: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    licences: Counter[str] = field(default_factory=Counter)
    _parts: int = 0
    _pending: list[dict[str, Any]] = field(default_factory=list, repr=False)
    _bytes: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob("*.tmp"):
            path.unlink()
        parts = sorted(self.folder.glob("part-*.parquet"))
        self._parts = len(parts)
        for path in parts:
            with pq.ParquetFile(path) as file:
                self.rows += file.metadata.num_rows
                state = json.loads((file.schema_arrow.metadata or {})[_CONSUMED])
        if parts:
            self.consumed = state["consumed"]
            self.counts, self.licences = Counter(state["counts"]), Counter(state["licences"])
            self.pictures, self.taken = state["pictures"], self.rows

    def refuse(self, reason: str) -> None:
        """Count one record of the source that is not taken."""
        self.consumed += 1
        self.counts[reason] += 1

    def add(self, record: Record) -> None:
        """Take one record of the source."""
        self.consumed += 1
        row = record.row()
        self.taken += 1
        self.licences[record.licence or "unknown"] += 1
        self.pictures += record.kind == "image"
        self._pending.append(row)
        self._bytes += len(record.image or b"") + len(record.prompt) + len(record.response)
        if len(self._pending) >= PART_ROWS or self._bytes >= PART_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as a part."""
        if not self._pending:
            return
        state = json.dumps(
            {
                "consumed": self.consumed,
                "counts": dict(self.counts),
                "licences": dict(self.licences),
                "pictures": self.pictures,
            }
        )
        schema = SCHEMA.with_metadata({**(SCHEMA.metadata or {}), _CONSUMED: state.encode()})
        target = self.folder / f"part-{self._parts:05d}.parquet"
        temporary = target.with_suffix(".tmp")
        pq.write_table(pa.Table.from_pylist(self._pending, schema), temporary, compression="zstd")
        move(temporary, target, over=True)
        self._parts += 1
        self.rows += len(self._pending)
        self._pending, self._bytes = [], 0


def row_files(folder: Path) -> list[Path]:
    """All parts below ``rows/`` of a published collection, in order."""
    return sorted((folder / "rows").glob("*/part-*.parquet"))


def batches(
    files: list[Path], columns: list[str] | None = None, size: int = 2048
) -> Iterator[pa.RecordBatch]:
    """Record batches of ``files`` one after the other, in constant memory."""
    for path in files:
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(batch_size=size, columns=columns)


def content_of(files: list[Path]) -> str:
    """A digest over every row but the time at which it was retrieved, in order."""
    digest = hashlib.sha256()
    columns = [name for name in _FEATURES if name != "retrieved"]
    for batch in batches(files, columns):
        for row in batch.to_pylist():
            digest.update(json.dumps(row, sort_keys=True).encode())
    return digest.hexdigest()
