"""One configuration of the grid, run by the engine's own trainer on a shared random base, phase by phase."""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from so8t_engine.benchmark.random_base import SHAPES, SharedBase, release
from so8t_engine.config import Config
from so8t_engine.data.dataset import SplitReport, Splits
from so8t_engine.data.tokenize import Collator, Encoded
from so8t_engine.memory.probe import _context, _Peaks, _Watch
from so8t_engine.model.so8t_model import SO8TModel
from so8t_engine.training import run as run_module
from so8t_engine.training.control import RunControl
from so8t_engine.training.events import Event, WarningEvent
from so8t_engine.training.preparation import Prepared
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.states import State
from so8t_engine.training.trainer import seed_everything

PROMPT = 8
#: Shared memory, so that saving measures no disk.
FAST = Path("/dev/shm") if Path("/dev/shm").is_dir() else None


def full_rows(length: int, vocabulary: int, count: int, seed: int) -> list[Encoded]:
    """Rows that fill the sequence length; all but a short prompt carries loss."""
    choose = random.Random(seed)
    rows = []
    for index in range(count):
        ids = choose.choices(range(1, vocabulary), k=length)
        labels = [-100] * PROMPT + ids[PROMPT:]
        rows.append(Encoded(ids, labels, PROMPT - 1, index % 4, index % 2, truncated=False))
    return rows


def prepared(
    config: Config,
    model: SO8TModel,
    tokenizer: Any,  # noqa: ANN401
    shape: str,
    evaluation: bool,
    steps: int = 2,
    row_tokens: int | None = None,
) -> Prepared:
    """What `so8t_engine.training.preparation.prepare` makes, with rows out of nothing.

    Args:
        row_tokens: of each row for training; None fills the sequence length.
    """
    training, length = config.training, config.data.max_length
    vocabulary, of_row = SHAPES[shape]["vocab_size"], row_tokens or length
    in_pass = training.batch_size * length // of_row if training.packing else training.batch_size
    per_step = in_pass * training.accumulation
    held = max(1, max(2048, training.batch_size * length) // length) if evaluation else 0
    return Prepared(
        config=config,
        tokenizer=tokenizer,
        model=model,
        rows=Splits([], [], SplitReport("random", 0, {}, {}, {})),
        train=full_rows(of_row, vocabulary, per_step * steps, 1),
        held_out={"validation": full_rows(length, vocabulary, held, 2)},
        collate=Collator(0),
    )


@contextmanager
def capped(gib: float | None) -> Iterator[None]:
    """The caching allocator fails beyond so many GiB."""
    if gib is None:
        yield
        return
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(gib * 2**30 / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def fresh_optimizer_manager() -> None:
    import bitsandbytes as bnb

    # It remembers parameters by id(), which Python gives to others once a run is gone.
    bnb.optim.GlobalOptimManager.get_instance().initialize()


def measure(
    config: Config,
    shape: str,
    bases: SharedBase,
    tokenizer: Any,  # noqa: ANN401
    *,
    evaluation: bool = True,
    cap_gib: float | None = None,
    row_tokens: int | None = None,
) -> dict[str, Any]:
    """Two optimizer steps, an evaluation before and after, a checkpoint and the final folder.

    Returns:
        ``phases`` with each phase's peaks, ``before`` with what the base alone holds, ``context``,
        ``step_s``, ``losses``, and ``oom``: how often the engine had to make room (not at all where it fits).
    """
    on_card = torch.cuda.is_available()
    base = bases.get(shape, config.model.quantization, config.model.double_quant, config.model.attention)
    fresh_optimizer_manager()
    seed_everything(config.training.seed)
    before = {}
    if on_card:
        torch.cuda.reset_peak_memory_stats()
        before = {"allocated": torch.cuda.memory_allocated(), "reserved": torch.cuda.memory_reserved()}
    with tempfile.TemporaryDirectory(dir=FAST) as folder, capped(cap_gib if on_card else None):
        found = _run(config, base, shape, tokenizer, evaluation, Path(folder), row_tokens)
    release()
    return {"before": before} | found


def _run(
    config: Config,
    base: torch.nn.Module,
    shape: str,
    tokenizer: Any,  # noqa: ANN401
    evaluation: bool,
    folder: Path,
    row_tokens: int | None = None,
) -> dict[str, Any]:
    run = RunDirectory.create(config, folder / "run")
    peaks = _Peaks(torch.cuda if torch.cuda.is_available() else None)
    watch = _Watch(peaks, lambda _text: None)
    losses: list[float] = []
    oom: list[str] = []

    def take(event: Event) -> None:
        watch.take(event)
        if event.type == "step":
            losses.append(event.loss)  # type: ignore[attr-defined]
        if isinstance(event, WarningEvent) and event.kind == "oom":
            oom.append(event.mend)

    control = RunControl(run, take)
    outcome = run_module._Outcome()
    failed = ""
    try:
        control.move(State.LOADING)
        model = SO8TModel(base, config)
        made = prepared(config, model, tokenizer, shape, evaluation, row_tokens=row_tokens)
        run_module._train_prepared(run, control, made, None, outcome, folder)
    except run_module.MemoryLimitError as error:
        failed = str(error)
    finally:
        control.close()
        peaks.close()
    return {
        "phases": {name: _known(asdict(peak)) for name, peak in peaks.found.items()},
        "context": _context(torch.cuda if torch.cuda.is_available() else None),
        "step_s": round(watch.step_s, 3), "losses": losses, "oom": oom, "failed": failed,
    }  # fmt: skip


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def environment() -> dict[str, str]:
    """Card, driver and versions, for the results."""
    import bitsandbytes
    import peft

    found = {
        "torch": torch.__version__, "transformers": transformers.__version__, "peft": peft.__version__,
        "bitsandbytes": bitsandbytes.__version__,
        "allocator": os.environ.get("PYTORCH_ALLOC_CONF") or os.environ.get("PYTORCH_CUDA_ALLOC_CONF", ""),
    }  # fmt: skip
    found["card"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return found
