"""Language and theme change at run time, are kept, and leave a live run alone."""

from __future__ import annotations

import locale
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot
from recorded_runs import START, state, step

from so8t_engine.config import Config
from so8t_engine.i18n import language
from so8t_engine.training.events import EndEvent, InfoEvent
from so8t_engine.training.process import ProcessMark
from so8t_engine.training.run_directory import EventWriter, RunDirectory
from so8t_engine.training.states import State
from so8t_gui import theme
from so8t_gui.main_window import MainWindow
from so8t_gui.preferences import Preferences


def test_switching_leaves_a_live_run_alone(
    window: MainWindow, qtbot: QtBot, demo_config: Config, tmp_path: Path
) -> None:
    run = RunDirectory.create(demo_config, tmp_path / "runs" / "live")
    ProcessMark.current().write(run.process)
    writer = EventWriter(run)
    writer.write(state(State.IDLE, State.LOADING, START))
    writer.write(state(State.LOADING, State.RUNNING, START))
    writer.write(step(1, 9, START))
    window.attach(run.path)
    qtbot.waitUntil(lambda: window.controller.model.last_step is not None)
    thread, model = window.controller._thread, window.controller.model
    for code, look in (("ja", "dark"), ("en", "light"), ("ja", "light")):
        window.change_language(code)
        window.change_theme(look)
        assert window.controller._thread is thread
        assert window.controller.model is model
    writer.write(step(2, 9, START + 1))
    qtbot.waitUntil(lambda: model.last_step is not None and model.last_step.step == 2)
    view = window.run_page.view
    qtbot.waitUntil(lambda: len(view.overview.loss._items["loss"].getOriginalDataset()[0]) == 2)
    assert run.commands.read_text() == "", "no command was sent"
    writer.write(state(State.RUNNING, State.FINISHED, START + 2))
    writer.write(EndEvent(status="finished", step=2, seconds=2.0))
    qtbot.waitUntil(lambda: not window.controller.live)
    writer.close()
    window.change_language("en")


def test_choices_are_kept(window: MainWindow, preferences: Preferences) -> None:
    window.change_language("ja")
    window.change_theme("dark")
    assert (preferences.language, preferences.theme) == ("ja", "dark")
    assert language() == "ja"
    window.change_language("en")
    window.change_theme("light")


def test_showing_for_a_picture_keeps_nothing(window: MainWindow, preferences: Preferences) -> None:
    window.show_as("ja", "dark")
    assert preferences.theme == "system"
    window.show_as("en", "light")


def test_the_settings_survive_a_switch(window: MainWindow) -> None:
    config = window.settings_page.config()
    assert config is not None
    changed = config.model_copy(update={"name": "my run"})
    window.settings_page.set_config(changed)
    window.change_language("ja")
    assert window.settings_page.config() == changed
    window.change_language("en")


def test_numbers_keep_the_decimal_point(window: MainWindow) -> None:
    assert locale.localeconv()["decimal_point"] == "."


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(a: str, b: str) -> float:
    high, low = sorted((_luminance(a), _luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", ["light", "dark"])
def test_text_has_contrast_of_at_least_4_5(name: str) -> None:
    look = theme.load_theme(name)
    pairs = [(role, ground) for role in ("text", "muted") for ground in ("window", "surface", "raised")]
    pairs += [("text", "hover"), ("text", "selected"), ("on_accent", "accent"), ("text", "bad_bg")]
    pairs += [("text", "warn_bg"), ("good", "window"), ("bad", "surface"), ("warn", "surface")]
    low = {pair: round(_contrast(look[pair[0]], look[pair[1]]), 2) for pair in pairs}
    assert min(low.values()) >= 4.5, low
    lines = {colour: round(_contrast(colour, look["surface"]), 2) for colour in look.series}
    assert min(lines.values()) >= 3.0, lines


def test_the_preview_of_the_schedules_changes_its_language(window: MainWindow) -> None:
    window.settings_page.apply_changes({"so8t.alpha_schedule": "linear"})
    english = window.settings_page.preview
    assert english.source.text().startswith("scheduled")
    before = english.alpha._items["alpha"].getOriginalDataset()[1].tolist()
    window.change_language("ja")
    japanese = window.settings_page.preview
    assert japanese.source.text().startswith("スケジュール")
    assert japanese.alpha._title.text() == "ゲート α"
    assert japanese.alpha._items["alpha"].getOriginalDataset()[1].tolist() == before
    window.change_language("en")
    assert window.settings_page.preview.source.text().startswith("scheduled")


def test_a_run_tells_the_preview_its_number_of_rows(
    window: MainWindow, qtbot: QtBot, demo_config: Config, tmp_path: Path
) -> None:
    own = demo_config.model_copy(
        update={
            "data": demo_config.data.model_copy(update={"train": "my_rows.jsonl"}),
            "training": demo_config.training.model_copy(
                update={"packing": False, "batch_size": 16, "epochs": 2.0}
            ),
        }
    )
    window.settings_page.set_config(own)
    assert "percent" in window.settings_page.preview.note.text()
    run = RunDirectory.create(own, tmp_path / "runs" / "live")
    ProcessMark.current().write(run.process)
    writer = EventWriter(run)
    writer.write(state(State.IDLE, State.LOADING, START))
    writer.write(InfoEvent(facts={"rows_train": 160}))
    window.attach(run.path)
    # 160 rows in batches of 16, two epochs.
    qtbot.waitUntil(lambda: window.settings_page.preview.note.text() == "Over 20 optimizer steps.")
    window.change_language("ja")
    window.change_language("en")
    assert window.settings_page.preview.note.text() == "Over 20 optimizer steps.", "kept over a rebuild"
    writer.write(state(State.LOADING, State.ABORTED, START + 2))
    writer.write(EndEvent(status="aborted", step=0, seconds=2.0))
    qtbot.waitUntil(lambda: not window.controller.live)
    writer.close()
