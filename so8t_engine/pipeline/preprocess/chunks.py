"""One part of the collection, cleaned: what each process does, and the files it leaves."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from so8t_engine.data.labels import Task, safety_of
from so8t_engine.files import write_atomically
from so8t_engine.pipeline.collect.records import batches
from so8t_engine.pipeline.preprocess import nsfw, personal
from so8t_engine.pipeline.preprocess.language import detect, detect_all
from so8t_engine.pipeline.preprocess.quality import LOOK, defect
from so8t_engine.pipeline.preprocess.settings import PreprocessSettings
from so8t_engine.pipeline.preprocess.signatures import band_keys, signatures, sketch
from so8t_engine.pipeline.preprocess.signs import count_signs
from so8t_engine.pipeline.preprocess.text import normalise, pieces
from so8t_engine.pipeline.preprocess.weak import WeakLabel, doubt, propose

ROWS = pa.schema(
    [
        ("id", pa.string()), ("prompt", pa.string()), ("response", pa.string()), ("system", pa.string()),
        ("task", pa.int8()), ("safety", pa.int8()), ("label_source", pa.string()), ("weak_task", pa.int8()),
        ("weak_confidence", pa.float32()), ("weak_votes", pa.string()), ("doubt", pa.float32()),
        ("nsfw", pa.bool_()), ("personal", pa.int16()), ("language", pa.string()), ("source", pa.string()),
        ("origin", pa.string()), ("document", pa.string()), ("licence", pa.string()), ("digest", pa.string()),
    ]
)  # fmt: skip
IMAGES = pa.schema(
    [
        ("id", pa.string()), ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("caption", pa.string()), ("width", pa.int32()), ("height", pa.int32()), ("language", pa.string()),
        ("personal", pa.int16()), ("source", pa.string()), ("origin", pa.string()), ("document", pa.string()),
        ("licence", pa.string()), ("digest", pa.string()),
    ]
)  # fmt: skip
_READ = [
    "id", "kind", "prompt", "response", "system", "task", "safety", "language", "caption", "width", "height",
    "source", "origin", "document", "licence", "digest", "image",
]  # fmt: skip
BATCH = 1024
#: What is held in memory of each row while duplicates and splits are decided.
META = np.dtype([("document", np.uint64), ("task", np.int8), ("stratum", np.int16)])


@dataclass(frozen=True, slots=True)
class ChunkTask:
    """A part to clean. ``reviewed``: row id → the class that a person gave it."""

    number: int
    part: Path
    scratch: Path
    settings: PreprocessSettings
    seed: int
    reviewed: dict[str, int]


@dataclass(slots=True)
class _Candidate:
    """A text that may become a row. ``suffix`` tells the pieces of one record apart."""

    record: dict[str, Any]
    prompt: str
    response: str
    personal: int
    suffix: str = ""

    @property
    def whole(self) -> str:
        """All of it, as filters see it."""
        if self.prompt and self.response:
            return f"{self.prompt}\n{self.response}"
        return self.prompt or self.response


@dataclass
class _Chunk:
    candidates: list[_Candidate] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    personal: Counter[str] = field(default_factory=Counter)


def chunk_files(scratch: Path, number: int) -> dict[str, Path]:
    """The files of a chunk by what they hold; ``counts`` is written last."""
    kinds = {
        "rows": "arrow", "images": "arrow", "text": "bin", "offsets": "npy", "keys": "npy", "sketch": "npy",
        "meta": "npy",
    }  # fmt: skip
    named = {kind: scratch / f"{number:06d}.{kind}.{ending}" for kind, ending in kinds.items()}
    return named | {"counts": scratch / f"{number:06d}.json"}


def clean_chunk(task: ChunkTask) -> dict[str, Any]:
    """Clean one part and write its files; the counts that `chunk_files` names ``counts``."""
    files = chunk_files(task.scratch, task.number)
    counts: Counter[str] = Counter()
    found: Counter[str] = Counter()
    totals = {"rows": 0, "images": 0}
    keys: list[Any] = []
    sketches: list[Any] = []
    lengths: list[int] = []
    meta: list[tuple[int, int, int]] = []
    with (
        pa.OSFile(str(files["rows"]), "wb") as row_file,
        pa.ipc.new_file(row_file, ROWS) as row_writer,
        pa.OSFile(str(files["images"]), "wb") as image_file,
        pa.ipc.new_file(image_file, IMAGES) as image_writer,
        files["text"].open("wb") as texts,
    ):
        for batch in batches([task.part], _READ, BATCH):
            chunk = _Chunk()
            for record in batch.to_pylist():
                chunk.counts["read"] += 1
                (_image if record["kind"] == "image" else _text)(record, task, chunk)
            _rows(task, chunk)
            counts.update(chunk.counts)
            found.update(chunk.personal)
            totals["rows"] += len(chunk.rows)
            totals["images"] += len(chunk.images)
            if chunk.images:
                image_writer.write_batch(pa.RecordBatch.from_pylist(chunk.images, IMAGES))
            if not chunk.rows:
                continue
            row_writer.write_batch(pa.RecordBatch.from_pylist(chunk.rows, ROWS))
            measured = [row["prompt"] or row["response"] for row in chunk.rows]
            values = signatures(measured, task.seed)
            keys.append(band_keys(values))
            sketches.append(sketch(values))
            for row, key in zip(chunk.rows, measured, strict=True):
                meta.append(_meta(row, task.settings.languages))
                rest = row["response"] if row["prompt"] else ""
                lengths.append(texts.write(f"{key}\0{rest}".encode()))
    np.save(files["keys"], np.concatenate(keys, axis=1) if keys else np.zeros((32, 0), np.uint64))
    np.save(files["sketch"], np.concatenate(sketches) if sketches else np.zeros((0, 128), np.uint8))
    np.save(files["offsets"], np.cumsum([0, *lengths], dtype=np.int64))
    np.save(files["meta"], np.array(meta, META))
    result = {**totals, "counts": dict(counts), "personal": dict(found)}
    write_atomically(files["counts"], json.dumps(result))
    return result


def _meta(row: dict[str, Any], languages: list[str]) -> tuple[int, int, int]:
    document = hashlib.blake2b(row["document"].encode(), digest_size=8).digest()
    task = -1 if row["task"] is None else int(row["task"])
    return (
        int.from_bytes(document, "little"),
        task,
        (task + 1) * len(languages) + languages.index(row["language"]),
    )


def _clean(text: str | None, task: ChunkTask, chunk: _Chunk) -> tuple[str, int, bool]:
    """``text`` normalised and without personal data, how much there was, whether it forbids the row."""
    clean = normalise(text or "", task.settings.normalisation)
    if task.settings.personal_data == "keep" or not clean:
        return clean, 0, False
    presidio = task.settings.presidio_model if task.settings.presidio else None
    findings = personal.find(clean, presidio)
    for one in findings:
        chunk.personal[one.kind] += 1
    if findings and task.settings.personal_data == "drop":
        return clean, len(findings), True
    return personal.mask(clean, findings), len(findings), False


def _text(record: dict[str, Any], task: ChunkTask, chunk: _Chunk) -> None:
    prompt, in_prompt, forbidden = _clean(record["prompt"], task, chunk)
    response, in_response, also = _clean(record["response"], task, chunk)
    if forbidden or also:
        chunk.counts["personal data"] += 1
        return
    settings = task.settings
    if prompt:
        chunk.candidates.append(_Candidate(record, prompt, response, in_prompt + in_response))
        return
    for number, piece in enumerate(pieces(response, settings.chunk_chars)):
        chunk.candidates.append(_Candidate(record, "", piece, in_response, f"-{number}" if number else ""))


def _rows(task: ChunkTask, chunk: _Chunk) -> None:
    """Rows of all candidates: what costs little for many texts at once is done for all."""
    settings = task.settings
    wholes = [one.whole for one in chunk.candidates]
    usable: list[tuple[_Candidate, str]] = []
    for one, whole, signs in zip(chunk.candidates, wholes, count_signs(wholes, LOOK), strict=True):
        reason = defect(whole, min_chars=settings.min_chars, max_chars=settings.max_chars, signs=signs)
        if reason is not None:
            chunk.counts[reason] += 1
        else:
            usable.append((one, whole))
    languages = detect_all([whole for _one, whole in usable], [one.record["language"] for one, _w in usable])
    for (one, whole), language in zip(usable, languages, strict=True):
        if language in settings.languages:
            _row(one, whole, language, task, chunk)
        else:
            chunk.counts[f"language {language}"] += 1


def _row(one: _Candidate, whole: str, language: str, task: ChunkTask, chunk: _Chunk) -> None:
    settings, record, prompt, response = task.settings, one.record, one.prompt, one.response
    row_id = record["id"] + one.suffix
    label, safety, source = (
        record["task"],
        record["safety"],
        "given" if record["task"] is not None else "none",
    )
    weak = propose(prompt) if prompt else None
    doubtful = 0.0
    if row_id in task.reviewed:
        label, source = task.reviewed[row_id], "reviewed"
        safety = int(safety_of(label))
    elif prompt and weak is not None:
        doubtful = doubt(label, weak)
        if label is None and settings.weak_labels and _trusted(weak, safety, settings):
            label, source = weak.task, "weak"
            safety = None if label is None else int(safety_of(label))
    rough = nsfw.is_nsfw(whole)
    if rough and (settings.nsfw == "drop" or not nsfw.kept_role(prompt, response, label)):
        chunk.counts["nsfw"] += 1
        return
    chunk.counts[f"label {source}"] += 1
    chunk.rows.append(
        {
            "id": row_id, "prompt": prompt, "response": response,
            "system": normalise(record["system"] or "", settings.normalisation) or None,
            "task": None if label is None else int(label), "safety": safety, "label_source": source,
            "weak_task": None if weak is None or weak.task is None else int(weak.task),
            "weak_confidence": None if weak is None or weak.task is None else weak.confidence,
            "weak_votes": None if weak is None else ", ".join(weak.votes) or None,
            "doubt": doubtful, "nsfw": rough, "personal": one.personal, "language": language,
            "source": record["source"], "origin": record["origin"], "document": record["document"],
            "licence": record["licence"], "digest": record["digest"],
        }
    )  # fmt: skip


def _trusted(weak: WeakLabel, safety: int | None, settings: PreprocessSettings) -> bool:
    """Whether a weak label is good enough to be trained; a given safety label must not contradict it."""
    if weak.task is None or weak.confidence < settings.weak_confidence:
        return False
    return safety in (None, int(safety_of(weak.task)))


def _image(record: dict[str, Any], task: ChunkTask, chunk: _Chunk) -> None:
    caption, count, forbidden = _clean(record["caption"], task, chunk)
    language = detect(caption, record["language"])
    reason = defect(caption, min_chars=task.settings.min_chars, max_chars=task.settings.max_chars)
    if forbidden:
        reason = "personal data"
    elif reason is None and language not in task.settings.languages:
        reason = f"language {language}"
    elif reason is None and nsfw.is_nsfw(caption):
        reason = "nsfw"
    if reason is not None:
        chunk.counts[f"picture: {reason}"] += 1
        return
    kept = {name: record[name] for name in IMAGES.names if name in record}
    chunk.images.append(kept | {"caption": caption, "language": language, "personal": count})


def class_name(task: int | None) -> str:
    """The class's name; ``unlabelled`` for none."""
    return "unlabelled" if task is None else Task(task).name
