"""PET's phase and weight in the window are those that the trainer used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pytestqt.qtbot import QtBot
from recorded_runs import START, recorded_run, step

from so8t_engine.config import Config
from so8t_engine.so8t.schedule import pet_weight_at
from so8t_gui.main_window import MainWindow
from so8t_gui.models.pet import PetCourse, phase_at
from so8t_gui.models.run_model import RunModel


@pytest.mark.parametrize("total", [1, 3, 7, 10, 100, 333])
@pytest.mark.parametrize("fractions", [[0.2, 0.4, 0.4], [0.1, 0.7, 0.2], [1 / 3, 1 / 3, 1 / 3]])
def test_weight_and_phase_are_the_trainers(demo_config: Config, total: int, fractions: list[float]) -> None:
    so8t = demo_config.so8t.model_copy(update={"pet_fractions": fractions})
    config = demo_config.model_copy(update={"so8t": so8t})
    model, course = RunModel(), PetCourse(config)
    events = []
    for n in range(1, total + 1):
        weight = pet_weight_at(n - 1, total, so8t.pet_weights, fractions)
        event = step(n, total, START + n)
        events.append(event.model_copy(update={"terms": {"pet": weight * (n + 0.5)}}))
        found = phase_at(config, n, total)
        assert found.weight == weight
        assert n <= found.until
        if found.until < total:
            assert phase_at(config, found.until, total).number == found.number
            assert phase_at(config, found.until + 1, total).number == found.number + 1
    model.digest(events[: total // 2])
    course.update(model)
    model.digest(events[total // 2 :])
    course.update(model)
    np.testing.assert_allclose(course.columns.view("pet"), np.arange(1, total + 1) + 0.5, rtol=1e-6)
    model.digest([step(max(1, total // 2), total, START + 999)])
    course.update(model)
    assert len(course.columns) == max(1, total // 2), "steps that are walked again are derived anew"


def test_the_phase_is_shown(window: MainWindow, demo_config: Config, tmp_path: Path, qtbot: QtBot) -> None:
    run = recorded_run(demo_config, tmp_path / "run", 50)
    window.open_run(run.path)
    page = window.history_page
    qtbot.waitUntil(lambda: page.opened is not None, timeout=10_000)
    page.view.tabs.setCurrentIndex(1)
    chart = page.view.gate.pet
    qtbot.waitUntil(lambda: "phase 3 of 3" in " ".join(chart._notes), timeout=5_000)
