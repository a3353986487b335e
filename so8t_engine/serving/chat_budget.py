"""Whether a finished run can be loaded to chat with, beside what is running. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

from so8t_engine.config import Config, load_config
from so8t_engine.errors import ModelError
from so8t_engine.i18n import _
from so8t_engine.memory.budget import GIB, estimate, gib, runs_on_cpu
from so8t_engine.memory.geometry import model_geometry
from so8t_engine.memory.nvml import NvmlReading, read_memory

#: What stays free for the system and the window, and what interpreter and libraries take (measured: 0.52 GB).
RESERVE = GIB // 4
PROCESS = 700_000_000


@dataclass(frozen=True, slots=True)
class ChatBudget:
    """Bytes, estimated. ``claimed`` is what a run under way may still come to need."""

    needed: int
    free: int
    claimed: int
    on_card: bool

    @property
    def fits(self) -> bool:
        return self.needed <= self.free - self.claimed

    @property
    def sentence(self) -> str:
        """Need and room in one line."""
        values = {"needed": gib(self.needed), "free": gib(self.free), "claimed": gib(self.claimed)}
        if self.claimed:
            return (
                _("estimated %(needed)s GiB; %(free)s GiB are free, of which the run may need %(claimed)s")
                % values
            )
        return _("estimated %(needed)s GiB; %(free)s GiB are free") % values


def run_config(run: Path) -> Config:
    """The configuration of a run's result. Raises `ConfigError`."""
    final = run / "final" / "config.yaml"
    return load_config(final if final.is_file() else run / "config.yaml")


def chat_budget(config: Config, running: Config | None = None, running_used: int = 0) -> ChatBudget:
    """Memory for a run's model to speak, against what is free now.

    Args:
        running: configuration of a run under way on the same device, whose peak is still to come.
        running_used: bytes it uses now, so that they are not counted twice.

    Raises:
        ModelError: the size of the base model is unknown.
    """
    on_card = not runs_on_cpu(config)
    terms = estimate(config).terms
    geometry = model_geometry(config.model.path, config.model.revision)
    shared = terms["lora"] + terms["so8t"]
    cache = 2 * 2 * geometry.layers * geometry.kv_heads * geometry.head_dim * min(geometry.positions, 4096)
    if on_card:
        weights = terms["weights"] + terms["quantisation_constants"] + terms["embeddings"]
        needed = weights + shared + cache * 2 + terms["context"]
        reading = read_memory()
        free = reading.free if isinstance(reading, NvmlReading) else 0
    else:
        # Dense float32, and for a moment the quantised values beside it.
        weights = 4 * geometry.parameters
        needed = weights + weights // 2 + shared + cache * 4 + PROCESS
        free = max(0, int(psutil.virtual_memory().available) - RESERVE)
    claimed = 0
    if running is not None and runs_on_cpu(running) != on_card:
        try:
            claimed = max(0, estimate(running).needed_bytes - running_used)
        except ModelError:
            claimed = 0  # a run that is under way has loaded its model; only its peak is unknown
    return ChatBudget(needed, free, claimed, on_card)
