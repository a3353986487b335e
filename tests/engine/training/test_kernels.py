"""Triton's kernels that do not work, or fail on the way: the run goes on without them and says so, once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from so8t_engine.config import Config
from so8t_engine.model.so8t_model import LossReport, SO8TModel
from so8t_engine.so8t import fused
from so8t_engine.training import heldout
from so8t_engine.training.events import ErrorEvent, Event, StepEvent, WarningEvent
from so8t_engine.training.run import run_training
from so8t_engine.training.run_directory import RunDirectory

Make = Callable[..., Config]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a check has found stays in this test."""
    monkeypatch.setattr(fused, "_trouble", {})
    fused._checked.cache_clear()
    monkeypatch.setattr(fused, "_checked", fused._checked.__wrapped__)


def _train(config: Config, path: Path) -> tuple[int, list[Event]]:
    run = RunDirectory.create(config, path)
    status = run_training(run, handle_signals=False)
    return status, run.read_events()


def _told(events: list[Event]) -> list[str]:
    return [event.sentence for event in events if isinstance(event, WarningEvent) and event.kind == "kernels"]


def _installed(monkeypatch: pytest.MonkeyPatch, check: Callable[[torch.device], float]) -> None:
    monkeypatch.setattr(fused, "find_spec", lambda _name: object())
    monkeypatch.setattr(fused, "_interpreted", lambda: True)
    monkeypatch.setattr(fused, "_worst_difference", check)
    monkeypatch.setenv("SO8T_TRITON", "1")


def _fail_in_triton() -> None:
    code = compile("raise RuntimeError('out of resource: shared memory\\nmore')", "jit.py", "exec")
    exec(code, {"__name__": "triton.runtime.jit"})


def test_kernels_that_fail_the_check_are_a_warning_of_the_run(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_compiler(_device: torch.device) -> float:
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

    _installed(monkeypatch, no_compiler)
    status, events = _train(tiny_config(training={"max_steps": 2}), tmp_path / "run")
    assert status == 0
    (sentence,) = _told(events)
    assert "RuntimeError: Failed to find C compiler" in sentence
    (warning,) = [event for event in events if isinstance(event, WarningEvent) and event.kind == "kernels"]
    assert "SO8T_TRITON=0" in warning.mend


@pytest.mark.parametrize("worst", [1e-3, float("nan")])
def test_wrong_results_are_told_and_kernels_left_alone(worst: float, monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch, lambda _device: worst)
    assert not fused.triton_works(CPU)
    assert "results differ" in str(fused.kernel_trouble(CPU))


def test_nothing_is_told_where_triton_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    _installed(monkeypatch, lambda _device: 1.0)
    monkeypatch.setenv("SO8T_TRITON", "0")
    assert fused.kernel_trouble(CPU) is None
    monkeypatch.setenv("SO8T_TRITON", "1")
    monkeypatch.setattr(fused, "find_spec", lambda _name: None)
    assert fused.kernel_trouble(CPU) is None


def test_a_result_that_is_no_number_is_no_small_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    """max() passes over NaN where it does not come first."""
    unit_B88 = torch.eye(8).expand(4, 8, 8)
    monkeypatch.setattr(fused, "fused_rotations", lambda *_: (unit_B88, unit_B88, unit_B88))
    monkeypatch.setattr(fused, "fused_gate", lambda hidden, *_: hidden * float("nan"))
    monkeypatch.setattr(fused, "gate_gradients", lambda *_: (None, torch.zeros(4, 8, 8), None))
    assert not fused._worst_difference(CPU) < 1e9


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_kernel_that_fails_in_a_step_costs_nothing_but_the_kernels(
    where: str, tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(training={"max_steps": 2, "accumulation": 2}, lora={"dropout": 0.0})
    _status, before = _train(config, tmp_path / "undisturbed")
    real, passes = SO8TModel.forward, []

    def forward(self: SO8TModel, batch: dict[str, Tensor], *rest: Any, **named: Any) -> LossReport:  # noqa: ANN401
        passes.append(len(batch["task_N"]))
        if len(passes) == 4 and where == "forward":
            _fail_in_triton()
        report = real(self, batch, *rest, **named)
        if len(passes) == 4:

            def fail(_grad: Tensor) -> None:
                handle.remove()
                _fail_in_triton()

            handle = self.so8t.theta_safe.register_hook(fail)
        return report

    monkeypatch.setattr(SO8TModel, "forward", forward)
    status, events = _train(config, tmp_path / "failing")
    assert status == 0, [event for event in events if isinstance(event, ErrorEvent)]
    (sentence,) = _told(events)
    assert "(RuntimeError: out of resource: shared memory)" in sentence
    assert not fused.triton_works(CPU)
    losses = [[e.loss for e in found if isinstance(e, StepEvent)] for found in (before, events)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_a_kernel_that_fails_in_an_evaluation_has_it_repeated(
    tiny_config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = heldout.evaluate, []

    def evaluate(*given: Any, **named: Any) -> Any:  # noqa: ANN401
        calls.append(1)
        if len(calls) == 1:
            _fail_in_triton()
        return real(*given, **named)

    monkeypatch.setattr(heldout, "evaluate", evaluate)
    status, events = _train(tiny_config(training={"max_steps": 1}), tmp_path / "run")
    assert status == 0
    assert len(_told(events)) == 1


def test_other_errors_are_not_taken_for_tritons_and_one_of_tritons_is_taken_once() -> None:
    with pytest.raises(ZeroDivisionError) as other:
        _ = 1 / 0
    assert not fused.gave_up(CPU, other.value)
    with pytest.raises(RuntimeError) as failed:
        _fail_in_triton()
    assert fused.gave_up(CPU, failed.value)
    assert not fused.gave_up(CPU, failed.value), "what fails again without triton is an error"
