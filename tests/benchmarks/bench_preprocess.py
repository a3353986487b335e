"""Preprocessing at size: throughput per core, memory over time, planted near-duplicates found.

``python tests/benchmarks/bench_preprocess.py --rows 1000000`` makes the rows on the spot (English and
Japanese words from the embedded rows, lengths from 20 to 900 characters), plants near-duplicates and
likenesses below the threshold, runs the step on all cores, and prints one JSON object.

``--decide ROWS`` leaves the cleaning out: it makes the files that cleaning leaves, of random signatures,
and measures what is held in memory while duplicates and splits are decided: all that grows with the rows.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow.parquet as pq

from so8t_engine.data.reader import read_rows
from so8t_engine.data.similarity import similarity
from so8t_engine.pipeline.collect.records import PartWriter, Record
from so8t_engine.pipeline.context import StepContext
from so8t_engine.pipeline.preprocess.chunks import META, chunk_files
from so8t_engine.pipeline.preprocess.duplicates import find_duplicates
from so8t_engine.pipeline.preprocess.run import preprocess
from so8t_engine.pipeline.preprocess.settings import PreprocessSettings
from so8t_engine.pipeline.preprocess.splits import assign
from so8t_engine.pipeline.store import MANIFEST, content_digest, sha256_file

#: Part of the rows that repeat an earlier row with a few words changed.
PLANTED = 0.05


def vocabulary() -> dict[str, list[str]]:
    """English words and Japanese pieces of sentences."""
    words: dict[str, set[str]] = {"en": set(), "ja": set()}
    for row in read_rows("embedded:four_class"):
        text = f"{row.prompt} {row.response}"
        found = text.split() if row.language == "en" else re.findall(r"[^、。「」]{2,8}", text)
        words[row.language or "en"].update(found)
    return {language: sorted(found) for language, found in words.items()}


def texts(count: int, seed: int) -> Iterator[tuple[str, str, str, str | None]]:
    """(text, language, kind, the text it repeats); kind is new, duplicate or alike."""
    rng = random.Random(seed)
    words = vocabulary()
    recent: list[tuple[list[str], str]] = []
    for _number in range(count):
        if recent and rng.random() < PLANTED:
            parts, language = rng.choice(recent)
            # One word in thirty changed is a duplicate; one in six is not.
            kind, share = ("duplicate", 1 / 30) if rng.random() < 0.7 else ("alike", 1 / 6)
            changed = list(parts)
            for at in rng.sample(range(len(parts)), max(1, round(len(parts) * share))):
                changed[at] = rng.choice(words[language])
            yield _joined(changed, language), language, kind, _joined(parts, language)
            continue
        language = "en" if rng.random() < 0.5 else "ja"
        size = rng.randint(*((4, 150) if language == "en" else (8, 120)))
        parts = rng.choices(words[language], k=size)
        if size >= 20:
            recent.append((parts, language))
            if len(recent) > 5_000:
                recent[rng.randrange(len(recent) - 1)] = recent.pop()
        yield _joined(parts, language), language, "new", None


def _joined(parts: list[str], language: str) -> str:
    return " ".join(parts) if language == "en" else "、".join(parts)


def make(folder: Path, count: int, seed: int) -> list[tuple[str, str]]:
    """Write the collection; what was planted as (kind, origin), by the exact measure."""
    writer = PartWriter(folder / "rows" / "00-made")
    planted: list[tuple[str, str]] = []
    for number, (text, language, _kind, of) in enumerate(texts(count, seed)):
        writer.add(Record(
            kind="text", source="made", origin=f"made:{number}", document=f"made:{number}", licence="own",
            retrieved=0.0, response=text, language=language,
        ))  # fmt: skip
        if of is not None:
            value = similarity(text, of)
            # What was meant as a duplicate may have come out below the threshold, in short texts.
            truth = "duplicate" if value >= 0.8 else "alike"
            planted.append((truth, f"made:{number}"))
    writer.flush()
    manifest = {"files": {}, "facts": {"rows": count}}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return planted


class Memory:
    """Resident memory of this process and its children, every half second, and when it was read."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, int]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._began = time.monotonic()
        self._thread.start()

    def _watch(self) -> None:
        me = psutil.Process()
        while not self._over.wait(0.5):
            total = 0
            for one in [me, *me.children(recursive=True)]:
                try:
                    total += one.memory_info().rss
                except psutil.Error:
                    continue
            self.samples.append((time.monotonic() - self._began, total))

    def close(self) -> list[tuple[float, int]]:
        self._over.set()
        self._thread.join()
        return self.samples


def measure(rows: int, workers: int, seed: int, folder: Path, dask: str = "") -> dict[str, Any]:
    """Make, run, compare."""
    collected = folder / "collect"
    began = time.monotonic()
    planted = make(collected, rows, seed)
    made = time.monotonic() - began
    output, scratch = folder / "output", folder / "scratch"
    output.mkdir()
    scratch.mkdir()
    context = StepContext(
        output,
        scratch,
        {"collect": collected},
        {},
        folder,
        seed,
        workers,
        lambda _event: None,
        lambda: False,
        dask=dask,
    )
    memory = Memory()
    processor = time.process_time()
    began = time.monotonic()
    result = preprocess(PreprocessSettings(min_chars=1), context)
    seconds = time.monotonic() - began
    processor = time.process_time() - processor
    samples = memory.close()
    kept: set[str] = set()
    for name in ("train", "validation", "test"):
        kept.update(
            pq.read_table(output / f"{name}.parquet", columns=["origin"]).column("origin").to_pylist()
        )
    dropped = result.facts["left_out"].get("near-duplicate", 0) + result.facts["left_out"].get(
        "exact duplicate", 0
    )
    duplicates = [origin for kind, origin in planted if kind == "duplicate"]
    found = sum(origin not in kept for origin in duplicates)
    # An original may go instead of its copy only if the copy came first; here it never does.
    quarter = max(1, len(samples) // 4)
    return {
        "rows": rows,
        "workers": workers,
        "dask": dask,
        "digest": content_digest(
            {path.name: {"sha256": sha256_file(path)} for path in sorted(output.glob("*.parquet"))}, ()
        )[:16],
        "made_s": round(made, 1),
        "seconds": round(seconds, 1),
        "rows_per_s": round(rows / seconds),
        "rows_per_s_per_core": round(rows / seconds / workers),
        "parts_s": result.facts["seconds"],
        "memory_peak_mb": round(max(size for _t, size in samples) / 1e6),
        "memory_mb_by_quarter": [
            round(max(size for _t, size in samples[at : at + quarter]) / 1e6)
            for at in range(0, len(samples), quarter)
        ],
        "planted_duplicates": len(duplicates),
        "planted_below_threshold": len(planted) - len(duplicates),
        "recall": round(found / max(1, len(duplicates)), 4),
        "dropped": dropped,
        "precision": round(found / max(1, dropped), 4),
        "left_out": result.facts["left_out"],
    }


def decide(rows: int, workers: int, seed: int, folder: Path) -> dict[str, Any]:
    """Duplicates and splits of ``rows`` rows, of which one in fifty repeats another."""
    rng = np.random.default_rng(seed)
    part = 50_000
    counts = [min(part, rows - at) for at in range(0, rows, part)]
    metas = []
    for number, count in enumerate(counts):
        files = chunk_files(folder, number)
        keys = rng.integers(0, 2**63, (32, count), np.uint64)
        sketches = rng.integers(0, 256, (count, 128), np.uint8)
        names = [f"row {number * part + n}" for n in range(count)]
        for n in range(49, count, 50):
            keys[:, n], sketches[n], names[n] = keys[:, n - 7], sketches[n - 7], names[n - 7]
        meta = np.zeros(count, META)
        meta["document"] = rng.integers(0, 2**63, count, np.uint64)
        meta["task"], meta["stratum"] = -1, rng.integers(0, 8, count)
        metas.append(meta[["task", "stratum"]].copy())
        np.save(files["meta"], meta)
        np.save(files["keys"], keys)
        np.save(files["sketch"], sketches)
        np.save(files["offsets"], np.cumsum([0, *(len(name) + 1 for name in names)], dtype=np.int64))
        files["text"].write_text("".join(f"{name}\0" for name in names))
    del keys, sketches, names
    starts = tuple(np.cumsum([0, *counts]).tolist())
    tasks = np.concatenate([meta["task"] for meta in metas])
    strata = np.concatenate([meta["stratum"] for meta in metas])
    del metas, meta
    memory, began = Memory(), time.monotonic()
    found = find_duplicates(folder, starts, tasks, 0.8, workers, lambda: None, lambda *_told: None)
    compared = time.monotonic() - began
    splits = assign(found.groups, strata, ~found.dropped, (0.8, 0.1, 0.1), seed)
    seconds = time.monotonic() - began
    peak = max(size for _t, size in memory.close())
    return {
        "rows": rows,
        "compared_s": round(compared, 1),
        "split_s": round(seconds - compared, 1),
        "memory_peak_mb": round(peak / 1e6),
        "bytes_a_row": round(peak / rows, 1),
        "planted": sum(len(range(49, count, 50)) for count in counts),
        "dropped": int(found.dropped.sum()),
        "split": np.bincount(splits + 1, minlength=4).tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=psutil.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--dask", default="", help="local, or the address of a scheduler")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--decide", type=int, default=0, metavar="ROWS")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.decide:
            found = decide(options.decide, options.workers, options.seed, Path(folder))
        else:
            found = measure(options.rows, options.workers, options.seed, Path(folder), options.dask)
    print(json.dumps(found, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
