"""Two real optimizer steps on the longest rows, an evaluation and a save, with the memory peak of each phase.

The probe is a run like any other, in a folder of its own that is removed: what it measures is what a run
does. Its rows are the longest of the configuration's.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from so8t_engine.config import Config
from so8t_engine.data.dataset import load_splits
from so8t_engine.data.rows import Row, Safety, Task
from so8t_engine.errors import RunError, SO8TError
from so8t_engine.i18n import _
from so8t_engine.memory.fit import with_changes
from so8t_engine.memory.geometry import model_geometry
from so8t_engine.memory.measured import PhasePeak, ProbeResult, memory_digest, store
from so8t_engine.memory.nvml import NvmlReading, read_memory
from so8t_engine.training.events import (
    CheckpointEvent,
    ErrorEvent,
    EvaluationEvent,
    Event,
    InfoEvent,
    StateEvent,
    StepEvent,
)
from so8t_engine.training.states import State

STEPS = 2
SAMPLE_S = 0.01


class _Peaks:
    """Reads and resets peaks at each phase's end: the allocator's on the card, the process's by sampling."""

    def __init__(self, cuda: Any) -> None:  # noqa: ANN401  (torch.cuda, or None on the CPU)
        self._cuda = cuda
        self._process = psutil.Process()
        self._rss = 0
        self._closing = threading.Event()
        self.found: dict[str, PhasePeak] = {}
        self._thread = threading.Thread(target=self._sample, name="so8t-probe", daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._closing.wait(SAMPLE_S):
            self._rss = max(self._rss, self._process.memory_info().rss)

    def end_of(self, phase: str) -> None:
        """What was needed since the last call belongs to ``phase``."""
        rss, self._rss = max(self._rss, self._process.memory_info().rss), 0
        now = PhasePeak(process_rss=rss)
        if self._cuda is not None:
            device = read_memory(self._cuda.current_device())
            now = replace(
                now,
                allocated=self._cuda.max_memory_allocated(),
                reserved=self._cuda.max_memory_reserved(),
                device_used=device.used if isinstance(device, NvmlReading) else None,
            )
            self._cuda.reset_peak_memory_stats()
        before = self.found.get(phase)
        self.found[phase] = now if before is None else _larger(before, now)

    def close(self) -> None:
        self._closing.set()
        self._thread.join(timeout=2.0)


def _larger(one: PhasePeak, other: PhasePeak) -> PhasePeak:
    def most(name: str) -> int | None:
        values = [v for v in (getattr(one, name), getattr(other, name)) if v is not None]
        return max(values) if values else None

    return PhasePeak(*(most(name) for name in ("allocated", "reserved", "device_used", "process_rss")))


def _record(row: Row) -> dict[str, Any]:
    record: dict[str, Any] = {"prompt": row.prompt, "response": row.response, "system": row.system}
    if not row.prompt:
        record = {"text": row.response}
    if row.task is not None:
        record["task"] = Task(row.task).name
    if row.safety is not None:
        record["safety"] = Safety(row.safety).name.lower()
    return {name: value for name, value in record.items() if value is not None}


def _longest_rows(config: Config, folder: Path) -> int:
    """Write the longest rows as the probe's own data; returns the tokens of the longest."""
    from so8t_engine.data.tokenize import encode_row
    from so8t_engine.model.loading import load_tokenizer

    data = config.data
    rows = load_splits(
        data.train, data.validation, fmt=data.format, validation_fraction=data.validation_fraction,
        seed=config.training.seed, max_rows=data.max_rows,
    )  # fmt: skip
    tokenizer = load_tokenizer(config.model)
    wanted = STEPS * config.training.batch_size * config.training.accumulation
    longest = 0
    for name, part, count in (("train", rows.train, wanted), ("validation", rows.validation, 8)):
        # Characters order rows almost as tokens do, and a large file is not tokenised whole for it.
        likely = sorted(part, key=lambda row: len(row.prompt) + len(row.response), reverse=True)[: 4 * count]
        sized = [(len(encode_row(tokenizer, row, data.max_length).input_ids), row) for row in likely]
        sized.sort(key=lambda pair: pair[0], reverse=True)
        chosen = sized[:count]
        if name == "train":
            longest = chosen[0][0] if chosen else 0
            while chosen and len(chosen) < count:  # few rows: the longest ones again
                chosen += chosen[: count - len(chosen)]
            if chosen and config.training.packing:  # so many that the passes are full
                tokens = sum(size for size, _row in chosen)
                chosen *= -(-count * data.max_length // tokens)
        text = "".join(json.dumps(_record(row), ensure_ascii=False) + "\n" for _size, row in chosen)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return longest


def probe(config: Config, say: Callable[[str], None] = lambda _text: None) -> ProbeResult:
    """Measure what training with ``config`` needs; keeps the result for `estimate`.

    Args:
        say: told each phase as it ends, for a person.

    Raises:
        SO8TError: the configuration, model or rows cannot be used, or the run failed; says why.
    """
    import torch

    from so8t_engine.model.loading import choose_device
    from so8t_engine.training.preflight import preflight
    from so8t_engine.training.run import run_training
    from so8t_engine.training.run_directory import RunDirectory

    preflight(config)
    device = choose_device(config.model.device)
    cuda = torch.cuda if device.type == "cuda" else None
    with TemporaryDirectory(prefix="so8t-probe-", ignore_cleanup_errors=True) as scratch:
        rows = Path(scratch) / "rows"
        rows.mkdir()
        longest = _longest_rows(config, rows)
        changed = with_changes(
            config,
            {
                "data.train": str(rows), "data.validation": None, "data.format": "auto",
                "data.max_rows": None, "training.max_steps": STEPS, "training.evaluate_every": None,
                "checkpoints.every_steps": None, "checkpoints.every_minutes": None,
            },
        )  # fmt: skip
        run = RunDirectory.create(changed, Path(scratch) / "run")
        peaks = _Peaks(cuda)
        watch = _Watch(peaks, say)
        began = time.monotonic()
        try:
            status = run_training(run, on_event=watch.take, handle_signals=False)
        finally:
            peaks.close()
    if status != 0 or watch.error is not None:
        error = watch.error
        if error is None:
            raise RunError(
                _("The probe did not reach its end."), _("Try a real run; its log names the reason.")
            )
        failure = SO8TError(error.sentence, error.mend)
        failure.kind = error.kind
        raise failure
    result = ProbeResult(
        device=torch.cuda.get_device_name() if cuda is not None else "cpu",
        phases=peaks.found,
        context=_context(cuda),
        longest_row=longest,
        rows_fill=longest >= config.data.max_length,
        step_s=watch.step_s,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    say(_("Probed in %(seconds).0f s.") % {"seconds": time.monotonic() - began})
    store(
        memory_digest(config, model_geometry(config.model.path, config.model.revision), result.device), result
    )
    return result


def _context(cuda: Any) -> int | None:  # noqa: ANN401
    """Bytes on the card outside the allocator: what NVML says is used, if nobody else uses the card."""
    if cuda is None:
        return None
    device = read_memory(cuda.current_device())
    if not isinstance(device, NvmlReading):
        return None
    return max(0, device.used - int(cuda.memory_reserved()))


class _Watch:
    """Turns events into phase ends."""

    def __init__(self, peaks: _Peaks, say: Callable[[str], None]) -> None:
        self._peaks, self._say = peaks, say
        self.error: ErrorEvent | None = None
        self.step_s = 0.0

    def take(self, event: Event) -> None:
        phase = ""
        if isinstance(event, StateEvent) and event.to == State.RUNNING and event.from_ == State.LOADING:
            phase = "loading"
        elif isinstance(event, EvaluationEvent):
            phase = "evaluation"
        elif isinstance(event, StepEvent):
            phase, self.step_s = "step", event.step_s
        elif isinstance(event, CheckpointEvent):
            phase = "save"
        elif isinstance(event, ErrorEvent):
            self.error = event
        elif isinstance(event, InfoEvent):
            self._say(_("rows of up to %(count)d tokens") % {"count": event.facts.get("tokens_longest", 0)})
        if phase:
            self._peaks.end_of(phase)
            self._say(phase)
