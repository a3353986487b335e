"""The main window: navigation, menus, language and theme, and leaving in an orderly way."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QCoreApplication, QEvent, QTimer, Signal
from PySide6.QtGui import QCloseEvent, QShowEvent
from PySide6.QtWidgets import (
    QApplication,
    QHBoxLayout,
    QStatusBar,
    QWidget,
)

from so8t_engine.config import Config
from so8t_engine.i18n import _, language, set_language
from so8t_gui import garbage, menus, page_makers, theme
from so8t_gui.charts.line_chart import LineChart
from so8t_gui.chat_runner import ChatRunner
from so8t_gui.first_painting import FirstPainting
from so8t_gui.icons import program_icon
from so8t_gui.leaving import Leaving
from so8t_gui.models.known_rows import KnownRows
from so8t_gui.notification import notify
from so8t_gui.notifier import Notifier
from so8t_gui.page_stack import PageSpec, PageStack
from so8t_gui.pages.run_page import RunPage
from so8t_gui.preferences import Preferences
from so8t_gui.queue_controller import QueueController
from so8t_gui.run_controller import RunController
from so8t_gui.run_window import RunWindow
from so8t_gui.start_up import StartUp
from so8t_gui.tour import Tour, TourCard, tour_holder
from so8t_gui.widgets.card_label import CardLabel

if TYPE_CHECKING:
    from so8t_gui.pages.chat_page import ChatPage
    from so8t_gui.pages.history_page import HistoryPage
    from so8t_gui.pages.settings_page import SettingsPage
    from so8t_gui.pipeline_controller import PipelineController


class MainWindow(RunWindow):
    """Pages are rebuilt when language or theme change; the run lives in the controller and goes on.

    Signals:
        closed: the window has gone for good.
    """

    closed = Signal()

    def __init__(self, config: Config, preferences: Preferences, theme_choice: str = "") -> None:
        super().__init__()
        self.preferences = preferences
        self.theme_choice = theme_choice or preferences.theme
        self.controller = RunController(self)
        self.controller.state_changed.connect(self._on_state)
        self.controller.digested.connect(self._learn_rows)
        self._known_rows = KnownRows()
        self._rebuilt = False
        self._config = config
        self._history_folder = Path(config.run.directory)
        self.leaving = Leaving(self)
        self.queue = QueueController(self.controller, self._history_folder, self)
        self.queue.failed.connect(lambda *words: self.run_page.message.show_message("error", *words))
        self.tour = Tour(self)
        self.start_up = StartUp(self)
        # Not the page's: the model stays loaded through a change of language or theme.
        self.chat = ChatRunner(self)
        self.notifier = Notifier(self, self.controller, preferences, self.leaving.tray)
        self.notifier.alarmed.connect(lambda *words: self.run_page.show_alarm(*words))
        self.pipeline: PipelineController | None = None
        self.setWindowIcon(program_icon())
        self.setMinimumSize(960, 620)
        self.resize(1280, 800)
        if (geometry := preferences.geometry) is not None:
            self.restoreGeometry(geometry)
        self._build()

    # Building

    def _build(self) -> None:
        self.setWindowTitle(_("SO8T Control Panel"))
        self.pages = PageStack(self._page_specs())
        self.pages.complete.connect(lambda rebuilt=self._rebuilt: garbage.set_aside(rebuilt=rebuilt))
        self.navigation = self._make_navigation()
        centre = QWidget()
        layout = QHBoxLayout(centre)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addWidget(self.navigation)
        self.tour_card = TourCard(self.tour, self.change_language)
        layout.addWidget(tour_holder(self.tour_card, self.pages), 1)
        self.setCentralWidget(centre)
        self.start_action = menus.build_menus(self)
        status = QStatusBar()
        status.setSizeGripEnabled(False)
        status.addPermanentWidget(CardLabel())
        self.setStatusBar(status)
        self._on_state()
        self._build_the_rest()

    def _page_specs(self) -> list[PageSpec]:
        """Every page, in the order of the navigation."""
        return [
            PageSpec("run", _("Run"), self._make_run_page),
            PageSpec("settings", _("Settings"), self._make_settings_page),
            PageSpec("history", _("History"), self._make_history_page),
            PageSpec("chat", _("Chat"), self._make_chat_page),
            PageSpec(
                "inspect", _("Inspect"), lambda: page_makers.inspect(self._history_folder, self.run_looked_at)
            ),
            PageSpec("pipeline", _("Pipeline"), self._make_pipeline_page),
            PageSpec("doctor", _("Doctor"), lambda: page_makers.doctor(self._history_folder)),
            PageSpec("about", _("About"), page_makers.about),
        ]

    def _make_run_page(self) -> RunPage:
        page = RunPage(self.controller, self.preferences, self.queue)
        page.queue_asked.connect(self.show_queue)
        page.controls.start_clicked.connect(self.start_run)
        page.resume_asked.connect(self.resume)
        return page

    def _make_settings_page(self) -> SettingsPage:
        from so8t_gui.pages.settings_page import SettingsPage

        page = SettingsPage(known_rows=self._known_rows)
        page.set_config(self._config)
        page.configChanged.connect(self._on_config)
        page.set_locked(self.controller.live)
        QTimer.singleShot(0, page, lambda: self._on_config(page.config()))
        return page

    def _make_history_page(self) -> HistoryPage:
        from so8t_gui.pages.history_page import HistoryPage

        page = HistoryPage(self._history_folder, self.preferences, self.queue)
        self.pages.busy = lambda: page.reading
        page.shown.connect(self.pages.give_way)
        page.list.queue.add_asked.connect(self.add_to_queue)
        page.list.queue.edit_asked.connect(self._edit_queued)
        page.attach_asked.connect(self.attach)
        page.resume_asked.connect(self.resume)
        page.duplicate_asked.connect(self.duplicate)
        return page

    def _make_chat_page(self) -> ChatPage:
        from so8t_gui.pages.chat_page import ChatPage

        return ChatPage(
            self.chat, self.controller, self.preferences, self._history_folder, self.run_looked_at
        )

    def _make_pipeline_page(self) -> QWidget:
        # Here, not above: a window that trains needs none of the eight steps.
        from so8t_gui.pages.pipeline_page import PipelinePage
        from so8t_gui.pipeline_controller import PipelineController

        if self.pipeline is None:
            self.pipeline = PipelineController(self)
            self.pipeline.ended.connect(self._on_pipeline_end)
        return PipelinePage(self.pipeline)

    def _on_pipeline_end(self, status: str) -> None:
        """Tell a person who looks elsewhere."""
        assert self.pipeline is not None
        if self.pipeline.unattended:
            notify(self, status)

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        FirstPainting(self, self._build_the_rest)

    def _build_the_rest(self) -> None:
        if self.isVisible():
            # First what the charts in view will draw in, then pages that nobody looks at yet.
            self.pages.build_when_idle(self.run_page.view.overview.preparations())

    def show_palette(self) -> None:
        """Everything that can be done, found by typing."""
        menus.show_palette(self)

    def go_to_setting(self, path: str) -> None:
        """Show a setting on its page."""
        self.show_page("settings")
        self.settings_page.go_to(path)

    # Language and theme

    def change_language(self, code: str) -> None:
        """Show everything in another language; the run is not touched."""
        self.preferences.language = code
        self.show_as(code, self.theme_choice)

    def change_theme(self, choice: str) -> None:
        """Show everything in another theme; the run is not touched."""
        self.preferences.theme = choice
        self.show_as(language(), choice)

    def show_as(self, code: str, choice: str) -> None:
        """Show everything in a language and a theme, without keeping the choice."""
        app = QApplication.instance()
        assert isinstance(app, QApplication)
        kept = self._take_down()
        set_language(code)
        self.theme_choice = choice
        theme.apply(app, choice)
        self._build()
        self._restore(kept)

    def _take_down(self) -> dict[str, Any]:
        """Remove all pages, and return what they showed. The style then changes an empty window quickly."""
        self.pages.stop()
        garbage.take_back()
        self._rebuilt = True
        kept: dict[str, Any] = {
            "row": self.navigation.currentRow(),
            "view": self.run_page.view.view_state(),
            "opened": None,
        }
        if self.pages.is_built("settings"):
            self._config = self.settings_page.config() or self._config
        if self.pages.is_built("history"):
            self._history_folder = self.history_page.folder
            opened = self.history_page.opened
            kept["opened"] = (opened, self.history_page.view.model) if opened is not None else None
        self._shut_pages_down()
        self.run_page.disconnect_controller()
        self.tour_card.disconnect_tour()
        old = self.takeCentralWidget()
        if old is not None:
            old.hide()
            for chart in old.findChildren(LineChart):
                chart.dispose()
            old.deleteLater()
            # Now, not at the next turn of the loop: everything would be styled once more before it goes.
            QCoreApplication.sendPostedEvents(old, QEvent.Type.DeferredDelete)
        for action in self.actions():
            self.removeAction(action)
        return kept

    def _restore(self, kept: dict[str, Any]) -> None:
        """Show again what was shown before `_take_down`."""
        self.run_page.view.restore(kept["view"])
        if kept["opened"] is not None:
            self.history_page.show_run(*kept["opened"])
        self.navigation.setCurrentRow(kept["row"])

    # What follows the run and the settings

    def _on_state(self) -> None:
        if self.pages.is_built("settings"):
            self.settings_page.set_locked(self.controller.live)
        self._refresh_start()
        name = self.controller.run_path.name if self.controller.run_path is not None else ""
        self.setWindowTitle(_("SO8T Control Panel") + (f" – {name}" if name else ""))

    def _on_config(self, config: Config | None) -> None:
        if config is not None:
            self._config = config
            self.queue.set_folder(Path(config.run.directory))
            if self.pages.is_built("history"):
                self.history_page.set_folder(Path(config.run.directory))
            else:
                self._history_folder = Path(config.run.directory)
            if self.pages.is_built("chat"):
                self.chat_page.set_folder(Path(config.run.directory))
            if self.pages.is_built("inspect"):
                self.inspect_page.set_folder(Path(config.run.directory))
        self._refresh_start()

    def _learn_rows(self) -> None:
        """A run that has read its rows tells their number, and the preview of the next can count steps."""
        config = self.controller.config
        learned = config is not None and self._known_rows.learn(config, self.controller.model.facts)
        if learned and self.pages.is_built("settings"):
            self.settings_page.refresh_preview()

    def _refresh_start(self) -> None:
        # Until the settings page is built, pressing Start builds it and asks it.
        built = self.pages.is_built("settings")
        possible, reason = self.settings_page.can_start() if built else (True, "")
        self.run_page.controls.set_startable(possible, reason)
        self.start_action.setEnabled(possible and not self.controller.live)

    # Leaving

    def close_without_asking(self) -> None:
        """Stop and save if a run lives, wait for it, close. For signals and ends of sessions."""
        self.leaving.close_without_asking()

    def closeEvent(self, event: QCloseEvent) -> None:
        """Ask during a live run; wait for its trainer; leave no orphan."""
        if not self.leaving.may_close(event):
            return
        self.preferences.geometry = self.saveGeometry()
        self.leaving.tray.take_down()
        self.start_up.shut_down()
        self.notifier.shut_down()
        self.queue.shut_down()
        self._shut_pages_down()
        garbage.take_back()
        self.chat.unload()
        if self.pipeline is not None:
            self.pipeline.shut_down()
        event.accept()
        self.closed.emit()
