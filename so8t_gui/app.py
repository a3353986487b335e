"""The console entry point ``so8t-gui``."""

from __future__ import annotations

import argparse
import gc
import locale
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from PySide6.QtCore import QSocketNotifier, QTimer
from PySide6.QtWidgets import QApplication

from so8t_engine.config import Config, load_config
from so8t_engine.errors import SO8TError
from so8t_engine.i18n import LANGUAGES, _, set_language
from so8t_gui import theme
from so8t_gui.crash_report import write_crash_report
from so8t_gui.main_window import MainWindow
from so8t_gui.preferences import Preferences


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line. Exits with 2 on a bad one."""
    parser = argparse.ArgumentParser(prog="so8t-gui", description=_("SO8T Control Panel"))
    parser.add_argument("--demo", action="store_true", help=_("train the embedded demonstration at once"))
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help=_("folder of the demonstration's run"))
    parser.add_argument("--open", type=Path, metavar="RUN", help=_("show a run folder, or attach to it"))
    parser.add_argument(
        "--quit-when-done", action="store_true", help=_("close at the run's end and return its status")
    )
    parser.add_argument("--lang", choices=sorted(LANGUAGES), help=_("language of the window"))
    parser.add_argument("--theme", choices=sorted(theme.THEMES), help=_("colours of the window"))
    parser.add_argument(
        "--screenshot-dir", type=Path, metavar="DIR", help=_("save a picture of every page, then go on")
    )
    parser.add_argument("--version", action="version", version=f"so8t-control-panel {program_version()}")
    return parser.parse_args(argv)


def program_version() -> str:
    """The installed version; ``unknown`` in a copy that was never installed."""
    try:
        return version("so8t-control-panel")
    except PackageNotFoundError:
        return "unknown"


def make_application(arguments: Sequence[str]) -> QApplication:
    """The QApplication, with fonts, and with the numeric locale that Qt changed set back."""
    # Qt would hand parts of each filled area to a pool of threads and wait for them. Charts are small: that
    # takes twice the processor time, and where training holds every core the window waits for its turn.
    os.environ.setdefault("QT_NO_GUI_THREADPOOL", "1")
    existing = QApplication.instance()
    app = existing if isinstance(existing, QApplication) else QApplication(list(arguments))
    # Qt takes LC_NUMERIC from the environment; a decimal comma breaks parsers of model files.
    locale.setlocale(locale.LC_NUMERIC, "C")
    app.setApplicationName("so8t-gui")
    app.setApplicationDisplayName("SO8T Control Panel")
    app.setDesktopFileName("so8t-gui")
    theme.use_fonts(app)
    return app


class _Interrupts:
    """Turns SIGINT and SIGTERM into stop, save and close, which Python alone cannot inside Qt's loop."""

    def __init__(self, window: MainWindow) -> None:
        self._read, self._write = socket.socketpair()
        self._write.setblocking(False)
        signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._previous = {
            number: signal.signal(number, lambda *_args: None) for number in (signal.SIGINT, signal.SIGTERM)
        }
        self._notifier = QSocketNotifier(self._read.fileno(), QSocketNotifier.Type.Read)
        self._notifier.activated.connect(self._come)
        self._window = window

    def _come(self) -> None:
        self._read.recv(64)
        self._window.close_without_asking()

    def close(self) -> None:
        self._notifier.setEnabled(False)
        signal.set_wakeup_fd(-1)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._read.close()
        self._write.close()


def _report_faults(window: MainWindow) -> None:
    """Show faults of the window itself instead of losing them on a console nobody sees."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        traceback.print_exception(kind, error, trace)
        report = write_crash_report(kind, error, trace)
        window.run_page.message.show_message(
            "error",
            _("A fault in the window: %(reason)s.") % {"reason": f"{kind.__name__}: {error}"},
            _("The run is not affected. The details are in %(path)s.") % {"path": str(report)}
            if report is not None
            else _("The run is not affected. The console shows the details."),
        )

    sys.excepthook = hook


def starting_config() -> Config:
    """What the settings page begins with: the demonstration, which runs on any computer."""
    return load_config("demo")


def run() -> NoReturn:
    """The program: `main`, and then out at once.

    Everything is saved and every thread has ended when `main` returns. Python's own way out takes Qt's
    objects down in no particular order, which has ended in a segmentation fault.
    """
    kept: list[object] = []
    status = main(kept=kept)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main(argv: Sequence[str] | None = None, kept: list[object] | None = None) -> int:
    """Run the window.

    Args:
        kept: takes what must not be destroyed on the way out.

    Returns:
        0; with ``--quit-when-done`` the run's status: 0 finished or stopped, 1 failed, 2 bad config.
    """
    arguments = parse_arguments(sys.argv[1:] if argv is None else argv)
    app = make_application(sys.argv[:1])
    preferences = Preferences()
    set_language(arguments.lang or preferences.language)
    theme.apply(app, arguments.theme or preferences.theme)
    try:
        config = starting_config()
    except SO8TError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    window = MainWindow(config, preferences, arguments.theme or "")
    if kept is not None:
        kept += [app, window]
    window.show()
    _report_faults(window)
    interrupts = _Interrupts(window)
    QTimer.singleShot(0, lambda: _begin(window, arguments))
    # Should a page fail to be built, `garbage.set_aside` never comes.
    QTimer.singleShot(30_000, gc.enable)
    try:
        app.exec()
    finally:
        window.controller.shut_down()
        interrupts.close()
        preferences.write()
        sys.excepthook = sys.__excepthook__
    status = window.controller.exit_status if arguments.quit_when_done else 0
    return status or 0


def _begin(window: MainWindow, arguments: argparse.Namespace) -> None:
    """What the command line asked for, once the window stands."""
    from so8t_gui.screenshots import save_screenshots

    def opened() -> bool:
        return arguments.open is None or window.history_page.opened is not None

    def finish(_status: int = 0, turns: int = 60) -> None:
        failed = window.controller.exit_status not in {None, 0}
        if arguments.screenshot_dir is not None and not (started or failed or opened()) and turns:
            # A long run is still being read, or the computer is busy.
            QTimer.singleShot(500, lambda: finish(_status, turns - 1))
            return
        if arguments.screenshot_dir is not None:
            save_screenshots(window, arguments.screenshot_dir, arguments.lang, arguments.theme)
        if arguments.quit_when_done:
            window.close_without_asking()

    started = False
    if arguments.demo:
        started = window.start_run(arguments.run_dir)
    elif arguments.open is not None:
        started = window.open_run(arguments.open) and window.controller.live
    elif not arguments.quit_when_done and arguments.screenshot_dir is None:
        window.look_for_runs()
        window.tour.offer()
    if started:
        window.controller.ended.connect(finish)
    else:
        if arguments.quit_when_done and window.controller.exit_status:
            sys.stderr.write(f"{window.run_page.message.accessibleName()}\n")
        QTimer.singleShot(1000 if arguments.open is not None else 300, finish)


if __name__ == "__main__":
    run()
