"""Pictures of every page, for the guide and for looking at."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from PySide6.QtCore import QEventLoop, QTimer
from PySide6.QtWidgets import QApplication, QWidget

from so8t_engine.i18n import LANGUAGES, language
from so8t_gui import theme
from so8t_gui.main_window import MainWindow
from so8t_gui.widgets.run_view import RunView

SETTLE_MS = 350
TABS = ("training", "gate", "evaluation", "facts", "memory", "report", "samples", "thresholds")


def _settle() -> None:
    """Let layouts, background reading and the redraw timer finish."""
    loop = QEventLoop()
    QTimer.singleShot(SETTLE_MS, loop.quit)
    loop.exec()
    # A busy computer may not have come to the posted layouts yet.
    QApplication.sendPostedEvents()
    QApplication.processEvents()


def _shown_view(window: MainWindow) -> RunView | None:
    """The view of a run on the page that is shown, if it has one."""
    page = window.pages.current_page()
    if page is window.run_page:
        return window.run_page.view
    return (
        window.history_page.view
        if window.history_page.opened is not None and page is window.history_page
        else None
    )


def _save(window: MainWindow, folder: Path, parts: tuple[str, ...]) -> Path:
    path = folder / f"{'-'.join(part for part in parts if part)}.png"
    if not window.grab().save(str(path)):
        raise OSError(f"{path} cannot be written")
    return path


def _parts(window: MainWindow, page: str) -> Iterator[str]:
    """Bring up one after the other what the page has to show; the name of each, empty for the page itself."""
    view = _shown_view(window)
    for index, tab in enumerate(TABS) if view is not None else ():
        if view is not None and view.tabs.isTabVisible(index):
            view.tabs.setCurrentIndex(index)
            yield tab
    if view is None:
        yield ""
    if page == "history" and view is not None:
        # Behind the opened run stand the list and the queue.
        window.history_page.stack.setCurrentIndex(0)
        yield "list"
        window.history_page.stack.setCurrentIndex(1)
    elif page == "settings":
        window.settings_page.toolbar.yaml.setChecked(True)
        yield "text"
        window.settings_page.toolbar.yaml.setChecked(False)
    elif page == "pipeline":
        yield from _pipeline_parts(window.pages.page(page))


def _pipeline_parts(page: QWidget) -> Iterator[str]:
    """The steps that have more than an output to show."""
    from so8t_gui.pages.pipeline_page import PipelinePage

    assert isinstance(page, PipelinePage)
    chosen = page.graph.selected
    for step, tab, name in (("preprocess", page.review, "review"), ("evaluate", page.report, "report")):
        page.graph.choose(step)
        if page.tabs.isTabVisible(page.tabs.indexOf(tab)):
            page.tabs.setCurrentWidget(tab)
            yield name
    page.graph.choose(chosen)


def save_screenshots(
    window: MainWindow, folder: Path, only_language: str | None = None, only_theme: str | None = None
) -> list[Path]:
    """Save ``<page>-<language>-<theme>.png`` for each page, with ``<part>`` after it for each of its tabs.

    Languages and themes are gone through unless one is given; the window is left as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    language_before, theme_before = language(), window.theme_choice
    row_before = window.navigation.currentRow()
    tab_before = window.run_page.view.tabs.currentIndex()
    saved: list[Path] = []
    app = QApplication.instance()
    assert isinstance(app, QApplication)
    for code in [only_language] if only_language else list(LANGUAGES):
        for look in [only_theme] if only_theme else [name for name in theme.THEMES if name != "system"]:
            window.show_as(code, look)
            for page in [spec.name for spec in window.pages.specs]:
                window.show_page(page)
                for part in _parts(window, page):
                    _settle()
                    saved.append(_save(window, folder, (page, part, code, theme.resolve(look))))
    window.show_as(language_before, theme_before)
    window.navigation.setCurrentRow(row_before)
    window.run_page.view.tabs.setCurrentIndex(tab_before)
    return saved
