"""Several processes train what one trains: the same rows, losses and weights; none is left waiting."""

from __future__ import annotations

import os
import signal
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from so8t_engine.config import Config
from so8t_engine.training.batches import EpochBatches
from so8t_engine.training.events import (
    EndEvent,
    ErrorEvent,
    Event,
    InfoEvent,
    StateEvent,
    StepEvent,
    WarningEvent,
)
from so8t_engine.training.run_directory import RunDirectory
from so8t_engine.training.shares import RankBatches, passes_of, share_of
from so8t_engine.training.states import Command
from tests.faults.harness import (
    events,
    final_tensors,
    fork,
    losses,
    same,
    tiny_run_config,
    train,
    wait_for,
    write_sources,
)
from tests.faults.several import start

STEPS = 7


@given(batches=st.lists(st.integers(1, 9), min_size=1, max_size=11), size=st.integers(1, 6), data=st.data())
def test_every_row_of_a_step_is_computed_once(batches: list[int], size: int, data: st.DataObject) -> None:
    accumulation = data.draw(st.integers(len(batches), 12))
    rows = iter(range(sum(batches)))
    step = [[next(rows) for _row in range(count)] for count in batches]
    passes = passes_of(accumulation, size)
    shares = [share_of(step, rank, size, passes) for rank in range(size)]
    assert all(len(share) == passes for share in shares)
    assert sorted(chain(*chain(*shares))) == list(range(sum(batches)))
    counts = [sum(map(len, share)) for share in shares]
    if accumulation % size == 0 and len(batches) == accumulation and len(set(batches)) == 1:
        assert max(counts) == min(counts)


def test_the_order_of_rows_is_the_same_for_any_number_of_processes() -> None:
    lengths = [5, 9, 7, 3, 8, 6, 4, 2, 9, 5, 1]

    def steps(size: int) -> list[set[int]]:
        found: list[set[int]] = []
        for rank in range(size):
            batches = EpochBatches(lengths, 2, 42, True)
            shares = RankBatches(batches, 3, rank, size)
            own = list(shares)
            assert len(own) == len(shares)
            for number in range(0, len(own), shares.passes):
                if rank == 0:
                    found.append(set())
                found[number // shares.passes] |= set(chain(*own[number : number + shares.passes]))
        return found

    assert steps(2) == steps(1) == steps(3)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_sources(tmp_path_factory.mktemp("sources"))


def _config(sources: tuple[Path, Path], runs: Path, /, **sections: dict[str, Any]) -> Config:
    training = {"max_steps": STEPS, "gradient_checkpointing": True, "evaluate_every": 3}
    training |= sections.pop("training", {})
    so8t = {"alpha_schedule": "learned", "commutator_weight": 0.1}
    return tiny_run_config(*sources, runs, training=training, so8t=so8t, lora={"dropout": 0.0}, **sections)


def _one(config: Config, path: Path) -> None:
    assert wait_for(fork(lambda: train(config, path), path.parent / "one.log")) == 0


def _close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    """Equal up to rounding. Where a gradient is rounding alone, Adam makes a whole step of its sign: what may
    differ are a few elements out of thousands, by less than the steps they have made."""
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        difference = (tensor.double() - other[name].double()).abs()
        assert float(difference.max()) < 1e-4, name
        assert float(difference.mean()) < 1e-6, name


@pytest.mark.parametrize(
    ("size", "training"),
    [
        (2, {"batch_size": 2, "accumulation": 2}),
        (2, {"batch_size": 3, "accumulation": 1}),
        (3, {"batch_size": 1, "accumulation": 4, "packing": True, "optimizer": "adamw_8bit"}),
    ],
)
def test_losses_and_weights_are_those_of_one_process(
    sources: tuple[Path, Path], tmp_path: Path, size: int, training: dict[str, Any]
) -> None:
    config = _config(sources, tmp_path / "runs", training=training)
    _one(config, tmp_path / "one")
    pids = start(config, tmp_path / "several", size)
    assert [wait_for(pid, 120) for pid in pids] == [0] * size
    steps = [
        [event for event in events(tmp_path / name) if isinstance(event, StepEvent)]
        for name in ("one", "several")
    ]
    assert len(steps[0]) == STEPS
    for alone, together in zip(*steps, strict=True):
        assert together.terms == pytest.approx(alone.terms, rel=2e-5, abs=1e-7)
        assert together.grad_norm == pytest.approx(alone.grad_norm, rel=2e-5)
        assert together.tokens == alone.tokens
    _close(final_tensors(tmp_path / "one"), final_tensors(tmp_path / "several"))
    (facts,) = [event.facts for event in events(tmp_path / "several") if isinstance(event, InfoEvent)]
    assert facts["processes"] == size


def test_a_stop_stops_all_and_any_number_goes_on(sources: tuple[Path, Path], tmp_path: Path) -> None:
    """With dropout: what each process draws follows from the step, so that a resumed run draws it again."""
    config = _config(sources, tmp_path / "runs")
    dropping = Config.model_validate(config.model_dump() | {"lora": {"dropout": 0.3}})
    path = tmp_path / "stopped"

    def stop(_rank: int, event: Event | None) -> None:
        if isinstance(event, StepEvent) and event.step == 3:
            RunDirectory(path).send(Command.STOP)
            import time

            time.sleep(0.2)  # until it is heard, so that it takes effect after this step

    assert [wait_for(pid, 120) for pid in start(dropping, path, 2, stop)] == [0, 0]
    ended = [event for event in events(path) if isinstance(event, EndEvent)]
    assert [(event.status, event.step) for event in ended] == [("stopped", 3)]
    assert [wait_for(pid, 120) for pid in start(dropping, path, 2)] == [0, 0]
    whole = tmp_path / "whole"
    assert [wait_for(pid, 120) for pid in start(dropping, whole, 2)] == [0, 0]
    assert losses(path) == losses(whole)
    assert same(final_tensors(path), final_tensors(whole))


def test_memory_that_runs_out_in_one_process_is_told_by_the_first(
    sources: tuple[Path, Path], tmp_path: Path
) -> None:
    """That process repeats its part in smaller pieces; the others wait and nothing else changes."""
    config = _config(sources, tmp_path / "runs", training={"batch_size": 4, "accumulation": 2})
    path, begun = tmp_path / "oom", [0]

    def press(rank: int, _event: Event | None) -> None:
        if rank != 1:
            return
        begun[0] += 1
        if begun[0] != 3:
            return
        from so8t_engine.model.so8t_model import SO8TModel

        forward = SO8TModel.forward

        def fail_once(model: SO8TModel, *args: Any, **more: Any) -> Any:  # noqa: ANN401
            SO8TModel.forward = forward  # type: ignore[method-assign]
            raise torch.OutOfMemoryError("as asked")

        SO8TModel.forward = fail_once  # type: ignore[method-assign]

    assert [wait_for(pid, 120) for pid in start(config, path, 2, press)] == [0, 0]
    (warning,) = [e for e in events(path) if isinstance(e, WarningEvent) and e.kind == "oom"]
    assert warning.sentence.startswith("Process 1: Memory ran out in step 3 (as asked)")
    _one(config, tmp_path / "one")
    assert losses(path) == pytest.approx(losses(tmp_path / "one"), rel=2e-5)


@pytest.fixture(scope="module")
def undisturbed(sources: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that one process trained and nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    _one(_config(sources, folder / "runs", checkpoints={"every_steps": 100}), folder / "one")
    return folder / "one"


@pytest.mark.parametrize("how", ["killed", "failed"])
def test_a_lost_process_ends_the_others_and_one_goes_on(
    sources: tuple[Path, Path], undisturbed: Path, tmp_path: Path, how: str
) -> None:
    config = _config(sources, tmp_path / "runs", checkpoints={"every_steps": 100})
    path, begun = tmp_path / how, [0]

    def lose(rank: int, _event: Event | None) -> None:
        if rank != 1:
            return
        begun[0] += 1
        if begun[0] == 4:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("as asked")

    pids = start(config, path, 2, lose)
    assert [wait_for(pid, 120) for pid in pids] == [1, -signal.SIGKILL if how == "killed" else 1]
    (error,) = [event for event in events(path) if isinstance(event, ErrorEvent)]
    assert (
        "ended unexpectedly" if how == "killed" else "Process 1 of the run failed: ValueError: as asked"
    ) in (error.sentence)
    states = [event.to for event in events(path) if isinstance(event, StateEvent)]
    assert states[-1] == "failed"
    # The state after the third step was saved, and one process goes on from it.
    assert wait_for(fork(lambda: train(config, path), path / "on.log")) == 0
    assert losses(path) == pytest.approx(losses(undisturbed), rel=2e-5)
    _close(final_tensors(undisturbed), final_tensors(path))
