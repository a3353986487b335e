"""What a window does with runs: start, queue, attach, continue, show."""

from __future__ import annotations

from pathlib import Path

from PySide6.QtWidgets import QFileDialog

from so8t_engine.i18n import _
from so8t_gui.models.history import summarise
from so8t_gui.paged_window import PagedWindow
from so8t_gui.queue_controller import QueueController
from so8t_gui.start_up import StartUp


class RunWindow(PagedWindow):
    """The commands about runs that menus, pages and the command line share; `MainWindow` fills it."""

    queue: QueueController
    start_up: StartUp
    _history_folder: Path

    def start_run(self, path: Path | None = None) -> bool:
        """Begin a run with the settings as they stand."""
        possible, reason = self.settings_page.can_start()
        config = self.settings_page.config()
        if self.controller.live:
            return False
        if not possible or config is None:
            self.controller.exit_status = 2
            self.run_page.message.show_message("error", reason, _("Mend it on the settings page."))
            return False
        self.show_page("run")
        return self.controller.start(config, path)

    def add_to_queue(self) -> bool:
        """Append a run with the settings as they stand; it starts when its turn comes."""
        page = self.settings_page
        config = page.config()
        # A run that is live locks the form, and may be followed all the same.
        possible, reason = (True, "") if self.controller.live else page.can_start()
        if config is None or not possible:
            self.run_page.message.show_message("error", reason, _("Mend it on the settings page."))
            self.show_page("run")
            return False
        return self.queue.add(config)

    def _edit_queued(self, file: Path) -> None:
        """Put a queued run's settings into the form; the queue keeps its own."""
        self.show_page("settings")
        self.settings_page.load_file(file)

    def show_queue(self) -> None:
        """The history page, where the whole queue is."""
        self.show_page("history")
        self.history_page.stack.setCurrentIndex(0)
        self.history_page.list.queue.list.setFocus()

    def attach(self, path: Path) -> bool:
        """Follow and control a run that another process trains."""
        self.show_page("run")
        if self.controller.live:
            if self.controller.run_path != path:
                self.run_page.message.show_message(
                    "warning",
                    _("This window is busy with another run."),
                    _("Open a second window with: so8t-gui --open %(path)s") % {"path": str(path)},
                )
            return False
        return self.controller.attach(path)

    def resume(self, path: Path) -> bool:
        """Continue an ended run."""
        self.show_page("run")
        if self.controller.live:
            self.run_page.message.show_message(
                "warning", _("This window is busy with another run."), _("Wait for its end, or stop it.")
            )
            return False
        return self.controller.resume(path)

    def duplicate(self, path: Path) -> None:
        """Put a run's settings into the form."""
        self.show_page("settings")
        self.settings_page.load_file(path / "config.yaml")

    def open_run(self, path: Path) -> bool:
        """Show a run folder: attach where its trainer lives, else read it."""
        try:
            summary = summarise(path)
        except OSError:
            self.show_page("run")  # where messages stand
            self.run_page.message.show_message(
                "error",
                _("%(path)s is not a run folder.") % {"path": str(path)},
                _("A run folder holds config.yaml and events.jsonl."),
            )
            self.controller.exit_status = 1
            return False
        if summary.live:
            return self.attach(path)
        self.show_page("history")
        self.history_page.open_run(path)
        self.pages.give_way()
        return True

    def look_for_runs(self) -> None:
        """Take up what goes on without a window, and offer what was interrupted."""
        self.start_up.look(self._history_folder)

    @property
    def runs_folder(self) -> Path:
        """Where the settings put runs."""
        return self._history_folder

    def open_dialog(self) -> None:
        chosen = QFileDialog.getExistingDirectory(self, _("Open a run folder"), str(self._history_folder))
        if chosen:
            self.open_run(Path(chosen))
