"""The samples beside the loss, and the thresholds on stored decisions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from pytestqt.qtbot import QtBot

from so8t_engine.config import Config
from so8t_engine.evaluation.held_out_heads import HeldOutHeads
from so8t_engine.evaluation.thresholds import effect
from so8t_engine.training.events import Event, SampleEvent, StepEvent
from so8t_gui.charts.samples_panel import SamplesPanel
from so8t_gui.charts.threshold_panel import ThresholdPanel
from so8t_gui.models.run_model import RunModel


def step(number: int) -> StepEvent:
    return StepEvent(
        step=number, of=40, epoch=0, loss=4.0 / number, terms={}, raw={}, lr=1e-4, grad_norm=1.0,
        tokens=8, tokens_per_s=8.0, step_s=1.0, time=1000.0 + number,
    )  # fmt: skip


def samples(at: int, *prompts: str) -> list[Event]:
    return [
        SampleEvent(
            step=at, prompt=prompt, text=f"<b>{prompt}</b> {at}", task=[0.1, 0.2, 0.3, 0.4],
            safety=[1 - at / 100, at / 100], time=1000.0 + at,
        )
        for prompt in prompts
    ]  # fmt: skip


def test_a_step_is_picked_and_its_samples_are_shown(qtbot: QtBot) -> None:
    panel, model = SamplesPanel(), RunModel()
    qtbot.addWidget(panel)
    panel.resize(1000, 600)
    panel.show()
    model.digest([step(n) for n in range(1, 41)])
    panel.draw(model)
    assert panel.nothing.isVisible()
    for at in (10, 20, 30):
        model.digest(samples(at, "May I?", "And now?"))
    panel.draw(model)
    cards = [card for card in panel._cards if card.isVisible()]
    assert [card.text.toPlainText() for card in cards] == ["<b>May I?</b> 30", "<b>And now?</b> 30"]
    panel.pick(13.0)
    assert cards[0].text.toPlainText() == "<b>May I?</b> 10"
    assert cards[0].bars["danger"][0].value() == 100
    assert panel._picked[0].value() == 10
    model.digest(samples(40, "May I?", "And now?"))
    panel.draw(model)  # a person's choice stays
    assert cards[0].text.toPlainText() == "<b>May I?</b> 10"
    panel.slider.setValue(3)
    assert cards[1].text.toPlainText() == "<b>And now?</b> 40"
    panel.prompts.setCurrentIndex(1)
    assert panel.course.sources()["danger"].view("danger").tolist() == [0.1, 0.2, 0.3, 0.4]
    assert not panel.after.isEnabled()


def test_samples_that_a_resumed_run_writes_again_are_there_once(qtbot: QtBot) -> None:
    model = RunModel()
    model.digest([step(n) for n in range(1, 21)] + samples(10, "May I?") + samples(20, "May I?"))
    model.digest([step(n) for n in range(15, 21)] + samples(20, "May I?"))
    assert [one.step for one in model.samples] == [10, 20]


def test_thresholds_are_tried_under_the_pointer(qtbot: QtBot, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    pair = rng.dirichlet([1, 1], (60, 3))
    heads = HeldOutHeads(
        "test", 12, rng.dirichlet([2, 1, 1, 1], 60), pair[:, 0], pair[:, 1:],
        rng.integers(0, 4, 60), rng.integers(0, 2, 60),
    )  # fmt: skip
    panel = ThresholdPanel()
    qtbot.addWidget(panel)
    panel.resize(1000, 600)
    panel.show()
    panel.draw(None, ended=False)
    assert panel.heads is None
    assert not panel.ask.isVisible()
    run = tmp_path / "run"
    (run / "final").mkdir(parents=True)
    config = Config.model_validate({"serving": {"allow_threshold": 0.4, "danger_threshold": 0.9}})
    (run / "final" / "config.yaml").write_text(config.to_yaml(), "utf-8")
    (run / "final" / "MANIFEST.json").write_text("{}", "utf-8")
    panel.draw(run, ended=True)
    assert panel.ask.isVisible()
    (run / "final" / "decisions.json").write_text(json.dumps(heads.to_json()), "utf-8")
    (run / "final" / "MANIFEST.json").write_text('{"a": 1}', "utf-8")
    panel._stamp = ()
    panel.draw(run, ended=True)
    assert not panel.ask.isVisible()
    own = effect(heads, 0.4, 0.9)
    assert f"{own.dangerous_allowed} of {own.dangerous}" in panel.words.text()
    assert panel._lines["allow"].value() == 0.4
    panel.try_threshold("allow", 0.8)
    tried = effect(heads, 0.8, 0.9)
    assert tried.dangerous_allowed < own.dangerous_allowed
    assert f"{tried.dangerous_allowed} of {tried.dangerous}" in panel.words.text()
    panel.try_threshold("allow", None)
    assert f"{own.dangerous_allowed} of {own.dangerous}" in panel.words.text()
    (run / "final" / "decisions.json").write_text("{", "utf-8")
    panel._stamp = ()
    panel.draw(run, ended=True)
    assert "decisions.json" in panel.source.text()
