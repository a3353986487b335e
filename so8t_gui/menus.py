"""The main window's menus and its command palette."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from PySide6.QtGui import QAction, QActionGroup, QKeySequence
from PySide6.QtWidgets import QMenu, QMenuBar

from so8t_engine.i18n import LANGUAGES, _, language
from so8t_gui import theme
from so8t_gui.widgets.autostart_action import AutostartAction
from so8t_gui.widgets.palette import CommandPalette, Entry, menu_entries

if TYPE_CHECKING:
    from so8t_gui.main_window import MainWindow


def build_menus(window: MainWindow) -> QAction:
    """Give ``window`` its menu bar; returns the action that starts a run."""
    bar = QMenuBar()
    window.setMenuBar(bar)
    run = bar.addMenu(_("&Run"))
    start = _action(window, run, _("&Start"), "Ctrl+Return", window.start_run)
    _action(window, run, _("Add the settings to the q&ueue"), "Ctrl+Shift+Return", window.add_to_queue)
    _action(window, run, _("Start the ne&xt in the queue"), "", window.queue.start_next)
    _action(window, run, _("&Open a run folder…"), "Ctrl+O", window.open_dialog)
    autostart = AutostartAction(window)
    run.addAction(autostart)
    run.aboutToShow.connect(autostart.refresh)
    run.addSeparator()
    _action(window, run, _("&Quit"), "Ctrl+Q", window.close)
    _build_view(window, bar.addMenu(_("&View")))
    about = bar.addMenu(_("&Help"))
    _action(window, about, _("&Commands…"), "Ctrl+Shift+P", window.show_palette)
    _action(window, about, _("&Keys"), "F1", lambda: window.show_page("about"))
    _action(window, about, _("&Tour"), "", window.tour.begin)
    _action(window, about, _("&Doctor"), "", lambda: window.show_page("doctor"))
    return start


def _build_view(window: MainWindow, view: QMenu) -> None:
    for i, spec in enumerate(window.pages.specs):
        _action(window, view, spec.title, f"Ctrl+{i + 1}", lambda i=i: window.navigation.setCurrentRow(i))  # type: ignore[misc]
    view.addSeparator()
    # The names of languages stand in their own language, whatever the present one is.
    languages = view.addMenu(_("&Language"))
    _choices(languages, dict(LANGUAGES), language(), window.change_language)
    themes = view.addMenu(_("&Theme"))
    names = {key: _(name) for key, name in theme.THEMES.items()}
    _choices(themes, names, window.theme_choice, window.change_theme)
    _action(window, view, _("&Full screen"), "F11", window.toggle_full_screen)
    view.addSeparator()
    for text, name in (
        (_("&Notify outside the window"), "notify"),
        (_("Notify with a s&ound"), "sound"),
        (_("Keep the computer &awake during runs"), "keep_awake"),
    ):
        choice = QAction(text, view, checkable=True)
        choice.setChecked(getattr(window.preferences, name))
        choice.toggled.connect(lambda on, n=name: setattr(window.preferences, n, on))
        view.addAction(choice)


def show_palette(window: MainWindow) -> None:
    """Everything that can be done, found by typing."""
    entries = [*menu_entries(window.menuBar())]
    for command, button in window.run_page.controls.buttons.items():
        if button.isEnabled():
            entries.append(Entry(button.text(), lambda c=command: window.run_page.ask(c)))  # type: ignore[misc]
    for path, row in window.settings_page.form.rows.items():
        title = _("Setting: %(name)s") % {"name": row.title.text()}
        entries.append(Entry(title, lambda p=path: window.go_to_setting(p), also=path))  # type: ignore[misc]
    CommandPalette(entries, window).open()


def _action(window: MainWindow, menu: QMenu, text: str, keys: str, slot: Callable[[], object]) -> QAction:
    action = QAction(text, window)
    action.setShortcut(QKeySequence(keys))
    action.triggered.connect(lambda _checked=False: slot())
    menu.addAction(action)
    return action


def _choices(menu: QMenu, names: dict[str, str], chosen: str, slot: Callable[[str], object]) -> None:
    group = QActionGroup(menu)
    for key, name in names.items():
        action = QAction(name, menu, checkable=True)
        action.setChecked(key == chosen)
        action.triggered.connect(lambda _checked=False, key=key: slot(key))
        group.addAction(action)
        menu.addAction(action)
