"""An allocator that fails in the middle of a step: the run finishes, and learns what it would have learned.

The card's failure is faked on the CPU: the forward or the backward pass of a micro-batch raises PyTorch's own
OutOfMemoryError. ``SO8T_OOM_CASES=100`` runs that many random cases.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from so8t_engine.config import Config
from so8t_engine.model.so8t_model import LossReport, SO8TModel
from so8t_engine.training.checkpoint import checkpoints
from so8t_engine.training.checkpoint_state import STATE, WEIGHTS
from so8t_engine.training.events import ErrorEvent, EvaluationEvent, Event, StepEvent, WarningEvent
from so8t_engine.training.recovery import cut
from so8t_engine.training.run import run_training
from so8t_engine.training.run_directory import RunDirectory

Make = Callable[..., Config]
CASES = int(os.environ.get("SO8T_OOM_CASES", "4"))
STEPS = 3


@contextmanager
def failing_allocator(fails: Callable[[int, int], str | None]) -> Iterator[list[int]]:
    """``fails(pass number, rows)`` says whether a training pass fails: ``forward``, ``backward`` or None."""
    real = SO8TModel.forward
    passes: list[int] = []

    def forward(self: SO8TModel, batch: dict[str, Tensor], *rest: Any, **named: Any) -> LossReport:  # noqa: ANN401
        rows = len(batch["task_N"])
        passes.append(rows)
        where = fails(len(passes), rows)
        if where == "forward":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. (faked)")
        report = real(self, batch, *rest, **named)
        if where == "backward":

            def fail(_grad: Tensor) -> None:
                handle.remove()
                raise torch.OutOfMemoryError("CUDA out of memory in the backward pass. (faked)")

            # Gradients of the heads and the rotations exist already when this one is reached.
            handle = self.so8t.theta_safe.register_hook(fail)
        return report

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SO8TModel, "forward", forward)
        yield passes


def _train(config: Config, path: Path) -> tuple[int, list[Event], dict[str, Tensor]]:
    run = RunDirectory.create(config, path)
    status = run_training(run, handle_signals=False)
    found = checkpoints(run.checkpoints)
    return status, run.read_events(), load_file(found[-1] / WEIGHTS) if found else {}


def _config(make: Make, **sections: dict[str, Any]) -> Config:
    training = {"batch_size": 4, "accumulation": 2, "max_steps": STEPS} | sections.pop("training", {})
    return make(training=training, lora={"dropout": 0.0}, **sections)


def test_a_step_that_does_not_fit_is_repeated_and_learns_the_same(tiny_config: Make, tmp_path: Path) -> None:
    config = _config(tiny_config)
    _status, events, weights = _train(config, tmp_path / "undisturbed")
    losses = [event.raw for event in events if isinstance(event, StepEvent)]
    for case in range(CASES):
        choose = random.Random(case)
        first, where = choose.randint(1, 2 * STEPS), choose.choice(["forward", "backward"])
        most = choose.choice([1, 2, 3])

        def fails(
            number: int, rows: int, first: int = first, most: int = most, where: str = where
        ) -> str | None:
            return where if number >= first and rows > most else None

        with failing_allocator(fails) as passes:
            status, found, learned = _train(config, tmp_path / f"case{case}")
        hit = [rows for number, rows in enumerate(passes, 1) if number >= first and rows > most]
        warnings = [event for event in found if isinstance(event, WarningEvent) and event.kind == "oom"]
        assert status == 0, (case, found[-1])
        assert hit, "the case must have failed at least once"
        assert len(warnings) == len(hit), "each failure is told"
        assert all("effective batch stays" in warning.mend for warning in warnings)
        assert [event.step for event in found if isinstance(event, StepEvent)] == [1, 2, 3]
        for step, wanted in zip((e for e in found if isinstance(e, StepEvent)), losses, strict=True):
            assert step.raw == pytest.approx(wanted, rel=2e-4, abs=1e-6)
        assert set(learned) == set(weights)
        for name, tensor in learned.items():
            # Sums in another order; AdamW's first steps make whole steps of near-zero gradients' rounding.
            difference = (tensor - weights[name]).abs()
            assert float(difference.mean()) <= 1e-4 + 1e-2 * float(weights[name].abs().mean()), name


def test_what_only_saves_time_is_given_up_before_rows(tiny_config: Make, tmp_path: Path) -> None:
    """Weights that stay dequantised, then kept activations, then rows; a checkpoint knows it."""
    config = _config(
        tiny_config,
        training={"gradient_checkpointing": True},
        memory={"kept_layers": 2, "kept_weights": 1},
    )
    _status, events, _weights = _train(config, tmp_path / "undisturbed")
    wanted = [event.raw for event in events if isinstance(event, StepEvent)]
    with failing_allocator(lambda number, _rows: "backward" if number in (3, 4, 5) else None) as passes:
        status, found, _learned = _train(config, tmp_path / "failing")
    assert status == 0, found[-1]
    told = [event.mend for event in found if isinstance(event, WarningEvent) and event.kind == "oom"]
    assert ["dequantised" in told[0], "recomputed" in told[1], "2 rows" in told[2]] == [True] * 3
    assert passes[:6] == [4, 4, 4, 4, 4, 2], "rows are cut last"
    for step, raw in zip((e for e in found if isinstance(e, StepEvent)), wanted, strict=True):
        assert step.raw == pytest.approx(raw, rel=2e-4, abs=1e-6)
    run = RunDirectory(tmp_path / "failing")
    state = json.loads((checkpoints(run.checkpoints)[-1] / STATE).read_text(encoding="utf-8"))
    assert state["recovery"]["given_up"] == ["weights", "layers"]


def test_packed_rows_that_do_not_fit_are_computed_fewer_at_a_time(tiny_config: Make, tmp_path: Path) -> None:
    config = _config(tiny_config, training={"packing": True})
    _status, events, _weights = _train(config, tmp_path / "undisturbed")
    wanted = [event.raw for event in events if isinstance(event, StepEvent)]
    with failing_allocator(lambda number, rows: "backward" if number > 2 and rows > 2 else None) as passes:
        status, found, _learned = _train(config, tmp_path / "failing")
    assert status == 0
    assert max(passes[:2]) > 2
    assert [event.kind for event in found if isinstance(event, WarningEvent)].count("oom") >= 1
    losses = [event.raw for event in found if isinstance(event, StepEvent)]
    assert len(losses) == len(wanted) == STEPS
    for step, other in zip(losses, wanted, strict=True):
        assert step == pytest.approx(other, rel=2e-4, abs=1e-6)


def test_other_savings_follow_when_single_rows_do_not_fit(tiny_config: Make, tmp_path: Path) -> None:
    failures = iter(["forward"] * 5)

    def fails(_number: int, _rows: int) -> str | None:
        return next(failures, None)

    config = _config(tiny_config, training={"batch_size": 1})
    with failing_allocator(fails):
        status, events, _weights = _train(config, tmp_path / "run")
    assert status == 1, "five failures are more than there are savings"
    mends = [event.mend for event in events if isinstance(event, WarningEvent) and event.kind == "oom"]
    assert "checkpointing" in mends[0]
    assert "chunks of 32 tokens" in mends[1], "a quarter of the few tokens there are, and no less than 32"
    assert len(mends) == 2
    (error,) = [event for event in events if isinstance(event, ErrorEvent)]
    assert error.kind == "oom"
    assert "One row does not fit" in error.sentence


def test_a_run_that_cannot_go_on_leaves_its_last_whole_step(tiny_config: Make, tmp_path: Path) -> None:
    config = _config(tiny_config, training={"batch_size": 1, "accumulation": 2})
    with failing_allocator(lambda number, _rows: "backward" if number >= 4 else None):
        status, _events, _weights = _train(config, tmp_path / "run")
    assert status == 1
    assert [path.name for path in checkpoints(tmp_path / "run" / "checkpoints")] == ["step-00000001"]
    status = run_training(RunDirectory.open(tmp_path / "run"), resume=True, handle_signals=False)
    assert status == 0
    steps = [e.step for e in RunDirectory.open(tmp_path / "run").read_events() if isinstance(e, StepEvent)]
    assert steps == [1, 2, 3]


def test_an_evaluation_that_does_not_fit_is_repeated_in_smaller_batches(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(tiny_config)
    _status, plain, _weights = _train(config, tmp_path / "plain")
    real = SO8TModel.adapt

    def adapt(self: SO8TModel, batch: dict[str, Tensor]) -> Any:  # noqa: ANN401
        if len(batch["task_N"]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. (faked)")
        return real(self, batch)

    monkeypatch.setattr(SO8TModel, "adapt", adapt)
    status, events, _weights = _train(config, tmp_path / "run")
    assert status == 0
    assert [event for event in events if isinstance(event, WarningEvent) and event.kind == "oom"]
    wanted, found = (
        [event.loss for event in some if isinstance(event, EvaluationEvent)] for some in (plain, events)
    )
    assert found == pytest.approx(wanted, rel=1e-5)


def test_pieces_hold_every_row_once_and_no_column_of_padding_alone() -> None:
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]])
    batch = {
        "attention_mask_NT": mask,
        "input_ids_NT": torch.arange(12).view(3, 4),
        "task_N": torch.arange(3),
    }
    pieces = list(cut(batch, 2))
    assert [piece["task_N"].tolist() for piece in pieces] == [[0, 1], [2]]
    assert [tuple(piece["input_ids_NT"].shape) for piece in pieces] == [(2, 4), (1, 1)]
    assert list(cut(batch, None)) == [batch]
