"""Which rows share a pack, and whole runs on packed rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from so8t_engine.config import Config
from so8t_engine.errors import DataError
from so8t_engine.training.checkpoint import checkpoints
from so8t_engine.training.checkpoint_state import WEIGHTS
from so8t_engine.training.events import Event, InfoEvent, StepEvent
from so8t_engine.training.packing import PackedBatches, pack_lengths
from so8t_engine.training.run import run_training
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.states import Command

Make = Callable[..., Config]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=200), st.integers(50, 120), st.integers(0, 9))
@settings(max_examples=100, deadline=None)
def test_each_epoch_holds_each_row_once_in_as_many_packs(
    lengths: list[int], capacity: int, seed: int
) -> None:
    sampler = PackedBatches(lengths, capacity, seed)
    epochs = []
    for epoch in range(3):
        sampler.set_epoch(epoch)
        packs = list(sampler)
        assert packs == list(sampler), "the same epoch is the same"
        assert len(packs) == len(sampler)
        assert sorted(row for pack in packs for row in pack) == list(range(len(lengths)))
        assert all(sum(lengths[row] for row in pack) <= capacity for pack in packs)
        epochs.append(packs)
    fewest = -(-sum(lengths) // capacity)
    assert fewest <= len(sampler) <= 11 / 9 * _fewest_possible(lengths, capacity) + 4


def _fewest_possible(lengths: list[int], capacity: int) -> int:
    """An upper bound on the best packing: next fit by falling length needs no fewer packs."""
    count, room = 0, 0
    for length in sorted(lengths, reverse=True):
        if length > room:
            count, room = count + 1, capacity
        room -= length
    return count


def test_rows_meet_others_in_each_epoch() -> None:
    sampler = PackedBatches([10, 20, 30] * 40, 60, 1)
    orders = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        orders.append({frozenset(pack) for pack in sampler})
    assert len(orders[0] & orders[1]) < len(orders[0]) / 4


def test_a_row_that_fits_nowhere_is_an_error() -> None:
    with pytest.raises(DataError, match="17"):
        pack_lengths([3, 17], 16)


def _run(
    config: Config, path: Path, on_event: Callable[[Event], None] | None = None, resume: bool = False
) -> tuple[int, list[Event]]:
    run = RunDirectory.open(path) if resume else RunDirectory.create(config, path)
    status = run_training(run, on_event=on_event, handle_signals=False, resume=resume)
    return status, run.read_events()


def _config(make: Make) -> Config:
    # Dropout stays on: its random numbers must continue too.
    return make(
        training={"packing": True, "batch_size": 4, "accumulation": 2, "max_steps": None, "epochs": 3.0}
    )


def test_a_run_on_packed_rows_ends_as_planned_and_resumes_bit_identically(
    tiny_config: Make, tmp_path: Path
) -> None:
    config = _config(tiny_config)
    status, events = _run(config, tmp_path / "whole")
    assert status == 0
    steps = [event for event in events if isinstance(event, StepEvent)]
    facts = next(event for event in events if isinstance(event, InfoEvent)).facts
    assert steps[-1].step == facts["steps"] == len(steps)
    # 24 rows of 96 tokens and less, 384 to a pass: an epoch's real tokens are all rows', once.
    per_epoch = len(steps) // 3
    assert sum(step.tokens for step in steps[:per_epoch]) == round(facts["tokens_mean"] * 24)

    halt = len(steps) // 2
    directory = tmp_path / "halved"

    def stop(event: Event) -> None:
        if isinstance(event, StepEvent) and event.step == halt:
            RunDirectory(directory).send(Command.STOP)

    _status, halved = _run(config, directory, stop)
    assert len([event for event in halved if isinstance(event, StepEvent)]) < len(steps)
    status, resumed = _run(config, directory, resume=True)
    assert status == 0
    again = {event.step: event.loss for event in resumed if isinstance(event, StepEvent)}
    assert again == {step.step: step.loss for step in steps}
    one, other = (
        load_file(checkpoints(RunDirectory.open(path).checkpoints)[-1] / WEIGHTS)
        for path in (tmp_path / "whole", directory)
    )
    assert set(one) == set(other)
    assert all(torch.equal(one[name], other[name]) for name in one)
