"""A window of pages: the navigation, the pages by name, and which run they look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from PySide6.QtCore import QSize, Qt
from PySide6.QtWidgets import QListWidget, QListWidgetItem, QMainWindow

from so8t_engine.i18n import _
from so8t_gui import theme
from so8t_gui.icons import icon
from so8t_gui.page_stack import PageStack
from so8t_gui.run_controller import RunController

# Each page is imported when it is built: the window stands before it needs the others.
if TYPE_CHECKING:
    from so8t_gui.pages.about_page import AboutPage
    from so8t_gui.pages.chat_page import ChatPage
    from so8t_gui.pages.doctor_page import DoctorPage
    from so8t_gui.pages.history_page import HistoryPage
    from so8t_gui.pages.inspect_page import InspectPage
    from so8t_gui.pages.run_page import RunPage
    from so8t_gui.pages.settings_page import SettingsPage


class PagedWindow(QMainWindow):
    """What holds the pages; `MainWindow` makes them."""

    pages: PageStack
    navigation: QListWidget
    controller: RunController

    def __init__(self) -> None:
        super().__init__()
        self._looked_at = "run"

    def show_page(self, name: str) -> None:
        """Go to a page by its name."""
        self.navigation.setCurrentRow([spec.name for spec in self.pages.specs].index(name))

    def toggle_full_screen(self) -> None:
        """Fill the screen, or no longer."""
        self.setWindowState(self.windowState() ^ Qt.WindowState.WindowFullScreen)

    def _make_navigation(self) -> QListWidget:
        navigation = QListWidget()
        navigation.setObjectName("navigation")
        navigation.setAccessibleName(_("Pages"))
        navigation.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        navigation.setIconSize(QSize(20, 20))
        colour = theme.current()["text"]
        for spec in self.pages.specs:
            navigation.addItem(QListWidgetItem(icon(spec.name, colour), spec.title))
        navigation.setFixedWidth(max(140, navigation.sizeHintForColumn(0) + 40))
        navigation.currentRowChanged.connect(self._on_row)
        navigation.setCurrentRow(0)
        return navigation

    def run_looked_at(self) -> Path | None:
        """The run that other pages begin with: the one opened in the history, or the window's own."""
        opened = self.history_page.opened if self.pages.is_built("history") else None
        own = self.controller.run_path
        return (opened or own) if self._looked_at == "history" else (own or opened)

    def _on_row(self, row: int) -> None:
        self.pages.setCurrentIndex(row)
        if 0 <= row < len(self.pages.specs) and (name := self.pages.specs[row].name) in {"run", "history"}:
            self._looked_at = name

    @property
    def chat_page(self) -> ChatPage:
        return cast("ChatPage", self.pages.page("chat"))

    @property
    def inspect_page(self) -> InspectPage:
        return cast("InspectPage", self.pages.page("inspect"))

    @property
    def run_page(self) -> RunPage:
        return cast("RunPage", self.pages.page("run"))

    @property
    def settings_page(self) -> SettingsPage:
        return cast("SettingsPage", self.pages.page("settings"))

    @property
    def history_page(self) -> HistoryPage:
        return cast("HistoryPage", self.pages.page("history"))

    @property
    def about_page(self) -> AboutPage:
        return cast("AboutPage", self.pages.page("about"))

    def _shut_pages_down(self) -> None:
        """Stop what pages do in the background."""
        self.pages.stop()
        self.run_page.view.shut_down()
        if self.pages.is_built("history"):
            self.history_page.shut_down()
        if self.pages.is_built("settings"):
            self.settings_page.shut_down()
        if self.pages.is_built("chat"):
            self.chat_page.shut_down()
        if self.pages.is_built("inspect"):
            self.inspect_page.shut_down()
        if self.pages.is_built("doctor"):
            cast("DoctorPage", self.pages.page("doctor")).shut_down()
        if self.pages.is_built("pipeline"):
            self.pages.page("pipeline").disconnect_controller()  # type: ignore[attr-defined]
