"""The menu's switch for continuing interrupted runs at logon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtGui import QAction

from so8t_engine import autostart
from so8t_engine.errors import SO8TError
from so8t_engine.i18n import _

if TYPE_CHECKING:
    from so8t_gui.main_window import MainWindow


class AutostartAction(QAction):
    """Checked while it is on. Nothing is asked of the system before the menu opens."""

    def __init__(self, window: MainWindow) -> None:
        super().__init__(_("&Continue interrupted runs at logon"), window)
        self._window = window
        self.setCheckable(True)
        self.triggered.connect(self._switch)

    def refresh(self) -> None:
        """Show what is set; on a system without a scheduler it cannot be chosen."""
        try:
            self.setChecked(autostart.status().enabled)
        except (SO8TError, OSError) as error:
            self.setEnabled(False)
            self.setToolTip(str(error))

    def _switch(self, on: bool) -> None:
        message = self._window.run_page.message
        try:
            state = autostart.enable(self._window.runs_folder) if on else autostart.disable()
        except SO8TError as error:
            message.show_message("error", error.sentence, error.mend)
            self.refresh()
            return
        self.setChecked(state.enabled)
        if state.enabled:
            message.show_message(
                "good",
                _("Interrupted runs are continued at logon (%(where)s).") % {"where": state.where},
                _("The same menu entry switches it off again."),
            )
