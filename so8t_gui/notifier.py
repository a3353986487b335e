"""Tells what happened to a run while nobody looks at the window, and keeps the computer awake for it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time

from PySide6.QtCore import QObject, QTimer, Signal
from PySide6.QtWidgets import QApplication, QWidget

from so8t_engine.i18n import _
from so8t_engine.training.states import STATE_NAMES, State
from so8t_gui.models.watch import Alarm, Watch
from so8t_gui.preferences import Preferences
from so8t_gui.run_controller import RunController
from so8t_gui.sound import play
from so8t_gui.tray import Tray

LOOK_MS = 2000


class KeepAwake:
    """Asks the system not to sleep; what the system has no means for is left alone."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self.active = False

    def set_active(self, active: bool) -> None:
        """Keep awake from now on, or no longer."""
        if active == self.active:
            return
        self.active = active
        if sys.platform == "win32":
            import ctypes

            # ES_CONTINUOUS, with ES_SYSTEM_REQUIRED while it is wanted.
            ctypes.windll.kernel32.SetThreadExecutionState(0x80000000 | (0x1 if active else 0))
        elif active:
            self._start()
        elif self._child is not None:
            self._child.terminate()
            self._child.wait()
            self._child = None

    def _start(self) -> None:
        # Each ends with this process, also where it ends without a word.
        me = str(os.getpid())
        until = ["tail", f"--pid={me}", "-f", "/dev/null"]
        words = {
            "linux": ["systemd-inhibit", "--what=sleep:idle", "--who=SO8T", "--why=training", *until],
            "darwin": ["caffeinate", "-i", "-w", me],
        }.get(sys.platform)
        if words is None or shutil.which(words[0]) is None:
            self.active = False
            return
        quiet = subprocess.DEVNULL
        self._child = subprocess.Popen(words, stdin=quiet, stdout=quiet, stderr=quiet)


class Notifier(QObject):
    """Watches the controller's run. Signal ``alarmed`` with sentence and mend, for the window itself."""

    alarmed = Signal(str, str)

    def __init__(
        self, window: QWidget, controller: RunController, preferences: Preferences, tray: Tray
    ) -> None:
        super().__init__(window)
        self._window, self._controller, self._preferences = window, controller, preferences
        self._watch = Watch()
        self._was = State.IDLE
        self.awake = KeepAwake()
        self.alarms: list[Alarm] = []
        self.told: list[str] = []
        self._tray = tray
        self._timer = QTimer(self, interval=LOOK_MS)
        self._timer.timeout.connect(self.look)
        controller.replaced.connect(self._begin)
        controller.state_changed.connect(self._on_state)
        controller.ended.connect(lambda _status: self._end())

    def _begin(self) -> None:
        self._watch = Watch()
        self.alarms = []
        self._was = self._controller.model.state
        self._timer.start()
        self._keep_awake()

    def _keep_awake(self) -> None:
        self.awake.set_active(self._controller.live and self._preferences.keep_awake)

    def _end(self) -> None:
        self._timer.stop()
        self._keep_awake()

    def look(self) -> None:
        """Apply the rules."""
        for alarm in self._watch.look(self._controller.model, time.time()):
            self.alarms.append(alarm)
            self.alarmed.emit(alarm.sentence, alarm.mend)
            self.tell(alarm.sentence, alarm.mend, bad=True)

    def _on_state(self) -> None:
        state = self._controller.model.state
        if state is self._was:
            return
        self._was = state
        name = self._controller.run_path.name if self._controller.run_path is not None else ""
        if state in {State.FINISHED, State.FAILED, State.STOPPED}:
            error = self._controller.model.last_error
            text = error.sentence if state is State.FAILED and error is not None else ""
            self.tell(f"{name}: {_(STATE_NAMES[state])}", text, bad=state is State.FAILED)

    def tell(self, title: str, text: str, *, bad: bool = False) -> None:
        """Show a notification, where the window is not in front and the system has a place for it."""
        self.told.append(title)
        if self._preferences.sound:
            play(bad=bad)
        if not self._preferences.notify or self._window.isActiveWindow():
            return
        QApplication.alert(self._window)
        self._tray.message(title, text, bad=bad)

    def shut_down(self) -> None:
        """The window is going."""
        self._timer.stop()
        self.awake.set_active(False)
