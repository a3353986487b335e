"""Soul records in training: sentences with a limited share, and the run's gate beside the records."""

from __future__ import annotations

import bisect
import json
import random
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any

from so8t_engine.training.events import GateEvent
from so8t_engine.training.run_directory import RunDirectory


def rows_with_soul(rows: Path, soul: Path, folder: Path, share: float, seed: int) -> Path:
    """A data folder like ``rows`` whose training part also holds sentences of soul records.

    Args:
        share: the largest part of the training rows that are such sentences, in (0, 1).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    for name in ("validation", "test"):
        if (rows / f"{name}.parquet").exists():
            shutil.copyfile(rows / f"{name}.parquet", folder / f"{name}.parquet")
    lines = (soul / "train.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line)["text"] for line in lines if line.strip()]
    with (
        pq.ParquetFile(rows / "train.parquet") as file,
        pq.ParquetWriter(folder / "train.parquet", file.schema_arrow, compression="zstd") as writer,
    ):
        count = file.metadata.num_rows
        for batch in file.iter_batches(batch_size=8192):
            writer.write_batch(batch)
        allowed = min(len(texts), int(share * count / (1 - share)))
        chosen = random.Random(seed).sample(texts, allowed)
        added = [
            {"id": f"soul-{n}", "prompt": "", "response": text, "label_source": "none", "source": "soul",
             "licence": "own", "nsfw": False, "personal": 0, "doubt": 0.0}
            for n, text in enumerate(chosen)
        ]  # fmt: skip
        if added:
            writer.write_table(pa.Table.from_pylist(added, file.schema_arrow))
    return folder


def compare_with_run(soul: Path, run: RunDirectory) -> dict[str, Any]:
    """How far the run's α was from that of the records at the same part of the way, phase by phase.

    The records are what the schedule wants; the run's α is what it had. Nothing here claims convergence.
    """
    gates = [event for event in run.read_events() if isinstance(event, GateEvent)]
    if not gates:
        return {"compared": 0}
    steps = [gate.step for gate in gates]
    last = max(steps)
    gaps: dict[str, list[float]] = defaultdict(list)
    for line in (soul / "index.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        of = record.get("of") or 0
        if not of or record.get("alpha_gate") is None:
            continue
        at = bisect.bisect_left(steps, record["step"] / of * last)
        gaps[record["phase"]].append(abs(gates[min(at, len(gates) - 1)].alpha - record["alpha_gate"]))
    return {
        "compared": sum(len(values) for values in gaps.values()),
        "alpha_source": gates[-1].source,
        "mean_alpha_gap": {phase: round(sum(v) / len(v), 4) for phase, v in sorted(gaps.items())},
        "largest_alpha_gap": {phase: round(max(v), 4) for phase, v in sorted(gaps.items())},
    }
